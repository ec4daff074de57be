// What the parts of the page allocator share: nodes with their buddy systems, pageblock types, sites.
//
// Private to kernel-model/page_*.cpp. Here frames move between the free lists and the metadata so that A1 and A2
// (page_alloc.hpp) hold; references, fault points and reports are the business of the callers.
#pragma once

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "kernel-model/buddy.hpp"
#include "kernel-model/page_alloc.hpp"

namespace kexec_sim {

struct PageAllocator::Impl {
    explicit Impl(PageMap& page_map) : map(page_map) { sites.push_back({"boot", FrameClass::kernel, 0}); }

    struct Node {
        Nid nid;
        Buddy buddy;
        u64 managed = 0;  // frames that the allocator was ever given
        /// Frames that are never handed out.
        u64 reserve() const;
        /// Frames that a request may get.
        u64 room(bool cma_allowed) const;
    };
    struct Span {
        PfnRange frames;
        std::size_t node;  // index into `nodes`
    };
    struct Site {
        std::string name;
        FrameClass frame_class;
        /// Allocation accounting: pages that were handed out and restored, less those that came back.
        i64 live = 0;
    };

    PageMap& map;
    std::vector<Node> nodes;  // ascending by nid
    std::vector<Span> spans;  // ascending, disjoint
    PageblockTypes types;
    std::vector<Site> sites;
    std::map<std::string, std::map<FrameClass, u16>, std::less<>> site_numbers;
    u16 last_site = 0;
    /// Nodes by distance from the one asked for, as asked for so far.
    std::map<i32, std::vector<std::size_t>> by_distance;
    /// What changed since the last check_sane(); no more than `touched_max` are remembered.
    std::vector<PfnRange> touched;
    static constexpr std::size_t touched_max = 256;

    void account(u16 site, i64 pages) { sites[site].live += pages; }
    /// Pages of the range that are in use leave the accounts.
    void unaccount(PfnRange frames);
    u16 site_number(std::string_view name, FrameClass frame_class);
    std::size_t node_number(Nid nid);
    void add_span(PfnRange frames, Nid nid);
    /// Nodes that may serve the request, nearest first.
    const std::vector<std::size_t>& nodes_for(const AllocRequest& request);

    /// The block to take for `order` on the node: steps 4 to 7. A block of the other type has been taken over
    /// already.
    struct Choice {
        Folio block;
        MigrateType type;
    };
    std::optional<Choice> choose(Node& node, Order order, bool movable, bool cma_allowed);
    /// Order-0 frames from one place, at most `count`; off the free lists.
    struct Chunk {
        PfnRange frames;
        MigrateType type;
    };
    Chunk take_chunk(Node& node, u64 count, bool movable, bool cma_allowed);

    /// Frames that are on no list become free.
    void make_free(PfnRange frames);
    /// Frames that are free leave the lists; their metadata is the caller's to set.
    void take_off_lists(PfnRange frames);
    void set_type(PfnRange pageblocks, MigrateType type);
    /// Makes [begin, end) replaceable: free frames leave the lists, blocks that an edge cuts become single frames.
    void cut_out(PfnRange frames);
    void shatter(const PageMap::Block& block);
    void touch(PfnRange frames) {
        if (touched.size() < touched_max) touched.push_back(frames);
    }

    /// Calls visit(node, frames, type) for the parts of the range that are RAM of one node and of one type.
    template <typename F> void for_each_part(PfnRange range, F&& visit) {
        auto span = std::upper_bound(spans.begin(), spans.end(), range.begin,
                                     [](Pfn pfn, const Span& other) { return pfn < other.frames.end; });
        for (; span != spans.end() && span->frames.begin < range.end; ++span) {
            const Pfn end = std::min(range.end, span->frames.end);
            for (Pfn at = std::max(range.begin, span->frames.begin); at < end;) {
                const PfnRange part = types.alike_from(at, end);
                visit(nodes[span->node], part, types.of(at));
                at = part.end;
            }
        }
    }
};

}  // namespace kexec_sim
