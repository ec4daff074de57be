// memblock: the allocator of early boot.
//
// Problem: while a kernel boots, before it has metadata for its pages, it needs memory for exactly that metadata.
// memblock keeps two lists of ranges: `memory` (what is RAM, by node, with flags) and `reserved` (what is taken).
// What is in memory and not in reserved is free. Once the page allocator runs, memblock only remembers.
//
//   memory    |=====node 0=====|  hole  |=====node 1=====|      flags: scratch
//   reserved      |img| |mm|                     |mm|           flags: kern (counts for the scratch size), no_init
//                           <---- top-down
//
// Happy path: 1. the firmware's map is added, the image and boot data reserved. 2. Allocations come from the highest
// free address that fits, on the node asked for if it can be. 3. The page allocator gets what for_each_free() shows.
// In scratch-only mode (a boot with a handover, whose preserved memory is not known yet) every allocation comes from
// memory flagged scratch.
//
// Unhappy paths: 1. nothing fits, or the fault point memblock.alloc[site] says so: ENOMEM. 2. Ranges overlap, as
// ranges out of a corrupted map may: what is already reserved keeps its owner, blocks of a handover put their mark on
// it.
//
// B1  both lists are ascending and disjoint.  B2  neighbours that are alike are one region.  B3  short runs of a
// handover's blocks, of which there may be millions, are kept as a set of frames beside the regions, and shown as
// regions. Cost: O(log regions) to reserve, wherever the range lies; an allocation walks down the regions. The first
// page of RAM is never allocated, as in the kernel. Source: Linux 6.16, mm/memblock.c.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string_view>
#include <vector>

#include "kernel-model/frame_set.hpp"
#include "machine/machine.hpp"

namespace kexec_sim {

struct MemblockRegion {
    PhysRange range;
    Nid nid = nid_none;      // memory: the node; reserved: the node asked for, none without
    bool scratch = false;    // memory: MEMBLOCK_KHO_SCRATCH
    bool kern = false;       // reserved: MEMBLOCK_RSRV_KERN, a kernel allocation
    bool no_init = false;    // reserved: MEMBLOCK_RSRV_NOINIT, its page metadata is not initialised here
    Order order;             // reserved with no_init: the order of each block in it
    std::string_view site;   // who reserved it (static string)
    bool allocated = false;  // reserved: by alloc(), so that free() gives it back in the books
    /// Whether two regions next to each other are one.
    bool alike(const MemblockRegion& other) const {
        return nid == other.nid && scratch == other.scratch && kern == other.kern && no_init == other.no_init &&
               order == other.order && site == other.site && allocated == other.allocated;
    }
};

class Memblock {
public:
    explicit Memblock(Machine& machine);

    /// RAM. What was added before keeps its flags, and its node unless it had none.
    void add(PhysRange range, Nid nid);
    /// Drops the list of RAM, flags included; what is reserved stays so.
    void forget_memory() { memory_.clear(); }
    /// Reserves exactly `range`; parts that are reserved already stay what they are.
    void reserve(PhysRange range, Nid nid, std::string_view site, bool kern = false);
    /// Blocks of 2^order pages that a handover keeps: reserved, metadata not initialised, order remembered.
    void reserve_noinit(PhysRange range, Order order);
    void free(PhysRange range);  // takes it out of `reserved`

    struct Request {
        u64 bytes = 0;
        u64 align = page_bytes;
        PhysAddr min{0}, max{~u64{0}};
        Nid nid =
            nid_none;  // preferred; none: any. What lies on another node than asked for is reserved without a node
        bool exact_nid = false;  // fail rather than take another node
        bool kern = true;
        std::string_view site;  // a static string: fault point memblock.alloc, ledger
    };
    /// Top-down. EINVAL: 0 bytes; ENOMEM: nothing fits (or the fault point says so). The range reads as zeros
    /// afterwards.
    Result<PhysRange> alloc(const Request& request);

    /// Scratch: flags what is memory in the range; EINVAL where nothing is. clear: takes the flag away.
    Result<> mark_scratch(PhysRange range);
    Result<> clear_scratch(PhysRange range);
    void set_scratch_only(bool on) { scratch_only_ = on; }
    bool scratch_only() const { return scratch_only_; }

    /// R(limit, nid) of the scratch sizing: bytes reserved as kernel allocations below `limit` that carry `nid`; any
    /// node if none.
    u64 reserved_kern_bytes(PhysAddr limit, std::optional<Nid> nid) const;

    const std::vector<MemblockRegion>& memory() const { return memory_; }  // ascending, disjoint
    const std::vector<MemblockRegion>& reserved() const;  // ascending, disjoint; valid until the next change
    /// Memory minus reserved, ascending.
    void for_each_free(const std::function<void(PhysRange, Nid)>& visit) const;
    bool is_memory(PhysRange range) const;    // all of it
    bool is_reserved(PhysRange range) const;  // any of it
    Nid node_of(PhysAddr phys) const;

    /// Built without NUMA support: every reservation counts for node 0.
    bool numa = true;

private:
    /// By begin. A map, because the blocks of a handover arrive order by order, each time from the bottom.
    using Regions = std::map<u64, MemblockRegion>;
    void split_memory(PhysAddr at);
    void flag_scratch(PhysRange range, bool scratch);
    std::optional<PhysRange> find_free(const Request& request, Nid nid) const;
    std::optional<PhysRange> highest_gap(PhysRange within, u64 bytes, u64 align) const;
    Regions::const_iterator first_ending_after(u64 phys) const;
    Pfn next_scattered(PfnRange frames) const;
    std::optional<Pfn> last_scattered(PfnRange frames) const;
    Pfn end_of_scattered(Pfn member, Pfn end) const;
    void gather(PhysRange range);
    bool scatter(PhysRange range, Order order);
    void place(const MemblockRegion& region);
    void overwrite(PhysRange range, Order order);
    void split_reserved(u64 at);
    PfnRange own_frames(PhysRange range) const;

    Machine& machine_;
    std::vector<MemblockRegion> memory_;
    Regions reserved_;
    /// Short runs of a handover's blocks, by order; together with `reserved_`, and disjoint from it and each other
    /// (B3).
    std::map<Order, FrameSet> scattered_;
    /// Where `reserved_` is known to have nothing.
    PhysRange known_gap_{};
    mutable std::vector<MemblockRegion> reserved_list_;
    mutable bool reserved_list_valid_ = true;
    bool scratch_only_ = false;
};

}  // namespace kexec_sim
