#include "sim/event_line.hpp"

#include <algorithm>
#include <fmt/format.h>

namespace kexec_sim::sim {

std::string event_line(const TraceEvent& event) {
    std::string text = fmt::format("{} ns, generation {}, {} {}", event.time_ns, event.generation,
                                   layer_name(event.layer), event.name);
    if (event.phase != Phase::instant) text += event.phase == Phase::begin ? " begins" : " ends";
    for (const TraceEvent::Field& field : event.fields) {
        text += fmt::format(" {}=", field.key);
        switch (field.type) {
        case TraceField::Type::text: text += field.text; break;
        case TraceField::Type::hex: text += fmt::format("{:#x}", field.number); break;
        case TraceField::Type::signed_decimal: text += fmt::format("{}", static_cast<i64>(field.number)); break;
        case TraceField::Type::decimal: text += fmt::format("{}", field.number); break;
        }
    }
    return text;
}

std::optional<EventDifference> first_difference(std::span<const std::string> one,
                                                std::span<const std::string> other) {
    const auto [at, at_other] = std::ranges::mismatch(one, other);
    if (at == one.end() && at_other == other.end()) return std::nullopt;
    EventDifference difference{static_cast<u64>(at - one.begin()) + 1, {}, {}};
    if (at != one.end()) difference.one = *at;
    if (at_other != other.end()) difference.other = *at_other;
    return difference;
}

}  // namespace kexec_sim::sim
