#include "sim/explore/report.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <map>
#include <span>

#include "sim/result_json.hpp"
#include "sim/shell.hpp"
#include "sim/terminal_text.hpp"
#include "sim/version.hpp"

namespace kexec_sim::sim {
namespace {

using Json = nlohmann::ordered_json;

/// Causes that are told one by one unless all are asked for.
constexpr std::size_t groups_shown = 12;

std::string repeat_command(const FaultPlan& plan, const ReportContext& context) {
    std::string text =
        fmt::format("{} run {} --seed {}", shell_quoted(context.program), shell_quoted(context.file), context.seed);
    for (const PlannedFault& fault : plan) text += " --fault " + shell_quoted(fault.text());
    return text + context.repeat_options;
}

std::string headline(const Violation& violation) {
    return violation.check.empty() ? violation.id : fmt::format("{} ({})", violation.id, violation.check);
}

double rate(const ExploreReport& report) {
    return report.seconds > 0 ? static_cast<double>(report.runs) / report.seconds : 0;
}

/// What `groups` violate, and how often: "luo.rollback 20, frame.accounted 12".
std::string counted(std::span<const ViolationGroup> groups) {
    std::map<std::string, std::size_t> count;
    for (const ViolationGroup& group : groups) ++count[group.violation.id];
    std::string text;
    for (const auto& [id, times] : count) text += fmt::format("{}{} {}", text.empty() ? "" : ", ", id, times);
    return text;
}

}  // namespace

std::string progress_text(const ExploreProgress& at) {
    u64 covered = 0;
    for (const auto& [name, point] : at.report.points) covered += point.runs != 0;
    const double left = at.runs_per_second > 0 ? static_cast<double>(at.plans_left) / at.runs_per_second : 0;
    return fmt::format("{} runs, {:.0f}/s · points {}/{} · {} found · {} left, {:.0f} s", at.report.runs,
                       at.runs_per_second, covered, at.report.points.size(), at.report.groups.size(), at.plans_left,
                       left);
}

std::string explore_text(const ExploreReport& report, const ReportContext& context) {
    std::string text;
    const auto line = [&](std::string_view one) { text += std::string(one) + "\n"; };
    const bool color = context.color;
    if (!report.baseline.passed) {
        line(styled(fmt::format("{}: the run without faults fails already", context.scenario), Style::bad, color));
        for (const std::string& failure : report.baseline.failures) line("  " + failure);
        return text;
    }
    if (!context.quiet) {
        line(fmt::format("  {:<28} {:>8} {:>7} {:>9} {:>10}", "point", "visits", "runs", "violating", "unreached"));
        for (const auto& [name, point] : report.points) {
            if (point.runs == 0 && !context.verbose) continue;
            line(fmt::format("  {:<28} {:>8} {:>7} {:>9} {:>10}", name, point.visits, point.runs,
                             point.violating ? fmt::format("{}", point.violating) : "–",
                             point.runs - point.reached ? fmt::format("{}", point.runs - point.reached) : "–"));
        }
        line("");
    }
    const std::size_t shown = context.verbose ? report.groups.size() : std::min(report.groups.size(), groups_shown);
    for (const ViolationGroup& group : std::span(report.groups).first(shown)) {
        line(styled(fmt::format("✗ {}: {}", headline(group.violation), group.violation.resource), Style::bad, color));
        for (const std::string& one : wrapped(group.violation.message, terminal_columns - 4)) line("    " + one);
        line(fmt::format("    {} plan{}; the smallest: {}", group.plans, group.plans == 1 ? "" : "s",
                         plan_text(group.plan)));
        if (!group.where.empty()) line("    in " + group.where);
        if (group.reproduction.empty()) {
            line("    " + repeat_command(group.plan, context));
        } else {
            line(fmt::format("    {} of {} steps are left:", group.steps, group.steps_before));
            line(fmt::format("    {} replay {}", shell_quoted(context.program), shell_quoted(group.reproduction)));
        }
    }
    if (shown < report.groups.size())
        line(fmt::format("… and {} more causes: {} (--verbose and --json show them all)",
                         report.groups.size() - shown, counted(std::span(report.groups).subspan(shown))));
    if (!report.groups.empty()) line("");
    if (context.quiet && report.groups.empty() && report.complete && context.missing.empty()) return text;
    line(fmt::format("{}: {} runs in {:.1f} s ({:.0f} a second), {} with two kernels, {} not reached",
                     context.scenario, report.runs, report.seconds, rate(report), report.runs_two_kernels,
                     report.not_reached));
    const std::string complete = !report.complete ? "not complete"
                                 : report.thinned ? "complete, but for repeated visits of a call site beyond the 64th"
                                                  : "complete";
    const bool alike = std::ranges::none_of(
        report.groups, [](const ViolationGroup& group) { return group.violation.id == "determinism"; });
    line(fmt::format("{} plans of depth {}: {}{}; {} of them run twice{}", report.plans_known, context.depth,
                     complete, report.resumed ? fmt::format(" ({} known from before)", report.resumed) : "",
                     report.verified, alike ? ", alike" : ""));
    if (!context.missing.empty()) line(styled("shards that are missing: " + context.missing, Style::bad, color));
    line(report.groups.empty() ? styled("no violation", Style::good, color)
                               : styled(fmt::format("{} cause{} of violations", report.groups.size(),
                                                    report.groups.size() == 1 ? "" : "s"),
                                        Style::bad, color));
    return text;
}

std::string explore_json(const ExploreReport& report, const ReportContext& context) {
    Json out;
    out["format"] = "kexec-sim/explore-1";
    out["program"] = program_version();
    out["scenario"] = context.scenario;
    out["file"] = context.file;
    out["seed"] = context.seed;
    out["depth"] = context.depth;
    out["baseline"] = report.baseline_json;
    out["points"] = report.visits;
    out["runs"] = report.runs;
    out["runs_two_kernels"] = report.runs_two_kernels;
    out["not_reached"] = report.not_reached;
    out["resumed"] = report.resumed;
    out["verified"] = report.verified;
    out["violations"] = Json::array();
    for (const ViolationGroup& group : report.groups) {
        Json one{{"plan", plan_text(group.plan)},
                 {"plans", group.plans},
                 {"where", group.where},
                 {"phase", group.outcome.phase},
                 {"findings", Json::array()},
                 {"reproduction", group.reproduction.empty() ? Json() : Json(group.reproduction)},
                 {"shrunk_from", group.reproduction.empty() ? Json() : Json(group.steps_before)}};
        one["findings"].push_back({{"invariant", group.violation.id},
                                   {"severity", group.violation.severity},
                                   {"check", group.violation.check},
                                   {"resource", group.violation.resource},
                                   {"generation", group.violation.generation},
                                   {"message", group.violation.message}});
        out["violations"].push_back(std::move(one));
    }
    out["by_point"] = Json::object();
    for (const auto& [name, point] : report.points)
        out["by_point"][name] = {{"visits", point.visits},
                                 {"runs", point.runs},
                                 {"reached", point.reached},
                                 {"violating", point.violating}};
    out["by_phase"] = Json::array();
    for (const PhaseSummary& phase : report.phases) {
        Json by_action = Json::object();
        for (const auto& [name, runs] : phase.by_action)
            by_action[name] = {{"runs", runs.runs}, {"violating", runs.violating}};
        out["by_phase"].push_back({{"phase", phase.name},
                                   {"generation", phase.generation},
                                   {"visits", phase.visits},
                                   {"runs", phase.all.runs},
                                   {"violating", phase.all.violating},
                                   {"by_action", std::move(by_action)}});
    }
    if (report.complete && report.thinned)
        out["complete"] = "sampled-visits";
    else
        out["complete"] = report.complete;
    out["runs_per_second"] = rate(report);
    return out.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string explore_csv(const ExploreReport& report) {
    std::string text = "point,visits,runs,reached,violating\n";
    for (const auto& [name, point] : report.points)
        text += fmt::format("{},{},{},{},{}\n", name, point.visits, point.runs, point.reached, point.violating);
    return text;
}

}  // namespace kexec_sim::sim
