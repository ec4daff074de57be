// What devices and guests have done so far, in numbers: `expect.counter` and the JSON result show the same ones.
#pragma once

#include <string_view>

#include "machine/machine.hpp"

namespace kexec_sim::sim {

/// Since power-on of the machine, over all devices.
struct DeviceCounters {
    u64 completions = 0, gaps = 0, dry_ns = 0, blackout_completions = 0, interrupts_lost = 0, iommu_faults = 0,
        guest_steps = 0, config_writes = 0, peer_writes = 0;
};
DeviceCounters device_counters(const Machine& machine);

struct DeviceCounterName {
    std::string_view name;
    u64 DeviceCounters::*value;
};
inline constexpr DeviceCounterName device_counter_names[] = {
    {"dma.completions", &DeviceCounters::completions},
    {"dma.gaps", &DeviceCounters::gaps},
    {"dma.dry_ns", &DeviceCounters::dry_ns},
    {"dma.blackout_completions", &DeviceCounters::blackout_completions},
    {"irq.lost", &DeviceCounters::interrupts_lost},
    {"iommu.faults", &DeviceCounters::iommu_faults},
    {"guest.steps", &DeviceCounters::guest_steps},
    {"pci.config_writes", &DeviceCounters::config_writes},
    {"p2p.writes", &DeviceCounters::peer_writes},
};

}  // namespace kexec_sim::sim
