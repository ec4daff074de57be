#include "sim/explore/tally.hpp"

#include <fmt/format.h>

namespace kexec_sim::sim {

std::string ExploreReport::phase_at(u64 ns) const {
    std::string name = "power on";
    for (const UpdatePhase& phase : phases) {
        if (phase.begin_ns > ns) break;
        name = phase.name;
    }
    return name;
}

void ExploreReport::count(const FaultPlan& plan, const PlanOutcome& outcome) {
    runs_two_kernels += outcome.two_kernels;
    not_reached += !outcome.reached;
    PointSummary& point = points[std::string(fault_point_info(plan.front().point).name)];
    ++point.runs;
    point.reached += outcome.reached;
    const std::string phase = phase_at(outcome.fired_ns);
    if (outcome.reached) ++runs_by_phase[phase];
    if (!outcome.violations.empty()) {
        ++point.violating;
        ++violating_by_phase[phase];
    }
    note_violations(plan, outcome);
}

void ExploreReport::note_violations(const FaultPlan& plan, const PlanOutcome& outcome) {
    for (const Violation& violation : outcome.violations) {
        const PlannedFault& fault = plan.front();
        const std::string key = fmt::format("{}|{}|{}|{}|{}|{}", violation.id, violation.check, violation.resource,
                                            fault_point_info(fault.point).name, fault.match, outcome.where);
        const auto [at, fresh] = group_of.emplace(key, groups.size());
        if (fresh) groups.push_back({violation, plan, outcome, outcome.where, 0, {}, 0, 0});
        ViolationGroup& group = groups[at->second];
        ++group.plans;
        if (plan.size() < group.plan.size()) {
            group.violation = violation;
            group.plan = plan;
            group.outcome = outcome;
        }
    }
}

}  // namespace kexec_sim::sim
