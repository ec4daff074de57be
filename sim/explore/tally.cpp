#include "sim/explore/tally.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <tuple>

namespace kexec_sim::sim {
namespace {

/// The smallest plan of a group: fewest faults, then the earliest.
bool smaller(const FaultPlan& plan, const PlanOutcome& outcome, const ViolationGroup& than) {
    const auto size = std::tuple(plan.size(), outcome.fired_ns),
               known = std::tuple(than.plan.size(), than.outcome.fired_ns);
    return size != known ? size < known : plan_text(plan) < plan_text(than.plan);
}

std::size_t severity_rank(std::string_view severity) {
    constexpr std::string_view worst_first[] = {"corruption", "leak", "stuck"};
    return static_cast<std::size_t>(std::ranges::find(worst_first, severity) - std::begin(worst_first));
}

}  // namespace

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
        if (smaller(plan, outcome, group)) {
            group.violation = violation;
            group.plan = plan;
            group.outcome = outcome;
        }
    }
}

void ExploreReport::settle() {
    std::ranges::sort(groups, {}, [](const ViolationGroup& group) {
        return std::tuple(severity_rank(group.violation.severity), group.plan.size(), group.outcome.fired_ns,
                          plan_text(group.plan), group.violation.id, group.violation.check, group.violation.resource);
    });
    group_of.clear();
}

}  // namespace kexec_sim::sim
