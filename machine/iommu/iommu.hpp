// One IOMMU (VT-d, legacy mode), as hardware: registers, the walk, its caches, its faults.
//
//   request (source id, IOVA, read or write)
//     │ translation off ───────────────────────────────────────────► address unchanged
//     ▼
//   context cache ── miss ──► root table[bus] ──► context table[devfn]      both read from RAM
//     ▼ domain id, top table
//   IOTLB[domain id, page] ── miss ──► 4 levels of page table, read from RAM
//     ▼
//   physical page, rights
//
// The unit reads simulated RAM when it walks, and only then: a table page that somebody reuses really breaks the walk,
// and a stale cache entry really is used until it is evicted or invalidated. The IOTLB is tagged by domain id, not by
// table, so that two domains with one id share what is in it.
//
// Caches. Context cache: 64 entries. IOTLB: 4096 entries, direct-mapped by a hash of domain id and page, a large page
// being one entry. `never_evict`: both grow instead, so that stale use is deterministic. Failed walks are not cached.
//
// Invalidation. The queue lies in RAM: software writes descriptors and moves the tail; the unit reads from head to
// tail at once, and writes what a WAIT descriptor asks for. A descriptor of unknown type stops the queue (FSTS.IQE)
// until software clears it.
//
// Faults go to one of 8 records; when all are taken, FSTS.PFO. The first pending fault raises the fault event, an MSI
// of the unit, unless it is masked.
//
// Unhappy paths: the reasons of vtd::FaultReason. A walk that leaves RAM is `bad_next_table`.
// Cost: a hit O(1), nothing allocated; a miss six reads of RAM.
// Simplified: no scalable mode, no first-stage tables, no device TLB, no posted interrupts (an entry in posted mode is
// a reserved field), accessed and dirty bits are not written.
// Source: Intel VT-d specification 4.1, chapters 3, 5, 6, 7 and 11.
#pragma once

#include <memory_resource>

#include "machine/iommu/registers.hpp"
#include "machine/iommu/translation_cache.hpp"
#include "machine/pci/address.hpp"

namespace kexec_sim {

struct Machine;

class Iommu {
public:
    Iommu(Machine& machine, u32 segment, PhysAddr registers, bool never_evict, std::pmr::memory_resource* memory);
    Iommu(const Iommu&) = delete;
    Iommu& operator=(const Iommu&) = delete;

    const u32 segment;
    const PhysAddr registers;  // base of the register page; what the firmware's table says

    /// Registers; 32 or 64 bits, aligned. GCMD takes effect at once.
    u64 read_register(u64 offset, unsigned bytes);
    void write_register(u64 offset, unsigned bytes, u64 value);
    /// Power-on, and machine reset: everything off and empty.
    void reset();

    struct Translation {
        vtd::FaultReason fault = vtd::FaultReason::none;
        u64 address = 0;       // physical
        u64 contiguous = 0;    // bytes from there that are translated alike
    };
    /// Fault point iommu.walk[source function's name] where the caches miss: `fail` is a `bad_next_table`, corrupting
    /// actions damage the leaf entry as it is read.
    Translation translate(Bdf source, u64 iova, bool write);
    /// An interrupt message of a device. The vector to deliver, or a fault.
    struct Remapped {
        vtd::FaultReason fault = vtd::FaultReason::none;
        u8 vector = 0;
    };
    Remapped remap(Bdf source, u64 address, u32 data);

    bool translation_enabled() const { return status_ & vtd::TE; }
    bool remapping_enabled() const { return status_ & vtd::IRE; }
    PhysAddr root_table() const { return root_; }

    struct Counters {
        u64 context_hits = 0, context_misses = 0, iotlb_hits = 0, iotlb_misses = 0, faults = 0, invalidations = 0;
    } counters;

private:
    Translation walk(Bdf source, u64 iova, bool write);
    void record_fault(Bdf source, u64 address, bool write, vtd::FaultReason reason);
    void run_queue();

    Machine& machine_;
    u32 status_ = 0;
    u64 root_register_ = 0, irt_register_ = 0, queue_register_ = 0;
    PhysAddr root_, irt_;  // as latched by the set-pointer commands
    u64 queue_head_ = 0, queue_tail_ = 0;
    u32 fault_status_ = 0, fault_control_ = vtd::FECTL_IM, fault_data_ = 0, fault_address_ = 0, fault_upper_ = 0;
    struct FaultRecord {
        u64 low = 0, high = 0;
    };
    std::array<FaultRecord, vtd::fault_records> records_{};
    TranslationCache contexts_, iotlb_;
};

}  // namespace kexec_sim
