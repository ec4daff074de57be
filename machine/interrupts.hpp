// The local APIC of the boot CPU: where interrupt messages end up.
//
//   device ── MSI-X ──► IOMMU (remaps) ──► vector v ──► enabled: IRR bit v ──► a kernel takes it
//                          │                   │
//                          └─ fault: lost      └─ APIC disabled, or v below 16: lost, and counted
//
// A kernel enables the APIC when it boots and disables it on its way into kexec; what arrives in between finds nobody.
// A vector that is already pending merges with itself, as in hardware. A vector that the running kernel has no handler
// for is `spurious` when it is taken: a message of a device that was set up by a kernel that is gone.
//
// Format of a message (Intel SDM 3, 11.11): a write of `data` to 0xfeexxxxx; bits 7:0 of the data are the vector. There
// is one CPU: destination, delivery mode and trigger mode are not looked at. A message of the IOMMU itself (its fault
// event) is never remapped.
//
// Interrupts may come at 100 kHz. Delivered ones are counted; of a run of messages that a device loses in the same way
// the first is an event of the trace (irq.lost), and the counters tell the rest.
//
// Unhappy paths: 1. lost in the remapping (the IOMMU records the fault). 2. APIC disabled. 3. Vectors 0 to 15, which
// no APIC accepts. 4. Dropped by a planned fault.
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
    void enable();
    /// Pending interrupts are discarded.
    void disable();
    bool enabled() const { return enabled_; }
    /// The highest pending vector, which is pending no more.
    std::optional<u8> take();
    bool pending() const;

    // --- the machine's side ---
    /// A message of a device (nullptr: of the IOMMU itself) as it left the device. Fault point irq.deliver[function]:
    /// `drop` (`fail` too), `delay` by the injector, `duplicate`. Remapping where the segment's IOMMU does it. Tells
    /// the referee the CPU's vector, or 0 where remapping gave none.
    void message(PciFunction* from, u64 address, u32 data);
    void reset();

    struct Counters {
        /// delivered: a bit of IRR was set. merged: it was set already. discarded: pending at disable().
        u64 delivered = 0, merged = 0, lost_disabled = 0, lost_faults = 0, lost_vector = 0, dropped = 0,
            discarded = 0;
        bool operator==(const Counters&) const = default;
    } counters;

private:
    enum class Loss : u8 { remapping, disabled, vector, planned };
    void arrive(PciFunction* from, u64 address, u32 data);
    void deliver(PciFunction* from, u8 vector);
    void lose(PciFunction* from, u8 vector, Loss why);

    Machine& machine_;
    bool enabled_ = false;
    std::array<u64, 4> requests_{};
    /// By way of losing, a bit a device: the last message of that device was lost like this, and the trace knows.
    std::array<u64, 4> told_{};
};

}  // namespace kexec_sim
