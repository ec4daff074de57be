// One event of a trace as a line of text, with everything that is in it: to compare two runs.
#pragma once

#include <string>

#include "machine/trace.hpp"

namespace kexec_sim::sim {

/// "28049000 ns, generation 0, luo luo.state from=normal to=prepared".
std::string event_line(const TraceEvent& event);

}  // namespace kexec_sim::sim
