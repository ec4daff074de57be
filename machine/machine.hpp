// The machine: what stays powered over a kexec, and the instruments wired to it.
//
//   +-------------------------------- machine ------------------------------+
//   | RAM  firmware map  NUMA nodes  clock+events |  trace  faults  referee |
//   | PCI fabric and devices  IOMMU a segment  local APIC  SNP  guest CPU     |
//   +------------------------------------------------------------------------+
//            ^ one kernel at a time, which keeps nothing here but bytes in RAM and registers of devices
//
// A Machine is made in its arena and destroyed with it; there is one at a time in a process. Its memory map is what the
// firmware tells a kernel: RAM, reserved ranges, the hole below 4 GiB (3 GiB to 4 GiB), and which node a range belongs
// to.
#pragma once

#include <memory>
#include <memory_resource>
#include <string>
#include <vector>

#include "machine/arena.hpp"
#include "machine/clock.hpp"
#include "machine/fault.hpp"
#include "machine/guest_cpu.hpp"
#include "machine/interrupts.hpp"
#include "machine/iommu/iommu.hpp"
#include "machine/pci/fabric.hpp"
#include "machine/ram.hpp"
#include "machine/referee.hpp"
#include "machine/referee_devices.hpp"
#include "machine/snp.hpp"
#include "machine/trace.hpp"

namespace kexec_sim {

enum class MemoryType : u32 { ram = 1, reserved = 2 };
struct MemoryMapEntry {
    PhysRange range;
    MemoryType type;
};
/// Part of a node. A node may have several (below and above the hole) or none (memoryless).
struct NodeRange {
    Nid nid;
    PhysRange range;
};

struct MachineConfig {
    std::vector<u64> node_bytes;  // one entry a node; 0: memoryless
    std::string ram_file;         // --ram; empty: memfd
    u64 seed = 1;
    /// From a boot-params file: used as they are instead of the computed ones.
    std::vector<MemoryMapEntry> memory_map;
    std::vector<NodeRange> nodes;
    unsigned node_count = 0;  // with `nodes`
    /// An IOMMU a PCI segment; with `iommu_never_evicts` its caches grow instead of evicting.
    bool iommu = false, iommu_never_evicts = false;
    std::vector<PciDeviceConfig> devices;
    /// Memory and state are this process's own: a process that is forked has a copy of the machine. There is no direct
    /// map then, and so no C code in kernels. Not with `ram_file`.
    bool private_memory = false;
};

/// Virtual time that the phases of a live update cost, in ns.
struct CostModel {
    u64 freeze = 2'000'000, shutdown = 5'000'000, relocation = 5'000'000, checksum = 0, early_boot = 10'000'000,
        pci = 2'000'000, user_space = 15'000'000, restore = 2'000'000;
    static CostModel fast() { return {}; }
    static CostModel typical() {
        return {20'000'000,  150'000'000, 200'000'000,   250'000'000,
                400'000'000, 100'000'000, 3'000'000'000, 200'000'000};
    }
};
/// Every step (a system call) takes this long of its own.
inline constexpr u64 step_cost_ns = 1000;

struct Machine {
    Machine(const MachineConfig& config, Arena* arena);

    Arena* arena;
    u64 seed;
    std::pmr::vector<MemoryMapEntry> memory_map;  // ascending; ram and reserved, holes left out
    std::pmr::vector<NodeRange> nodes;            // ascending
    unsigned node_count;
    PhysicalMemory ram;
    VirtualClock clock;
    TraceRecorder trace;
    FaultInjector faults;
    Referee referee;
    DeviceReferee device_referee;
    std::pmr::vector<Iommu*> iommus;  // in order of segments; empty: the machine has none
    LocalApic apic;
    SnpFirmware snp;
    GuestCpu guest_cpu;
    PciFabric pci;
    Generation generation = 0;
    /// How deep the running kernel is inside machine/ (MachineEntry), readable by the supervisor.
    u32 entry_depth = 0;

    /// The generation that runs from now on: trace, fault counters and messages follow.
    void set_generation(Generation next);
    Nid node_of(PhysAddr phys) const;
    Iommu* iommu_of(u32 segment) const;  // nullptr: none

    /// A CPU access to device registers: an IOMMU's, or what a BAR answers to. 1, 2, 4 or 8 bytes, aligned. All ones
    /// where nobody answers.
    u64 mmio_read(PhysAddr address, unsigned bytes);
    void mmio_write(PhysAddr address, unsigned bytes, u64 value);
    /// Power-on or reset of everything that is not RAM: devices, IOMMU, APIC, SNP; the firmware sets the bus up.
    void reset_devices();

    struct Destroy {
        void operator()(Machine* machine) const;
    };
};
using MachineHandle = std::unique_ptr<Machine, Machine::Destroy>;
MachineHandle make_machine(const MachineConfig& config);

/// The firmware's map for a machine of these nodes: [0, 639 KiB) RAM, then firmware, 1 MiB to 3 GiB RAM (the last
/// 128 KiB of what is below 3 GiB reserved for tables), the rest from 4 GiB on. Nodes follow one another in address
///     order.
void firmware_layout(const std::vector<u64>& node_bytes, std::vector<MemoryMapEntry>& map,
                     std::vector<NodeRange>& nodes);

}  // namespace kexec_sim
