// Worker processes that carry out plans.
//
//   Pool ──plans──► worker: fresh inline runs, or forking ones ──outcomes──► Pool ──► done(plan, outcome)
//
// A worker runs one plan after another, each in a machine of its own, so nothing is left from one to the next; where
// the way to a fault is long, it is gone once for many plans (sim/explore/forking_run.hpp). What a run must not do to
// the explorer it does to the worker: one that dies gives `crash` as the outcome of the plan that it had, or `sanitizer` if
// it left such a report; one that says nothing for too long is killed and gives `hang`. Another takes its place
// (sim/workers/workers.hpp). Of many plans nobody knows which it was: each of them runs again, by itself. Workers die
// with the explorer.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "sim/explore/outcome.hpp"
#include "sim/workers/workers.hpp"

namespace kexec_sim::sim {

struct PlanJob {
    u64 id = 0;
    FaultPlan faults;
    bool record_visits = false, record_events = false;
    bool fresh = false;  // in a run of its own, whatever the options say
};

struct PoolOptions {
    unsigned jobs = 1;
    Isolation isolation = Isolation::inline_;
    std::vector<std::string> modules;
    u64 max_virtual_ns = 0;
    double max_host_seconds = 60;
    std::size_t plans_per_run = 1;  // that share the way to their faults (forking_run.hpp); 1: each runs afresh
    Baseline baseline;
    /// In the process that carries out a plan, before it does (in a shared run, where that plan goes its own way, and at
    /// the beginning with what the plans share): for tests, which let some of them die.
    std::function<void(const FaultPlan&)> on_plan;
};

class Pool {
public:
    /// Both outlive it.
    Pool(const Scenario& scenario, const PoolOptions& options);

    /// Runs what `next` gives until it gives nothing, and every outcome is in. `next` is asked when a worker is free;
    /// `done` hears in the order in which runs end. `stop`: no more plans, and those under way are given up.
    void run(const std::function<std::optional<PlanJob>()>& next,
             const std::function<void(const PlanJob&, PlanOutcome&&)>& done, const std::function<bool()>& stop);

private:
    using Batch = std::vector<PlanJob>;
    Batch next_batch(const std::function<std::optional<PlanJob>()>& next);
    Workers::Question question_of(Batch batch);
    Batch ended(u64 id);

    const PoolOptions& options_;
    Workers workers_;
    std::map<u64, Batch> asked_;
    u64 next_id_ = 0;
    std::optional<PlanJob> held_;  // came from `next`, and does not fit into the batch before it
    std::deque<PlanJob> again_;    // of batches that were lost
};

/// One plan, in this process.
PlanOutcome run_plan(const Scenario& scenario, const PoolOptions& options, const PlanJob& job);

}  // namespace kexec_sim::sim
