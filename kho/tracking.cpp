#include "kho/tracking.hpp"

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
    if (edition.bitmap_bytes < page_bytes)
        slab_.emplace(kernel.pages, kernel.machine, edition.bitmap_bytes, bitmap_site, FrameClass::kho);
}

// Bitmaps stay in RAM: the successor reads them after this kernel is gone.
Tracking::~Tracking() = default;

void Tracking::remember(Order order, u64 index, u64* words) {
    last_order_ = order;
    last_index_ = index;
    last_words_ = words;
    last_bytes_shift_ = static_cast<u8>(order.raw + page_shift);
}

Result<> Tracking::set_elsewhere(Pfn pfn, Order order) {
    const u64 block = pfn.raw >> order.raw, index = block >> bits_shift_;
    const Bitmap* bitmap = find(order, index);
    if (!bitmap) bitmap = TRY(find_or_create(order, index));
    remember(order, index, bitmap->words);
    set_bit(bitmap->words, block & bits_mask_);
    return {};
}

Result<const Tracking::Bitmap*> Tracking::find_or_create(Order order, u64 index) {
    FaultInjector& faults = kernel_.machine.faults;
    auto& orders = orders_[order.raw];
    if (!orders) {
        TRY(faults.check(FaultPoint::kho_track, "order"));
        orders = std::make_unique<OrderIndex>();
        const u64 blocks = (kernel_.machine.ram.bytes_max() >> page_shift) >> order.raw;
        orders->leaves.resize((blocks >> bits_shift_) / leaf_bitmaps + 1);
    }
    TRY(faults.check(FaultPoint::kho_track, "bitmap"));
    const Bitmap fresh = TRY(new_bitmap());
    ++bitmaps_;
    const u64 leaf = index / leaf_bitmaps;
    if (leaf >= orders->leaves.size()) return &(orders->beyond_ram[index] = fresh);
    if (!orders->leaves[leaf]) orders->leaves[leaf] = std::make_unique<Leaf>();
    Bitmap& slot = (*orders->leaves[leaf])[index % leaf_bitmaps];
    slot = fresh;
    return &slot;
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
            kernel_.log.warn_on("KHO: a tracking bitmap lies in a scratch area", true);
            kernel_.pages.free_folio(folio);
            return fail(Errno::einval);
        }
    }
    // Frames are handed out zeroed; from here on the bitmap is changed through the host pointer.
    std::byte* host = kernel_.machine.ram.writable(phys_range(phys, edition_.bitmap_bytes));
    return Bitmap{reinterpret_cast<u64*>(host), phys};
}

Tracking::Run Tracking::set_pages(PfnRange run) {
    for (Pfn pfn = run.begin; pfn < run.end;) {
        if (const auto set_first = set(pfn, Order{0}); !set_first) return {pfn - run.begin, set_first.error()};
        // The rest of the run inside this bitmap goes word by word.
        const u64 bitmap_end = (last_index_ + 1) << bits_shift_;
        u64 bit = (pfn.raw & bits_mask_) + 1;
        const u64 end = bit + std::min(run.end.raw, bitmap_end) - pfn.raw - 1;
        if (abi_write_dropped("kho.bitmap.bit")) bit = end;
        while (bit < end) {
            const u64 in_word = std::min(end - bit, 64 - (bit & 63));
            const u64 mask = (in_word == 64 ? ~u64{0} : (u64{1} << in_word) - 1) << (bit & 63);
            u64& word = last_words_[bit >> 6];
            const u64 fresh = static_cast<u64>(std::popcount(mask & ~word));
            word |= mask;
            blocks_ += fresh;
            bytes_ += fresh << page_shift;
            bit += in_word;
        }
        pfn = Pfn{std::min(run.end.raw, bitmap_end)};
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

void Tracking::clear(Pfn pfn, Order order) {
    const u64 block = pfn.raw >> order.raw;
    const Bitmap* bitmap = find(order, block >> bits_shift_);
    if (!bitmap) return;
    u64& word = bitmap->words[(block & bits_mask_) >> 6];
    const u64 mask = u64{1} << (block & 63);
    if (!(word & mask)) return;
    word &= ~mask;
    --blocks_;
    bytes_ -= order.bytes();
}

void Tracking::clear_pages(PfnRange run) {
    for (Pfn pfn = run.begin; pfn < run.end; pfn = pfn + 1) clear(pfn, Order{0});
}

// Split anew from the range's own ends: only the same range as was set hits the same blocks.
void Tracking::clear_range(PfnRange range) {
    for (Pfn pfn = range.begin; pfn < range.end;) {
        const Order order = split_order(pfn, range.end);
        clear(pfn, order);
        pfn = pfn + order.pages();
    }
}

bool Tracking::test(Pfn pfn, Order order) const {
    const u64 block = pfn.raw >> order.raw;
    const Bitmap* bitmap = find(order, block >> bits_shift_);
    return bitmap && ((bitmap->words[(block & bits_mask_) >> 6] >> (block & 63)) & 1);
}

void Tracking::forget() {
    for_each([this](Order, u64, const Bitmap& bitmap) {
        if (slab_)
            slab_->free(bitmap.phys);
        else
            kernel_.pages.free_folio({bitmap.phys.pfn(), Order{0}});
        return true;
    });
    for (auto& orders : orders_) orders.reset();
    remember_nothing();
    blocks_ = bytes_ = bitmaps_ = 0;
}

std::vector<u64> Tracking::sorted_indexes(const OrderIndex& index) const {
    std::vector<u64> indexes;
    for (u64 leaf = 0; leaf < index.leaves.size(); ++leaf) {
        if (!index.leaves[leaf]) continue;
        for (u64 i = 0; i < leaf_bitmaps; ++i)
            if ((*index.leaves[leaf])[i].words) indexes.push_back(leaf * leaf_bitmaps + i);
    }
    for (const auto& [beyond, bitmap] : index.beyond_ram) indexes.push_back(beyond);
    return indexes;
}

u64 Tracking::bitmap_pages() const { return slab_ ? slab_->pages_used() : bitmaps_; }

}  // namespace kexec_sim::kho
