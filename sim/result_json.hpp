// The JSON result of `run` (format kexec-sim/result-1): an array with an object a scenario.
//
// A member of the contract is always there. Where a run ended in an error before it had a result, `outcome` is
// `error`, `error` says which, the steps are `skipped` and the hashes are null.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "sim/runner.hpp"

namespace kexec_sim::sim {

struct ReportedRun {
    std::string scenario, file;
    RunResult result;
    std::optional<std::string> error;  // exit 2 or 3 happened in it
};

/// The text of the whole array, with a line break at its end.
std::string result_json(const std::vector<ReportedRun>& runs);
/// A result for a run that has none: every step skipped.
RunResult result_of_no_run(const Scenario& scenario);

}  // namespace kexec_sim::sim
