#include "kernel-model/page_alloc_impl.hpp"

#include <algorithm>
#include <cstdlib>

namespace kexec_sim {

u64 PageAllocator::Impl::Node::reserve() const {
    constexpr u64 frames_min = 16, frames_max = 1024;
    return std::clamp(managed / 1024, frames_min, frames_max);
}

u64 PageAllocator::Impl::Node::room(bool cma_allowed) const {
    const u64 usable = buddy.free() - (cma_allowed ? 0 : buddy.free(MigrateType::cma));
    return usable > reserve() ? usable - reserve() : 0;
}

u16 PageAllocator::Impl::site_number(std::string_view name, FrameClass frame_class) {
    if (const Site& last = sites[last_site]; last.name == name && last.frame_class == frame_class) return last_site;
    auto entry = site_numbers.find(name);
    if (entry == site_numbers.end())
        entry = site_numbers.emplace(std::string(name), std::map<FrameClass, u16>{}).first;
    const auto [number, fresh] = entry->second.try_emplace(frame_class, static_cast<u16>(sites.size()));
    if (fresh) {
        INVARIANT(sites.size() < 0xffff);
        sites.push_back({std::string(name), frame_class, 0});
    }
    return last_site = number->second;
}

void PageAllocator::Impl::unaccount(PfnRange frames) {
    map.for_each_run(frames, [&](Pfn begin, u64 blocks, const PageMeta& meta) {
        if (meta.state != PageState::folio) return;
        const PfnRange run = pfn_range(begin, blocks << meta.order.raw);
        const PfnRange part{std::max(run.begin, frames.begin), std::min(run.end, frames.end)};
        account(meta.site, -static_cast<i64>(part.pages()));
    });
}

std::size_t PageAllocator::Impl::node_number(Nid nid) {
    for (std::size_t i = 0; i < nodes.size(); ++i)
        if (nodes[i].nid == nid) return i;
    // Indices move: spans are renumbered. Nodes are declared at boot, a handful of them.
    const auto at = std::lower_bound(nodes.begin(), nodes.end(), nid,
                                     [](const Node& node, Nid wanted) { return node.nid < wanted; });
    const std::size_t index = static_cast<std::size_t>(at - nodes.begin());
    nodes.insert(at, Node{nid, {}, 0});
    for (Span& span : spans)
        if (span.node >= index) ++span.node;
    by_distance.clear();
    return index;
}

void PageAllocator::Impl::add_span(PfnRange frames, Nid nid) {
    const std::size_t node = node_number(nid);
    const auto at = std::upper_bound(spans.begin(), spans.end(), frames.begin,
                                     [](Pfn pfn, const Span& other) { return pfn < other.frames.begin; });
    INVARIANT(at == spans.begin() || std::prev(at)->frames.end <= frames.begin);
    INVARIANT(at == spans.end() || frames.end <= at->frames.begin);
    spans.insert(at, {frames, node});
}

const std::vector<std::size_t>& PageAllocator::Impl::nodes_for(const AllocRequest& request) {
    const Nid from = request.nid == nid_none ? Nid{0} : request.nid;
    const i32 key = request.exact_nid && request.nid != nid_none ? -1 - from.raw : from.raw;
    const auto [entry, fresh] = by_distance.try_emplace(key);
    if (fresh) {
        for (std::size_t i = 0; i < nodes.size(); ++i)
            if (key >= 0 || nodes[i].nid == from) entry->second.push_back(i);
        const auto distance = [&](std::size_t i) { return std::abs(nodes[i].nid.raw - from.raw); };
        std::stable_sort(entry->second.begin(), entry->second.end(),
                         [&](std::size_t a, std::size_t b) { return distance(a) < distance(b); });
    }
    return entry->second;
}

std::optional<PageAllocator::Impl::Choice> PageAllocator::Impl::choose(Node& node, Order order, bool movable,
                                                                       bool cma_allowed) {
    const Buddy& buddy = node.buddy;
    const bool cma = movable && cma_allowed;
    const MigrateType own = movable ? MigrateType::movable : MigrateType::unmovable;
    const MigrateType other = movable ? MigrateType::unmovable : MigrateType::movable;
    if (cma && buddy.free(MigrateType::cma) * 2 > buddy.free())
        if (const auto block = buddy.smallest(MigrateType::cma, order)) return Choice{*block, MigrateType::cma};
    if (const auto block = buddy.smallest(own, order)) return Choice{*block, own};
    if (cma)
        if (const auto block = buddy.smallest(MigrateType::cma, order)) return Choice{*block, MigrateType::cma};
    const auto block = buddy.largest(other, order);
    if (!block) return std::nullopt;
    // A whole pageblock changes hands even if only part of it is free, so that requests of one type stay together.
    set_type(
        {Pfn{align_down(block->pfn.raw, pageblock_pages)}, Pfn{align_up(block->frames().end.raw, pageblock_pages)}},
        own);
    return Choice{*buddy.smallest(own, order), own};
}

PageAllocator::Impl::Chunk PageAllocator::Impl::take_chunk(Node& node, u64 count, bool movable, bool cma_allowed) {
    const auto choice = choose(node, Order{0}, movable, cma_allowed);
    INVARIANT(choice);
    const PfnRange row = node.buddy.row_of(choice->block, choice->type);
    u64 pages = std::min(count, row.pages());
    const u64 free = node.buddy.free(), cma_twice = node.buddy.free(MigrateType::cma) * 2;
    if (movable && cma_allowed && cma_twice) {
        // Not beyond the point where the other of CMA and movable is to be preferred, but whole blocks at a time.
        const u64 until_even = cma_twice > free ? cma_twice - free : free - cma_twice;
        pages = std::min(pages, std::max(until_even, Order{max_page_order}.pages()));
    }
    const PfnRange frames = pfn_range(row.begin, pages);
    node.buddy.remove(frames, choice->type);
    return {frames, choice->type};
}

void PageAllocator::Impl::make_free(PfnRange frames) {
    for_each_part(frames, [this](Node& node, PfnRange part, MigrateType type) {
        PageMeta meta;
        meta.state = PageState::free;
        meta.cma = type == MigrateType::cma;
        map.set(part.begin, part.pages(), meta);
        node.buddy.insert(part, type);
    });
    touch(frames);
}

void PageAllocator::Impl::take_off_lists(PfnRange frames) {
    for_each_part(frames, [](Node& node, PfnRange part, MigrateType type) { node.buddy.remove(part, type); });
}

void PageAllocator::Impl::set_type(PfnRange pageblocks, MigrateType type) {
    const bool cma = type == MigrateType::cma;
    std::vector<PfnRange> free;
    map.for_each_run(pageblocks, [&](Pfn begin, u64 blocks, PageMeta meta) {
        PfnRange run = pfn_range(begin, blocks << meta.order.raw);
        if (meta.state == PageState::free) {
            take_off_lists(run);
            free.push_back(run);
            return;
        }
        // A folio of order 10 may begin in the pageblock before; it is of the type that its head is of.
        if (run.begin < pageblocks.begin) run.begin = run.begin + meta.order.pages();
        if (meta.cma == cma || run.empty()) return;
        meta.cma = cma;
        map.set(run.begin, run.pages() >> meta.order.raw, meta);
    });
    types.set(pageblocks, type);
    for (const PfnRange& run : free) make_free(run);
}

void PageAllocator::Impl::shatter(const PageMap::Block& block) {
    // The marker of a handover stays where it was, in the head.
    PageMeta tail = block.meta, head = block.meta;
    tail.order = head.order = Order{0};
    tail.private_data = 0;
    map.set(block.head, block.meta.order.pages(), tail);
    map.set(block.head, 1, head);
}

void PageAllocator::Impl::cut_out(PfnRange frames) {
    map.for_each_run(frames, [&](Pfn begin, u64 blocks, const PageMeta& meta) {
        if (meta.state == PageState::free) take_off_lists(pfn_range(begin, blocks));
    });
    if (const PageMap::Block block = map.find(frames.begin); block.head < frames.begin) shatter(block);
    if (const PageMap::Block block = map.find(frames.end); block.head < frames.end) shatter(block);
}

}  // namespace kexec_sim
