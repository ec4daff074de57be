// What the tests of whole programs share: the scenario library, and runs of it in this process.
//
//   scenarios/**/*.yaml ──load──> Scenario ──run(isolation)──> RunResult ──describe──> lines that can be compared
//
// The library of functions is driven, not the program, because hundreds of processes would cost more than the runs
// themselves. What belongs to the program alone (exit codes, signals, children) is tested by tests/kill_test.sh.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "sim/runner.hpp"
#include "tests/support/temp_dir.hpp"

namespace system_test {

using kexec_sim::Generation;
using kexec_sim::u64;
using kexec_sim::sim::Isolation;
using kexec_sim::sim::RunOptions;
using kexec_sim::sim::RunResult;
using kexec_sim::sim::Scenario;

/// The scenario library, ascending by name; reproductions of bugs are left out, as in run_scenarios.sh.
std::vector<std::filesystem::path> scenario_files();
/// `name` as in "referee/quiet": below scenarios/, without its ending.
std::filesystem::path scenario_file(const std::string& name);
/// The way back.
std::string scenario_name(const std::filesystem::path& file);
Scenario load(const std::filesystem::path& file);

RunResult run(const Scenario& scenario, Isolation isolation = Isolation::inline_);

/// Goes on where a step fails, as if what it gave had been expected.
RunResult run_to_the_end(Scenario scenario);

/// One event of a run: a line with its time, layer, name and fields.
struct Event {
    Generation generation = 0;
    std::string text;
};
/// As run(); every event goes into `events`.
RunResult run_recorded(const Scenario& scenario, Isolation isolation, std::vector<Event>& events);

/// What was executed, one line a step, in order; details and virtual time included.
std::vector<std::string> describe_steps(const RunResult& result);
/// Findings of generation `from` and later, a line each.
std::vector<std::string> describe_findings(const RunResult& result, Generation from = 0);
/// Kernel log of generation `from` and later.
std::vector<std::string> describe_log(const RunResult& result, Generation from = 0);
/// The first line in which the two differ, for a message; empty: none does.
std::string first_difference(const std::vector<std::string>& left, const std::vector<std::string>& right);
std::string invariant_of(const kexec_sim::Finding& finding);
bool has_finding(const RunResult& result, const std::string& invariant);

using test_support::TempDir;

}  // namespace system_test
