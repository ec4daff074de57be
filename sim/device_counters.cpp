#include "sim/device_counters.hpp"

namespace kexec_sim::sim {

DeviceCounters device_counters(const Machine& machine) {
    const DeviceReferee::Totals totals = machine.device_referee.totals();
    DeviceCounters counters;
    counters.completions = totals.completions;
    counters.gaps = totals.gaps;
    counters.dry_ns = totals.dry_ns;
    counters.interrupts_lost = totals.interrupts_lost;
    counters.guest_steps = totals.guest_steps;
    for (const PciFunction* function : machine.pci.functions())
        counters.blackout_completions += machine.device_referee.engine(function->name()).completions_in_blackouts;
    for (const Iommu* iommu : machine.iommus) counters.iommu_faults += iommu->counters.faults;
    counters.config_writes = machine.pci.config_writes().size();
    counters.peer_writes = machine.pci.counters.turned_at_switch + machine.pci.counters.turned_at_root;
    return counters;
}

}  // namespace kexec_sim::sim
