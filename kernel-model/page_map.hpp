// Page metadata (`struct page`), sparse.
//
// The kernel keeps 64 bytes for every frame: 64 GiB of them on a machine of 4 TiB. A simulated machine is mostly
// uniform, so the map stores what differs. It covers all frames from 0 on with stretches; a stretch is a number of
// blocks that are all alike, over as many sections as it takes. Where one section of 128 MiB would need many
// stretches, it becomes an array with one entry a frame, so that no pattern of frames costs more than 4 bytes a
// frame.
//
//   frames   0        0xa0      0x8000            0x10000           0x18000                 2^64
//            |reserved|  free   |[one entry a frame]| order 9 × 64  | absent …                |
//             stretch   stretch    dense section       stretch         stretch
//
// A block is the unit: head page and its tails, aligned to its size. All its frames carry the same entry; which one
// is the head follows from the alignment, so tails need no metadata of their own. An entry is a number in a table of
// the distinct PageMeta values, of which there are few.
//
// M1  the stretches cover every frame number exactly once.  M2  neighbouring stretches differ, unless one is dense.
// M3  a block is never cut: set() replaces whole blocks, or single frames of order 0.
//
// Cost: a lookup O(log stretches), nothing at all when it follows another in the same stretch; set() the same plus
// what it replaces. Simplified: a free frame is of order 0 here; the blocks of the buddy system are in its free lists
// only (PageAllocator::block puts both together).
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "machine/result.hpp"
#include "machine/types.hpp"

namespace kexec_sim {

enum class PageState : u8 {
    absent,     // no RAM, or no metadata
    reserved,   // never given to the page allocator
    preserved,  // reserved, with the order marker of a handover in it (private field); not initialised
    free,       // in the buddy allocator
    folio,      // allocated
};

struct PageMeta {
    PageState state = PageState::absent;
    Order order;       // of the block; of a free one only as PageAllocator::block() answers
    bool cma = false;  // allocated from or lying in a CMA pageblock
    bool movable = false;
    /// Of a folio: its tail pages still are as boot left them, with a reference of their own and no link to the head.
    bool raw_tails = false;
    u16 site = 0;      // index of the allocation site (PageAllocator::site_name)
    i32 refcount = 0;  // of the head; a reserved page has 1
    u32 pins = 0;
    u64 private_data = 0;  // struct page's `private`: the handover marker
    bool operator==(const PageMeta&) const = default;
};

class PageMap {
public:
    PageMap();
    ~PageMap();
    PageMap(const PageMap&) = delete;
    PageMap& operator=(const PageMap&) = delete;

    /// Sets `count` blocks of meta.order from `pfn` (aligned to the order). Blocks that are cut by the edges are an
    /// INVARIANT failure (M3); reserved, absent and free ones are of order 0 and cannot be cut.
    void set(Pfn pfn, u64 count, const PageMeta& meta);
    struct Block {
        Pfn head;
        PageMeta meta;
    };
    /// The block that contains `pfn`.
    Block find(Pfn pfn) const;
    /// Alike blocks in a row.
    struct Run {
        Pfn begin;
        u64 blocks = 0;
        PageMeta meta;
        u64 pages() const { return blocks << meta.order.raw; }
        Pfn end() const { return begin + pages(); }
        PfnRange frames() const { return {begin, end()}; }
    };
    /// The run from the block that contains `pfn` to the last block that begins below `end`.
    Run run_from(Pfn pfn, Pfn end) const;
    /// Calls visit(run start, blocks, meta) for everything present in the range, ascending; a block that the range
    /// cuts counts as inside. The visitor may set() the run that it is given.
    template <typename F> void for_each_run(PfnRange range, F&& visit) const {
        for (Pfn at = range.begin; at < range.end;) {
            const Run run = run_from(at, range.end);
            if (run.meta.state != PageState::absent) visit(run.begin, run.blocks, run.meta);
            at = run.end();
        }
    }
    /// Changes one block's metadata in place (state and order unchanged).
    void update(Pfn head, const PageMeta& meta) { set(head, 1, meta); }
    u64 bytes_used() const;

private:
    /// Alike blocks from the stretch's key to the next one's, or (`pages`) a section's array.
    struct Stretch {
        u32 id = 0;
        std::unique_ptr<u32[]> pages;
    };
    using Stretches = std::map<u64, Stretch>;
    struct MetaHash {
        std::size_t operator()(const PageMeta& meta) const;
    };

    u32 intern(const PageMeta& meta);
    Stretches::iterator locate(u64 pfn) const;
    u32 id_at(u64 pfn) const;
    void assign(u64 begin, u64 end, u32 id);
    void replace(u64 begin, u64 end, u32 id);
    Stretches::iterator split(u64 pfn);
    void erase(Stretches::iterator at);
    void densify_if_crowded(u64 pfn);

    mutable Stretches stretches_;
    /// The stretch of the last lookup; `hit_end_` 0: none.
    mutable Stretches::iterator hit_;
    mutable u64 hit_end_ = 0;
    std::vector<PageMeta> metas_;                      // by id; 0 is absent
    std::unordered_map<PageMeta, u32, MetaHash> ids_;  // never iterated
    u32 last_id_ = 0;
    std::vector<u16> stretches_in_section_;  // how many begin there
    u64 dense_sections_ = 0;
};

}  // namespace kexec_sim
