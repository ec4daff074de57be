// The text form of a fault plan: POINT[MATCH]#VISIT=ACTION(ARGUMENTS), and back.
//
//   luo.subsystem.prepare[iommu]#1=fail(ENOMEM)      kexec.jump#1=delay(80ms)
//   handover.fdt#1=flip(0x34,3)                      handover.fdt#1=replace("kho-v1","kho-v2")
//   mm.folio_alloc#17@0=fail(ENOMEM)                 @0: only visits of generation 0 count
#include <charconv>
#include <fmt/format.h>

#include "machine/duration.hpp"
#include "machine/fault.hpp"

namespace kexec_sim {
namespace {

std::string quote(std::string_view text) {
    std::string result = "\"";
    for (const char c : text) {
        if (c == '"' || c == '\\') result += '\\';
        result += c;
    }
    return result + '"';
}

std::string arguments(const FaultAction& action) {
    switch (action.kind) {
    case FaultKind::fail:
    case FaultKind::lie: return fmt::format("({})", errno_name(action.error));
    case FaultKind::delay: return fmt::format("({})", duration_text(action.delay_ns));
    case FaultKind::flip: return fmt::format("({:#x},{})", action.offset, action.bit);
    case FaultKind::zero: return fmt::format("({:#x},{})", action.offset, action.length);
    case FaultKind::truncate: return fmt::format("({})", action.length);
    case FaultKind::misdirect: return fmt::format("({:#x})", action.address);
    case FaultKind::replace: return fmt::format("({},{})", quote(action.old_text), quote(action.new_text));
    default: return {};
    }
}

std::optional<u64> number(std::string_view text) {
    int base = 10;
    if (text.starts_with("0x")) {
        base = 16;
        text.remove_prefix(2);
    }
    u64 value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
    if (error != std::errc() || end != text.data() + text.size() || text.empty()) return std::nullopt;
    return value;
}

/// Splits at commas outside quotes and takes the quotes away.
std::vector<std::string> split(std::string_view text) {
    std::vector<std::string> parts(1);
    bool quoted = false;
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (quoted && text[i] == '\\' && i + 1 < text.size())
            parts.back() += text[++i];
        else if (text[i] == '"')
            quoted = !quoted;
        else if (text[i] == ',' && !quoted)
            parts.emplace_back();
        else if (text[i] != ' ' || quoted)
            parts.back() += text[i];
    }
    return parts;
}

using Parsed = std::expected<void, std::string>;
std::unexpected<std::string> wrong(std::string text) { return std::unexpected(std::move(text)); }

Parsed parse_arguments(FaultAction& action, const std::vector<std::string>& parts, bool present) {
    const std::string_view name = fault_kind_name(action.kind);
    const auto need = [&](std::size_t count, std::string_view usage) -> Parsed {
        if (present && parts.size() == count) return {};
        return wrong(fmt::format("action '{}' wants {}", name, usage));
    };
    const auto take_number = [&](std::size_t i, u64& out) -> Parsed {
        const auto value = number(parts[i]);
        if (!value) return wrong(fmt::format("'{}' is no number", parts[i]));
        out = *value;
        return {};
    };
    switch (action.kind) {
    case FaultKind::fail:
    case FaultKind::lie:
        if (auto ok = need(1, "an errno, as in fail(ENOMEM)"); !ok) return ok;
        action.error = errno_by_name(parts[0]);
        if (action.error == Errno::ok) return wrong(fmt::format("'{}' is no errno", parts[0]));
        return {};
    case FaultKind::delay:
        if (auto ok = need(1, "a duration, as in delay(80ms)"); !ok) return ok;
        if (const auto ns = parse_duration(parts[0]))
            action.delay_ns = *ns;
        else
            return wrong(fmt::format("'{}' is no duration", parts[0]));
        return {};
    case FaultKind::flip:
        if (auto ok = need(2, "offset and bit, as in flip(0x34,3)"); !ok) return ok;
        if (auto ok = take_number(0, action.offset); !ok) return ok;
        if (auto ok = take_number(1, action.bit); !ok) return ok;
        if (action.bit > 7) return wrong("a bit is 0 to 7");
        return {};
    case FaultKind::zero:
        if (auto ok = need(2, "offset and length, as in zero(0,4096)"); !ok) return ok;
        if (auto ok = take_number(0, action.offset); !ok) return ok;
        return take_number(1, action.length);
    case FaultKind::truncate:
        if (auto ok = need(1, "a length, as in truncate(64)"); !ok) return ok;
        return take_number(0, action.length);
    case FaultKind::misdirect:
        if (auto ok = need(1, "an address, as in misdirect(0x7000000)"); !ok) return ok;
        return take_number(0, action.address);
    case FaultKind::replace:
        if (auto ok = need(2, "old and new text, as in replace(\"kho-v1\",\"kho-v2\")"); !ok) return ok;
        if (parts[0].size() != parts[1].size() || parts[0].empty())
            return wrong("the two texts of 'replace' must have the same length, and not be empty");
        action.old_text = parts[0];
        action.new_text = parts[1];
        return {};
    default:
        if (present) return wrong(fmt::format("action '{}' takes no argument", name));
        return {};
    }
}

}  // namespace

