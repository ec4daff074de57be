#include "machine/duration.hpp"

#include <charconv>
#include <fmt/format.h>

namespace kexec_sim {
namespace {

struct Unit {
    std::string_view suffix;
    u64 ns;
};
constexpr Unit units[] = {{"ns", 1}, {"us", 1'000}, {"ms", 1'000'000}, {"s", 1'000'000'000}};

std::optional<u64> whole_number(std::string_view text) {
    const int base = text.starts_with("0x") || text.starts_with("0X") ? 16 : 10;
    if (base == 16) text.remove_prefix(2);
    u64 value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
    if (error != std::errc() || end != text.data() + text.size() || text.empty()) return std::nullopt;
    return value;
}

}  // namespace

std::optional<u64> parse_duration(std::string_view text) {
    for (const Unit& unit : units) {
        if (!text.ends_with(unit.suffix)) continue;
        const auto count = whole_number(text.substr(0, text.size() - unit.suffix.size()));
        u64 ns = 0;
        if (!count || __builtin_mul_overflow(*count, unit.ns, &ns)) return std::nullopt;
        return ns;
    }
    return std::nullopt;
}

std::string duration_text(u64 ns) {
    const Unit* largest = units;
    for (const Unit& unit : units)
        if (ns && ns % unit.ns == 0) largest = &unit;
    return fmt::format("{}{}", ns / largest->ns, largest->suffix);
}

}  // namespace kexec_sim
