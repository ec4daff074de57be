#include "sim/explore/outcome.hpp"

#include <fmt/format.h>
#include <set>

#include "sim/judge.hpp"
#include "sim/workers/sanitizer_report.hpp"

namespace kexec_sim::sim {
namespace {

Violation violation_of(const Finding& finding) {
    const InvariantInfo& info = invariants()[static_cast<std::size_t>(finding.invariant)];
    return {std::string(info.name), std::string(info.severity),
            finding.resource,       std::string(check_name(finding.check)),
            finding.message,        finding.generation};
}

/// Of a report, what a line of the journal holds.
constexpr std::size_t report_bytes_max = 16 * KiB;

}  // namespace

std::string plan_text(const FaultPlan& plan) {
    std::string text;
    for (const PlannedFault& fault : plan) text += (text.empty() ? "" : " + ") + fault.text();
    return text;
}

PlanOutcome outcome_of(const Scenario& scenario, const RunResult& result) {
    PlanOutcome outcome;
    outcome.reached = true;
    bool first = true;
    for (const FaultInjector::Status& fault : result.faults) {
        if (fault.own) continue;
        outcome.reached &= fault.fired;
        // Of a pair the first counts: where it struck, in which phase.
        if (!std::exchange(first, false)) continue;
        outcome.where = fault.where;
        outcome.phase = fault.phase;
        outcome.fired_ns = fault.fired_ns;
        outcome.fired_in = fault.fired_in;
    }
    outcome.two_kernels = result.generations.size() > 1;
    outcome.virtual_ns = result.virtual_ns;
    outcome.events = result.trace_events;
    outcome.trace_hash = result.trace_hash;
    std::set<std::string> ids;
    for (const Finding& finding : result.findings)
        ids.emplace(invariants()[static_cast<std::size_t>(finding.invariant)].name);
    outcome.findings.assign(ids.begin(), ids.end());
    for (const Finding* finding : violations_under_faults(scenario, result))
        outcome.violations.push_back(violation_of(*finding));
    const Generation last = result.generations.empty() ? 0 : result.generations.back().index;
    if (const auto& failure = result.epilogue_failure)
        outcome.violations.push_back({"epilogue",
                                      "stuck",
                                      failure->part,
                                      {},
                                      fmt::format("{}: {}{}{}", failure->part, failure->result,
                                                  failure->detail.empty() ? "" : ": ", failure->detail),
                                      last});
    if (result.died_by_signal)
        outcome.violations.push_back(
            {"crash", "corruption", "kernel", {}, "the kernel's code got a fatal signal", last});
    if (result.out_of_time)
        outcome.violations.push_back({"hang",
                                      "stuck",
                                      "virtual time",
                                      {},
                                      fmt::format("{} ns of virtual time were not enough", result.virtual_ns),
                                      last});
    outcome.visits = result.visits;
    return outcome;
}

void PlanOutcome::note_report(const std::string& report) {
    if (report.empty()) return;
    const SanitizerReport read = read_sanitizer_report(report);
    // Where it aborts, it does so in the kernel's code or inside the machine.
    std::erase_if(violations, [](const Violation& one) { return one.id == "crash" || one.id == "simulator"; });
    violations.insert(violations.begin(), {"sanitizer", "corruption", read.where(), {}, read.message(), 0});
    error = report.substr(0, report_bytes_max);
}

PlanOutcome outcome_of_loss(const Loss& loss) {
    PlanOutcome outcome = outcome_of_failure(loss.id(), loss.message());
    if (loss.report.empty()) return outcome;
    outcome.violations.clear();
    outcome.note_report(loss.report);
    return outcome;
}

PlanOutcome outcome_of_failure(std::string_view id, const std::string& message) {
    PlanOutcome outcome;
    outcome.reached = true;
    outcome.error = message;
    outcome.violations.push_back({std::string(id), "stuck", "run", {}, message, 0});
    return outcome;
}

nlohmann::json PlanOutcome::json() const {
    nlohmann::json out{{"reached", reached},       {"two_kernels", two_kernels},
                       {"fired_ns", fired_ns},     {"fired_in", fired_in},
                       {"virtual_ns", virtual_ns}, {"events", events},
                       {"trace_hash", trace_hash}, {"findings", findings},
                       {"where", where},           {"phase", phase}};
    for (const Violation& one : violations)
        out["violations"].push_back({{"id", one.id},
                                     {"severity", one.severity},
                                     {"resource", one.resource},
                                     {"check", one.check},
                                     {"message", one.message},
                                     {"generation", one.generation}});
    if (!error.empty()) out["error"] = error;
    if (!event_lines.empty()) out["event_lines"] = event_lines;
    for (const auto& run : visits)
        out["visits"].push_back(
            {fault_point_info(run.point).name, run.name, run.count, run.generation, run.after_fault ? 1 : 0});
    return out;
}

PlanOutcome PlanOutcome::from_json(const nlohmann::json& json) {
    PlanOutcome outcome;
    outcome.reached = json.at("reached");
    outcome.two_kernels = json.at("two_kernels");
    outcome.fired_ns = json.at("fired_ns");
    outcome.fired_in = json.at("fired_in");
    outcome.virtual_ns = json.at("virtual_ns");
    outcome.events = json.at("events");
    outcome.trace_hash = json.at("trace_hash");
    outcome.where = json.at("where");
    outcome.phase = json.at("phase");
    outcome.findings = json.at("findings").get<std::vector<std::string>>();
    if (json.contains("violations"))
        for (const auto& one : json["violations"])
            outcome.violations.push_back({one.at("id"), one.at("severity"), one.at("resource"), one.at("check"),
                                          one.at("message"), one.at("generation")});
    outcome.error = json.value("error", std::string());
    outcome.event_lines = json.value("event_lines", std::vector<std::string>());
    if (json.contains("visits"))
        for (const auto& run : json["visits"]) {
            const auto point = fault_point_by_name(run.at(0).get<std::string>());
            if (!point) throw std::invalid_argument("a fault point that this version does not have");
            outcome.visits.push_back({*point, run.at(1), run.at(2), run.at(3), run.at(4).get<int>() != 0});
        }
    return outcome;
}

}  // namespace kexec_sim::sim
