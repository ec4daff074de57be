// What an exploration has come to: counts by point and phase, violations grouped by cause.
#pragma once

#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include "sim/explore/outcome.hpp"

namespace kexec_sim::sim {

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

/// A stretch of an update (FaultInjector::phase): "boot", "normal", "prepare", "prepared", "freeze", … of a generation.
struct PhaseSummary {
    struct Runs {
        u64 runs = 0, violating = 0;
    };
    Generation generation = 0;
    std::string name;
    u64 visits = 0;  // in the baseline
    Runs all;        // of plans whose first fault struck then
    std::map<std::string, Runs> by_action;
};

struct ExploreReport {
    RunResult baseline;
    nlohmann::ordered_json baseline_json;  // the same, as in the result of `run`
    std::vector<PhaseSummary> phases;      // in the order of the baseline
    u64 plans_known = 0;                   // plans of the depth that were enumerated, for this shard
    u64 visits = 0;
    u64 runs = 0, runs_two_kernels = 0, not_reached = 0, resumed = 0, verified = 0;
    bool thinned = false, complete = false, interrupted = false;
    double seconds = 0;
    std::map<std::string, PointSummary> points;
    std::vector<ViolationGroup>
        groups;  // as they are found; after settle() the worst first, each with its smallest plan
    std::unordered_map<std::string, std::size_t> group_of;
    /// What a single fault violates is no news in a pair with that fault.
    std::unordered_map<std::string, std::size_t> group_of_single;
    std::vector<std::pair<FaultPlan, PlanOutcome>> violating;  // until settle(), without visits and events

    void count_visits(const std::vector<FaultInjector::Visits>& log);
    /// Takes in what came of a plan.
    void count(const FaultPlan& plan, const PlanOutcome& outcome);
    void note_violations(const FaultPlan& plan, const PlanOutcome& outcome);
    /// Everything is counted: puts the groups in their order, which is the same in whatever order the plans have run.
    void settle();
    void group(const FaultPlan& plan, const PlanOutcome& outcome);
    PhaseSummary& phase(Generation generation, std::string_view name);
};

}  // namespace kexec_sim::sim
