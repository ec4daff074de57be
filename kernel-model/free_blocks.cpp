#include "kernel-model/free_blocks.hpp"

#include <algorithm>
#include <bit>

#include "machine/result.hpp"

namespace kexec_sim {
namespace {
constexpr u64 section_shift = 15;
constexpr u64 section_pages = u64{1} << section_shift;
}  // namespace

bool FreeBlocks::contains(Pfn block) const {
    if (blocks_ == 0) return false;
    if (in_rows()) {
        auto row = rows_.upper_bound(block.raw);
        if (row == rows_.begin()) return false;
        --row;
        return block.raw < row->first + (row->second << order_.raw);
    }
    const auto section = sections_.find(block.raw >> section_shift);
    if (section == sections_.end()) return false;
    const u64 bit = (block.raw & (section_pages - 1)) >> order_.raw;
    return (section->second.words[bit >> 6] >> (bit & 63)) & 1;
}

void FreeBlocks::insert(Pfn block, u64 count) {
    blocks_ += count;
    if (in_rows()) return insert_row(block.raw, count);
    for (u64 i = 0; i < count; ++i) flip_bit(block.raw + (i << order_.raw), true);
}

void FreeBlocks::remove(Pfn block, u64 count) {
    INVARIANT(blocks_ >= count);
    blocks_ -= count;
    if (in_rows()) return remove_row(block.raw, count);
    for (u64 i = 0; i < count; ++i) flip_bit(block.raw + (i << order_.raw), false);
}

void FreeBlocks::flip_bit(u64 begin, bool set) {
    auto section = sections_.lower_bound(begin >> section_shift);
    if (section == sections_.end() || section->first != begin >> section_shift) {
        INVARIANT(set);
        if (spare_) {
            spare_.key() = begin >> section_shift;
            section = sections_.insert(section, std::move(spare_));
        } else {
            section = sections_.emplace_hint(section, begin >> section_shift, Section{});
            section->second.words.resize(std::max<u64>((section_pages >> order_.raw) / 64, 1));
        }
    }
    Section& part = section->second;
    const u64 bit = (begin & (section_pages - 1)) >> order_.raw;
    u64& word = part.words[bit >> 6];
    const u64 mask = u64{1} << (bit & 63);
    INVARIANT(((word & mask) != 0) != set);
    word ^= mask;
    if (set) {
        part.first_word = part.blocks ? std::min(part.first_word, bit >> 6) : bit >> 6;
        ++part.blocks;
    } else if (--part.blocks == 0) {
        spare_ = sections_.extract(section);
    } else {
        while (part.words[part.first_word] == 0) ++part.first_word;
    }
}

void FreeBlocks::insert_row(u64 begin, u64 count) {
    const u64 end = begin + (count << order_.raw);
    const auto next = rows_.lower_bound(begin);
    INVARIANT(next == rows_.end() || next->first >= end);
    if (next != rows_.end() && next->first == end) {
        count += next->second;
        rows_.erase(next);
    }
    auto before = rows_.lower_bound(begin);
    if (before != rows_.begin()) {
        --before;
        const u64 before_end = before->first + (before->second << order_.raw);
        INVARIANT(before_end <= begin);
        if (before_end == begin) {
            before->second += count;
            return;
        }
    }
    rows_.emplace(begin, count);
}

void FreeBlocks::remove_row(u64 begin, u64 count) {
    auto row = rows_.upper_bound(begin);
    INVARIANT(row != rows_.begin());
    --row;
    const u64 first = row->first, blocks = row->second;
    const u64 before = (begin - first) >> order_.raw;
    INVARIANT(before + count <= blocks);
    const u64 after = blocks - before - count;
    if (before)
        row->second = before;
    else
        rows_.erase(row);
    if (after) rows_.emplace(begin + (count << order_.raw), after);
}

std::optional<Pfn> FreeBlocks::lowest() const {
    if (blocks_ == 0) return std::nullopt;
    if (in_rows()) return Pfn{rows_.begin()->first};
    const auto& [number, section] = *sections_.begin();
    const u64 word = section.first_word;
    const u64 bit = word * 64 + static_cast<u64>(std::countr_zero(section.words[word]));
    return Pfn{(number << section_shift) + (bit << order_.raw)};
}

std::optional<Pfn> FreeBlocks::first_from(Pfn from, Pfn end) const {
    if (blocks_ == 0) return std::nullopt;
    if (in_rows()) {
        if (contains(from)) return from < end ? std::optional(from) : std::nullopt;
        const auto row = rows_.lower_bound(from.raw);
        return row != rows_.end() && row->first < end.raw ? std::optional(Pfn{row->first}) : std::nullopt;
    }
    auto section = sections_.lower_bound(from.raw >> section_shift);
    for (; section != sections_.end() && section->first << section_shift < end.raw; ++section) {
        const bool first = section->first == from.raw >> section_shift;
        const u64 first_bit = first ? (from.raw & (section_pages - 1)) >> order_.raw : 0;
        const std::vector<u64>& words = section->second.words;
        for (u64 i = first_bit >> 6; i < words.size(); ++i) {
            u64 word = words[i];
            if (i == first_bit >> 6) word &= ~u64{0} << (first_bit & 63);
            if (!word) continue;
            const u64 bit = i * 64 + static_cast<u64>(std::countr_zero(word));
            const u64 pfn = (section->first << section_shift) + (bit << order_.raw);
            return pfn < end.raw ? std::optional(Pfn{pfn}) : std::nullopt;
        }
    }
    return std::nullopt;
}

u64 FreeBlocks::row_from(Pfn block) const {
    if (in_rows()) {
        const auto row = std::prev(rows_.upper_bound(block.raw));
        return row->second - ((block.raw - row->first) >> order_.raw);
    }
    u64 count = 1;
    while (contains(block + (count << order_.raw))) ++count;
    return count;
}

}  // namespace kexec_sim
