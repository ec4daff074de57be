#include "sim/judge.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <set>

namespace kexec_sim::sim {
namespace {

std::string name_of(const Finding& finding) {
    return std::string(invariants()[static_cast<std::size_t>(finding.invariant)].name);
}

std::string joined(const std::set<std::string>& names) {
    std::string text;
    for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
    return text;
}

void judge_findings(const FindingsSpec& expect, const RunResult& result, std::vector<std::string>& failures) {
    std::set<std::string> found, allowed(expect.ids.begin(), expect.ids.end());
    allowed.insert(expect.may.begin(), expect.may.end());
    for (const Finding& finding : result.findings) {
        const std::string name = name_of(finding);
        found.insert(name);
        if (!allowed.contains(name) && !expect.may_any)
            failures.push_back(fmt::format("finding {}: {}", name, finding.message));
    }
    if (expect.kind == FindingsSpec::Kind::exactly)
        for (const std::string& id : expect.ids)
            if (!found.contains(id))
                failures.push_back(fmt::format("the finding {} was expected and did not come", id));
    if (expect.kind == FindingsSpec::Kind::any_of && !expect.ids.empty() &&
        std::ranges::none_of(expect.ids, [&](const std::string& id) { return found.contains(id); }))
        failures.push_back(fmt::format("none of the findings expected came ({}); there were: {}",
                                       joined({expect.ids.begin(), expect.ids.end()}),
                                       found.empty() ? "none" : joined(found)));
}

void judge_log(const ExpectSpec& expect, const RunResult& result, std::vector<std::string>& failures) {
    const auto appears = [&](const std::string& text) {
        return std::ranges::any_of(result.log,
                                   [&](const auto& line) { return line.second.find(text) != std::string::npos; });
    };
    for (const std::string& text : expect.log)
        if (!appears(text)) failures.push_back(fmt::format("no line of any kernel log holds \"{}\"", text));
    for (const std::string& text : expect.no_log)
        if (appears(text)) failures.push_back(fmt::format("a line of a kernel log holds \"{}\"", text));
}

}  // namespace

std::vector<const Finding*> violations_under_faults(const Scenario& scenario, const RunResult& result) {
    std::set<std::string> accepted;
    if (scenario.under_faults)
        accepted.insert(scenario.under_faults->accept.begin(), scenario.under_faults->accept.end());
    std::vector<const Finding*> violations;
    for (const Finding& finding : result.findings) {
        if (accepted.contains(name_of(finding)) || result.known_findings.contains(finding_key(finding))) continue;
        if (finding.by_fault && finding.invariant != InvariantId::abi_bounded) continue;
        if (finding.invariant == InvariantId::loss_reported && result.generations.size() > 1) continue;
        if (finding.invariant == InvariantId::loss_reported && result.generations.back().end != "scenario") continue;
        violations.push_back(&finding);
    }
    return violations;
}

std::vector<std::string> judge_run(const Scenario& scenario, const RunResult& result, const RunOptions& options,
                                   bool under_faults) {
    std::vector<std::string> failures;
    for (const FaultInjector::Status& fault : result.faults)
        if (!fault.fired && !(fault.own && under_faults))  // the script may have ended before it
            failures.push_back(fmt::format("fault {} never reached, {} visits", fault.plan, fault.visits));
    if (under_faults || !options.faults.empty()) {
        for (const Finding* finding : violations_under_faults(scenario, result))
            failures.push_back(fmt::format("finding {}: {}", name_of(*finding), finding->message));
        return failures;
    }
    // A step that failed ended the script: what would have come after it is not missing.
    if (!result.failures.empty()) {
        for (const Finding& finding : result.findings) {
            const auto& ids = scenario.expect.findings.ids;
            if (std::ranges::find(ids, name_of(finding)) == ids.end())
                failures.push_back(fmt::format("finding {}: {}", name_of(finding), finding.message));
        }
        return failures;
    }
    judge_findings(scenario.expect.findings, result, failures);
    judge_log(scenario.expect, result, failures);
    return failures;
}

}  // namespace kexec_sim::sim
