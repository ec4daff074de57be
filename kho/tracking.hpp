// Tracking: the set of preserved blocks, in bitmaps that lie in simulated RAM.
//
// Two levels, sparse. A block of 2^order pages at `pfn` is number `pfn >> order` of its order; B consecutive numbers
// share a bitmap (B = 4096 for 512 bytes, 32768 for a page):
//
//   order 0 ──► index 18 ──► bitmap at 0x105c0000   |…1…|   bit 837: 0x12345000
//   order 9 ──► index 0  ──► bitmap at 0x105c0200   |…1…|   bit 512: 0x40000000
//
// What is handed over later is exactly these bitmaps; so bits are set in RAM, and the index that finds them is the only
// part that lives outside (it dies with the kernel).
//
// Happy path: 1. The bitmap of the block is looked up; the last one is remembered, since preserving goes mostly in
// address order. 2. The bit is set. Setting twice is the same as setting once; there are no counts. Unhappy paths: 1.
// No memory for a new bitmap: ENOMEM, nothing changed. 2. (6.18) The new bitmap lies in scratch: WARN, EINVAL.
//
// Ranges are split into blocks as large as alignment and length allow: 3..12 becomes (3, order 0) (4, 2) (8, 2).
// Cleared bitmaps stay, and are handed over empty. The same memory may be set in several orders; nothing checks that.
//
// At random every bit is a cache miss, and a write that misses holds up all that follow. So the word of a block in
// another bitmap than the one before is only fetched at first, and its bit set sixteen blocks later. Nobody can tell:
// nothing names a bitmap before the map is serialized, and whoever reads or clears bits has the waiting ones set
// first.
//
// Cost: a few ns a block in address order, twice as much at random; 512 bytes for 16 MiB of order-0 folios.
// Simplified: the kernel's xarray nodes and per-order structures cost no simulated memory.
// Source: Linux 6.16 and 6.18, kernel/kexec_handover.c: __kho_preserve_order, __kho_unpreserve.
#pragma once

#include <array>
#include <bit>
#include <map>
#include <optional>
#include <vector>

#include "kernel-model/abi_write.hpp"
#include "kernel-model/init_lock.hpp"
#include "kernel-model/kernel.hpp"
#include "kho/abi/kho_v1.hpp"
#include "kho/edition.hpp"

namespace kexec_sim::kho {

inline constexpr std::string_view bitmap_site = "kho.bitmap";

class Tracking {
public:
    /// `scratch` is looked at only by editions that check for overlap; it may change later.
    Tracking(Kernel& kernel, const Edition& edition, const std::vector<PhysRange>& scratch);
    Tracking(const Tracking&) = delete;
    Tracking& operator=(const Tracking&) = delete;
    ~Tracking();

    /// The commonest case and nothing else: a block in a bitmap that exists, after one of the same order that nothing
    /// could refuse. False: not done, call set().
    bool set_again(Pfn pfn, Order order) {
        const u64 block = pfn.raw >> order.raw, index = block >> bits_shift_, bit = block & bits_mask_;
        if (index == last_index_ && order == last_order_) [[likely]] {
            set_bit(last_words_, bit);
            return true;
        }
        if (!move_to(order, index)) return false;
        set_bit_later(last_words_, bit);
        return true;
    }
    Result<> set(Pfn pfn, Order order);
    /// set() for each page of the run, ascending, in order 0; how many were set before the first failure.
    struct Run {
        u64 done;
        Errno error;
    };
    Run set_pages(PfnRange run);
    /// Splits the range into blocks and sets each. A failed call clears the blocks that it has set.
    Result<> set_range(PfnRange range);

    /// Clears the block's bit, if it is set. False: there is no bitmap that could have it.
    bool clear(Pfn pfn, Order order);
    void clear_pages(PfnRange run);
    /// Splits the range as set_range() does and clears each block.
    void clear_range(PfnRange range);
    bool test(Pfn pfn, Order order) const;
    /// Frees everything (the abort of mainline kernels).
    void forget();
    /// Sets the bits that wait; asked for before anything but this class may read bitmaps.
    void settle() const {
        for (Waiting& place : waiting_) {
            *place.word |= place.mask;
            place = {&nothing_, 0};
        }
    }
    /// The next set_again() is false, whatever it asks for.
    void remember_nothing() { last_index_ = no_index; }

