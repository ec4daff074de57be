#include "machine/machine.hpp"

#include <algorithm>
#include <fmt/format.h>

namespace kexec_sim {
namespace {

constexpr u64 low_ram_end = 0x9fc00;  // 639 KiB
constexpr u64 hole_begin = 3 * GiB, hole_end = 4 * GiB;
constexpr u64 firmware_tables_bytes = 128 * KiB;

struct Layout {
    std::vector<MemoryMapEntry> map;
    std::vector<NodeRange> nodes;
    unsigned node_count = 0;
};

Layout layout_of(const MachineConfig& config) {
    Layout layout;
    if (config.memory_map.empty()) {
        firmware_layout(config.node_bytes, layout.map, layout.nodes);
        layout.node_count = static_cast<unsigned>(config.node_bytes.size());
    } else {
        layout.map = config.memory_map;
        layout.nodes = config.nodes;
        layout.node_count = std::max(1u, config.node_count);
    }
    return layout;
}

/// What answers to an address: RAM and the reserved ranges, which are RAM that the firmware keeps.
std::vector<PhysRange> physical_ranges(std::span<const MemoryMapEntry> map) {
    std::vector<PhysRange> ranges;
    for (const MemoryMapEntry& entry : map) {
        PhysRange range{PhysAddr{align_down(entry.range.begin.raw, page_bytes)},
                        PhysAddr{align_up(entry.range.end.raw, page_bytes)}};
        if (!ranges.empty() && range.begin <= ranges.back().end)
            ranges.back().end = std::max(ranges.back().end, range.end);
        else
            ranges.push_back(range);
    }
    return ranges;
}

}  // namespace

void firmware_layout(const std::vector<u64>& node_bytes, std::vector<MemoryMapEntry>& map,
                     std::vector<NodeRange>& nodes) {
    u64 total = 0;
    for (const u64 bytes : node_bytes) total += bytes;
    const u64 below = std::min(total, hole_begin);
    const auto add = [&](u64 begin, u64 end, MemoryType type) {
        if (begin < end) map.push_back({{PhysAddr{begin}, PhysAddr{end}}, type});
    };
    add(0, low_ram_end, MemoryType::ram);
    add(low_ram_end, MiB, MemoryType::reserved);
    add(MiB, below - firmware_tables_bytes, MemoryType::ram);
    add(below - firmware_tables_bytes, below, MemoryType::reserved);
    add(hole_end, hole_end + (total - below), MemoryType::ram);

    u64 at = 0;
    for (std::size_t nid = 0; nid < node_bytes.size(); ++nid) {
        u64 rest = node_bytes[nid];
        if (at < hole_begin && rest) {
            const u64 here = std::min(rest, hole_begin - at);
            nodes.push_back({Nid{static_cast<i32>(nid)}, {PhysAddr{at}, PhysAddr{at + here}}});
            at += here;
            rest -= here;
            if (at == hole_begin) at = hole_end;
        }
        if (rest) {
            nodes.push_back({Nid{static_cast<i32>(nid)}, {PhysAddr{at}, PhysAddr{at + rest}}});
            at += rest;
        }
    }
}

namespace {
struct Prepared {
    explicit Prepared(const MachineConfig& config) : layout(layout_of(config)), ranges(physical_ranges(layout.map)) {}
    Layout layout;
    std::vector<PhysRange> ranges;
};
}  // namespace

Machine::Machine(const MachineConfig& config, Arena* arena_)
    : arena(arena_),
      seed(config.seed),
      memory_map(arena_),
      nodes(arena_),
      node_count(layout_of(config).node_count),
      ram(Prepared(config).ranges, config.ram_file, arena_, config.private_memory),
      clock(arena_),
      trace(clock, arena_),
      faults(clock, trace, arena_),
      referee(ram, clock, trace, faults, arena_),
      device_referee(*this, arena_),
      iommus(arena_),
      apic(*this),
      snp(*this, arena_),
      guest_cpu(*this),
      pci(*this, config.devices, arena_) {
    const Layout layout = layout_of(config);
    memory_map.assign(layout.map.begin(), layout.map.end());
    nodes.assign(layout.nodes.begin(), layout.nodes.end());
    if (config.iommu)
        for (const u32 segment : pci.segments()) {
            const PhysAddr registers{vtd::register_base + iommus.size() * vtd::register_bytes};
            iommus.push_back(arena->make<Iommu>(*this, segment, registers, config.iommu_never_evicts, arena));
        }
}

Iommu* Machine::iommu_of(u32 segment) const {
    for (Iommu* iommu : iommus)
        if (iommu->segment == segment) return iommu;
    return nullptr;
}

u64 Machine::mmio_read(PhysAddr address, unsigned bytes) {
    const MachineEntry entry;
    for (Iommu* iommu : iommus)
        if (phys_range(iommu->registers, vtd::register_bytes).contains(address))
            return iommu->read_register(address - iommu->registers, bytes);
    u64 value = ~u64{0};
    if (pci.memory_read(address.raw, std::as_writable_bytes(std::span(&value, 1)).first(bytes)) != BusStatus::ok)
        value = ~u64{0};
    return bytes == 8 ? value : value & ((u64{1} << (8 * bytes)) - 1);
}

void Machine::mmio_write(PhysAddr address, unsigned bytes, u64 value) {
    const MachineEntry entry;
    for (Iommu* iommu : iommus)
        if (phys_range(iommu->registers, vtd::register_bytes).contains(address))
            return iommu->write_register(address - iommu->registers, bytes, value);
    static_cast<void>(pci.memory_write(address.raw, std::as_bytes(std::span(&value, 1)).first(bytes)));
}

void Machine::reset_devices() {
    const MachineEntry entry;
    for (Iommu* iommu : iommus) iommu->reset();
    apic.reset();
    snp.reset();
    pci.power_on();
}

void Machine::set_generation(Generation next) {
    const MachineEntry entry;
    generation = next;
    ram.generation = next;
    trace.set_generation(next);
    faults.set_generation(next);
}

Nid Machine::node_of(PhysAddr phys) const {
    for (const NodeRange& node : nodes)
        if (node.range.contains(phys)) return node.nid;
    return nid_none;
}

void Machine::Destroy::operator()(Machine* machine) const {
    Arena* arena = machine->arena;
    MachineEntry::bind(nullptr);
    machine->~Machine();
    Arena::destroy(arena);
}

MachineHandle make_machine(const MachineConfig& config) {
    Arena* arena = Arena::create(!config.private_memory);
    try {
        Machine* machine = arena->make<Machine>(config, arena);
        MachineEntry::bind(&machine->entry_depth);
        return MachineHandle(machine);
    } catch (...) {
        Arena::destroy(arena);
        throw;
    }
}

}  // namespace kexec_sim
