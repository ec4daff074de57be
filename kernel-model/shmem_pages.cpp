// The page cache of a shmem file: extents, and the pages behind them.
#include <algorithm>

#include "kernel-model/kernel.hpp"

namespace kexec_sim {
namespace {

constexpr std::string_view site = "memfd.folio";
constexpr AllocRequest page_request{
    .order = Order{0}, .site = site, .frame_class = FrameClass::file, .movable = true};
constexpr AllocRequest large_request{.order = Order{9}, .site = site, .frame_class = FrameClass::file};

constexpr u64 end_of(const FileExtent& extent) { return extent.index + extent.pages; }
constexpr PfnRange frames_of(const FileExtent& extent) { return pfn_range(extent.pfn, extent.pages); }

/// Appends, as part of the last extent where it continues that one.
void append_merged(std::vector<FileExtent>& extents, const FileExtent& extent) {
    if (!extents.empty()) {
        FileExtent& last = extents.back();
        if (end_of(last) == extent.index && last.pfn + last.pages == extent.pfn) {
            last.pages += extent.pages;
            return;
        }
    }
    extents.push_back(extent);
}

/// `extent` after some of its frames moved. `moves` lie in it.
void append_moved(std::vector<FileExtent>& extents, const FileExtent& extent,
                  std::vector<PageAllocator::Move> moves) {
    std::ranges::sort(moves, {}, [](const PageAllocator::Move& move) { return move.from.begin; });
    FileExtent rest = extent;
    const auto cut = [&](u64 pages, Pfn pfn) {
        if (pages == 0) return;
        append_merged(extents, {rest.index, pfn, pages});
        rest = {rest.index + pages, rest.pfn + pages, rest.pages - pages};
    };
    for (const PageAllocator::Move& move : moves) {
        cut(move.from.begin - rest.pfn, rest.pfn);
        cut(move.from.pages(), move.to);
    }
    cut(rest.pages, rest.pfn);
}

}  // namespace

std::vector<FileExtent>::const_iterator ShmemFile::first_after(u64 index) const {
    return std::ranges::upper_bound(extents_, index, {}, end_of);
}

std::vector<FileExtent> ShmemFile::holes(u64 begin, u64 end) const {
    std::vector<FileExtent> result;
    for (auto extent = first_after(begin); begin < end; ++extent) {
        if (extent == extents_.end() || extent->index >= end) {
            result.push_back({begin, {}, end - begin});
            break;
        }
        if (begin < extent->index) result.push_back({begin, {}, extent->index - begin});
        begin = end_of(*extent);
    }
    return result;
}

void ShmemFile::add_extents(std::span<const FileExtent> fresh) {
    if (fresh.empty()) return;
    if (extents_.empty() || end_of(extents_.back()) <= fresh.front().index) {
        for (const FileExtent& extent : fresh) append_merged(extents_, extent);
        return;
    }
    // Everything from the place of the first new one on is written anew.
    const auto place = first_after(fresh.front().index);
    std::vector<FileExtent> tail(place, extents_.cend());
    extents_.erase(place, extents_.cend());
    std::size_t i = 0, j = 0;
    while (i < tail.size() || j < fresh.size()) {
        const bool from_tail = j == fresh.size() || (i < tail.size() && tail[i].index < fresh[j].index);
        append_merged(extents_, from_tail ? tail[i++] : fresh[j++]);
    }
}

void ShmemFile::fill_with_large_folios(u64 begin, u64 end) {
    constexpr u64 pages = large_request.order.pages();
    const u64 limit = std::max(end, align_up(size_, page_bytes) >> page_shift);
    for (u64 at = align_down(begin, pages); at < end && at + pages <= limit; at += pages) {
        const auto extent = first_after(at);
        if (extent != extents_.end() && extent->index < at + pages) continue;
        const auto folio = kernel_.pages.alloc_folio(large_request);
        if (!folio) return;
        const FileExtent fresh{at, folio->pfn, pages};
        add_extents({&fresh, 1});
    }
}

ShmemFile::Filled ShmemFile::fill_holes(u64 begin, u64 end) {
    if (kernel_.large_shmem_folios) fill_with_large_folios(begin, end);
    std::vector<FileExtent> missing = holes(begin, end);
    u64 wanted = 0;
    for (const FileExtent& hole : missing) wanted += hole.pages;
    if (wanted == 0) return {end, Errno::ok};

    const PageAllocator::Pages taken = kernel_.pages.alloc_pages_partial(page_request, wanted);
    std::vector<FileExtent> fresh;
    auto hole = missing.begin();
    for (PfnRange run : taken.runs) {
        while (!run.empty()) {
            const u64 pages = std::min(run.pages(), hole->pages);
            append_merged(fresh, {hole->index, run.begin, pages});
            run.begin = run.begin + pages;
            *hole = {hole->index + pages, {}, hole->pages - pages};
            if (hole->pages == 0) ++hole;
        }
    }
    add_extents(fresh);
    if (hole == missing.end()) return {end, Errno::ok};
    return {hole->index, taken.error};
}

void ShmemFile::zero_in_page(u64 begin, u64 end) {
    if (begin >= end) return;
    const auto extent = first_after(begin >> page_shift);
    if (extent == extents_.end() || extent->index > begin >> page_shift) return;  // a hole is zero already
    kernel_.machine.ram.zero(phys_range(extent->pfn.phys() + (begin - (extent->index << page_shift)), end - begin));
}

void ShmemFile::remove_pages(u64 begin, u64 end) {
    const auto first = first_after(begin);
    auto last = first;
    std::vector<FileExtent> kept;
    std::vector<PfnRange> gone;
    for (; last != extents_.cend() && last->index < end; ++last) {
        const auto [cut_begin, cut_end] =
            whole_folios(*last, std::max(begin, last->index), std::min(end, end_of(*last)));
        if (cut_begin == cut_end) {
            kept.push_back(*last);
            continue;
        }
        if (last->index < cut_begin) kept.push_back({last->index, last->pfn, cut_begin - last->index});
        if (cut_end < end_of(*last))
            kept.push_back({cut_end, last->pfn + (cut_end - last->index), end_of(*last) - cut_end});
        gone.push_back(pfn_range(last->pfn + (cut_begin - last->index), cut_end - cut_begin));
    }
    const auto place = extents_.erase(first, last);
    extents_.insert(place, kept.begin(), kept.end());
    for (const PfnRange& frames : gone) free_frames(frames);
}

std::pair<u64, u64> ShmemFile::whole_folios(const FileExtent& extent, u64 begin, u64 end) {
    const auto frame = [&](u64 index) { return extent.pfn + (index - extent.index); };
    const auto index = [&](Pfn pfn) { return extent.index + (pfn - extent.pfn); };
    const auto zero = [&](u64 from, u64 to) { kernel_.machine.ram.zero(PfnRange{frame(from), frame(to)}.phys()); };
    const PageMap::Block first = kernel_.pages.block(frame(begin));
    if (first.head < frame(begin)) {
        const u64 next = std::min(end, index(first.head) + first.meta.order.pages());
        zero(begin, next);
        begin = next;
    }
    if (begin == end || end == end_of(extent)) return {begin, end};
    const PageMap::Block last = kernel_.pages.block(frame(end));
    if (last.head < frame(end)) {
        zero(index(last.head), end);
        end = index(last.head);
    }
    return {begin, end};
}

void ShmemFile::release_folios(PfnRange frames) {
    for (Pfn at = frames.begin; at < frames.end;) {
        const PageMap::Run run = kernel_.pages.page_map().run_from(at, frames.end);
        const Pfn end = std::min(run.end(), frames.end);
        const Order order = run.meta.order;
        if (run.meta.state == PageState::folio && order.raw)
            for (Pfn head = at; head < end; head = head + order.pages()) kernel_.pages.free_folio({head, order});
        else
            kernel_.pages.free_pages({at, end});
        at = end;
    }
}

void ShmemFile::free_frames(PfnRange frames) {
    if (!pinned()) return release_folios(frames);
    // A pin holds its page whatever the file does.
    for (Pfn at = frames.begin; at < frames.end;) {
        const PageMap::Run run = kernel_.pages.page_map().run_from(at, frames.end);
        const PfnRange part{at, std::min(run.end(), frames.end)};
        at = part.end;
        if (run.meta.pins == 0)
            release_folios(part);
        else
            detached_.push_back(part);
    }
}

std::vector<PfnRange> ShmemFile::frames(u64 offset, u64 bytes) const {
    std::vector<PfnRange> frames;
    const u64 begin = offset >> page_shift, end = (offset + bytes) >> page_shift;
    for (auto extent = first_after(begin); extent != extents_.end() && extent->index < end; ++extent) {
        const u64 from = std::max(begin, extent->index), to = std::min(end, end_of(*extent));
        frames.push_back(pfn_range(extent->pfn + (from - extent->index), to - from));
    }
    return frames;
}

std::vector<ShmemFile::FolioRun> ShmemFile::folio_runs() const {
    std::vector<FolioRun> runs;
    for (const FileExtent& extent : extents_) {
        const PfnRange frames = frames_of(extent);
        for (Pfn at = frames.begin; at < frames.end;) {
            const PageMap::Run alike = kernel_.pages.page_map().run_from(at, frames.end);
            const Pfn end = std::min(alike.end(), frames.end);
            FolioRun* last = runs.empty() ? nullptr : &runs.back();
            if (last && at != frames.begin && last->order == alike.meta.order)
                last->frames.end = end;
            else
                runs.push_back({extent.index + (at - frames.begin), {at, end}, alike.meta.order});
            at = end;
        }
    }
    return runs;
}

Result<> ShmemFile::insert_pages(u64 index, PfnRange frames) {
    if (frames.empty()) return {};
    const auto next = first_after(index);
    if (next != extents_.end() && next->index < index + frames.pages()) return fail(Errno::eexist);
    const FileExtent extent{index, frames.begin, frames.pages()};
    add_extents({&extent, 1});
    return {};
}

Result<> ShmemFile::account_pages(u64) { return kernel_.machine.faults.check(FaultPoint::mm_shmem_account, site); }

void ShmemFile::take_out_pages(u64 index, u64 pages) {
    std::vector<FileExtent> kept;
    const auto keep = [&](const FileExtent& extent, u64 begin, u64 end) {
        if (begin < end) kept.push_back({begin, extent.pfn + (begin - extent.index), end - begin});
    };
    for (const FileExtent& extent : extents_) {
        keep(extent, extent.index, std::min(end_of(extent), std::max(index, extent.index)));
        keep(extent, std::max(extent.index, std::min(index + pages, end_of(extent))), end_of(extent));
    }
    extents_ = std::move(kept);
}

Result<u64> ShmemFile::migrate() {
    std::vector<FileExtent> after;
    u64 moved = 0;
    Errno error = Errno::ok;
    for (const FileExtent& extent : extents_) {
        std::vector<PageAllocator::Move> moves;
        if (error == Errno::ok) {
            auto result = kernel_.pages.migrate_out_of_cma(frames_of(extent), site);
            if (result)
                moves = std::move(*result);
            else
                error = result.error();  // what moved already has moved; nobody can tell
        }
        for (const PageAllocator::Move& move : moves) moved += move.from.pages();
        append_moved(after, extent, std::move(moves));
    }
    extents_ = std::move(after);
    if (error != Errno::ok) return fail(error);
    return moved;
}

Result<> ShmemFile::pin_all(u64 pages_max) {
    if (hugetlb || size_ == 0) return fail(Errno::einval);  // [0, size - 1] ends before it starts
    const u64 end = std::min(align_up(size_, page_bytes) >> page_shift, pages_max);
    const std::vector<FileExtent> before = holes(0, end);
    const Filled filled = fill_holes(0, end);
    for (const FileExtent& hole : before)
        if (hole.index < filled.end)
            unused_.insert({Pfn{hole.index}, Pfn{std::min(hole.index + hole.pages, filled.end)}});
    if (filled.error != Errno::ok) return fail(filled.error);
    const u64 moved = TRY(migrate());
    std::vector<PfnRange> pinned_now;
    for (const FileExtent& extent : extents_) {
        if (extent.index >= end) break;
        const PfnRange frames = pfn_range(extent.pfn, std::min(extent.pages, end - extent.index));
        kernel_.pages.pin_pages(frames);
        pinned_now.push_back(frames);
    }
    pins_.push_back(std::move(pinned_now));
    kernel_.machine.trace.emit(Layer::kernel, "file.pin", {{"file", id()}, {"pages", end}, {"migrated", moved}});
    return {};
}

void ShmemFile::unpin_all() {
    if (pins_.empty()) return;
    const std::vector<PfnRange> oldest = std::move(pins_.front());
    pins_.erase(pins_.begin());
    for (const PfnRange& frames : oldest) kernel_.pages.unpin_pages(frames);
    if (pinned()) return;
    for (const PfnRange& frames : detached_) release_folios(frames);
    detached_.clear();
}

void ShmemFile::drop_pages() {
    while (pinned()) unpin_all();
    const std::vector<FileExtent> all = std::move(extents_);
    extents_.clear();
    for (const FileExtent& extent : all) release_folios(frames_of(extent));
}

}  // namespace kexec_sim
