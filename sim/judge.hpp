// What a run is judged by, once it has ended: findings against `expect`, log lines, planned faults.
#pragma once

#include "sim/runner.hpp"

namespace kexec_sim::sim {

/// A line for everything that is not as the scenario (or, under an unplanned fault, the rules for those) demands.
std::vector<std::string> judge_run(const Scenario& scenario, const RunResult& result, const RunOptions& options,
                                   bool under_faults);

/// Findings that a run with an unplanned fault must not have, and the run without it has not. After an operational fault every invariant holds, but a
/// loss may be reported once the jump was begun or the kernel died; after a corrupting one only abi.bounded is demanded.
std::vector<const Finding*> violations_under_faults(const Scenario& scenario, const RunResult& result);

}  // namespace kexec_sim::sim
