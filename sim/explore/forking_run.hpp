// Plans that begin alike are carried out from where they part.
//
//   the base plan's run ──visit──visit──visit──► …          run once, in this process
//                          │      └─ fork ──► goes on with the fault of plan 2, to its end
//                          └─ fork ──► goes on with the fault of plan 1, to its end
//
// The machine's memory and state are private to the process here (MachineConfig::private_memory), so a fork has a copy of
// the whole simulation, in the middle of the visit. A plan costs its tail then, and not its prefix. What comes out is what
// a fresh run of the plan gives; exploration checks that with every 64th plan.
#pragma once

#include <vector>

#include "sim/explore/pool.hpp"

namespace kexec_sim::sim {

/// Whether run_forking() can carry out this plan: its last fault names its visit exactly.
bool can_fork(const PlanJob& job);

/// The plans are the same but for their last fault, which means a visit after the others have fired. Outcomes in the same
/// order; a plan whose visit never came is `reached == false`.
std::vector<PlanOutcome> run_forking(const Scenario& scenario, const PoolOptions& options,
                                     const std::vector<PlanJob>& jobs);

}  // namespace kexec_sim::sim
