#include "kernel-model/frame_set.hpp"

#include <algorithm>
#include <bit>

namespace kexec_sim {
namespace {

/// The bits of [begin, end) in the word of `begin`, which `end` does not go beyond.
constexpr u64 mask_of(u64 begin, u64 end) {
    const u64 count = end - begin;
    return (count == 64 ? ~u64{0} : (u64{1} << count) - 1) << (begin & 63);
}
constexpr u64 word_end(u64 pfn) { return (pfn | 63) + 1; }

}  // namespace

void FrameSet::insert(PfnRange frames) {
    for (u64 at = frames.begin.raw; at < frames.end.raw;) {
        std::unique_ptr<Section>& section = sections_[at >> section_shift];
        if (!section) section = std::make_unique<Section>();
        const u64 stop = std::min(frames.end.raw, ((at >> section_shift) + 1) << section_shift);
        while (at < stop) {
            const u64 end = std::min(stop, word_end(at));
            u64& word = section->words[(at & (section_pages - 1)) >> 6];
            const u64 mask = mask_of(at, end);
            section->members += static_cast<u64>(std::popcount(mask & ~word));
            word |= mask;
            at = end;
        }
    }
}

void FrameSet::erase(PfnRange frames) {
    auto entry = sections_.lower_bound(frames.begin.raw >> section_shift);
    while (entry != sections_.end() && entry->first << section_shift < frames.end.raw) {
        Section& section = *entry->second;
        u64 at = std::max(frames.begin.raw, entry->first << section_shift);
        const u64 stop = std::min(frames.end.raw, (entry->first + 1) << section_shift);
        while (at < stop) {
            const u64 end = std::min(stop, word_end(at));
            u64& word = section.words[(at & (section_pages - 1)) >> 6];
            const u64 mask = mask_of(at, end);
            section.members -= static_cast<u64>(std::popcount(mask & word));
            word &= ~mask;
            at = end;
        }
        entry = section.members ? std::next(entry) : sections_.erase(entry);
    }
}

Pfn FrameSet::next_member(PfnRange frames) const {
    auto entry = sections_.lower_bound(frames.begin.raw >> section_shift);
    for (; entry != sections_.end() && entry->first << section_shift < frames.end.raw; ++entry) {
        u64 at = std::max(frames.begin.raw, entry->first << section_shift);
        const u64 stop = std::min(frames.end.raw, (entry->first + 1) << section_shift);
        for (; at < stop; at = word_end(at)) {
            const u64 word = entry->second->words[(at & (section_pages - 1)) >> 6] >> (at & 63);
            if (word) return std::min(Pfn{at + static_cast<u64>(std::countr_zero(word))}, frames.end);
        }
    }
    return frames.end;
}

Pfn FrameSet::next_gap(PfnRange frames) const {
    u64 at = frames.begin.raw;
    while (at < frames.end.raw) {
        const auto entry = sections_.find(at >> section_shift);
        if (entry == sections_.end()) return Pfn{at};
        const u64 stop = std::min(frames.end.raw, (entry->first + 1) << section_shift);
        for (; at < stop; at = word_end(at)) {
            const u64 gaps = ~entry->second->words[(at & (section_pages - 1)) >> 6] >> (at & 63);
            if (gaps) return std::min(Pfn{at + static_cast<u64>(std::countr_zero(gaps))}, frames.end);
        }
        at = stop;
    }
    return frames.end;
}

std::optional<Pfn> FrameSet::last_member(PfnRange frames) const {
    if (frames.empty()) return std::nullopt;
    auto entry = sections_.upper_bound((frames.end.raw - 1) >> section_shift);
    while (entry != sections_.begin()) {
        --entry;
        const u64 first = entry->first << section_shift;
        if (first + section_pages <= frames.begin.raw) return std::nullopt;
        u64 end = std::min(frames.end.raw, first + section_pages);
        const u64 bottom = std::max(frames.begin.raw, first);
        while (end > bottom) {
            const u64 begin = std::max(bottom, align_down(end - 1, 64));
            const u64 word = entry->second->words[(begin & (section_pages - 1)) >> 6] & mask_of(begin, end);
            if (word) return Pfn{align_down(begin, 64) + 63 - static_cast<u64>(std::countl_zero(word))};
            end = begin;
        }
    }
    return std::nullopt;
}

}  // namespace kexec_sim
