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
// With `out_dir` each outcome is a line of DIR/runs.jsonl as soon as it is known; an exploration of the same scenario with
// the same options goes on where that one ended.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "sim/explore/outcome.hpp"
#include "sim/explore/pool.hpp"

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
};

/// Violations with one cause: same id, check, resource, point, component (the name at the point) and call chain.
struct ViolationGroup {
    Violation violation;  // of the smallest plan
    FaultPlan plan;
    PlanOutcome outcome;
    std::string where;
    u64 plans = 0;                            // how many have it
    std::string reproduction;                 // file, once written
    std::size_t steps_before = 0, steps = 0;  // of the reproduction, before it was shrunk and after
};

struct PointSummary {
    u64 visits = 0;  // in the baseline
    u64 runs = 0, reached = 0, violating = 0;
};

/// A stretch of the fault-free run: "boot", "normal", "prepare", "prepared", …
struct UpdatePhase {
    u64 begin_ns;
    std::string name;
};

struct ExploreReport {
    RunResult baseline;
    std::vector<UpdatePhase> phases;
    u64 plans_known = 0;  // plans of the depth that were enumerated, for this shard
    u64 visits = 0;
    u64 runs = 0, runs_two_kernels = 0, not_reached = 0, resumed = 0, verified = 0;
    bool thinned = false, complete = false, interrupted = false;
    double seconds = 0;
    std::map<std::string, PointSummary> points;
    std::map<std::string, u64> violating_by_phase, runs_by_phase;
    std::vector<ViolationGroup> groups;  // in the order in which they were found
    std::string phase_at(u64 ns) const;
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
