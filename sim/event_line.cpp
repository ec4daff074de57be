#include "sim/event_line.hpp"

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

}  // namespace kexec_sim::sim
