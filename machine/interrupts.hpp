// The local APIC of the boot CPU: where interrupt messages end up.
//
//   device ── MSI-X ──► IOMMU (remaps) ──► vector v ──► enabled: IRR bit v ──► a kernel takes it
//                                              │
//                                              └─ APIC disabled: lost, and counted
//
// A kernel enables the APIC when it boots and disables it on its way into kexec; what arrives in between finds nobody.
// A vector that is already pending merges with itself, as in hardware. A vector that the running kernel has no handler
// for is `spurious` when it is taken: a message of a device that was set up by a kernel that is gone.
#pragma once

#include <array>
#include <optional>

#include "machine/types.hpp"

namespace kexec_sim {

struct Machine;
class PciFunction;

class LocalApic {
public:
    explicit LocalApic(Machine& machine) : machine_(machine) {}

    // --- the kernel's side ---
    void enable() { enabled_ = true; }
    /// Pending interrupts are dropped.
    void disable();
    bool enabled() const { return enabled_; }
    /// The highest pending vector, which is pending no more.
    std::optional<u8> take();
    bool pending() const;

    // --- the machine's side ---
    /// A message of a device (nullptr: of the IOMMU itself) as it left the device. Fault point irq.deliver[function]:
    /// `drop`, `delay` by the injector, `duplicate`. Remapping where the segment's IOMMU does it.
    void message(PciFunction* from, u64 address, u32 data);
    void reset();

    struct Counters {
        u64 delivered = 0, merged = 0, lost_disabled = 0, lost_faults = 0, dropped = 0;
    } counters;

private:
    void deliver(PciFunction* from, u8 vector);
    Machine& machine_;
    bool enabled_ = false;
    std::array<u64, 4> requests_{};
};

}  // namespace kexec_sim
