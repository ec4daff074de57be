// Tracking: the set of preserved blocks, in bitmaps that lie in simulated RAM.
//
// Two levels, sparse. A block of 2^order pages at `pfn` is number `pfn >> order` of its order; B consecutive numbers share a bitmap
// (B = 4096 for 512 bytes, 32768 for a page):
//
//   order 0 ──► index 18 ──► bitmap at 0x105c0000   |…1…|   bit 837: 0x12345000
//   order 9 ──► index 0  ──► bitmap at 0x105c0200   |…1…|   bit 512: 0x40000000
//
// What is handed over later is exactly these bitmaps; so each bit is set in RAM at once, and the index that finds them
// is the only part that lives outside (it dies with the kernel).
//
// Happy path: 1. The bitmap of the block is looked up; the last one is remembered, since preserving goes mostly in address
// order. 2. The bit is set. Setting twice is the same as setting once; there are no counts.
// Unhappy paths: 1. No memory for a new bitmap: ENOMEM, nothing changed. 2. (6.18) The new bitmap lies in scratch: WARN, EINVAL.
//
// Ranges are split into blocks as large as alignment and length allow: 3..12 becomes (3, order 0) (4, 2) (8, 2).
// Cleared bitmaps stay, and are handed over empty. The same memory may be set in several orders; nothing checks that.
//
// Cost: a few ns a block in address order, two dependent loads more at random; 512 bytes for 16 MiB of order-0 folios.
// Simplified: the kernel's xarray nodes and per-order structures cost no simulated memory.
// Source: Linux 6.16 and 6.18, kernel/kexec_handover.c: __kho_preserve_order, __kho_unpreserve.
#pragma once

#include <array>
#include <bit>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "kernel-model/abi_write.hpp"
#include "kernel-model/kernel.hpp"
#include "kho/abi/kho_v1.hpp"
#include "kho/edition.hpp"

namespace kexec_sim::kho {

inline constexpr std::string_view bitmap_site = "kho.bitmap";

class Tracking {
public:
    /// `scratch` is looked at only by editions that check for overlap; it may change later.
    Tracking(Kernel& kernel, const Edition& edition, const std::vector<PhysRange>& scratch);
    ~Tracking();

    Result<> set(Pfn pfn, Order order) {
        const u64 block = pfn.raw >> order.raw, index = block >> bits_shift_;
        if (index == last_index_ && order == last_order_) {
            set_bit(last_words_, block & bits_mask_);
            return {};
        }
        return set_elsewhere(pfn, order);
    }
    /// set() for each page of the run, ascending, in order 0; how many were set before the first failure.
    struct Run {
        u64 done;
        Errno error;
    };
    Run set_pages(PfnRange run);
    /// Splits the range into blocks and sets each. A failed call clears the blocks that it has set.
    Result<> set_range(PfnRange range);

    /// Clears the block's bit, if it is set.
    void clear(Pfn pfn, Order order);
    void clear_pages(PfnRange run);
    /// Splits the range as set_range() does and clears each block.
    void clear_range(PfnRange range);
    bool test(Pfn pfn, Order order) const;
    /// Frees everything (the abort of mainline kernels).
    void forget();

    struct Bitmap {
        u64* words = nullptr;  // in RAM
        PhysAddr phys;
    };
    /// Every bitmap of every order in ascending order: visit(order, index, bitmap). False from it ends the walk.
    bool for_each(const auto& visit) const {
        for (unsigned order = 0; order < orders_.size(); ++order) {
            if (!orders_[order]) continue;
            for (const u64 index : sorted_indexes(*orders_[order]))
                if (!visit(Order{order}, index, *find(*orders_[order], index))) return false;
        }
        return true;
    }
    u64 blocks() const { return blocks_; }
    u64 bytes() const { return bytes_; }
    u64 bitmap_pages() const;
    u64 bitmaps() const { return bitmaps_; }

    /// The largest block that may start at `pfn` in a range that ends at `end`.
    static Order split_order(Pfn pfn, Pfn end) {
        const unsigned aligned = static_cast<unsigned>(std::countr_zero(pfn.raw));
        const unsigned fits = static_cast<unsigned>(std::bit_width(end - pfn)) - 1;
        return Order{aligned < fits ? aligned : fits};
    }

private:
    // Bitmaps of one order, by index: an array of leaves for the indexes that lie in RAM, a map for any others.
    static constexpr u64 leaf_bitmaps = 64;
    using Leaf = std::array<Bitmap, leaf_bitmaps>;
    struct OrderIndex {
        std::vector<std::unique_ptr<Leaf>> leaves;
        std::map<u64, Bitmap> beyond_ram;
    };

    void set_bit(u64* words, u64 bit) {
        if (abi_write_dropped("kho.bitmap.bit")) return;
        u64& word = words[bit >> 6];
        const u64 mask = u64{1} << (bit & 63);
        const u64 fresh = (word & mask) == 0;
        word |= mask;
        blocks_ += fresh;
        bytes_ += fresh << last_bytes_shift_;
    }
    Result<> set_elsewhere(Pfn pfn, Order order);
    const Bitmap* find(const OrderIndex& orders, u64 index) const {
        const u64 leaf = index / leaf_bitmaps;
        if (leaf < orders.leaves.size()) {
            if (!orders.leaves[leaf]) return nullptr;
            const Bitmap& bitmap = (*orders.leaves[leaf])[index % leaf_bitmaps];
            return bitmap.words ? &bitmap : nullptr;
        }
        const auto found = orders.beyond_ram.find(index);
        return found == orders.beyond_ram.end() ? nullptr : &found->second;
    }
    const Bitmap* find(Order order, u64 index) const {
        return orders_[order.raw] ? find(*orders_[order.raw], index) : nullptr;
    }
    Result<const Bitmap*> find_or_create(Order order, u64 index);
    Result<Bitmap> new_bitmap();
    std::vector<u64> sorted_indexes(const OrderIndex& index) const;
    void remember(Order order, u64 index, u64* words);
    void remember_nothing() { last_index_ = ~u64{0}; }

    Kernel& kernel_;
    const Edition& edition_;
    const std::vector<PhysRange>& scratch_;
    std::optional<SlabCache> slab_;  // bitmaps smaller than a page
    unsigned bits_shift_;
    u64 bits_mask_;
    std::array<std::unique_ptr<OrderIndex>, abi::map_order_max + 1> orders_;

    u64 last_index_ = ~u64{0};
    u64* last_words_ = nullptr;
    Order last_order_;
    u8 last_bytes_shift_ = 0;

    u64 blocks_ = 0, bytes_ = 0, bitmaps_ = 0;
};

/// True if the range shares a frame with a scratch area.
bool overlaps_scratch(const std::vector<PhysRange>& scratch, PhysRange range);

}  // namespace kexec_sim::kho
