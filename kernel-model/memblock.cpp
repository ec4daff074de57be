#include "kernel-model/memblock.hpp"

#include <algorithm>

namespace kexec_sim {
namespace {

constexpr std::string_view preserved_site = "preserved";

/// Puts regions in order and makes one of those that are alike and touch (B2).
void join(std::vector<MemblockRegion>& regions) {
    std::sort(regions.begin(), regions.end(),
              [](const MemblockRegion& a, const MemblockRegion& b) { return a.range < b.range; });
    std::vector<MemblockRegion> joined;
    for (const MemblockRegion& region : regions) {
        if (!joined.empty() && joined.back().range.end == region.range.begin && joined.back().alike(region))
            joined.back().range.end = region.range.end;
        else
            joined.push_back(region);
    }
    regions = std::move(joined);
}

}  // namespace

Memblock::Memblock(Machine& machine) : machine_(machine) {}

// ---- memory ----

void Memblock::split_memory(PhysAddr at) {
    const auto region = std::find_if(memory_.begin(), memory_.end(), [&](const MemblockRegion& other) {
        return other.range.begin < at && at < other.range.end;
    });
    if (region == memory_.end()) return;
    MemblockRegion upper = *region;
    region->range.end = upper.range.begin = at;
    memory_.insert(region + 1, upper);
}

void Memblock::add(PhysRange range, Nid nid) {
    if (range.empty()) return;
    split_memory(range.begin);
    split_memory(range.end);
    std::vector<MemblockRegion> fresh;
    PhysAddr at = range.begin;
    const auto gap_until = [&](PhysAddr end) {
        if (at < end) fresh.push_back({.range = {at, end}, .nid = nid, .order = Order{}, .site = {}});
    };
    for (MemblockRegion& region : memory_) {
        if (!region.range.overlaps(range)) continue;
        gap_until(region.range.begin);
        at = region.range.end;
        if (region.nid == nid_none) region.nid = nid;
    }
    gap_until(range.end);
    memory_.insert(memory_.end(), fresh.begin(), fresh.end());
    join(memory_);
}

void Memblock::flag_scratch(PhysRange range, bool scratch) {
    split_memory(range.begin);
    split_memory(range.end);
    for (MemblockRegion& region : memory_)
        if (range.contains(region.range)) region.scratch = scratch;
    join(memory_);
}

Result<> Memblock::mark_scratch(PhysRange range) {
    const auto inside = [&](const MemblockRegion& region) { return region.range.overlaps(range); };
    if (range.empty() || std::none_of(memory_.begin(), memory_.end(), inside))
        return fail(Errno::einval);  // no RAM there
    flag_scratch(range, true);
    return {};
}

Result<> Memblock::clear_scratch(PhysRange range) {
    const auto inside = [&](const MemblockRegion& region) { return region.range.overlaps(range); };
    if (range.empty() || std::none_of(memory_.begin(), memory_.end(), inside))
        return fail(Errno::einval);  // no RAM there
    flag_scratch(range, false);
    return {};
}

bool Memblock::is_memory(PhysRange range) const {
    PhysAddr at = range.begin;
    for (const MemblockRegion& region : memory_)
        if (region.range.contains(at)) at = region.range.end;
    return at >= range.end;
}

Nid Memblock::node_of(PhysAddr phys) const {
    for (const MemblockRegion& region : memory_)
        if (region.range.contains(phys)) return region.nid;
    return nid_none;
}

// ---- reserved ----

Memblock::Regions::const_iterator Memblock::first_ending_after(u64 phys) const {
    auto region = reserved_.upper_bound(phys);
    if (region != reserved_.begin() && std::prev(region)->second.range.end.raw > phys) --region;
    return region;
}

/// First frame of a scattered block in the range, or its end.
Pfn Memblock::next_scattered(PfnRange frames) const {
    for (const auto& [order, set] : scattered_) frames.end = set.next_member(frames);
    return frames.end;
}

std::optional<Pfn> Memblock::last_scattered(PfnRange frames) const {
    std::optional<Pfn> last;
    for (const auto& [order, set] : scattered_) last = std::max(last, set.last_member(frames));
    return last;
}

/// Where the run of scattered blocks with `member` in it ends.
Pfn Memblock::end_of_scattered(Pfn member, Pfn end) const {
    for (Pfn at = member;;) {
        Pfn next = at;
        for (const auto& [order, set] : scattered_) next = set.next_gap({next, end});
        if (next == at || next == end) return next;
        at = next;
    }
}

/// Makes regions of the scattered blocks in the range, for what needs to see or change them one by one.
void Memblock::gather(PhysRange range) {
    PfnRange frames{range.begin.pfn(), PhysAddr{align_up(range.end.raw, page_bytes)}.pfn()};
    for (auto& [order, set] : scattered_)
        for (Pfn at = set.next_member(frames); at < frames.end; at = set.next_member({at, frames.end})) {
            const PfnRange run{at, set.next_gap({at, frames.end})};
            set.erase(run);
            place({.range = run.phys(), .no_init = true, .order = order, .site = preserved_site});
            at = run.end;
        }
}

/// A short run of blocks where nothing is reserved yet. False: it is not short, or something is.
bool Memblock::scatter(PhysRange range, Order order) {
    constexpr u64 scattered_pages_max = 64;
    const PfnRange frames{range.begin.pfn(), range.end.pfn()};
    if (frames.pages() > scattered_pages_max || !range.begin.page_aligned() || !range.end.page_aligned())
        return false;
    if (!known_gap_.contains(range)) {
        const auto next = first_ending_after(range.begin.raw);
        known_gap_ = {next == reserved_.begin() ? PhysAddr{0} : std::prev(next)->second.range.end,
                      next == reserved_.end() ? PhysAddr{~u64{0}} : next->second.range.begin};
        if (!known_gap_.contains(range)) return false;
    }
    if (next_scattered(frames) != frames.end) return false;
    scattered_[order].insert(frames);
    reserved_list_valid_ = false;
    return true;
}

/// Adds a region where nothing is reserved, joined with the neighbours that are alike (B2).
void Memblock::place(const MemblockRegion& region) {
    reserved_list_valid_ = false;
    known_gap_ = {};
    const auto next = reserved_.lower_bound(region.range.begin.raw);
    auto at = reserved_.end();
    if (next != reserved_.begin()) {
        const auto before = std::prev(next);
        if (before->second.range.end == region.range.begin && before->second.alike(region)) {
            before->second.range.end = region.range.end;
            at = before;
        }
    }
    if (at == reserved_.end()) at = reserved_.emplace_hint(next, region.range.begin.raw, region);
    if (next != reserved_.end() && next->second.range.begin == region.range.end && next->second.alike(region)) {
        at->second.range.end = next->second.range.end;
        reserved_.erase(next);
    }
}

void Memblock::reserve(PhysRange range, Nid nid, std::string_view site, bool kern) {
    gather(range);
    MemblockRegion region{.range = range, .nid = nid, .kern = kern, .order = Order{}, .site = site};
    for (PhysAddr at = range.begin; at < range.end;) {
        const auto next = first_ending_after(at.raw);
        const PhysAddr free_end = next == reserved_.end() ? range.end : std::min(range.end, next->second.range.begin);
        const PhysAddr taken_end = next == reserved_.end() ? range.end : next->second.range.end;
        region.range = {at, free_end};
        if (!region.range.empty()) place(region);
        at = taken_end;
    }
}

void Memblock::reserve_noinit(PhysRange range, Order order) {
    if (scatter(range, order)) return;
    gather(range);
    MemblockRegion region{.range = range, .no_init = true, .order = order, .site = preserved_site};
    for (PhysAddr at = range.begin; at < range.end;) {
        const auto next = first_ending_after(at.raw);
        if (next == reserved_.end() || next->second.range.begin >= range.end) {
            region.range = {at, range.end};
            place(region);
            return;
        }
        const PhysRange taken{std::max(at, next->second.range.begin), std::min(range.end, next->second.range.end)};
        region.range = {at, taken.begin};
        if (!region.range.empty()) place(region);
        overwrite(taken, order);
        at = taken.end;
    }
}

/// What is reserved already becomes part of the handover as well, and keeps its owner.
void Memblock::overwrite(PhysRange range, Order order) {
    split_reserved(range.begin.raw);
    split_reserved(range.end.raw);
    std::vector<MemblockRegion> changed;
    for (auto at = reserved_.find(range.begin.raw); at != reserved_.end() && at->first < range.end.raw;) {
        changed.push_back(at->second);
        at = reserved_.erase(at);
    }
    for (MemblockRegion& region : changed) {
        region.no_init = true;
        region.order = order;
        place(region);
    }
}

void Memblock::split_reserved(u64 at) {
    const auto region = reserved_.lower_bound(at);
    if (region == reserved_.begin()) return;
    const auto before = std::prev(region);
    if (before->second.range.end.raw <= at) return;
    MemblockRegion upper = before->second;
    before->second.range.end = upper.range.begin = PhysAddr{at};
    reserved_.emplace_hint(region, at, upper);
    reserved_list_valid_ = false;
}

void Memblock::free(PhysRange range) {
    if (range.empty()) return;
    gather(range);
    split_reserved(range.begin.raw);
    split_reserved(range.end.raw);
    std::vector<PhysRange> given_back;
    for (auto at = reserved_.lower_bound(range.begin.raw); at != reserved_.end() && at->first < range.end.raw;) {
        if (at->second.allocated) given_back.push_back(at->second.range);
        at = reserved_.erase(at);
    }
    reserved_list_valid_ = false;
    known_gap_ = {};
    for (const PhysRange& part : given_back)
        if (const PfnRange frames = own_frames(part); !frames.empty()) machine_.referee.frames_returned(frames);
}

const std::vector<MemblockRegion>& Memblock::reserved() const {
    if (reserved_list_valid_) return reserved_list_;
    reserved_list_.clear();
    for (const auto& [begin, region] : reserved_) reserved_list_.push_back(region);
    constexpr PfnRange all{Pfn{0}, Pfn{~u64{0} >> page_shift}};
    for (const auto& [order, set] : scattered_)
        for (Pfn at = set.next_member(all); at < all.end; at = set.next_member({at, all.end})) {
            const PfnRange run{at, set.next_gap({at, all.end})};
            reserved_list_.push_back({.range = run.phys(), .no_init = true, .order = order, .site = preserved_site});
            at = run.end;
        }
    if (!scattered_.empty()) join(reserved_list_);
    reserved_list_valid_ = true;
    return reserved_list_;
}

bool Memblock::is_reserved(PhysRange range) const {
    if (range.empty()) return false;
    const auto region = first_ending_after(range.begin.raw);
    if (region != reserved_.end() && region->second.range.begin < range.end) return true;
    const PfnRange frames{range.begin.pfn(), PhysAddr{align_up(range.end.raw, page_bytes)}.pfn()};
    return next_scattered(frames) != frames.end;
}

u64 Memblock::reserved_kern_bytes(PhysAddr limit, std::optional<Nid> nid) const {
    if (!numa && nid && *nid != Nid{0}) return 0;
    u64 bytes = 0;
    for (const auto& [begin, region] : reserved_) {
        if (begin >= limit.raw) break;
        if (!region.kern || (numa && nid && region.nid != *nid)) continue;
        bytes += std::min(region.range.end, limit) - region.range.begin;
    }
    return bytes;
}

// ---- allocation ----

std::optional<PhysRange> Memblock::highest_gap(PhysRange within, u64 bytes, u64 align) const {
    u64 top = within.end.raw;
    for (auto region = reserved_.lower_bound(top);;) {
        const bool lowest = region == reserved_.begin();
        if (!lowest) --region;
        const u64 bottom = std::max(within.begin.raw, lowest ? 0 : region->second.range.end.raw);
        while (bottom < top && top - bottom >= bytes) {
            const PhysRange place = phys_range(PhysAddr{align_down(top - bytes, align)}, bytes);
            if (place.begin.raw < bottom) break;
            const auto member =
                last_scattered({place.begin.pfn(), PhysAddr{align_up(place.end.raw, page_bytes)}.pfn()});
            if (!member) return place;
            top = member->phys().raw;
        }
        if (lowest) return std::nullopt;
        top = std::min(top, region->first);
        if (top <= within.begin.raw) return std::nullopt;
    }
}

std::optional<PhysRange> Memblock::find_free(const Request& request, Nid nid) const {
    const PhysAddr min = std::max(request.min, PhysAddr{page_bytes});
    for (auto region = memory_.rbegin(); region != memory_.rend(); ++region) {
        if (numa && nid != nid_none && region->nid != nid) continue;
        if (scratch_only_ && !region->scratch) continue;
        const PhysRange within{std::max(region->range.begin, min), std::min(region->range.end, request.max)};
        if (within.empty()) continue;
        if (const auto found = highest_gap(within, request.bytes, std::max<u64>(request.align, 1))) return found;
    }
    return std::nullopt;
}

/// The frames of a range that no other reservation has a part in.
PfnRange Memblock::own_frames(PhysRange range) const {
    PfnRange frames{range.begin.pfn(), PhysAddr{align_up(range.end.raw, page_bytes)}.pfn()};
    const auto shared = [&](PhysAddr begin, PhysAddr end) { return begin < end && is_reserved({begin, end}); };
    if (shared(range.end, frames.end.phys())) frames.end = Pfn{frames.end.raw - 1};
    if (!frames.empty() && shared(frames.begin.phys(), range.begin)) frames.begin = frames.begin + 1;
    return frames;
}

Result<PhysRange> Memblock::alloc(const Request& request) {
    if (request.bytes == 0) return fail(Errno::einval);  // the kernel warns about such a request
    TRY(machine_.faults.check(FaultPoint::memblock_alloc, request.site));
    Nid nid = request.nid;
    auto found = find_free(request, nid);
    if (!found && nid != nid_none && !request.exact_nid) {
        nid = nid_none;
        found = find_free(request, nid);
    }
    if (!found) return fail(Errno::enomem);  // no gap of that size where the request allows it
    const PfnRange frames = own_frames(*found);
    place({.range = *found,
           .nid = nid,
           .kern = request.kern,
           .order = Order{},
           .site = request.site,
           .allocated = true});
    machine_.ram.zero(*found);
    if (!frames.empty()) machine_.referee.frames_handed_out(frames, request.site, FrameClass::kernel);
    machine_.trace.emit(Layer::kernel, "memblock.alloc",
                        {{"phys", found->begin}, {"bytes", request.bytes}, {"site", request.site}});
    return *found;
}

void Memblock::for_each_free(const std::function<void(PhysRange, Nid)>& visit) const {
    const auto visit_gap = [&](PhysAddr at, PhysAddr end, Nid nid) {
        const Pfn end_pfn = PhysAddr{align_up(end.raw, page_bytes)}.pfn();
        while (at < end) {
            const Pfn taken = next_scattered({at.pfn(), end_pfn});
            const PhysAddr free_end = std::min(end, taken.phys());
            if (at < free_end) visit({at, free_end}, nid);
            at = taken == end_pfn ? end : end_of_scattered(taken, end_pfn).phys();
        }
    };
    for (const MemblockRegion& region : memory_) {
        PhysAddr at = region.range.begin;
        auto taken = first_ending_after(at.raw);
        for (; taken != reserved_.end() && taken->second.range.begin < region.range.end; ++taken) {
            visit_gap(at, taken->second.range.begin, region.nid);
            at = taken->second.range.end;
        }
        visit_gap(at, region.range.end, region.nid);
    }
}

}  // namespace kexec_sim
