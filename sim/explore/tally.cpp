#include "sim/explore/tally.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <tuple>

namespace kexec_sim::sim {
namespace {

std::size_t severity_rank(std::string_view severity) {
    constexpr std::string_view worst_first[] = {"corruption", "leak", "stuck"};
    return static_cast<std::size_t>(std::ranges::find(worst_first, severity) - std::begin(worst_first));
}

}  // namespace

PhaseSummary& ExploreReport::phase(Generation generation, std::string_view name) {
    const auto known = std::ranges::find_if(
        phases, [&](const PhaseSummary& one) { return one.generation == generation && one.name == name; });
    if (known != phases.end()) return *known;
    phases.push_back({generation, std::string(name), 0, {}, {}});
    return phases.back();
}

void ExploreReport::count_visits(const std::vector<FaultInjector::Visits>& log) {
    for (const auto& run : log) {
        points[std::string(fault_point_info(run.point).name)].visits += run.count;
        phase(run.generation, run.phase).visits += run.count;
    }
}

void ExploreReport::count(const FaultPlan& plan, const PlanOutcome& outcome) {
    const bool violates = !outcome.violations.empty();
    runs_two_kernels += outcome.two_kernels;
    not_reached += !outcome.reached;
    PointSummary& point = points[std::string(fault_point_info(plan.front().point).name)];
    ++point.runs;
    point.reached += outcome.reached;
    point.violating += violates;
    if (outcome.reached && !outcome.phase.empty()) {
        PhaseSummary& at = phase(outcome.fired_in, outcome.phase);
        for (PhaseSummary::Runs* of :
             {&at.all, &at.by_action[std::string(fault_kind_name(plan.front().action.kind))]}) {
            ++of->runs;
            of->violating += violates;
        }
    }
    note_violations(plan, outcome);
}

void ExploreReport::note_violations(const FaultPlan& plan, const PlanOutcome& outcome) {
    if (outcome.violations.empty()) return;
    PlanOutcome kept = outcome;
    kept.visits.clear();
    kept.event_lines.clear();
    violating.emplace_back(plan, std::move(kept));
    group(plan, violating.back().second);
}

void ExploreReport::group(const FaultPlan& plan, const PlanOutcome& outcome) {
    for (const Violation& violation : outcome.violations) {
        const PlannedFault& fault = plan.front();
        const std::string what = fmt::format("{}|{}|{}|", violation.id, violation.check, violation.resource);
        std::size_t index = groups.size();
        for (const PlannedFault& one : plan)
            if (const auto known = group_of_single.find(what + one.text()); known != group_of_single.end())
                index = known->second;
        if (index == groups.size())
            index = group_of
                        .emplace(fmt::format("{}{}|{}|{}", what, fault_point_info(fault.point).name, fault.match,
                                             outcome.where),
                                 groups.size())
                        .first->second;
        if (index == groups.size()) groups.push_back({violation, plan, outcome, outcome.where, 0, {}, 0, 0});
        if (plan.size() == 1) group_of_single.emplace(what + fault.text(), index);
        ++groups[index].plans;
    }
}

void ExploreReport::settle() {
    // Grouped anew: single faults before pairs, the earliest first, so that the first plan of a group is its smallest.
    std::ranges::sort(violating, {}, [](const auto& one) {
        return std::tuple(one.first.size(), one.second.fired_ns, plan_text(one.first));
    });
    groups.clear();
    group_of.clear();
    group_of_single.clear();
    for (const auto& [plan, outcome] : violating) group(plan, outcome);
    violating.clear();
    std::ranges::sort(groups, {}, [](const ViolationGroup& group) {
        return std::tuple(severity_rank(group.violation.severity), group.plan.size(), group.outcome.fired_ns,
                          plan_text(group.plan), group.violation.id, group.violation.check, group.violation.resource);
    });
}

}  // namespace kexec_sim::sim
