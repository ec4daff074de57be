#include "kernel-model/page_alloc.hpp"

#include <algorithm>

#include "kernel-model/page_alloc_impl.hpp"

namespace kexec_sim {
namespace {

constexpr std::byte free_poison{0xaa};

}  // namespace

PageAllocator::PageAllocator(Machine& machine, KernelLog& log) : machine_(machine), log_(log) {
    impl_ = std::make_unique<Impl>(map_);
}

PageAllocator::~PageAllocator() = default;

// ---- boot ----

void PageAllocator::add_memory(PfnRange frames, Nid nid) {
    if (frames.empty()) return;
    impl_->add_span(frames, nid);
    PageMeta meta;
    meta.state = PageState::reserved;
    meta.refcount = 1;
    impl_->for_each_part(frames, [&](Impl::Node&, PfnRange part, MigrateType type) {
        meta.cma = type == MigrateType::cma;
        map_.set(part.begin, part.pages(), meta);
    });
}

void PageAllocator::release_from_boot(PfnRange frames) {
    map_.for_each_run(frames, [&](Pfn begin, u64 blocks, const PageMeta& meta) {
        if (meta.state != PageState::reserved) return;
        const PfnRange run = pfn_range(begin, blocks);
        impl_->make_free(run);
        impl_->for_each_part(run, [](Impl::Node& node, PfnRange part, MigrateType) { node.managed += part.pages(); });
        machine_.referee.frames_to_allocator(run);
    });
}

void PageAllocator::mark_cma(PfnRange frames) {
    const PfnRange whole{Pfn{align_up(frames.begin.raw, pageblock_pages)},
                         Pfn{align_down(frames.end.raw, pageblock_pages)}};
    if (!whole.empty()) impl_->set_type(whole, MigrateType::cma);
}

void PageAllocator::clear_cma(PfnRange frames) {
    const PfnRange whole{Pfn{align_up(frames.begin.raw, pageblock_pages)},
                         Pfn{align_down(frames.end.raw, pageblock_pages)}};
    if (!whole.empty()) impl_->set_type(whole, MigrateType::movable);
}

void PageAllocator::mark_preserved(Pfn pfn, u64 count, Order order, u64 private_data) {
    if (count == 0 || order.raw > 40 || count > (u64{1} << 52) >> order.raw) return;
    const PfnRange frames = pfn_range(pfn, count << order.raw);
    PageMeta meta;
    meta.state = PageState::preserved;
    meta.order = order;
    meta.refcount = 1;
    meta.private_data = private_data;
    if (deferred_.overlaps(frames))
        machine_.referee.kernel_insane(
            fmt::format("page metadata of pfn {:#x} is written before it is initialised", frames.begin.raw), frames);
    const auto mark = [&](PfnRange part) {
        meta.cma = is_cma(part.begin);
        map_.set(part.begin, part.pages() >> meta.order.raw, meta);
    };
    // Most often all of it was reserved a moment ago, in one stretch and of one type.
    const PageMap::Run run = map_.run_from(frames.begin, frames.end);
    if (run.meta.state == PageState::reserved && run.end() >= frames.end &&
        impl_->types.alike_from(frames.begin, frames.end).end == frames.end)
        return mark(frames);
    for (Pfn head = frames.begin; head < frames.end;) {
        const PfnRange block = pfn_range(head, order.pages());
        head = block.end;
        // What is no RAM has no metadata to put a marker into; a block that reaches out of RAM is none.
        Pfn absent = block.begin;
        while (absent < block.end && map_.find(absent).meta.state != PageState::absent)
            absent = map_.run_from(absent, block.end).end();
        if (absent < block.end) {
            head = Pfn{align_up(map_.run_from(absent, frames.end).end().raw, order.pages())};
            continue;
        }
        impl_->cut_out(block);
        mark(block);
    }
}

void PageAllocator::init_deferred_metadata() {
    if (deferred_.empty()) return;
    const PfnRange frames = std::exchange(deferred_, {});
    impl_->cut_out(frames);
    map_.for_each_run(frames, [&](Pfn begin, u64 blocks, const PageMeta& meta) {
        PageMeta fresh;
        fresh.state = PageState::reserved;
        fresh.refcount = 1;
        fresh.cma = meta.cma;
        map_.set(begin, blocks << meta.order.raw, fresh);
    });
}

// ---- allocation ----

void PageAllocator::hand_out(PfnRange frames, const AllocRequest& request, bool cma) {
    PageMeta meta;
    meta.state = PageState::folio;
    meta.order = request.order;
    meta.cma = cma;
    meta.movable = request.movable;
    meta.site = impl_->site_number(request.site, request.frame_class);
    meta.refcount = 1;
    map_.set(frames.begin, frames.pages() >> request.order.raw, meta);
    impl_->account(meta.site, static_cast<i64>(frames.pages()));
    impl_->touch(frames);
    machine_.ram.zero(frames.phys());
    machine_.referee.frames_handed_out(frames, request.site, request.frame_class);
}

Result<Folio> PageAllocator::alloc_folio(const AllocRequest& request) {
    TRY(machine_.faults.check(FaultPoint::mm_folio_alloc, request.site));
    if (request.order.raw > max_page_order) return fail(Errno::enomem);  // no list has such blocks
    for (const std::size_t index : impl_->nodes_for(request)) {
        Impl::Node& node = impl_->nodes[index];
        if (node.room(request.movable) < request.order.pages()) continue;
        const auto choice = impl_->choose(node, request.order, request.movable, true);
        if (!choice) continue;
        const Folio folio{choice->block.pfn, request.order};
        node.buddy.remove(folio.frames(), choice->type);
        hand_out(folio.frames(), request, choice->type == MigrateType::cma);
        machine_.trace.emit(Layer::kernel, "mm.folio_alloc",
                            {{"phys", folio.pfn.phys()}, {"order", folio.order}, {"site", request.site}});
        return folio;
    }
    return fail(Errno::enomem);  // every node is at its reserve, or has no block of that size
}

Result<std::vector<PfnRange>> PageAllocator::alloc_pages(const AllocRequest& request, u64 count) {
    // Where memory ends before `count`, the page that is not there is asked for as well: its visit is the last.
    const u64 room = room_for_pages(request), asked = std::min(count, room + 1);
    const FaultInjector::Run visits = machine_.faults.check_many(FaultPoint::mm_folio_alloc, request.site, asked);
    if (visits.good < asked) return fail(visits.error);
    if (room < count) return fail(Errno::enomem);
    return hand_out_pages(request, count);
}

PageAllocator::Pages PageAllocator::alloc_pages_partial(const AllocRequest& request, u64 count) {
    const u64 room = room_for_pages(request);
    // Where memory ends before `count`, the page that is not there is asked for as well: its visit is the last.
    const u64 asked = std::min(count, room + 1);
    const FaultInjector::Run visits = machine_.faults.check_many(FaultPoint::mm_folio_alloc, request.site, asked);
    const Errno error = visits.good < asked ? visits.error : room < count ? Errno::enomem : Errno::ok;
    const u64 pages = std::min(visits.good, room);
    if (pages == 0) return {{}, error};
    return {hand_out_pages(request, pages), error};
}

u64 PageAllocator::room_for_pages(const AllocRequest& request) {
    u64 room = 0;
    for (const std::size_t index : impl_->nodes_for(request)) room += impl_->nodes[index].room(request.movable);
    return room;
}

std::vector<PfnRange> PageAllocator::hand_out_pages(const AllocRequest& request, u64 count) {
    AllocRequest single = request;
    single.order = Order{0};
    auto runs = take_pages(single, count, true);
    report_pages(runs, request.site);
    return runs;
}

void PageAllocator::report_pages(std::span<const PfnRange> runs, std::string_view site) {
    for (const PfnRange& run : runs)
        machine_.trace.emit(Layer::kernel, "mm.pages_alloc",
                            {{"phys", run.begin.phys()}, {"count", run.pages()}, {"site", site}});
}

/// The caller has made sure that there is room for all.
std::vector<PfnRange> PageAllocator::take_pages(const AllocRequest& request, u64 count, bool cma_allowed) {
    std::vector<PfnRange> runs;
    for (const std::size_t index : impl_->nodes_for(request)) {
        Impl::Node& node = impl_->nodes[index];
        while (count) {
            const u64 room = node.room(request.movable && cma_allowed);
            if (room == 0) break;
            const Impl::Chunk chunk = impl_->take_chunk(node, std::min(count, room), request.movable, cma_allowed);
            hand_out(chunk.frames, request, chunk.type == MigrateType::cma);
            count -= chunk.frames.pages();
            if (!runs.empty() && runs.back().end == chunk.frames.begin)
                runs.back().end = chunk.frames.end;
            else
                runs.push_back(chunk.frames);
        }
    }
    INVARIANT(count == 0);
    return runs;
}

void PageAllocator::take_back(PfnRange frames) {
    if (poison_on_free) machine_.ram.fill_byte(frames.phys(), free_poison);
    impl_->unaccount(frames);
    impl_->make_free(frames);
    machine_.referee.frames_returned(frames);
}

void PageAllocator::bad_page(Pfn pfn, std::string_view why) {
    log_.warn_on(fmt::format("BUG: Bad page state in process {}  pfn:{:05x} ({})", current_process, pfn.raw, why),
                 false);
}

namespace {
/// Why the page allocator would not take a block of this metadata back; empty: it would.
std::string_view why_not_freed(const PageMeta& meta, Order order) {
    switch (meta.state) {
    case PageState::absent: return "not RAM";
    case PageState::reserved: return "reserved";
    case PageState::preserved: return "preserved and not restored";
    case PageState::free: return "already free";
    case PageState::folio: break;
    }
    if (meta.order != order) return "of another order";
    if (meta.raw_tails) return "tail page with a reference, and without a head";
    if (meta.pins) return "pinned";
    if (meta.refcount != 1) return "nonzero _refcount";
    return {};
}
}  // namespace

void PageAllocator::free_folio(Folio folio) {
    const PageMap::Block block = map_.find(folio.pfn);
    if (const std::string_view why = why_not_freed(block.meta, folio.order); !why.empty())
        return bad_page(folio.pfn, why);
    if (block.head != folio.pfn) return bad_page(folio.pfn, "tail page");
    machine_.trace.emit(Layer::kernel, "mm.folio_free",
                        {{"phys", folio.pfn.phys()}, {"order", folio.order}, {"site", site_name(block.meta.site)}});
    take_back(folio.frames());
}

void PageAllocator::free_pages(PfnRange frames) {
    for (Pfn at = frames.begin; at < frames.end;) {
        const PageMap::Run run = map_.run_from(at, frames.end);
        const PfnRange part{at, std::min(run.end(), frames.end)};
        at = part.end;
        if (const std::string_view why = why_not_freed(run.meta, Order{0}); !why.empty()) {
            bad_page(part.begin, why);
            continue;
        }
        machine_.trace.emit(
            Layer::kernel, "mm.pages_free",
            {{"phys", part.begin.phys()}, {"count", part.pages()}, {"site", site_name(run.meta.site)}});
        take_back(part);
    }
}

// ---- facts ----

PageMap::Block PageAllocator::block(Pfn pfn) const {
    PageMap::Block block = map_.find(pfn);
    if (block.meta.state != PageState::free) return block;
    impl_->for_each_part(pfn_range(pfn, 1), [&](Impl::Node& node, PfnRange, MigrateType type) {
        if (const auto free = node.buddy.block_with(pfn, type)) {
            block.head = free->pfn;
            block.meta.order = free->order;
        }
    });
    return block;
}

bool PageAllocator::is_cma(Pfn pfn) const { return impl_->types.of(pfn) == MigrateType::cma; }

u64 PageAllocator::free_frames() const {
    u64 frames = 0;
    for (const Impl::Node& node : impl_->nodes) frames += node.buddy.free();
    return frames;
}

u64 PageAllocator::free_frames(Nid nid) const {
    for (const Impl::Node& node : impl_->nodes)
        if (node.nid == nid) return node.buddy.free();
    return 0;
}

u64 PageAllocator::free_cma_frames() const {
    u64 frames = 0;
    for (const Impl::Node& node : impl_->nodes) frames += node.buddy.free(MigrateType::cma);
    return frames;
}

u64 PageAllocator::managed_frames() const {
    u64 frames = 0;
    for (const Impl::Node& node : impl_->nodes) frames += node.managed;
    return frames;
}

std::vector<Nid> PageAllocator::nodes() const {
    std::vector<Nid> result;
    for (const Impl::Node& node : impl_->nodes) result.push_back(node.nid);
    return result;
}

std::string_view PageAllocator::site_name(u16 site) const {
    return site < impl_->sites.size() ? std::string_view(impl_->sites[site].name) : std::string_view("?");
}

}  // namespace kexec_sim