std::string PlannedFault::text() const {
    std::string result(fault_point_info(point).name);
    if (!match.empty()) result += fmt::format("[{}]", match);
    result += visit ? fmt::format("#{}", visit) : std::string("#every");
    if (generation) result += fmt::format("@{}", *generation);
    return result + fmt::format("={}{}", fault_kind_name(action.kind), arguments(action));
}

std::expected<PlannedFault, std::string> parse_fault(std::string_view text) {
    PlannedFault fault;
    // From the left: POINT, [MATCH], #VISIT, @GENERATION, =ACTION; an argument may hold any of these signs.
    const std::string_view name = text.substr(0, text.find_first_of("[#@="));
    std::string_view rest = text.substr(name.size());
    if (rest.starts_with('[')) {
        const auto close = rest.find(']');
        if (close == std::string_view::npos) return wrong("'[' without ']'");
        fault.match = rest.substr(1, close - 1);
        rest.remove_prefix(close + 1);
    }
    const auto take_part = [&rest](char sign) -> std::optional<std::string_view> {
        if (!rest.starts_with(sign)) return std::nullopt;
        const std::string_view part = rest.substr(1, rest.find_first_of("#@=", 1) - 1);
        rest.remove_prefix(1 + part.size());
        return part;
    };
    if (const auto count = take_part('#')) {
        const auto visit = *count == "every" ? std::optional<u64>(0) : number(*count);
        if (!visit || (*visit == 0 && *count != "every")) return wrong("after '#' comes a visit, from 1, or 'every'");
        fault.visit = *visit;
    }
    if (const auto part = take_part('@')) {
        const auto generation = number(*part);
        if (!generation || *generation > 1000000) return wrong("after '@' comes a generation");
        fault.generation = static_cast<Generation>(*generation);
    }
    if (!rest.starts_with('=')) return wrong("a fault is POINT[MATCH]#VISIT=ACTION(ARGUMENTS)");
    const std::string_view right = rest.substr(1);
    const auto point = fault_point_by_name(name);
    if (!point) return wrong(fmt::format("unknown fault point '{}'", name));
    fault.point = *point;

    const auto open = right.find('(');
    const std::string_view action = right.substr(0, open);
    const auto kind = fault_kind_by_name(action);
    if (!kind) return wrong(fmt::format("unknown action '{}'", action));
    fault.action.kind = *kind;
    std::vector<std::string> parts;
    if (open != std::string_view::npos) {
        if (right.back() != ')') return wrong("'(' without ')'");
        parts = split(right.substr(open + 1, right.size() - open - 2));
    }
    if (auto ok = parse_arguments(fault.action, parts, open != std::string_view::npos); !ok)
        return std::unexpected(ok.error());
    return fault;
}

}  // namespace kexec_sim
