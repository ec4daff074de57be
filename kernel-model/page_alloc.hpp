// The page allocator: a buddy allocator a node, orders 0 to 10, and the folios it hands out.
//
// Problem: give frames to whoever asks, keep them contiguous where possible, and keep memory that must stay empty of
// unmovable content (scratch areas) usable all the same.
//
// Terms. A folio is 2^order frames in use as one thing. A pageblock (2 MiB) has a migrate type: unmovable, movable or
// CMA. CMA pageblocks are the scratch areas; they serve movable requests only. A site names who asked
// ("memfd.folio"): for the fault point mm.folio_alloc[site] and the referee's ledger.
//
//   memblock --release_from_boot--> free lists --alloc--> folio --free--> free lists
//      |                            (Buddy: by node,        ^
//      |                             order and type)        |
//      +--mark_preserved (a handover)--> preserved block ---+ adopt_folio
//
// An allocation: 1. The fault point may say no. 2. Nodes in order of distance (the difference of their numbers) from
// the one asked for. 3. A node whose free frames would fall below its reserve (1/1024 of it, 16 to 1024 frames) is
// passed over; for unmovable requests free CMA frames count for nothing. 4. Movable requests take from CMA first
// while more than half of the node's free frames are CMA. 5. Their own type, smallest order that fits, lowest
// address. 6. Movable requests: CMA. 7. The largest block of the other type; its pageblocks change type. 8. Frames
// are zeroed and reported.
//
// Unhappy paths: 1. the fault point, or no node has room: ENOMEM, nothing changed (alloc_pages and migrate too: all
// or nothing). 2. A block is freed that is no folio of that order, or is still referenced or pinned: WARN, it stays
// as it is. 3. A restore names frames that are free or in use: they become the folio that was asked for, as in a
// kernel that trusts the address; what they were cut out of goes on as single frames.
//
// A1  a frame is on a free list exactly if its metadata says free.  A2  the list's type is its pageblock's, and `cma`
// in the metadata says whether that is CMA.  A3  a folio has a reference; free, reserved and preserved frames have no
// pins.
//
// Cost: O(log) a call and a run, however many frames it has. Source of the rules: Linux 6.16, mm/page_alloc.c.
// Simplified: no zones, no per-cpu lists, no reclaim, no compaction; a request takes the lowest address where the
// kernel takes the last freed.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernel-model/log.hpp"
#include "kernel-model/page_map.hpp"

namespace kexec_sim {

struct AllocRequest {
    Order order;
    std::string_view site;
    FrameClass frame_class = FrameClass::kernel;
    Nid nid = nid_none;  // preferred
    bool exact_nid = false;
    bool movable = false;
};

class PageAllocator {
public:
    PageAllocator(Machine& machine, KernelLog& log);
    ~PageAllocator();
    PageAllocator(const PageAllocator&) = delete;
    PageAllocator& operator=(const PageAllocator&) = delete;

    // --- boot ---
    /// Declares RAM of a node (as memblock memory); everything starts reserved.
    void add_memory(PfnRange frames, Nid nid);
    /// Gives frames to the allocator (memblock's free-all); CMA state follows the pageblocks marked before.
    void release_from_boot(PfnRange frames);
    /// Deferred initialisation of page metadata: that of `frames` is poison until init_deferred_metadata(), which makes
    /// reserved pages of them, whatever was written into it meanwhile. Writing into poison is told to the referee.
    void defer_metadata(PfnRange frames) { deferred_ = frames; }
    void init_deferred_metadata();
    /// Marks whole pageblocks as CMA; pages in them that are free or will be released belong to CMA.
    void mark_cma(PfnRange frames);
    /// Takes CMA away again (KHO disabled late); pages go on as ordinary ones.
    void clear_cma(PfnRange frames);
    /// Metadata of blocks that a handover keeps: state `preserved`, private = marker(order), refcount 1 of a reserved
    /// page.
    void mark_preserved(Pfn pfn, u64 count, Order order, u64 private_data);

    // --- allocation ---
    Result<Folio> alloc_folio(const AllocRequest& request);
    /// `count` order-0 folios as runs of consecutive frames, all or nothing; each is one visit of the fault point.
    Result<std::vector<PfnRange>> alloc_pages(const AllocRequest& request, u64 count);
    /// As alloc_pages(), but the pages that came before a failure are handed out all the same: what a write to a file
    /// needs, which goes as far as it can. `error` is ok if there were `count`.
    struct Pages {
        std::vector<PfnRange> runs;
        Errno error = Errno::ok;
    };
    Pages alloc_pages_partial(const AllocRequest& request, u64 count);
    /// Drops the last reference: refcount must be 1 and no pins, else WARN ("Bad page state") and the page stays.
    void free_folio(Folio folio);
    void free_pages(PfnRange frames);  // of order-0 folios

