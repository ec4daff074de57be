// A scenario as the text of a scenario file: what exploration writes.
//
// Names, steps and values are those of the scenario it came from; parameters and `each` are filled in, loops of `repeat`
// stay. One step a line. Reading the text again gives a scenario that runs alike (but for the numbers of lines, which are
// in the trace).
#pragma once

#include <string>

#include "sim/scenario.hpp"

namespace kexec_sim::sim {

/// `comment`: lines at the top, without their '#'. `steps`: in place of those of the scenario, as they are to stand
/// there. Names of files are absolute.
std::string scenario_text(const Scenario& scenario, const std::string& comment = {}, const std::string& steps = {});

}  // namespace kexec_sim::sim
