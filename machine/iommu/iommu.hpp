// One IOMMU (VT-d, legacy mode), as hardware: registers, the walk, its caches, its faults.
//
//   request (source id, IOVA, read or write)
//     │ translation off ───────────────────────────────────────────► address unchanged
//     ▼
//   context cache ── miss ──► root table[bus] ──► context table[devfn]      both read from RAM
//     ▼ domain id, top table
//   IOTLB[domain id, page] ── miss ──► 3 or 4 levels of page table, read from RAM
//     ▼
//   physical page, rights
//
// The unit reads simulated RAM when it walks, and only then: a table page that somebody reuses really breaks the walk,
// and a stale cache entry really is used until it is evicted or invalidated. The IOTLB is tagged by domain id, not by
// table, so that two domains with one id share what is in it.
//
// Caches. Context cache: 64 entries. IOTLB: 4096 entries, direct-mapped by a hash of domain id and page, a large page
// being one entry. `never_evict`: both grow instead, so that stale use is deterministic. Failed walks are not cached; a
// cached page that lacks the right that a request needs is walked again. No command but an invalidation empties a
// cache: what was cached before translation was turned off, or before another root table was set, is there afterwards.
//
// Invalidation. The queue lies in RAM: software writes descriptors and moves the tail; the unit reads from head to
// tail at once, and writes what a WAIT descriptor asks for. A descriptor of unknown type stops the queue (FSTS.IQE)
// until software clears it.
//
// Faults go to one of 8 records in turn; when the next one is still taken, FSTS.PFO, and nothing is recorded until
// software clears that. What sets a bit of FSTS while none was set raises the fault event, an MSI of the unit, unless
// it is masked: then it is pending, and raised when it is unmasked while a bit is still set.
//
// Unhappy paths: the reasons of vtd::FaultReason. A walk that leaves RAM is `bad_next_table`, or `bad_root_table` or
// `bad_context_table` where those tables are not in RAM. A queue that leaves RAM is FSTS.IQE too.
// Cost: a hit O(1), nothing allocated; a miss six reads of RAM; an invalidation of more than a few pages O(entries).
// Simplified: no scalable mode, no first-stage tables, no device TLB, no posted interrupts (an entry in posted mode is
// a reserved field), accessed and dirty bits are not written, interrupt entries are not cached, invalidation by
// register is not there.
// Source: Intel VT-d specification 4.1, chapters 3, 5, 6, 7 and 11.
#pragma once

#include <array>
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

    /// Registers; 32 or 64 bits, aligned (others read as all ones, and write nothing). Commands take effect at once.
    u64 read_register(u64 offset, unsigned bytes);
    void write_register(u64 offset, unsigned bytes, u64 value);
    /// Power-on, and machine reset: everything off and empty.
    void reset();

    struct Translation {
        vtd::FaultReason fault = vtd::FaultReason::none;
        u64 address = 0;     // physical
        u64 contiguous = 0;  // bytes from there that are translated alike
    };
    /// Fault point iommu.walk[source function's name] where page tables are walked: `fail` is a `bad_next_table`; `flip`
    /// and `zero` damage the leaf entry as it is read (not in RAM), and `misdirect` puts its address into it.
    Translation translate(Bdf source, u64 iova, bool write);
    /// An interrupt message of a device: the vector to deliver, or a fault. With remapping off the vector of the data.
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
    u64 cached_contexts() const { return contexts_.entries(); }
    u64 cached_pages() const { return iotlb_.entries(); }

private:
    using Entry = TranslationCache::Entry;

    // registers (iommu.cpp)
    u64 read_quad(u64 offset) const;
    void write_word(u64 offset, u32 value);
    void command(u32 value);
    void set_root_table();
    // walk.cpp
    /// The tag of a page in the IOTLB; a large page has one of its own level.
    static u64 leaf_key(u16 domain_id, unsigned level, u64 iova) {
        return u64{domain_id} << 40 | u64{level} << 36 | (iova & vtd::iova_mask) >> vtd::level_shift(level);
    }
    const Entry* find_leaf(u16 domain_id, u64 iova) const {
        const Entry* leaf = iotlb_.find(leaf_key(domain_id, 1, iova));
        return leaf ? leaf : find_large_leaf(domain_id, iova);
    }
    const Entry* find_large_leaf(u16 domain_id, u64 iova) const;
    Translation translate_uncached(Bdf source, u64 iova, bool write);
    Translation walk(Bdf source, u64 iova, bool write, vtd::ContextEntry& context);
    vtd::FaultReason load_context(Bdf source, vtd::ContextEntry& context);
    vtd::FaultReason walk_pages(Bdf source, const vtd::ContextEntry& context, u64 iova, bool write, Entry& leaf);
    // faults.cpp
    void record_fault(Bdf source, u64 address, bool write, vtd::FaultReason reason);
    u32 fault_status() const;
    void condition_set(u32 status_before);
    void write_fault_status(u32 value);
    void write_fault_control(u32 value);
    void clear_record(unsigned index);
    // invalidation.cpp
    void run_queue();
    bool run_descriptor(u64 low, u64 high);
    bool invalidate_contexts(u64 low);
    bool invalidate_pages(u64 low, u64 high);
    void drop_pages(u16 domain_id, u64 address, unsigned mask);
    // remap.cpp
    vtd::FaultReason find_interrupt(u64 index, Bdf source, vtd::InterruptEntry& entry) const;

    Machine& machine_;
    u32 status_ = 0;
    u64 root_register_ = 0, irt_register_ = 0, queue_register_ = 0;
    PhysAddr root_, irt_;  // as latched by the set-pointer commands
    bool root_legacy_ = true;
    u64 irt_entries_ = 0;
    u64 queue_head_ = 0, queue_tail_ = 0;  // in bytes
    u32 fault_status_ = 0;                 // PFO and IQE; the rest of FSTS follows from the records
    u32 fault_control_ = vtd::FECTL_IM, fault_data_ = 0, fault_address_ = 0, fault_upper_ = 0;
    struct FaultRecord {
        u64 low = 0, high = 0;
        bool taken() const { return high & vtd::FRCD_F; }
    };
    std::array<FaultRecord, vtd::fault_records> records_{};
    unsigned next_record_ = 0;
    TranslationCache contexts_, iotlb_;
    /// By level: there may be an entry of that size in the IOTLB. Spares looking for sizes that nobody maps.
    std::array<bool, 4> has_level_{};
};

}  // namespace kexec_sim
