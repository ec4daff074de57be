#include "kho/tracking.hpp"
#include "kernel-model/loop_guard.hpp"
#include "machine/reached.hpp"

#include <algorithm>

namespace kexec_sim::kho {

bool overlaps_scratch(const std::vector<PhysRange>& scratch, PhysRange range) {
    return std::ranges::any_of(scratch, [&](const PhysRange& area) { return area.overlaps(range); });
}

Tracking::Tracking(Kernel& kernel, const Edition& edition, const std::vector<PhysRange>& scratch)
    : kernel_(kernel),
      edition_(edition),
      scratch_(scratch),
      bits_shift_(static_cast<unsigned>(std::countr_zero(edition.bits_per_bitmap()))),
      bits_mask_(edition.bits_per_bitmap() - 1) {
    INVARIANT(std::has_single_bit(edition.bitmap_bytes));
    INVARIANT(edition.bitmap_bytes <= page_bytes);
    waiting_.fill({&nothing_, 0});
    if (edition.bitmap_bytes < page_bytes)
        slab_.emplace(kernel.pages, kernel.machine, edition.bitmap_bytes, bitmap_site, FrameClass::kho);
}

// Bitmaps stay in RAM: the successor reads them after this kernel is gone.
Tracking::~Tracking() = default;

// Remembered is only what set_again() may take without a question: no write that a test leaves out, and in editions
// that refuse scratch nothing whose bitmap reaches into it.
void Tracking::remember(Order order, u64 index, u64* words) {
    remember_nothing();
    last_order_ = order;
    last_words_ = words;
    if (detail::abi_write_watched) return;
    if (edition_.overlap_check) {
        const PhysAddr begin{(index << bits_shift_) << (order.raw + page_shift)};
        if (overlaps_scratch(scratch_, phys_range(begin, edition_.bits_per_bitmap() * order.bytes()))) return;
    }
    last_index_ = index;
}

Result<> Tracking::set(Pfn pfn, Order order) {
    const u64 block = pfn.raw >> order.raw, index = block >> bits_shift_;
    Bitmap bitmap = find(order, index);
    if (!bitmap.words) [[unlikely]]
        bitmap = TRY(create(order, index));
    remember(order, index, bitmap.words);
    if (!abi_write_dropped("kho.bitmap.bit")) set_bit(bitmap.words, block & bits_mask_);
    return {};
}

Result<Tracking::Bitmap> Tracking::create(Order order, u64 index) {
    FaultInjector& faults = kernel_.machine.faults;
    OrderIndex& bitmaps = orders_[order.raw];
    if (!bitmaps.used()) {
        TRY(faults.check(FaultPoint::kho_track, "order"));
        // KB-02: zeroed memory will do.
        if (!kernel_.config.mutant(Mutant::kb02)) bitmaps.lock.init();
        const u64 blocks = (kernel_.machine.ram.bytes_max() >> page_shift) >> order.raw;
        bitmaps.in_ram.resize((blocks >> bits_shift_) + 1);
    }
    bitmaps.lock.acquire(kernel_.machine, kernel_.log, kernel_.config.debug,
                         fmt::format("the bitmaps of order {}", static_cast<unsigned>(order.raw)));
    TRY(faults.check(FaultPoint::kho_track, "bitmap"));
    const Bitmap fresh = TRY(new_bitmap());
    ++bitmaps_;
    (index < bitmaps.in_ram.size() ? bitmaps.in_ram[index] : bitmaps.beyond_ram[index]) = fresh;
    return fresh;
}

Result<Tracking::Bitmap> Tracking::new_bitmap() {
    PhysAddr phys;
    if (slab_) {
        phys = TRY(slab_->alloc());
    } else {
        const Folio folio =
            TRY(kernel_.pages.alloc_folio({.order = Order{0}, .site = bitmap_site, .frame_class = FrameClass::kho}));
        phys = folio.pfn.phys();
        if (edition_.overlap_check && overlaps_scratch(scratch_, folio.phys())) {
            REACHED("kho.track.bitmap_in_scratch");
            kernel_.log.warn_on("KHO: a tracking bitmap lies in a scratch area", true);
            kernel_.pages.free_folio(folio);
            return fail(Errno::einval);
        }
    }
    // Frames are handed out zeroed; from here on the bitmap is changed through the host pointer.
    std::byte* host = kernel_.machine.ram.writable(phys_range(phys, edition_.bitmap_bytes));
    const Bitmap bitmap{reinterpret_cast<u64*>(host)};
    INVARIANT(bitmap.phys() == phys);
    return bitmap;
}

Tracking::Run Tracking::set_pages(PfnRange run) {
    for (Pfn pfn = run.begin; pfn < run.end;) {
        if (const auto set_first = set(pfn, Order{0}); !set_first) return {pfn - run.begin, set_first.error()};
        // The rest of the run inside this bitmap goes word by word.
        const Pfn bitmap_end{(pfn.raw | bits_mask_) + 1};
        const Pfn end = std::min(run.end, bitmap_end);
        u64 bit = (pfn.raw & bits_mask_) + 1;
        const u64 bits_end = bit + (end - pfn) - 1;
        if (abi_write_dropped("kho.bitmap.bit")) bit = bits_end;
        while (bit < bits_end) {
            const u64 in_word = std::min(bits_end - bit, 64 - (bit & 63));
            last_words_[bit >> 6] |= (in_word == 64 ? ~u64{0} : (u64{1} << in_word) - 1) << (bit & 63);
            bit += in_word;
        }
        pfn = end;
    }
    return {run.pages(), Errno::ok};
}

Result<> Tracking::set_range(PfnRange range) {
    for (Pfn pfn = range.begin; pfn < range.end;) {
        const Order order = split_order(pfn, range.end);
        if (const auto result = set(pfn, order); !result) {
            if (range.begin < pfn) clear_range({range.begin, pfn});
            return result;
        }
        pfn = pfn + order.pages();
    }
    return {};
}

bool Tracking::clear(Pfn pfn, Order order) {
    settle();
    const u64 block = pfn.raw >> order.raw;
    const Bitmap bitmap = find(order, block >> bits_shift_);
    if (!bitmap.words) return false;
    bitmap.words[(block & bits_mask_) >> 6] &= ~(u64{1} << (block & 63));
    return true;
}

void Tracking::clear_pages(PfnRange run) {
    for (Pfn pfn = run.begin; pfn < run.end; pfn = pfn + 1) clear(pfn, Order{0});
}

// Split anew from the range's own ends: only the same range as was set hits the same blocks.
void Tracking::clear_range(PfnRange range) {
    LoopGuard guard(kernel_.log, "__kho_unpreserve", range.pages());
    for (Pfn pfn = range.begin; pfn < range.end;) {
        guard.turn();
        const Order order = split_order(pfn, range.end);
        // KB-07: what is not tracked is passed over, but the loop stays where it is.
        if (!clear(pfn, order) && kernel_.config.mutant(Mutant::kb07)) continue;
        pfn = pfn + order.pages();
    }
}

bool Tracking::test(Pfn pfn, Order order) const {
    settle();
    const u64 block = pfn.raw >> order.raw;
    const Bitmap bitmap = find(order, block >> bits_shift_);
    return bitmap.words && ((bitmap.words[(block & bits_mask_) >> 6] >> (block & 63)) & 1);
}

void Tracking::forget() {
    for_each([this](Order, u64, const Bitmap& bitmap) {
        if (slab_)
            slab_->free(bitmap.phys());
        else
            kernel_.pages.free_folio({bitmap.phys().pfn(), Order{0}});
        return true;
    });
    for (OrderIndex& bitmaps : orders_) bitmaps = {};
    remember_nothing();
    bitmaps_ = 0;
}

Tracking::Count Tracking::count() const {
    Count total;
    for_each([&](Order order, u64, const Bitmap& bitmap) {
        u64 set = 0;
        for (u64 word = 0; word < edition_.bitmap_bytes / sizeof(u64); ++word)
            set += static_cast<u64>(std::popcount(bitmap.words[word]));
        total.blocks += set;
        total.bytes += set * order.bytes();
        return true;
    });
    return total;
}

u64 Tracking::bitmap_pages() const { return slab_ ? slab_->pages_used() : bitmaps_; }

}  // namespace kexec_sim::kho
