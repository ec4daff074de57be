// Events of a trace as lines of text, with everything that is in them: to compare two runs.
#pragma once

#include <optional>
#include <span>
#include <string>

#include "machine/trace.hpp"

namespace kexec_sim::sim {

/// "28049000 ns, generation 0, luo luo.state from=normal to=prepared".
std::string event_line(const TraceEvent& event);

struct EventDifference {
    u64 number = 1;                         // of the event, from 1
    std::optional<std::string> one, other;  // nullopt: that run has ended
};
/// The first place where two runs part; nullopt: they do not.
std::optional<EventDifference> first_difference(std::span<const std::string> one, std::span<const std::string> other);

}  // namespace kexec_sim::sim
