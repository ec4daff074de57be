// Folios in use: references, pins, what a restore makes of preserved memory, and moving pages out of CMA.
#include <algorithm>

#include "kernel-model/page_alloc_impl.hpp"

namespace kexec_sim {

void PageAllocator::get(Folio folio) {
    PageMap::Block block = map_.find(folio.pfn);
    if (block.meta.state != PageState::folio || block.head != folio.pfn)
        return bad_page(folio.pfn, "reference to no folio");
    ++block.meta.refcount;
    map_.update(block.head, block.meta);
}

void PageAllocator::put(Folio folio) {
    PageMap::Block block = map_.find(folio.pfn);
    if (block.meta.state != PageState::folio || block.head != folio.pfn)
        return bad_page(folio.pfn, "reference to no folio");
    if (block.meta.refcount == 1) return free_folio({block.head, block.meta.order});
    --block.meta.refcount;
    map_.update(block.head, block.meta);
}

void PageAllocator::pin_pages(PfnRange frames) {
    map_.for_each_run(frames, [&](Pfn begin, u64 blocks, PageMeta meta) {
        if (meta.state != PageState::folio) return bad_page(begin, "pin of no folio");
        ++meta.pins;
        map_.set(begin, blocks, meta);
    });
}

void PageAllocator::unpin_pages(PfnRange frames) {
    map_.for_each_run(frames, [&](Pfn begin, u64 blocks, PageMeta meta) {
        if (meta.state != PageState::folio || meta.pins == 0) return bad_page(begin, "unpin of what is not pinned");
        --meta.pins;
        map_.set(begin, blocks, meta);
    });
}

void PageAllocator::set_class(PfnRange frames, std::string_view site, FrameClass frame_class) {
    map_.for_each_run(frames, [&](Pfn begin, u64 blocks, PageMeta meta) {
        if (meta.state != PageState::folio) return;
        const i64 pages = static_cast<i64>(blocks << meta.order.raw);
        impl_->account(meta.site, -pages);
        meta.site = impl_->site_number(site, frame_class);
        impl_->account(meta.site, pages);
        map_.set(begin, blocks, meta);
    });
    machine_.referee.frames_become(frames, frame_class);
}

// ---- restore ----

void PageAllocator::adopt_folio(Folio folio, std::string_view site, FrameClass frame_class, Adoption how) {
    // Heads are aligned; what is not can only be single frames.
    adopt(folio.frames(), folio.aligned() ? folio.order : Order{0}, site, frame_class, how);
}

void PageAllocator::adopt_pages(PfnRange frames, std::string_view site, FrameClass frame_class, Adoption how) {
    adopt(frames, Order{0}, site, frame_class, how);
}

void PageAllocator::adopt(PfnRange frames, Order order, std::string_view site, FrameClass frame_class, Adoption how) {
    if (frames.empty()) return;
    std::vector<PfnRange> present;
    map_.for_each_run(frames, [&](Pfn begin, u64 blocks, const PageMeta& meta) {
        const PfnRange part{std::max(begin, frames.begin), std::min(begin + (blocks << meta.order.raw), frames.end)};
        if (meta.state == PageState::reserved || meta.state == PageState::preserved)
            impl_->for_each_part(part,
                                 [](Impl::Node& node, PfnRange ours, MigrateType) { node.managed += ours.pages(); });
        if (!present.empty() && present.back().end == part.begin)
            present.back().end = part.end;
        else
            present.push_back(part);
    });
    const bool whole = present.size() == 1 && present.front() == frames;
    PageMeta meta;
    meta.state = PageState::folio;
    meta.order = whole ? order : Order{0};
    meta.site = impl_->site_number(site, frame_class);
    meta.refcount = 1;
    meta.raw_tails = !how.tails && meta.order.raw > 0;
    for (const PfnRange& part : present) {
        impl_->unaccount(part);
        impl_->cut_out(part);
        meta.cma = is_cma(part.begin);
        map_.set(part.begin, part.pages() >> meta.order.raw, meta);
        if (how.accounted) impl_->account(meta.site, static_cast<i64>(part.pages()));
        impl_->touch(part);
        machine_.referee.frames_become(part, frame_class);
        machine_.referee.pages_adopted(part, meta.order, !meta.raw_tails);
    }
}

// ---- migration ----

namespace {

/// Content goes frame by frame; what was never written is zero on both sides.
void copy_frames(PhysicalMemory& ram, PfnRange from, Pfn to) {
    for (Pfn pfn = ram.next_written(from.begin, from.end); pfn < from.end; pfn = ram.next_written(pfn + 1, from.end))
        ram.write_bytes((to + (pfn - from.begin)).phys(), {ram.readable(pfn), page_bytes});
}

}  // namespace

Result<std::vector<PageAllocator::Move>> PageAllocator::migrate_out_of_cma(PfnRange frames, std::string_view site) {
    std::vector<PageMap::Run> sources;
    u64 count = 0;
    for (Pfn at = frames.begin; at < frames.end;) {
        const PageMap::Run run = map_.run_from(at, frames.end);
        at = run.end();
        const PageMeta& meta = run.meta;
        if (meta.state != PageState::folio || meta.order.raw || !meta.cma || !meta.movable || meta.pins) continue;
        sources.push_back(run);
        count += run.pages();
    }
    std::vector<Move> moves;
    if (count == 0) return moves;
    const FaultInjector::Run visits = machine_.faults.check_many(FaultPoint::mm_folio_alloc, site, count);
    if (visits.good < count) return fail(visits.error);
    u64 room = 0;
    for (const Impl::Node& node : impl_->nodes) room += node.room(false);
    if (room < count) return fail(Errno::enomem);
    for (const PageMap::Run& run : sources) {
        const Impl::Site owner = impl_->sites[run.meta.site];
        AllocRequest request;
        request.site = owner.name;
        request.frame_class = owner.frame_class;
        request.movable = true;
        Pfn from = run.begin;
        for (const PfnRange& to : take_pages(request, run.pages(), false)) {
            PageMeta meta = run.meta;
            meta.cma = false;
            map_.set(to.begin, to.pages(), meta);
            copy_frames(machine_.ram, pfn_range(from, to.pages()), to.begin);
            moves.push_back({pfn_range(from, to.pages()), to.begin});
            machine_.trace.emit(
                Layer::kernel, "mm.pages_migrate",
                {{"phys", from.phys()}, {"to", to.begin.phys()}, {"count", to.pages()}, {"site", site}});
            from = from + to.pages();
        }
        take_back(run.frames());
    }
    return moves;
}

}  // namespace kexec_sim
