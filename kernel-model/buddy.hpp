// The buddy system of one node.
//
// Problem: hand out 2^order frames in a row, aligned to their size, and put freed ones together again. A block of
// order k has one buddy, the block whose number differs in bit k only; two free buddies become one block of order k +
// 1.
//
//   order 2    |        0        |                take order 0:  0 is split, 1 and 2 go to the lists
//   order 1    |   0    |   2    |
//   order 0    | 0 | 1  | 2 | 3  |                give 0 back:   0+1, then 0+2 are put together
//
// Free blocks are kept by migrate type as well: a block is on the list of the type that its pageblocks have (2 MiB
// each), and buddies of different types stay apart. Blocks are taken from the smallest order that is large enough,
// lowest address first.
//
// B1  a frame is on at most one list, in one block.  B2  two free buddies of one type are never both on a list below
// order 10. B3  `free` is the number of frames on the lists.  Cost: O(orders × log) a call; rows of order-10 blocks
// count as one. Source: Linux 6.16, mm/page_alloc.c. Simplified: one zone a node, no per-cpu lists, lowest address
// instead of last freed.
#pragma once

#include <array>
#include <map>
#include <optional>

#include "kernel-model/free_blocks.hpp"

namespace kexec_sim {

enum class MigrateType : u8 { unmovable, movable, cma };
inline constexpr std::size_t migrate_types = 3;

class Buddy {
public:
    Buddy();
    /// Puts frames on the lists of `type`, merged with the free buddies there.
    void insert(PfnRange frames, MigrateType type);
    /// Takes frames off the lists of `type`, where all of them are; blocks that the edges cut are split.
    void remove(PfnRange frames, MigrateType type);

    /// The block to take for a request of `order`: smallest order that fits, lowest address.
    std::optional<Folio> smallest(MigrateType type, Order order) const;
    /// The block to take over from another type: largest order of at least `order`, lowest address.
    std::optional<Folio> largest(MigrateType type, Order order) const;
    /// The free block that contains `pfn`, if it is free with this type.
    std::optional<Folio> block_with(Pfn pfn, MigrateType type) const;
    /// All frames in a row from the block on: more than the block where blocks of order 10 follow one another.
    PfnRange row_of(Folio block, MigrateType type) const;

    /// How many frames of the range are on the lists of `type`.
    u64 free_in(PfnRange frames, MigrateType type) const;

    u64 free() const { return free_; }
    u64 free(MigrateType type) const { return free_by_type_[static_cast<std::size_t>(type)]; }
    /// The same, counted anew from the lists (B3).
    u64 count(MigrateType type) const;

private:
    FreeBlocks& list(MigrateType type, unsigned order) { return lists_[static_cast<std::size_t>(type)][order]; }
    const FreeBlocks& list(MigrateType type, unsigned order) const {
        return lists_[static_cast<std::size_t>(type)][order];
    }
    void insert_block(u64 pfn, unsigned order, MigrateType type);
    void put_back(u64 begin, u64 end, MigrateType type);

    std::array<std::array<FreeBlocks, max_page_order + 1>, migrate_types> lists_;
    std::array<u64, migrate_types> free_by_type_{};
    u64 free_ = 0;
};

/// The migrate type of every pageblock: movable until somebody says otherwise.
class PageblockTypes {
public:
    PageblockTypes() { stretches_.emplace(0, MigrateType::movable); }
    MigrateType of(Pfn pfn) const;
    /// The frames from `from` up to `end` at most whose pageblocks are of one type.
    PfnRange alike_from(Pfn from, Pfn end) const;
    void set(PfnRange pageblocks, MigrateType type);

private:
    std::map<u64, MigrateType> stretches_;  // from this frame on
};

}  // namespace kexec_sim
