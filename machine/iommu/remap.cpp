// Interrupt remapping: from the index in a message's address to an entry of the table in RAM, to a vector.
//
//   0xfee | index 14:0 | 1 | S | index 15 | 00      S: the low half of the data is added to the index
#include "machine/iommu/iommu.hpp"
#include "machine/machine.hpp"

namespace kexec_sim {
namespace {

using vtd::FaultReason;

/// May `source` use the entry?
bool source_matches(const vtd::InterruptEntry& entry, Bdf source) {
    switch (entry.source_check()) {
    case 1: return ((entry.source_id() ^ source.raw) & ~vtd::ignored_function_bits[entry.high >> 16 & 3]) == 0;
    case 2: {
        const Bdf buses{entry.source_id()};
        return source.bus() >= buses.bus() && source.bus() <= buses.devfn();
    }
    default: return true;
    }
}

}  // namespace

Iommu::Remapped Iommu::remap(Bdf source, u64 address, u32 data) {
    if (!remapping_enabled()) return {FaultReason::none, static_cast<u8>(data)};
    const MachineEntry guard;
    u64 index = (address >> 5 & 0x7fff) | (address >> 2 & 1) << 15;
    vtd::InterruptEntry entry;
    FaultReason reason = FaultReason::none;
    if (!(address & vtd::MESSAGE_REMAPPABLE)) {
        reason = FaultReason::ir_compatibility_blocked;
        index = 0;
    } else if ((address & vtd::MESSAGE_RESERVED) || ((address & vtd::MESSAGE_SUBHANDLE) && data >> 16)) {
        reason = FaultReason::ir_reserved;
    } else {
        if (address & vtd::MESSAGE_SUBHANDLE) index += data & 0xffff;
        reason = find_interrupt(index, source, entry);
    }
    if (reason == FaultReason::none) return {reason, entry.vector()};
    ++counters.faults;
    if (!entry.present() || !entry.faults_disabled()) record_fault(source, index << 48, true, reason);
    return {reason, 0};
}

FaultReason Iommu::find_interrupt(u64 index, Bdf source, vtd::InterruptEntry& entry) const {
    if (index >= irt_entries_) return FaultReason::ir_index;
    const PhysAddr at = irt_ + index * sizeof entry;
    if (!machine_.ram.contains(at, sizeof entry)) return FaultReason::ir_table_access;
    entry = machine_.ram.read<vtd::InterruptEntry>(at);
    if (!entry.present()) return FaultReason::ir_not_present;
    if (entry.posted() || (entry.low & vtd::IRTE_RESERVED_LOW) || (entry.high & vtd::IRTE_RESERVED_HIGH) ||
        entry.source_check() == 3)
        return FaultReason::ir_reserved_in_entry;
    return source_matches(entry, source) ? FaultReason::none : FaultReason::ir_source_id;
}

}  // namespace kexec_sim