    /// A bitmap in RAM, by its address in the host's mapping.
    struct Bitmap {
        u64* words = nullptr;
        PhysAddr phys() const { return PhysAddr{reinterpret_cast<u64>(words) - ram_base}; }
    };
    /// Every bitmap of every order in ascending order: visit(order, index, bitmap). False from it ends the walk.
    bool for_each(const auto& visit) const {
        settle();
        for (unsigned order = 0; order < orders_.size(); ++order) {
            const OrderIndex& bitmaps = orders_[order];
            for (u64 index = 0; index < bitmaps.in_ram.size(); ++index)
                if (bitmaps.in_ram[index].words && !visit(Order{order}, index, bitmaps.in_ram[index])) return false;
            for (const auto& [index, bitmap] : bitmaps.beyond_ram)
                if (!visit(Order{order}, index, bitmap)) return false;
        }
        return true;
    }

    /// Set bits and the memory they stand for, counted anew at each call.
    struct Count {
        u64 blocks = 0, bytes = 0;
    };
    Count count() const;
    u64 bitmap_pages() const;

    /// The largest block that may start at `pfn` in a range that ends at `end`.
    static Order split_order(Pfn pfn, Pfn end) {
        const unsigned aligned = static_cast<unsigned>(std::countr_zero(pfn.raw));
        const unsigned fits = static_cast<unsigned>(std::bit_width(end - pfn)) - 1;
        return Order{aligned < fits ? aligned : fits};
    }

private:
    // Bitmaps of one order by index: an array for the indexes that lie in RAM, a map for any others.
    struct OrderIndex {
        std::vector<Bitmap> in_ram;
        std::map<u64, Bitmap> beyond_ram;
        InitLock lock;
        bool used() const { return !in_ram.empty(); }
    };
    static constexpr u64 no_index = ~u64{0};

    /// Remembers another bitmap of the order of the last one, if there is one and nothing has to be asked about it.
    bool move_to(Order order, u64 index) {
        if (last_index_ == no_index || order != last_order_ || edition_.overlap_check) return false;
        const std::vector<Bitmap>& bitmaps = orders_[order.raw].in_ram;
        if (index >= bitmaps.size() || !bitmaps[index].words) return false;
        last_index_ = index;
        last_words_ = bitmaps[index].words;
        return true;
    }
    static void set_bit(u64* words, u64 bit) { words[bit >> 6] |= u64{1} << (bit & 63); }
    void set_bit_later(u64* words, u64 bit) {
        Waiting& place = waiting_[next_waiting_++ % waiting_.size()];
        *place.word |= place.mask;
        place = {words + (bit >> 6), u64{1} << (bit & 63)};
        __builtin_prefetch(place.word, 1);
    }
    Bitmap find(Order order, u64 index) const {
        const OrderIndex& bitmaps = orders_[order.raw];
        if (index < bitmaps.in_ram.size()) return bitmaps.in_ram[index];
        const auto found = bitmaps.beyond_ram.find(index);
        return found == bitmaps.beyond_ram.end() ? Bitmap{} : found->second;
    }
    Result<Bitmap> create(Order order, u64 index);
    Result<Bitmap> new_bitmap();
    void remember(Order order, u64 index, u64* words);

    Kernel& kernel_;
    const Edition& edition_;
    const std::vector<PhysRange>& scratch_;
    std::optional<SlabCache> slab_;  // bitmaps smaller than a page
    unsigned bits_shift_;
    u64 bits_mask_;

    // Bits that set_bit_later() will set; an empty place sets nothing in `nothing_`.
    struct Waiting {
        u64* word;
        u64 mask;
    };
    mutable u64 nothing_ = 0;
    mutable std::array<Waiting, 16> waiting_;
    unsigned next_waiting_ = 0;

    // The bitmap of the last set().
    u64 last_index_ = no_index;
    u64* last_words_ = nullptr;
    Order last_order_;

    std::array<OrderIndex, abi::map_order_max + 1> orders_;
    u64 bitmaps_ = 0;
};

/// True if the range shares a frame with a scratch area.
bool overlaps_scratch(const std::vector<PhysRange>& scratch, PhysRange range);

}  // namespace kexec_sim::kho
