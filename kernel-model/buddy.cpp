#include "kernel-model/buddy.hpp"

#include <algorithm>
#include <utility>

#include "machine/result.hpp"

namespace kexec_sim {
namespace {

/// The largest block that begins at `begin` and ends at or before `end`.
unsigned fitting_order(u64 begin, u64 end) {
    const unsigned by_size = static_cast<unsigned>(std::bit_width(end - begin)) - 1;
    const unsigned by_place = begin ? static_cast<unsigned>(std::countr_zero(begin)) : 63;
    return std::min({by_size, by_place, unsigned{max_page_order}});
}

template <std::size_t... I> std::array<FreeBlocks, sizeof...(I)> lists_of_all_orders(std::index_sequence<I...>) {
    return {FreeBlocks(Order{static_cast<unsigned>(I)})...};
}
auto empty_lists() { return lists_of_all_orders(std::make_index_sequence<max_page_order + 1>()); }

}  // namespace

Buddy::Buddy() : lists_{empty_lists(), empty_lists(), empty_lists()} {}

void Buddy::insert(PfnRange frames, MigrateType type) {
    u64 at = frames.begin.raw;
    const u64 end = frames.end.raw;
    free_ += frames.pages();
    free_by_type_[static_cast<std::size_t>(type)] += frames.pages();
    while (at < end) {
        const unsigned order = fitting_order(at, end);
        if (order == max_page_order) {
            const u64 blocks = (end - at) >> order;
            list(type, order).insert(Pfn{at}, blocks);
            at += blocks << order;
        } else {
            insert_block(at, order, type);
            at += u64{1} << order;
        }
    }
}

void Buddy::insert_block(u64 pfn, unsigned order, MigrateType type) {
    for (; order < max_page_order; ++order) {
        const u64 buddy = pfn ^ (u64{1} << order);
        FreeBlocks& blocks = list(type, order);
        if (!blocks.contains(Pfn{buddy})) break;
        blocks.remove(Pfn{buddy}, 1);
        pfn = std::min(pfn, buddy);
    }
    list(type, order).insert(Pfn{pfn}, 1);
}

/// What is left of a split block: its other half is in use, so there is nothing to merge with.
void Buddy::put_back(u64 begin, u64 end, MigrateType type) {
    while (begin < end) {
        const unsigned order = fitting_order(begin, end);
        list(type, order).insert(Pfn{begin}, 1);
        begin += u64{1} << order;
    }
}

void Buddy::remove(PfnRange frames, MigrateType type) {
    free_ -= frames.pages();
    free_by_type_[static_cast<std::size_t>(type)] -= frames.pages();
    for (u64 at = frames.begin.raw; at < frames.end.raw;) {
        const auto block = block_with(Pfn{at}, type);
        INVARIANT(block);
        const u64 begin = block->pfn.raw, pages = block->order.pages();
        u64 blocks = 1;
        if (block->order.raw == max_page_order)
            blocks = std::min(list(type, max_page_order).row_from(block->pfn),
                              (frames.end.raw - begin + pages - 1) / pages);
        const u64 end = begin + blocks * pages;
        list(type, block->order.raw).remove(block->pfn, blocks);
        put_back(begin, at, type);
        if (end > frames.end.raw) put_back(frames.end.raw, end, type);
        at = end;
    }
}

std::optional<Folio> Buddy::smallest(MigrateType type, Order order) const {
    for (unsigned o = order.raw; o <= max_page_order; ++o)
        if (const auto pfn = list(type, o).lowest()) return Folio{*pfn, Order{o}};
    return std::nullopt;
}

std::optional<Folio> Buddy::largest(MigrateType type, Order order) const {
    for (unsigned o = max_page_order + 1; o-- > order.raw;)
        if (const auto pfn = list(type, o).lowest()) return Folio{*pfn, Order{o}};
    return std::nullopt;
}

std::optional<Folio> Buddy::block_with(Pfn pfn, MigrateType type) const {
    for (unsigned o = 0; o <= max_page_order; ++o) {
        const Pfn head{align_down(pfn.raw, u64{1} << o)};
        if (list(type, o).contains(head)) return Folio{head, Order{o}};
    }
    return std::nullopt;
}

PfnRange Buddy::row_of(Folio block, MigrateType type) const {
    if (block.order.raw != max_page_order) return block.frames();
    return pfn_range(block.pfn, list(type, max_page_order).row_from(block.pfn) << max_page_order);
}

u64 Buddy::free_in(PfnRange frames, MigrateType type) const {
    u64 free = 0;
    for (unsigned o = 0; o <= max_page_order; ++o) {
        const FreeBlocks& blocks = list(type, o);
        const u64 pages = u64{1} << o;
        Pfn from{align_down(frames.begin.raw, pages)};
        while (const auto block = blocks.first_from(from, frames.end)) {
            const u64 row = o == max_page_order ? blocks.row_from(*block) : 1;
            const PfnRange part{std::max(*block, frames.begin), std::min(*block + row * pages, frames.end)};
            free += part.pages();
            from = *block + row * pages;
        }
    }
    return free;
}

u64 Buddy::count(MigrateType type) const {
    u64 frames = 0;
    for (unsigned o = 0; o <= max_page_order; ++o) frames += list(type, o).blocks() << o;
    return frames;
}

MigrateType PageblockTypes::of(Pfn pfn) const { return std::prev(stretches_.upper_bound(pfn.raw))->second; }

PfnRange PageblockTypes::alike_from(Pfn from, Pfn end) const {
    const auto next = stretches_.upper_bound(from.raw);
    return {from, next == stretches_.end() ? end : std::min(end, Pfn{next->first})};
}

void PageblockTypes::set(PfnRange pageblocks, MigrateType type) {
    if (pageblocks.empty()) return;
    const MigrateType after = of(pageblocks.end);
    stretches_.erase(stretches_.lower_bound(pageblocks.begin.raw), stretches_.upper_bound(pageblocks.end.raw));
    const auto place = [this](u64 pfn, MigrateType wanted) {
        const auto next = stretches_.lower_bound(pfn);
        if (next == stretches_.begin() || std::prev(next)->second != wanted) stretches_.emplace(pfn, wanted);
    };
    place(pageblocks.begin.raw, type);
    place(pageblocks.end.raw, after);
}

}  // namespace kexec_sim
