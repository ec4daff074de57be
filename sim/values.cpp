#include "sim/values.hpp"

#include <algorithm>
#include <cstring>

#include <fmt/format.h>

namespace kexec_sim::sim {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }

std::optional<unsigned> hex_digit(char c) {
    if (is_digit(c)) return static_cast<unsigned>(c - '0');
    if (c >= 'a' && c <= 'f') return static_cast<unsigned>(c - 'a' + 10);
    if (c >= 'A' && c <= 'F') return static_cast<unsigned>(c - 'A' + 10);
    return std::nullopt;
}

/// Digits of `base` with single `_` between them.
std::optional<u64> parse_digits(std::string_view text, unsigned base) {
    if (text.empty() || text.front() == '_' || text.back() == '_') return std::nullopt;
    u64 value = 0;
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (text[i] == '_' && text[i - 1] != '_') continue;
        const auto digit = hex_digit(text[i]);
        if (!digit || *digit >= base) return std::nullopt;
        if (__builtin_mul_overflow(value, u64{base}, &value) || __builtin_add_overflow(value, u64{*digit}, &value))
            return std::nullopt;
    }
    return value;
}

struct Unit {
    std::string_view suffix;
    u64 factor;
};

/// A number, in any form that parse_u64() takes, and one of `units`. Longer suffixes come first.
std::optional<u64> parse_with_unit(std::string_view text, std::span<const Unit> units) {
    for (const Unit& unit : units) {
        if (!text.ends_with(unit.suffix)) continue;
        const auto number = parse_u64(text.substr(0, text.size() - unit.suffix.size()));
        u64 value = 0;
        if (!number || __builtin_mul_overflow(*number, unit.factor, &value)) return std::nullopt;
        return value;
    }
    return std::nullopt;
}

constexpr Unit size_units[] = {{"KiB", KiB}, {"MiB", MiB}, {"GiB", GiB}, {"TiB", TiB}, {"K", KiB},
                               {"M", MiB},   {"G", GiB},   {"T", TiB},   {"", 1}};

/// The text between `NAME(` and `)`.
std::optional<std::string_view> argument_of(std::string_view text, std::string_view name) {
    if (!text.starts_with(name) || !text.ends_with(')')) return std::nullopt;
    text.remove_prefix(name.size());
    if (!text.starts_with('(')) return std::nullopt;
    return text.substr(1, text.size() - 2);
}

bool is_name_char(char c) {
    return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == '-' || c == '.';
}

}  // namespace

std::optional<u64> parse_u64(std::string_view text) {
    if (text.starts_with("0x") || text.starts_with("0X")) return parse_digits(text.substr(2), 16);
    return parse_digits(text, 10);
}

std::optional<u64> parse_size(std::string_view text) { return parse_with_unit(text, size_units); }

std::string size_text(u64 bytes) {
    for (const std::string_view suffix : {"TiB", "GiB", "MiB", "KiB"})
        for (const Unit& unit : size_units)
            if (unit.suffix == suffix && bytes && bytes % unit.factor == 0)
                return fmt::format("{}{}", bytes / unit.factor, suffix);
    return fmt::format("{}", bytes);
}

std::optional<bool> parse_bool(std::string_view text) {
    if (text == "true") return true;
    if (text == "false") return false;
    return std::nullopt;
}

