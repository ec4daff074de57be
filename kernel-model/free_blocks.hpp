// One free list of the buddy allocator: the free blocks of one order and one migrate type on one node.
//
// A kernel links free pages through their `struct page`. Here the list must answer other questions as well (is this
// buddy free? which free block is the lowest?) and must cost nothing for terabytes of free memory. Two forms, by
// order:
//
//   order 10    map  block begin -> number of blocks in a row       |0x400 × 262143|
//   below       one bit a block, by section of 128 MiB              section 3: |0000 0100|1000 0000|…
//
// Blocks of the highest order are never merged and come in long rows; of a lower order at most two blocks are
// neighbours (two buddies would have merged), so rows would be of no use there.
//
// Cost: O(log rows) or O(log sections) a call. Unit: frames in, frames out; blocks are aligned to their size.
#pragma once

#include <map>
#include <optional>
#include <vector>

#include "machine/types.hpp"

namespace kexec_sim {

class FreeBlocks {
public:
    explicit FreeBlocks(Order order) : order_(order) {}

    bool contains(Pfn block) const;
    /// `count` blocks in a row, none of them on the list.
    void insert(Pfn block, u64 count);
    /// `count` blocks in a row, all of them on the list.
    void remove(Pfn block, u64 count);
    std::optional<Pfn> lowest() const;
    /// The lowest block that begins at or after `from` (aligned) and below `end`.
    std::optional<Pfn> first_from(Pfn from, Pfn end) const;
    /// The longest row of blocks on the list that begins with `block`, which is on it.
    u64 row_from(Pfn block) const;
    bool empty() const { return blocks_ == 0; }
    u64 blocks() const { return blocks_; }

private:
    struct Section {
        std::vector<u64> words;
        u64 blocks = 0;
        u64 first_word = 0;  // no bit is set in a word before it
    };
    bool in_rows() const { return order_.raw == max_page_order; }
    void insert_row(u64 begin, u64 count);
    void remove_row(u64 begin, u64 count);
    void flip_bit(u64 begin, bool set);

    Order order_;
    u64 blocks_ = 0;
    std::map<u64, u64> rows_;          // frame -> blocks
    std::map<u64, Section> sections_;  // number of the section; none is empty
    /// The section that became empty last, all zero, for the next that is needed: a list that holds one block now and
    /// then would allocate and clear one each time.
    std::map<u64, Section>::node_type spare_;
};

}  // namespace kexec_sim
