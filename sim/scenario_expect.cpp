// `expect:`, and what else of a scenario names findings: which invariants may or must speak, which lines a
// kernel log must or must not have, and where a reproduction comes from.
#include <algorithm>

#include <fmt/format.h>

#include "sim/scenario_parts.hpp"

namespace kexec_sim::sim {
namespace {

FindingsSpec parse_findings(const Node& node, const Scalars& scalars) {
    FindingsSpec findings;
    if (node.is_sequence()) {
        findings.ids = parse_invariants(node, "findings", scalars);
        findings.kind = findings.ids.empty() ? FindingsSpec::Kind::none : FindingsSpec::Kind::exactly;
        return findings;
    }
    if (!node.is_map()) {
        constexpr std::string_view wanted = "none, a list of invariants or {any-of: […], may: […]}";
        const std::string text = scalars.text(node, "findings", wanted);
        if (text != "none") scalars.error(node.pos, fmt::format("'findings' needs {}, not '{}'", wanted, text));
        return findings;
    }
    scalars.check_map(node, "findings", {"any-of", "may"});
    if (node.entries.empty()) scalars.error(node.pos, "'findings' needs 'any-of' or 'may'");
    findings.kind = FindingsSpec::Kind::any_of;
    if (const Node* any_of = node.find("any-of")) {
        findings.ids = parse_invariants(*any_of, "any-of", scalars);
        if (findings.ids.empty()) scalars.error(any_of->pos, "'any-of' is empty: nothing could meet it");
    }
    if (const Node* may = node.find("may")) {
        if (may->is_sequence()) {
            findings.may = parse_invariants(*may, "may", scalars);
        } else {
            constexpr std::string_view names[] = {"any"};
            findings.may_any = scalars.choice(*may, "may", names) == "any";
        }
    }
    return findings;
}

std::vector<std::string> parse_lines(const Node& node, std::string_view what, const Scalars& scalars) {
    scalars.check_sequence(node, what);
    std::vector<std::string> lines;
    for (const Node& item : node.items) lines.push_back(scalars.line(item, what, "a list of texts"));
    return lines;
}

}  // namespace

std::vector<std::string> parse_invariants(const Node& node, std::string_view what, const Scalars& scalars) {
    scalars.check_sequence(node, what);
    const auto known = invariant_names();
    std::vector<std::string> ids;
    for (const Node& item : node.items) {
        std::string id = scalars.line(item, what, "a list of invariants");
        if (std::find(known.begin(), known.end(), id) == known.end())
            scalars.error(item.pos, fmt::format("unknown invariant '{}'{}", id, did_you_mean(id, known)));
        if (std::find(ids.begin(), ids.end(), id) != ids.end())
            scalars.error(item.pos, fmt::format("'{}' stands twice in '{}'", id, what));
        ids.push_back(std::move(id));
    }
    return ids;
}

ExpectSpec parse_expect(const Node& node, const Scalars& scalars) {
    scalars.check_map(node, "expect", {"findings", "log", "no-log"});
    ExpectSpec expect;
    if (const Node* value = node.find("findings")) expect.findings = parse_findings(*value, scalars);
    if (const Node* value = node.find("log")) expect.log = parse_lines(*value, "log", scalars);
    if (const Node* value = node.find("no-log")) expect.no_log = parse_lines(*value, "no-log", scalars);
    return expect;
}

Reproduces parse_reproduces(const Node& node, const Scalars& scalars) {
    scalars.check_map(node, "reproduces", {"scenario", "seed", "plan", "trace_hash"});
    Reproduces reproduces;
    reproduces.scenario = scalars.line(scalars.require(node, "scenario", "reproduces"), "scenario");
    reproduces.seed = scalars.number(scalars.require(node, "seed", "reproduces"), "seed");
    const Node& plan = scalars.require(node, "plan", "reproduces");
    const std::vector<TextAt> faults = plan.is_sequence()
                                           ? scalars.list(plan, "plan")
                                           : std::vector<TextAt>{{scalars.line(plan, "plan", "a fault"), plan.pos}};
    for (const TextAt& text : faults) {
        const auto fault = parse_fault(text.text);
        if (!fault) scalars.error(text.pos, fmt::format("fault '{}': {}", text.text, fault.error()));
        reproduces.plan.push_back(*fault);
    }
    const Node& hash = scalars.require(node, "trace_hash", "reproduces");
    reproduces.trace_hash = scalars.line(hash, "trace_hash");
    const auto is_hex = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); };
    if (reproduces.trace_hash.size() != 32 ||
        !std::all_of(reproduces.trace_hash.begin(), reproduces.trace_hash.end(), is_hex))
        scalars.error(hash.pos, "'trace_hash' is 32 hex digits");
    return reproduces;
}

}  // namespace kexec_sim::sim
