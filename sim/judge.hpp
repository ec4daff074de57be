// What a run is judged by, once it has ended: findings against `expect`, log lines, planned faults.
#pragma once

#include "sim/runner.hpp"

namespace kexec_sim::sim {

/// A line for everything that is not as the scenario (or, under an unplanned fault, the rules for those) demands.
std::vector<std::string> judge_run(const Scenario& scenario, const RunResult& result, const RunOptions& options,
                                   bool under_faults);

}  // namespace kexec_sim::sim
