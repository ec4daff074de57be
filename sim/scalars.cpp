#include "sim/scalars.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "machine/clock.hpp"

namespace kexec_sim::sim {
namespace {

/// A long text would hide the message that quotes it.
std::string shortened(std::string_view text) {
    constexpr std::size_t characters_max = 60;
    std::string shown;
    for (char c : text.substr(0, characters_max)) shown += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
    while (!shown.empty() && text.size() > characters_max && (static_cast<unsigned char>(shown.back()) & 0x80))
        shown.pop_back();
    return text.size() > characters_max ? shown + "…" : shown;
}

}  // namespace

void Scalars::wrong_type(const Node& node, std::string_view what, std::string_view wanted,
                         std::string_view text) const {
    if (node.is_scalar()) error(node.pos, fmt::format("'{}' needs {}, not '{}'", what, wanted, shortened(text)));
    error(node.pos, fmt::format("'{}' needs {}, not {}", what, wanted, node.kind_name()));
}

std::string Scalars::text(const Node& node, std::string_view what, std::string_view wanted) const {
    if (!node.is_scalar()) wrong_type(node, what, wanted, {});
    Substituted result = substitute(node.text, values_);
    if (!result.error.empty()) error(node.pos, result.error);
    read_bytes_ += result.text.size();
    if (read_bytes_ > read_bytes_max)
        error(node.pos, "with 'each' and '${…}' the file has more than 64 MiB of text here");
    return std::move(result.text);
}

bool Scalars::knows(std::string_view name) const {
    return std::any_of(values_.begin(), values_.end(), [&](const Substitution& value) { return value.name == name; });
}

std::string Scalars::line(const Node& node, std::string_view what, std::string_view wanted) const {
    std::string value = text(node, what, wanted);
    if (value.empty()) error(node.pos, fmt::format("'{}' needs {}; it is empty", what, wanted));
    if (value.find('\n') != std::string::npos)
        error(node.pos, fmt::format("'{}' needs {} on one line", what, wanted));
    if (std::ranges::any_of(value, [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }))
        error(node.pos, fmt::format("'{}' needs {}; this one has a control character in it", what, wanted));
    return value;
}

u64 Scalars::size(const Node& node, std::string_view what, u64 max) const {
    constexpr std::string_view wanted = "a size, as 4096 or 2MiB";
    const std::string value = text(node, what, wanted);
    const auto bytes = parse_size(value);
    if (!bytes) wrong_type(node, what, wanted, value);
    if (*bytes > max) error(node.pos, fmt::format("'{}' is at most {}, not {}", what, max, shortened(value)));
    return *bytes;
}

u64 Scalars::duration(const Node& node, std::string_view what, u64 max_ns) const {
    constexpr std::string_view wanted = "a duration, as 10us or 3ms";
    const std::string value = text(node, what, wanted);
    const auto ns = parse_duration(value);
    if (!ns) wrong_type(node, what, wanted, value);
    if (*ns > VirtualClock::time_max_ns)
        error(node.pos, fmt::format("'{}' is at most a hundred years, not {}", what, shortened(value)));
    if (*ns > max_ns) error(node.pos, fmt::format("'{}' is at most {}ns, not {}", what, max_ns, shortened(value)));
    return *ns;
}

u64 Scalars::number(const Node& node, std::string_view what, u64 max) const {
    constexpr std::string_view wanted = "a number";
    const std::string value = text(node, what, wanted);
    const auto number = parse_u64(value);
    if (!number) wrong_type(node, what, wanted, value);
    if (*number > max) error(node.pos, fmt::format("'{}' is at most {}, not {}", what, max, shortened(value)));
    return *number;
}

bool Scalars::boolean(const Node& node, std::string_view what) const {
    constexpr std::string_view wanted = "true or false";
    const std::string value = text(node, what, wanted);
    // In quotes it is a text, unless a parameter stands there.
    const bool is_text = node.quoted && node.text.find("${") == std::string::npos;
    const auto result = is_text ? std::nullopt : parse_bool(value);
    if (!result) wrong_type(node, what, wanted, value);
    return *result;
}

std::string Scalars::choice(const Node& node, std::string_view what, std::span<const std::string_view> values) const {
    const std::string wanted =
        fmt::format("{}{}", values.size() > 1 ? "one of " : "", fmt::join(values.begin(), values.end(), ", "));
    const std::string value = text(node, what, wanted);
    if (std::find(values.begin(), values.end(), value) == values.end())
        error(node.pos,
              fmt::format("'{}' needs {}, not '{}'{}", what, wanted, shortened(value), did_you_mean(value, values)));
    return value;
}

std::vector<TextAt> Scalars::list(const Node& node, std::string_view what) const {
    check_sequence(node, what);
    std::vector<TextAt> result;
    for (const Node& item : node.items) result.push_back({text(item, what, "a list of values"), item.pos});
    return result;
}

void Scalars::check_map(const Node& node, std::string_view what, std::span<const std::string_view> keys) const {
    if (!node.is_map()) wrong_type(node, what, "a map", node.text);
    for (const NodeEntry& entry : node.entries)
        if (std::find(keys.begin(), keys.end(), entry.key) == keys.end())
            error(entry.pos, fmt::format("unknown key '{}' in '{}'{}", shortened(entry.key), what,
                                         did_you_mean(entry.key, keys)));
}

void Scalars::check_sequence(const Node& node, std::string_view what) const {
    if (!node.is_sequence()) wrong_type(node, what, "a list", node.text);
}

const Node& Scalars::require(const Node& map, std::string_view key, std::string_view what) const {
    if (const Node* node = map.find(key)) return *node;
    error(map.pos, fmt::format("'{}' needs '{}'", what, key));
}

}  // namespace kexec_sim::sim
