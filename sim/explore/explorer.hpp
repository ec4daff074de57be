// Exploration: a scenario under every single fault, every pair, or random plans.
//
//   1. baseline     the scenario without faults, every visit of every point logged; it must pass
//   2. depth 1      a plan a visit and action (sim/explore/candidates.hpp)
//   3. depth 2      for each plan of depth 1 that was reached: the faults at visits that came after it
//   4. random       plans of two to four faults drawn from those of depth 1, by the seed
//
// Every plan is judged as docs/researchers.md says: epilogue, operational and corrupting actions. Every 64th plan runs
// twice; runs that differ are a violation of their own (`determinism`).
//
// With `out_dir` each outcome is written to a journal as soon as it is known (sim/explore/journal.hpp); an exploration of
// the same scenario with the same options goes on where that one ended.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "sim/explore/pool.hpp"
#include "sim/explore/tally.hpp"

namespace kexec_sim::sim {

struct ExploreOptions {
    unsigned depth = 1;
    CandidateOptions candidates;
    u64 budget = 0;      // runs; 0: no limit
    double seconds = 0;  // of host time; 0: no limit
    unsigned jobs = 1;
    u64 shard = 0, shards = 1;
    u64 random_plans = 0;
    Isolation isolation = Isolation::inline_;
    std::vector<std::string> modules;
    std::string out_dir;
    u64 verify_every = 64;  // 0: never
    /// For the journal: `--actions` as given, and ReportContext::repeat_options.
    std::string actions_text = "operational", repeat_options;
};

struct ExploreProgress {
    const ExploreReport& report;
    u64 plans_left;
    double runs_per_second;
};

/// UserError: the scenario cannot be explored. A baseline that fails is in the report, and nothing else is.
ExploreReport explore(const Scenario& scenario, const ExploreOptions& options,
                      const std::function<void(const ExploreProgress&)>& on_progress,
                      const std::function<bool()>& interrupted);

}  // namespace kexec_sim::sim
