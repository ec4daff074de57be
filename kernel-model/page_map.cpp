#include "kernel-model/page_map.hpp"

#include <algorithm>

namespace kexec_sim {
namespace {

constexpr u64 section_pages = 32768;  // 128 MiB, the kernel's section on x86-64
constexpr u64 section_count_max = u64{1} << 17;
constexpr u64 last_pfn = ~u64{0};
/// Beyond this many stretches an array is smaller (a stretch is a tree node of some 100 bytes) and faster.
constexpr u16 crowded = 512;

constexpr u64 section_begin(u64 pfn) { return align_down(pfn, section_pages); }

}  // namespace

std::size_t PageMap::MetaHash::operator()(const PageMeta& meta) const {
    u64 hash = static_cast<u64>(meta.state) | u64{meta.order.raw} << 8 | u64{meta.cma} << 16 |
               u64{meta.movable} << 17 | u64{meta.raw_tails} << 18 | u64{meta.site} << 32;
    const auto mix = [&hash](u64 value) { hash = (hash ^ value) * 0x9e37'79b9'7f4a'7c15; };
    mix(static_cast<u32>(meta.refcount) | u64{meta.pins} << 32);
    mix(meta.private_data);
    return hash ^ (hash >> 29);
}

PageMap::PageMap() {
    metas_.push_back({});
    ids_.emplace(PageMeta{}, 0);
    stretches_.emplace(0, Stretch{});
    hit_ = stretches_.begin();
}

PageMap::~PageMap() = default;

u32 PageMap::intern(const PageMeta& meta) {
    if (metas_[last_id_] == meta) return last_id_;
    const auto [entry, fresh] = ids_.try_emplace(meta, static_cast<u32>(metas_.size()));
    if (fresh) metas_.push_back(meta);
    return last_id_ = entry->second;
}

PageMap::Stretches::iterator PageMap::locate(u64 pfn) const {
    if (pfn < hit_end_ && pfn >= hit_->first) return hit_;
    const auto next = stretches_.upper_bound(pfn);
    hit_end_ = next == stretches_.end() ? last_pfn : next->first;
    return hit_ = std::prev(next);
}

u32 PageMap::id_at(u64 pfn) const {
    const auto at = locate(pfn);
    return at->second.pages ? at->second.pages[pfn - at->first] : at->second.id;
}

PageMap::Block PageMap::find(Pfn pfn) const {
    const PageMeta& meta = metas_[id_at(pfn.raw)];
    return {Pfn{align_down(pfn.raw, meta.order.pages())}, meta};
}

PageMap::Run PageMap::run_from(Pfn pfn, Pfn end) const {
    const auto at = locate(pfn.raw);
    const u64 stretch_end = hit_end_;
    const Block block = find(pfn);
    const u64 pages = block.meta.order.pages();
    u64 stop = std::min(stretch_end, end.raw);
    if (const u32* ids = at->second.pages.get()) {
        const u32 id = ids[pfn.raw - at->first];
        u64 scan = block.head.raw + pages;
        while (scan < stop && ids[scan - at->first] == id) scan += pages;
        stop = scan;
    }
    return {block.head, std::max<u64>((stop - block.head.raw + pages - 1) >> block.meta.order.raw, 1), block.meta};
}

void PageMap::set(Pfn pfn, u64 count, const PageMeta& meta) {
    if (count == 0) return;
    const u64 begin = pfn.raw, end = begin + (count << meta.order.raw);
    INVARIANT((begin & (meta.order.pages() - 1)) == 0);
    INVARIANT(find(pfn).head == pfn);
    INVARIANT(find(Pfn{end}).head.raw == end);
    assign(begin, end, intern(meta));
}

/// The ends of the range may lie inside dense sections; those parts are array entries, the rest is one stretch.
void PageMap::assign(u64 begin, u64 end, u32 id) {
    const auto first = locate(begin);
    if (!first->second.pages && first->second.id == id && end <= hit_end_) return;
    if (u32* ids = first->second.pages.get(); ids && (begin != first->first || end < first->first + section_pages)) {
        const u64 stop = std::min(end, first->first + section_pages);
        std::fill(ids + (begin - first->first), ids + (stop - first->first), id);
        begin = stop;
    }
    if (begin == end) return;
    const auto last = locate(end - 1);
    if (u32* ids = last->second.pages.get(); ids && end != last->first + section_pages) {
        std::fill(ids, ids + (end - last->first), id);
        end = last->first;
    }
    if (begin < end) replace(begin, end, id);
}

/// One stretch for [begin, end), merged with its neighbours where they are the same.
void PageMap::replace(u64 begin, u64 end, u32 id) {
    const auto at = split(begin);
    const auto stop = split(end);
    for (auto old = std::next(at); old != stop;) erase(old++);
    hit_end_ = 0;
    if (at->second.pages) --dense_sections_;
    at->second = Stretch{id, nullptr};
    const auto same = [id](Stretches::iterator other) { return !other->second.pages && other->second.id == id; };
    if (stop != stretches_.end() && same(stop)) erase(stop);
    if (at != stretches_.begin() && same(std::prev(at))) erase(at);
    densify_if_crowded(begin);
    densify_if_crowded(end);
}

/// Makes a stretch begin at `pfn`. The caller has seen to it that this cuts no dense section.
PageMap::Stretches::iterator PageMap::split(u64 pfn) {
    if (pfn == last_pfn) return stretches_.end();
    const auto at = locate(pfn);
    if (at->first == pfn) return at;
    INVARIANT(!at->second.pages);
    hit_end_ = 0;
    const u64 section = pfn / section_pages;
    if (section < section_count_max) {
        if (section >= stretches_in_section_.size()) stretches_in_section_.resize(section + 1);
        ++stretches_in_section_[section];
    }
    return stretches_.emplace_hint(std::next(at), pfn, Stretch{at->second.id, nullptr});
}

void PageMap::erase(Stretches::iterator at) {
    const u64 section = at->first / section_pages;
    if (section < stretches_in_section_.size() && stretches_in_section_[section]) --stretches_in_section_[section];
    if (at->second.pages) --dense_sections_;
    stretches_.erase(at);
    hit_end_ = 0;
}

/// A block larger than a section fills the sections it touches, so a section that many stretches begin in has none.
void PageMap::densify_if_crowded(u64 pfn) {
    const u64 section = pfn / section_pages;
    if (section >= stretches_in_section_.size() || stretches_in_section_[section] <= crowded) return;
    const u64 begin = section_begin(pfn), end = begin + section_pages;
    auto at = split(begin);
    const auto stop = split(end);
    auto pages = std::make_unique_for_overwrite<u32[]>(section_pages);
    for (auto part = at; part != stop; ++part) {
        const auto next = std::next(part);
        std::fill(pages.get() + (part->first - begin), pages.get() + (std::min(next->first, end) - begin),
                  part->second.id);
    }
    for (auto old = std::next(at); old != stop;) erase(old++);
    at->second = Stretch{0, std::move(pages)};
    ++dense_sections_;
    hit_end_ = 0;
}

u64 PageMap::bytes_used() const {
    constexpr u64 node_bytes = 80;  // a tree node of the standard library with its heap header
    return sizeof *this + stretches_.size() * node_bytes + dense_sections_ * section_pages * sizeof(u32) +
           metas_.size() * 3 * sizeof(PageMeta) + stretches_in_section_.size() * sizeof(u16);
}

}  // namespace kexec_sim
