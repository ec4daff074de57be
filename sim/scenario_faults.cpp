// `faults:` of a scenario: each entry becomes a PlannedFault, and what could not be carried out at its
// point is refused, because a plan that does nothing would look like one that was survived.
#include <algorithm>

#include <fmt/format.h>

#include "sim/scenario_parts.hpp"

namespace kexec_sim::sim {
namespace {

FaultKind parse_kind(std::string_view name, SourcePos pos, const Scalars& scalars) {
    if (const auto kind = fault_kind_by_name(name)) return *kind;
    std::vector<std::string_view> names;
    for (const FaultKindInfo& info : fault_kinds()) names.push_back(info.name);
    scalars.error(pos, fmt::format("unknown action '{}'{}", name, did_you_mean(name, names)));
}

Errno parse_errno(const Node& node, std::string_view what, const Scalars& scalars) {
    const std::string name = scalars.line(node, what, "an errno");
    const Errno error = errno_by_name(name);
    if (error != Errno::ok) return error;
    std::size_t count = 0;
    const std::string* all = errno_names(&count);
    const std::vector<std::string_view> names(all, all + count);
    scalars.error(node.pos, fmt::format("'{}' needs an errno, not '{}'{}", what, name, did_you_mean(name, names)));
}

void parse_replace(const Node& node, FaultAction& action, const Scalars& scalars) {
    const std::vector<TextAt> texts = scalars.list(node, "replace");
    if (texts.size() != 2) scalars.error(node.pos, "'replace' needs two texts: [OLD, NEW]");
    if (texts[0].text.empty() || texts[0].text.size() != texts[1].text.size())
        scalars.error(texts[1].pos, "the two texts of 'replace' must have the same length, and not be empty");
    action.old_text = texts[0].text;
    action.new_text = texts[1].text;
}

void parse_argument(const Node& node, FaultAction& action, const Scalars& scalars) {
    const std::string_view name = fault_kind_name(action.kind);
    switch (action.kind) {
    case FaultKind::fail:
    case FaultKind::lie: action.error = parse_errno(node, name, scalars); return;
    case FaultKind::delay: action.delay_ns = scalars.duration(node, name); return;
    case FaultKind::truncate: action.length = scalars.size(node, name); return;
    case FaultKind::misdirect: action.address = scalars.number(node, name); return;
    case FaultKind::replace: parse_replace(node, action, scalars); return;
    case FaultKind::flip:
        scalars.check_map(node, name, {"offset", "bit"});
        action.offset = scalars.size(scalars.require(node, "offset", name), "offset");
        action.bit = scalars.number(scalars.require(node, "bit", name), "bit", 7);
        return;
    case FaultKind::zero:
        scalars.check_map(node, name, {"offset", "length"});
        action.offset = scalars.size(scalars.require(node, "offset", name), "offset");
        action.length = scalars.size(scalars.require(node, "length", name), "length");
        return;
    default: return;
    }
}

FaultAction parse_action(const Node& node, const Scalars& scalars) {
    constexpr std::string_view wanted = "an action, as panic or {fail: ENOMEM}";
    FaultAction action;
    if (node.is_map()) {
        if (node.entries.size() != 1) scalars.error(node.pos, fmt::format("'do' needs {}", wanted));
        const NodeEntry& entry = node.entries.front();
        action.kind = parse_kind(entry.key, entry.pos, scalars);
        if (!fault_kind_info(action.kind).takes_argument)
            scalars.error(entry.pos, fmt::format("action '{}' takes no argument: 'do: {}'", entry.key, entry.key));
        parse_argument(entry.value, action, scalars);
        return action;
    }
    const std::string name = scalars.line(node, "do", wanted);
    action.kind = parse_kind(name, node.pos, scalars);
    if (fault_kind_info(action.kind).takes_argument)
        scalars.error(node.pos, fmt::format("action '{}' needs an argument: 'do: {{{}: …}}'", name, name));
    return action;
}

FaultPoint parse_point(const Node& node, const Scalars& scalars) {
    const std::string name = scalars.line(node, "at", "a fault point");
    if (const auto point = fault_point_by_name(name)) return *point;
    std::vector<std::string_view> names;
    for (const FaultPointInfo& info : fault_points()) names.push_back(info.name);
    scalars.error(node.pos, fmt::format("unknown fault point '{}'{}", name, did_you_mean(name, names)));
}

PlannedFault parse_planned(const Node& node, const Scalars& scalars) {
    scalars.check_map(node, "faults", {"at", "match", "visit", "do", "in"});
    PlannedFault fault;
    const Node& at = scalars.require(node, "at", "faults");
    fault.point = parse_point(at, scalars);
    if (const Node* match = node.find("match")) fault.match = scalars.line(*match, "match", "a name or a glob");
    if (const Node* visit = node.find("visit")) {
        constexpr std::string_view wanted = "a number from 1, or every";
        const std::string text = scalars.line(*visit, "visit", wanted);
        const auto number = parse_u64(text);
        if (text != "every" && (!number || *number == 0))
            scalars.error(visit->pos, fmt::format("'visit' needs {}, not '{}'", wanted, text));
        fault.visit = text == "every" ? 0 : *number;
    }
    if (const Node* in = node.find("in"))
        fault.generation = static_cast<Generation>(scalars.number(*in, "in", 1'000'000));
    const Node& action = scalars.require(node, "do", "faults");
    fault.action = parse_action(action, scalars);
    if (const std::string problem = fault_problem(fault); !problem.empty()) scalars.error(action.pos, problem);
    return fault;
}

/// Is `action` one of the words in the table of points?
bool carries_out(const FaultPointInfo& point, std::string_view action) {
    for (std::string_view words = point.works; !words.empty();) {
        const std::size_t end = std::min(words.find(' '), words.size());
        if (words.substr(0, end) == action) return true;
        words.remove_prefix(std::min(end + 1, words.size()));
    }
    return false;
}

/// Memory that is handed over, all of it; a word that is read has less to corrupt.
bool is_handover(FaultPoint point) {
    return fault_point_info(point).name.starts_with("handover.") && point != FaultPoint::handover_read;
}

/// What devices send, and what is looked up for them.
bool is_on_a_wire(FaultPoint point) {
    return point == FaultPoint::dma_read || point == FaultPoint::dma_write || point == FaultPoint::iommu_walk ||
           point == FaultPoint::iommu_invalidate || point == FaultPoint::pci_config_write ||
           point == FaultPoint::irq_deliver;
}

}  // namespace

std::string fault_problem(const PlannedFault& fault) {
    const FaultPointInfo& point = fault_point_info(fault.point);
    const std::string_view action = fault_kind_name(fault.action.kind);
    if (carries_out(point, action)) return {};
    switch (fault.action.kind) {
    case FaultKind::flip:
    case FaultKind::zero:
    case FaultKind::truncate:
    case FaultKind::replace:
        if (is_handover(fault.point)) return {};
        if (is_on_a_wire(fault.point) || fault.point == FaultPoint::handover_read) break;
        return fmt::format("action '{}' corrupts what is handed over, which '{}' is not", action, point.name);
    case FaultKind::fail:
        if (!point.errnos.empty()) return {};
        return fmt::format("'{}' cannot return an error, so action '{}' has no meaning there", point.name, action);
    case FaultKind::lie:
        return point.errnos.empty()
                   ? fmt::format("'{}' cannot return an error, so action '{}' has no meaning there", point.name,
                                 action)
                   : fmt::format("at '{}' nothing has been done that action 'lie' could deny", point.name);
    case FaultKind::skip: return fmt::format("there is no work to skip at '{}'", point.name);
    case FaultKind::drop:
    case FaultKind::duplicate:
    case FaultKind::misdirect:
        if (is_on_a_wire(fault.point)) break;
        return fmt::format("action '{}' is one for interrupts and DMA, which '{}' is not", action, point.name);
    case FaultKind::swap:
        return fmt::format("action '{}' is one for the map and the files that are handed over, which '{}' is not",
                           action, point.name);
    case FaultKind::panic:
    case FaultKind::power_loss:
    case FaultKind::kill_agent:
    case FaultKind::delay: return {};
    }
    return fmt::format("'{}' does not carry out action '{}'; it can do: {}", point.name, action, point.works);
}

std::vector<PlannedFault> parse_faults(const Node& node, const Scalars& scalars) {
    scalars.check_sequence(node, "faults");
    std::vector<PlannedFault> faults;
    for (const Node& item : node.items) faults.push_back(parse_planned(item, scalars));
    return faults;
}

}  // namespace kexec_sim::sim
