#include "sim/scenario_text.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "sim/step_spec.hpp"
#include "sim/values.hpp"
#include "sim/yaml_text.hpp"

namespace kexec_sim::sim {
namespace {

std::string list(const auto& items) {
    std::string text;
    for (const auto& item : items) text += (text.empty() ? "" : ", ") + std::string(item);
    return "[" + text + "]";
}

std::string file_name(const std::filesystem::path& file) {
    return yaml_quoted(std::filesystem::absolute(file).string());
}

std::string machine_text(const MachineSpec& machine) {
    if (machine.from_handover())
        return fmt::format("machine: {{image: {}, boot-params: {}}}\n", file_name(machine.image),
                           file_name(machine.boot_params));
    std::string text = "machine:\n";
    text += fmt::format("  memory: {}\n", size_text(machine.memory_bytes));
    if (machine.node_bytes.size() > 1) {
        std::string nodes;
        for (const u64 bytes : machine.node_bytes)
            nodes += fmt::format("{}{{memory: {}}}", nodes.empty() ? "" : ", ", size_text(bytes));
        text += fmt::format("  nodes: [{}]\n", nodes);
    }
    if (machine.iommu) text += machine.iommu_never_evicts ? "  iommu: {never_evict: true}\n" : "  iommu: true\n";
    if (!machine.devices.empty()) text += "  devices:\n";
    for (const PciDeviceConfig& device : machine.devices) {
        text += fmt::format("    - {{name: {}, model: {}, ", device.name, device.model);
        text += device.behind.empty() ? fmt::format("at: \"{}\"", device.at.text())
                                      : fmt::format("behind: {}", device.behind);
        if (device.model == "switch") text += fmt::format(", ports: {}", device.ports);
        text += "}\n";
    }
    return text;
}

std::string cost_text(const CostModel& cost) {
    const CostModel fast = CostModel::fast();
    const std::tuple<std::string_view, u64, u64> keys[] = {{"freeze", cost.freeze, fast.freeze},
                                                           {"shutdown", cost.shutdown, fast.shutdown},
                                                           {"relocation", cost.relocation, fast.relocation},
                                                           {"checksum", cost.checksum, fast.checksum},
                                                           {"early_boot", cost.early_boot, fast.early_boot},
                                                           {"pci", cost.pci, fast.pci},
                                                           {"user_space", cost.user_space, fast.user_space},
                                                           {"restore", cost.restore, fast.restore}};
    std::string text;
    for (const auto& [name, ns, usual] : keys)
        if (ns != usual) text += fmt::format("{}{}: {}", text.empty() ? "" : ", ", name, duration_text(ns));
    return text.empty() ? text : fmt::format(", cost: {{{}}}", text);
}

std::string kernel_text(const KernelSpec& kernel) {
    const ProfileInfo& info = profile_info(kernel.profile);
    std::string text = fmt::format("  - {{profile: {}, release: {}, cmdline: {}", info.name,
                                   yaml_quoted(kernel.release), yaml_quoted(kernel.cmdline));
    const KernelSpec usual;
    if (kernel.image_bytes != usual.image_bytes || kernel.initrd_bytes != usual.initrd_bytes)
        text += fmt::format(", image: {{kernel: {}, initrd: {}}}", size_text(kernel.image_bytes),
                            size_text(kernel.initrd_bytes));
    if (kernel.strict_defects) text += ", defects: strict";
    if (!kernel.mutants.empty()) {
        std::set<std::string> names;
        for (const MutantInfo& mutant : mutants())
            if (kernel.mutants.has(mutant.id)) names.emplace(mutant.name);
        text += ", mutants: " + list(names);
    }
    if (!kernel.without.empty()) text += ", without: " + list(kernel.without);
    if (kernel.preserve_devices != info.has_luo)
        text += fmt::format(", devices: {}", kernel.preserve_devices ? "preserve" : "teardown");
    if (kernel.debug) text += ", debug: true";
    if (!kernel.numa) text += ", numa: false";
    return text + cost_text(kernel.cost) + "}\n";
}

std::string action_text(const FaultAction& action) {
    const std::string_view name = fault_kind_name(action.kind);
    switch (action.kind) {
    case FaultKind::fail:
    case FaultKind::lie: return fmt::format("{{{}: {}}}", name, errno_name(action.error));
    case FaultKind::delay: return fmt::format("{{delay: {}}}", duration_text(action.delay_ns));
    case FaultKind::flip: return fmt::format("{{flip: {{offset: {:#x}, bit: {}}}}}", action.offset, action.bit);
    case FaultKind::zero: return fmt::format("{{zero: {{offset: {:#x}, length: {}}}}}", action.offset, action.length);
    case FaultKind::truncate: return fmt::format("{{truncate: {}}}", action.length);
    case FaultKind::replace:
        return fmt::format("{{replace: [{}, {}]}}", yaml_quoted(action.old_text), yaml_quoted(action.new_text));
    case FaultKind::misdirect: return fmt::format("{{misdirect: {:#x}}}", action.address);
    default: return std::string(name);
    }
}

std::string fault_line(const PlannedFault& fault) {
    std::string text = fmt::format("{{at: {}", fault_point_info(fault.point).name);
    if (!fault.match.empty()) text += fmt::format(", match: {}", yaml_quoted(fault.match));
    if (fault.visit != 1) text += fault.visit ? fmt::format(", visit: {}", fault.visit) : ", visit: every";
    if (fault.generation) text += fmt::format(", in: {}", *fault.generation);
    return text + fmt::format(", do: {}}}", action_text(fault.action));
}

void write_steps(std::string& text, const std::vector<Step>& steps, const std::vector<ProgramOp>& program,
                 std::string indent) {
    for (const ProgramOp& op : program) {
        switch (op.kind) {
        case ProgramOp::Kind::repeat_begin:
            text += fmt::format("{}- repeat:\n{}    times: {}\n{}    steps:\n", indent, indent, op.times, indent);
            indent += "      ";
            break;
        case ProgramOp::Kind::repeat_end: indent.resize(indent.size() - 6); break;
        case ProgramOp::Kind::step: {
            const Step& step = steps[op.step];
            text += fmt::format("{}- {}{}\n", indent, step.text, step.text == step.name() ? ":" : "");
            if (step.expected != "ok") text += fmt::format("{}  expect: {}\n", indent, step.expected);
            if (!step.note.empty()) text += fmt::format("{}  note: {}\n", indent, yaml_quoted(step.note));
            break;
        }
        }
    }
}

std::string expect_text(const ExpectSpec& expect) {
    const FindingsSpec& findings = expect.findings;
    const bool any = findings.kind == FindingsSpec::Kind::any_of;
    if (findings.kind == FindingsSpec::Kind::none && expect.log.empty() && expect.no_log.empty()) return {};
    std::string text = "\nexpect:\n";
    if (findings.kind == FindingsSpec::Kind::exactly) text += fmt::format("  findings: {}\n", list(findings.ids));
    if (any)
        text += fmt::format("  findings: {{any-of: {}, may: {}}}\n", list(findings.ids),
                            findings.may_any ? "any" : list(findings.may));
    const auto lines = [&](std::string_view key, const std::vector<std::string>& all) {
        std::vector<std::string> items;
        for (const std::string& one : all) items.push_back(yaml_quoted(one));
        if (!all.empty()) text += fmt::format("  {}: {}\n", key, list(items));
    };
    lines("log", expect.log);
    lines("no-log", expect.no_log);
    return text;
}

}  // namespace

std::string scenario_text(const Scenario& scenario, const std::string& comment, const std::string& steps) {
    std::string text;
    for (std::size_t at = 0; at < comment.size();) {
        const std::size_t end = std::min(comment.find('\n', at), comment.size());
        text += fmt::format("#{}{}\n", end > at ? " " : "", comment.substr(at, end - at));
        at = end + 1;
    }
    text += fmt::format("format: 1\nscenario: {}\n", scenario.name);
    if (!scenario.summary.empty()) text += fmt::format("summary: {}\n", yaml_quoted(scenario.summary));
    if (scenario.seed != 1) text += fmt::format("seed: {}\n", scenario.seed);
    text += "\n" + machine_text(scenario.machine) + "\nkernels:\n";
    for (const KernelSpec& kernel : scenario.kernels) text += kernel_text(kernel);
    if (!scenario.modules.empty()) {
        text += "\nmodules:\n";
        for (const auto& module : scenario.modules) text += fmt::format("  - {}\n", file_name(module));
    }
    if (!scenario.faults.empty()) {
        text += "\nfaults:\n";
        for (const PlannedFault& fault : scenario.faults) text += fmt::format("  - {}\n", fault_line(fault));
    }
    text += "\nsteps:\n";
    text += steps;
    if (steps.empty()) write_steps(text, scenario.steps, scenario.program, "  ");
    text += expect_text(scenario.expect);
    if (scenario.under_faults) {
        text += "\nunder-faults:\n";
        text += scenario.under_faults->steps.empty() ? "  steps: []\n" : "  steps:\n";
        if (!scenario.under_faults->steps.empty()) {
            write_steps(text, scenario.under_faults->steps, scenario.under_faults->program, "    ");
        }
        if (!scenario.under_faults->accept.empty())
            text += fmt::format("  accept: {}\n", list(scenario.under_faults->accept));
    }
    if (const auto& origin = scenario.reproduces) {
        text += "\nreproduces:\n";
        text += fmt::format("  scenario: {}\n  seed: {}\n  plan:\n", yaml_quoted(origin->scenario), origin->seed);
        for (const PlannedFault& fault : origin->plan) text += fmt::format("    - {}\n", yaml_quoted(fault.text()));
        text += fmt::format("  trace_hash: \"{}\"\n", origin->trace_hash);
    }
    return text;
}

}  // namespace kexec_sim::sim