    // --- folios ---
    /// Metadata of the block with `pfn` in it; of a free one, head and order as they are on the free lists.
    PageMap::Block block(Pfn pfn) const;
    /// `struct page` itself, as any code of a kernel can reach it. Nothing is kept consistent.
    PageMap& page_map() { return map_; }
    void get(Folio folio);            // refcount + 1
    void put(Folio folio);            // refcount - 1; frees at 0
    void pin_pages(PfnRange frames);  // order-0 folios; pinned pages are not migrated
    void unpin_pages(PfnRange frames);
    /// Turns a preserved (or, blindly, any) block into an allocated folio of refcount 1: kho_restore_folio's last
    /// step. The caller has decided that it may; overlapping free blocks are torn out of the free lists with a
    /// WARN-free corruption exactly as a kernel that trusts the address would do (the referee sees it).
    void adopt_folio(Folio folio, std::string_view site, FrameClass frame_class) {
        adopt_folio(folio, site, frame_class, Adoption{});
    }
    /// Frames become order-0 folios (kho_restore_pages).
    void adopt_pages(PfnRange frames, std::string_view site, FrameClass frame_class) {
        adopt_pages(frames, site, frame_class, Adoption{});
    }
    /// What whoever restores a block does for its metadata; a wrong kernel leaves some of it out.
    struct Adoption {
        bool tails = true;      // pages behind the first one
        bool accounted = true;  // allocation accounting learns of the pages
    };
    void adopt_folio(Folio folio, std::string_view site, FrameClass frame_class, Adoption how);
    void adopt_pages(PfnRange frames, std::string_view site, FrameClass frame_class, Adoption how);
    void set_class(PfnRange frames, std::string_view site, FrameClass frame_class);
    /// Moves movable pages that lie in CMA elsewhere, content, references and owner included; pinned ones stay.
    /// `site` is for the fault point. Runs of {from, to}; ENOMEM leaves all as it was.
    struct Move {
        PfnRange from;
        Pfn to;
    };
    Result<std::vector<Move>> migrate_out_of_cma(PfnRange frames, std::string_view site);
    bool is_cma(Pfn pfn) const;

    // --- facts ---
    u64 free_frames() const;
    u64 free_frames(Nid nid) const;
    u64 free_cma_frames() const;
    u64 managed_frames() const;
    std::vector<Nid> nodes() const;
    std::string_view site_name(u16 site) const;
    /// Checks free lists, counts and metadata against each other; tells the referee (kernel.sane) what is wrong.
    /// Cheap: looks only at what changed since the last check; `everything` looks at all.
    void check_sane(bool everything = false);

    /// debug: true on the kernel: freed frames are filled with 0xaa by this kernel's own free path.
    bool poison_on_free = false;
    /// Who runs, for the kernel's own "Bad page state in process …".
    std::string current_process = "swapper/0";
    KernelLog& log() { return log_; }

private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
    void hand_out(PfnRange frames, const AllocRequest& request, bool cma);
    u64 room_for_pages(const AllocRequest& request);
    std::vector<PfnRange> hand_out_pages(const AllocRequest& request, u64 count);
    std::vector<PfnRange> take_pages(const AllocRequest& request, u64 count, bool cma_allowed);
    void report_pages(std::span<const PfnRange> runs, std::string_view site);
    void take_back(PfnRange frames);
    void adopt(PfnRange frames, Order order, std::string_view site, FrameClass frame_class, Adoption how);
    void bad_page(Pfn pfn, std::string_view why);
    Machine& machine_;
    KernelLog& log_;
    PageMap map_;
    PfnRange deferred_{};
};

/// kmalloc-like objects in RAM: `object_bytes` (a power of two, 8 to 4096) each, packed in order-0 slab pages. The
/// lowest page with room serves first, in it the lowest slot; a page that becomes empty is freed. A cache that is
/// destroyed leaves its pages.
class SlabCache {
public:
    SlabCache(PageAllocator& pages, Machine& machine, u64 object_bytes, std::string_view site,
              FrameClass frame_class);
    ~SlabCache();
    Result<PhysAddr> alloc();    // zeroed. ENOMEM (fault points mm.slab_alloc[site], mm.folio_alloc[site])
    void free(PhysAddr object);  // WARN if it is none of ours
    u64 pages_used() const;

private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

/// vmalloc: blocks of one order (0, or 9 where huge pages are allowed and fit) mapped side by side. The window of
/// generation g lies in its direct map's slot above all RAM, so that an address of an earlier generation is
/// recognised as stale.
struct VmallocArea {
    u64 address = 0;  // kernel virtual, in the simulated vmalloc window of this generation
    u64 bytes = 0;
    Order order;  // of each block
    bool allow_huge = false;
    std::vector<Pfn> blocks;  // heads, in virtual order
};
class Vmalloc {
public:
    Vmalloc(Machine& machine, PageAllocator& pages);
    /// ENOMEM; EINVAL for size 0. Fault point mm.vmalloc[site].
    Result<const VmallocArea*> alloc(u64 bytes, std::string_view site, FrameClass frame_class,
                                     bool allow_huge = false);
    /// Maps existing blocks (kho_restore_vmalloc).
    Result<const VmallocArea*> map(std::vector<Pfn> blocks, Order order, u64 bytes, std::string_view site,
                                   bool allow_huge = false);
    const VmallocArea* find(u64 address) const;
    void free(u64 address);  // frees the blocks too

private:
    Machine& machine_;
    PageAllocator& pages_;
    u64 next_address_;
    std::map<u64, VmallocArea> areas_;
};

}  // namespace kexec_sim
