// `machine:` and `kernels:` of a scenario, with every default filled in.
#include <algorithm>

#include <fmt/format.h>

#include "kernel-model/boot_params.hpp"
#include "sim/scenario_parts.hpp"

namespace kexec_sim::sim {
namespace {

constexpr u64 memory_bytes_min = 64 * MiB;
constexpr u64 memory_bytes_max = 4 * TiB;
/// `CONFIG_NODES_SHIFT` of a distribution's kernel.
constexpr u64 nodes_max = 1024;
/// Equal parts end where a section of page metadata may end, as firmware places nodes.
constexpr u64 node_align_bytes = 2 * MiB;
constexpr u64 image_bytes_max = 1 * TiB;

u64 memory_size(const Node& node, const Scalars& scalars) {
    const u64 bytes = scalars.size(node, "memory");
    if (bytes % page_bytes != 0) scalars.error(node.pos, "'memory' must be a multiple of 4 KiB");
    return bytes;
}

void check_total(u64 bytes, SourcePos pos, const Scalars& scalars) {
    if (bytes < memory_bytes_min || bytes > memory_bytes_max)
        scalars.error(pos, fmt::format("a machine has 64 MiB to 4 TiB of memory, not {} bytes", bytes));
}

/// `nodes: N`: parts as equal as the alignment allows, the last one takes the rest.
std::vector<u64> equal_nodes(const Node& node, u64 total, const Scalars& scalars) {
    const u64 count = scalars.number(node, "nodes", nodes_max);
    if (count == 0) scalars.error(node.pos, "a machine has at least one node");
    const u64 part = count == 1 ? total : align_down(total / count, node_align_bytes);
    if (part == 0) scalars.error(node.pos, fmt::format("the memory is too small for {} nodes", count));
    std::vector<u64> nodes(count, part);
    nodes.back() = total - part * (count - 1);
    return nodes;
}

std::vector<u64> listed_nodes(const Node& node, const Scalars& scalars) {
    if (node.items.empty()) scalars.error(node.pos, "a machine has at least one node");
    if (node.items.size() > nodes_max) scalars.error(node.pos, fmt::format("more than {} nodes", nodes_max));
    std::vector<u64> nodes;
    for (const Node& item : node.items) {
        scalars.check_map(item, "nodes", {"memory"});
        const Node& memory = scalars.require(item, "memory", "nodes");
        nodes.push_back(memory_size(memory, scalars));
        if (nodes.back() > memory_bytes_max) check_total(nodes.back(), memory.pos, scalars);
    }
    return nodes;
}

CostModel parse_cost(const Node& node, const Scalars& scalars) {
    if (node.is_scalar()) {
        constexpr std::string_view names[] = {"fast", "typical"};
        return scalars.choice(node, "cost", names) == "fast" ? CostModel::fast() : CostModel::typical();
    }
    CostModel cost = CostModel::fast();
    const std::pair<std::string_view, u64*> keys[] = {{"freeze", &cost.freeze},         {"shutdown", &cost.shutdown},
                                                      {"relocation", &cost.relocation}, {"checksum", &cost.checksum},
                                                      {"early_boot", &cost.early_boot}, {"pci", &cost.pci},
                                                      {"user_space", &cost.user_space}, {"restore", &cost.restore}};
    scalars.check_map(node, "cost",
                      {"freeze", "shutdown", "relocation", "checksum", "early_boot", "pci", "user_space", "restore"});
    for (const auto& [key, ns] : keys)
        if (const Node* value = node.find(key)) *ns = scalars.duration(*value, key);
    return cost;
}

void parse_image(const Node& node, KernelSpec& kernel, const Scalars& scalars) {
    scalars.check_map(node, "image", {"kernel", "initrd"});
    if (const Node* value = node.find("kernel")) {
        kernel.image_bytes = scalars.size(*value, "kernel", image_bytes_max);
        if (kernel.image_bytes == 0) scalars.error(value->pos, "a kernel image has at least one byte");
    }
    if (const Node* value = node.find("initrd"))
        kernel.initrd_bytes = scalars.size(*value, "initrd", image_bytes_max);
}

Profile parse_profile(const Node& node, const Scalars& scalars) {
    std::vector<std::string_view> names;
    for (const ProfileInfo& info : profiles()) names.push_back(info.name);
    return *profile_by_name(scalars.choice(node, "profile", names));
}

MutantSet parse_mutants(const Node& node, const Scalars& scalars) {
    std::vector<std::string_view> names;
    for (const MutantInfo& info : mutants())
        if (info.modelled()) names.push_back(info.name);
    MutantSet set;
    scalars.check_sequence(node, "mutants");
    for (const Node& item : node.items) {
        if (const auto later = item.is_scalar() ? mutant_by_name(item.text) : std::nullopt;
            later && !mutant_info(*later).modelled())
            scalars.error(item.pos,
                          fmt::format("{} is not modelled; it needs {}", item.text, mutant_info(*later).later));
        const MutantInfo& info = mutant_info(*mutant_by_name(scalars.choice(item, "mutants", names)));
        if (set.has(info.id)) scalars.error(item.pos, fmt::format("'{}' stands twice in 'mutants'", info.name));
        set.add(info.id);
    }
    return set;
}

KernelSpec parse_kernel(const Node& node, const Scalars& scalars) {
    scalars.check_map(node, "kernels",
                      {"profile", "release", "cmdline", "image", "devices", "defects", "mutants", "without", "debug",
                       "numa", "cost"});
    KernelSpec kernel;
    kernel.pos = node.pos;
    if (const Node* value = node.find("profile")) kernel.profile = parse_profile(*value, scalars);
    kernel.release = profile_info(kernel.profile).default_release;
    if (const Node* value = node.find("release")) kernel.release = scalars.line(*value, "release", "a version");
    if (const Node* value = node.find("cmdline")) {
        kernel.cmdline = scalars.text(*value, "cmdline");
        if (kernel.cmdline.find('\n') != std::string::npos) scalars.error(value->pos, "'cmdline' is one line");
        if (kernel.cmdline.size() > cmdline_bytes_max)
            scalars.error(value->pos, fmt::format("'cmdline' has at most {} bytes", cmdline_bytes_max));
    }
    if (const Node* value = node.find("image")) parse_image(*value, kernel, scalars);
    kernel.preserve_devices = profile_info(kernel.profile).has_luo;
    if (const Node* value = node.find("devices")) {
        constexpr std::string_view names[] = {"preserve", "teardown"};
        kernel.preserve_devices = scalars.choice(*value, "devices", names) == "preserve";
    }
    if (const Node* value = node.find("defects")) {
        constexpr std::string_view names[] = {"literal", "strict"};
        kernel.strict_defects = scalars.choice(*value, "defects", names) == "strict";
    }
    if (const Node* value = node.find("mutants")) kernel.mutants = parse_mutants(*value, scalars);
    if (const Node* value = node.find("without")) {
        constexpr std::string_view components[] = {"iommu",   "pci", "memfd", "vfio-pci",
                                                   "iommufd", "kvm", "luo",   "kho"};
        scalars.check_sequence(*value, "without");
        for (const Node& item : value->items)
            if (!kernel.without.insert(scalars.choice(item, "without", components)).second)
                scalars.error(item.pos, fmt::format("'{}' stands twice in 'without'", item.text));
    }
    if (const Node* value = node.find("debug")) kernel.debug = scalars.boolean(*value, "debug");
    if (const Node* value = node.find("numa")) kernel.numa = scalars.boolean(*value, "numa");
    if (const Node* value = node.find("cost")) kernel.cost = parse_cost(*value, scalars);
    return kernel;
}

/// `iommu: true`, or with what is special about it: `iommu: {never_evict: true}`.
void parse_iommu(const Node& node, MachineSpec& machine, const Scalars& scalars) {
    machine.iommu = true;
    if (node.is_scalar()) {
        machine.iommu = scalars.boolean(node, "iommu");
        return;
    }
    scalars.check_map(node, "iommu", {"never_evict"});
    if (const Node* value = node.find("never_evict"))
        machine.iommu_never_evicts = scalars.boolean(*value, "never_evict");
}

/// A machine that starts from a handover: of memory, nothing else.
void parse_handover(const Node& node, MachineSpec& machine, const Scalars& scalars,
                    const std::filesystem::path& folder) {
    for (const NodeEntry& entry : node.entries) {
        if (entry.key == "memory" || entry.key == "nodes")
            scalars.error(entry.pos, fmt::format("'{}' makes no sense beside 'image': memory is a copy of that file",
                                                 entry.key));
        if (entry.key == "devices" || entry.key == "iommu")
            scalars.error(entry.pos,
                          fmt::format("'{}' makes no sense beside 'image': a machine with devices cannot be resumed",
                                      entry.key));
    }
    const auto file = [&](std::string_view key) {
        return (folder / scalars.line(scalars.require(node, key, "machine"), key, "a file name")).lexically_normal();
    };
    machine.image = file("image");
    machine.boot_params = file("boot-params");
}

}  // namespace

MachineSpec parse_machine(const Node& node, const Scalars& scalars, const std::filesystem::path& folder) {
    scalars.check_map(node, "machine", {"memory", "nodes", "iommu", "devices", "image", "boot-params"});
    MachineSpec machine;
    machine.pos = node.pos;
    if (node.find("image") || node.find("boot-params")) {
        parse_handover(node, machine, scalars, folder);
        return machine;
    }
    if (const Node* iommu = node.find("iommu")) parse_iommu(*iommu, machine, scalars);
    if (const Node* devices = node.find("devices")) machine.devices = parse_devices(*devices, scalars);
    const Node* nodes = node.find("nodes");
    const Node* memory = node.find("memory");
    if (nodes && nodes->is_sequence()) {
        machine.node_bytes = listed_nodes(*nodes, scalars);
        for (u64 bytes : machine.node_bytes) machine.memory_bytes += bytes;
        check_total(machine.memory_bytes, nodes->pos, scalars);
        if (memory && memory_size(*memory, scalars) != machine.memory_bytes)
            scalars.error(memory->pos, fmt::format("the nodes have {} bytes together, which is not 'memory'",
                                                   machine.memory_bytes));
        return machine;
    }
    machine.memory_bytes = memory_size(scalars.require(node, "memory", "machine"), scalars);
    check_total(machine.memory_bytes, memory->pos, scalars);
    machine.node_bytes =
        nodes ? equal_nodes(*nodes, machine.memory_bytes, scalars) : std::vector<u64>{machine.memory_bytes};
    return machine;
}

std::vector<KernelSpec> parse_kernels(const Node& node, const Scalars& scalars) {
    scalars.check_sequence(node, "kernels");
    if (node.items.empty()) scalars.error(node.pos, "'kernels' needs at least one kernel");
    std::vector<KernelSpec> kernels;
    for (const Node& item : node.items) kernels.push_back(parse_kernel(item, scalars));
    return kernels;
}

}  // namespace kexec_sim::sim