std::optional<PciAddress> parse_pci_address(std::string_view text) {
    // From the right: function, device, bus, and what is left is the segment.
    const auto take = [&](char sign) -> std::string_view {
        const std::size_t at = text.rfind(sign);
        const std::string_view part = at == std::string_view::npos ? text : text.substr(at + 1);
        text = at == std::string_view::npos ? std::string_view() : text.substr(0, at);
        return part;
    };
    const auto hex = [](std::string_view digits, std::size_t digits_max, u64 max) -> std::optional<u64> {
        if (digits.size() > digits_max || digits.contains('_')) return std::nullopt;
        const auto value = parse_digits(digits, 16);
        return value && *value <= max ? value : std::nullopt;
    };
    const bool has_segment = std::ranges::count(text, ':') > 1;
    const auto function = hex(take('.'), 1, 7);
    const auto device = hex(take(':'), 2, 31);
    const auto bus = hex(take(':'), 2, 255);
    const auto segment = has_segment ? hex(text, 8, 0xffff'ffff) : std::optional<u64>(0);
    if (!function || !device || !bus || !segment || (!has_segment && !text.empty())) return std::nullopt;
    return PciAddress{static_cast<u32>(*segment),
                      Bdf(static_cast<unsigned>(*bus), static_cast<unsigned>(*device << 3 | *function))};
}

std::optional<std::string> parse_hex_bytes(std::string_view text) {
    std::string bytes;
    for (std::size_t i = 0; i < text.size();) {
        if (text[i] == ' ') {
            ++i;
            continue;
        }
        if (i + 1 == text.size()) return std::nullopt;
        const auto high = hex_digit(text[i]), low = hex_digit(text[i + 1]);
        if (!high || !low) return std::nullopt;
        bytes.push_back(static_cast<char>(*high << 4 | *low));
        i += 2;
    }
    return bytes;
}

std::string Fill::describe() const {
    switch (kind) {
    case Kind::zero: return "zero";
    case Kind::byte: return fmt::format("byte(0x{:02x})", value);
    case Kind::pattern: return fmt::format("pattern({})", value);
    case Kind::text: return fmt::format("\"{}\"", text);
    }
    return {};
}

u8 Fill::byte_at(u64 offset) const {
    switch (kind) {
    case Kind::zero: return 0;
    case Kind::byte: return static_cast<u8>(value);
    case Kind::pattern: return static_cast<u8>((value << 32 | offset / 8) >> (offset % 8 * 8));
    case Kind::text: return offset < text.size() ? static_cast<u8>(text[offset]) : u8{0};
    }
    return 0;
}

void Fill::write(u64 offset, std::span<std::byte> into) const {
    if (kind == Kind::zero || kind == Kind::byte) {
        std::memset(into.data(), static_cast<int>(value), into.size());
        return;
    }
    std::size_t at = 0;
    if (kind == Kind::pattern) {
        while (at < into.size() && (offset + at) % 8 != 0) {
            into[at] = std::byte{byte_at(offset + at)};
            ++at;
        }
        for (; into.size() - at >= 8; at += 8) {
            const u64 word = value << 32 | (offset + at) / 8;
            std::memcpy(into.data() + at, &word, sizeof word);
        }
    }
    for (; at < into.size(); ++at) into[at] = std::byte{byte_at(offset + at)};
}

std::optional<Fill> parse_fill(std::string_view text) {
    if (text == "zero") return Fill{};
    if (const auto argument = argument_of(text, "byte")) {
        const auto value = parse_u64(*argument);
        if (!value || *value > 0xff) return std::nullopt;
        return Fill{Fill::Kind::byte, *value, {}};
    }
    if (const auto argument = argument_of(text, "pattern")) {
        const auto value = parse_u64(*argument);
        if (!value || *value > 0xffff'ffff) return std::nullopt;
        return Fill{Fill::Kind::pattern, *value, {}};
    }
    return std::nullopt;
}

unsigned edit_distance(std::string_view left, std::string_view right, unsigned limit) {
    const std::size_t difference =
        left.size() > right.size() ? left.size() - right.size() : right.size() - left.size();
    if (difference >= limit || left.size() > 64 || right.size() > 64) return left == right ? 0 : limit;
    // Three rows of the usual table: two back for swapped neighbours.
    std::vector<unsigned> before(right.size() + 1), above(right.size() + 1), row(right.size() + 1);
    for (std::size_t j = 0; j <= right.size(); ++j) above[j] = static_cast<unsigned>(j);
    for (std::size_t i = 1; i <= left.size(); ++i) {
        row[0] = static_cast<unsigned>(i);
        for (std::size_t j = 1; j <= right.size(); ++j) {
            const unsigned change = above[j - 1] + (left[i - 1] == right[j - 1] ? 0 : 1);
            row[j] = std::min({above[j] + 1, row[j - 1] + 1, change});
            if (i > 1 && j > 1 && left[i - 1] == right[j - 2] && left[i - 2] == right[j - 1])
                row[j] = std::min(row[j], before[j - 2] + 1);
        }
        std::swap(before, above);
        std::swap(above, row);
    }
    return std::min(above[right.size()], limit);
}

std::string nearest_name(std::string_view name, std::span<const std::string_view> names) {
    // Of a short name nearly everything is two edits away: a third of its letters may be wrong.
    const unsigned allowed = std::min<unsigned>(2, static_cast<unsigned>((name.size() + 1) / 3));
    unsigned best = allowed + 1;
    std::string_view nearest;
    for (std::string_view candidate : names) {
        const unsigned distance = edit_distance(name, candidate, best);
        if (distance < best) {
            best = distance;
            nearest = candidate;
        }
    }
    return std::string(nearest);
}

std::string did_you_mean(std::string_view name, std::span<const std::string_view> names) {
    const std::string nearest = nearest_name(name, names);
    return nearest.empty() ? std::string() : fmt::format("; did you mean '{}'?", nearest);
}

bool is_parameter_name(std::string_view name) {
    return !name.empty() && std::all_of(name.begin(), name.end(), is_name_char);
}

Substituted substitute(std::string_view text, std::span<const Substitution> values) {
    Substituted result;
    std::size_t at = 0;
    while (true) {
        const std::size_t dollar = text.find("${", at);
        if (dollar == std::string_view::npos) break;
        if (dollar > at && text[dollar - 1] == '$') {
            result.text += text.substr(at, dollar - 1 - at);
            result.text += "${";
            at = dollar + 2;
            continue;
        }
        result.text += text.substr(at, dollar - at);
        std::size_t end = dollar + 2;
        while (end < text.size() && is_name_char(text[end])) ++end;
        const std::string_view name = text.substr(dollar + 2, end - dollar - 2);
        result.offset = dollar;
        if (end == text.size() || text[end] != '}' || name.empty()) {
            result.error = "'${' without a name and '}'; a literal one is written '$${'";
            return result;
        }
        const auto value =
            std::find_if(values.begin(), values.end(), [&](const Substitution& known) { return known.name == name; });
        if (value == values.end()) {
            std::vector<std::string_view> names;
            for (const Substitution& known : values) names.push_back(known.name);
            result.error = fmt::format("no parameter is called '{}'{}", name, did_you_mean(name, names));
            return result;
        }
        result.text += value->value;
        at = end + 1;
    }
    result.text += text.substr(at);
    return result;
}

}  // namespace kexec_sim::sim
