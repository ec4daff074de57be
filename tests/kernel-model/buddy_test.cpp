// The buddy system of one node, enumerated on few frames.
#include "kernel-model/buddy.hpp"

#include <catch2/catch.hpp>

#include "machine/result.hpp"

using namespace kexec_sim;

namespace {

constexpr MigrateType type = MigrateType::movable;

PfnRange frames(u64 begin, u64 end) { return {Pfn{begin}, Pfn{end}}; }

/// The block that `pfn` must be in if exactly the frames of `free` (a bit each, below 16) are free and merged.
std::optional<Folio> expected_block(u32 free, u64 pfn) {
    for (unsigned order = 5; order-- > 0;) {
        const u64 head = align_down(pfn, u64{1} << order);
        const u32 mask = static_cast<u32>(((u64{1} << (u64{1} << order)) - 1) << head);
        if ((free & mask) == mask) return Folio{Pfn{head}, Order{order}};
    }
    return std::nullopt;
}

u64 wrong_blocks(const Buddy& buddy, u32 free) {
    u64 wrong = buddy.free() != static_cast<u64>(std::popcount(free)) || buddy.count(type) != buddy.free();
    for (u64 pfn = 0; pfn < 16; ++pfn) {
        const auto block = buddy.block_with(Pfn{pfn}, type), expected = expected_block(free, pfn);
        wrong += block.has_value() != expected.has_value() || (block && *block != *expected);
    }
    return wrong;
}

}  // namespace

TEST_CASE("freed frames merge with their buddies and with nobody else, in every order of freeing") {
    u64 wrong = 0;
    for (u32 free = 0; free < 0x10000; free += 7) {  // every seventh of all sets of 16 frames
        Buddy up, down;
        for (u64 pfn = 0; pfn < 16; ++pfn)
            if (free >> pfn & 1) up.insert(frames(pfn, pfn + 1), type);
        for (u64 pfn = 16; pfn-- > 0;)
            if (free >> pfn & 1) down.insert(frames(pfn, pfn + 1), type);
        wrong += wrong_blocks(up, free) + wrong_blocks(down, free);
    }
    CHECK(wrong == 0);
}

TEST_CASE("any part can be taken out of a free block, and the rest stays free") {
    u64 wrong = 0;
    for (u64 begin = 0; begin < 16; ++begin)
        for (u64 end = begin + 1; end <= 16; ++end) {
            Buddy buddy;
            buddy.insert(frames(0, 16), type);
            buddy.remove(frames(begin, end), type);
            const u32 taken = static_cast<u32>(((u64{1} << (end - begin)) - 1) << begin);
            wrong += wrong_blocks(buddy, 0xffff & ~taken);
            buddy.insert(frames(begin, end), type);
            wrong += wrong_blocks(buddy, 0xffff);
        }
    CHECK(wrong == 0);
}

TEST_CASE("a list gives its lowest block first, wherever blocks lie") {
    for (unsigned order = 0; order <= max_page_order; ++order) {
        CAPTURE(order);
        FreeBlocks blocks{Order{order}};
        const auto block = [&](u64 index) { return Pfn{index << order}; };
        const u64 indexes[] = {700'000, 5, 99, 64, 63, 1'000'001, 32768, 32767};
        for (const u64 index : indexes) blocks.insert(block(index), 1);
        CHECK(blocks.first_from(block(65), block(99)) == std::nullopt);
        CHECK(blocks.first_from(block(65), block(100)) == block(99));
        CHECK(blocks.first_from(block(100), block(2'000'000)) == block(32767));
        CHECK(blocks.row_from(block(63)) == 2);
        for (const u64 index : {5, 63, 64, 99, 32767, 32768, 700'000, 1'000'001}) {
            CHECK(blocks.lowest() == block(index));
            CHECK(blocks.contains(block(index)));
            blocks.remove(block(index), 1);
            CHECK_FALSE(blocks.contains(block(index)));
        }
        CHECK(blocks.empty());
        CHECK(blocks.lowest() == std::nullopt);
    }
}

TEST_CASE("blocks of the highest order stand in rows") {
    Buddy buddy;
    const u64 block = u64{1} << max_page_order;
    buddy.insert(frames(3, 8 * block + 5), type);
    CHECK(buddy.largest(type, Order{0}) == Folio{Pfn{block}, Order{max_page_order}});
    CHECK(buddy.row_of({Pfn{block}, Order{max_page_order}}, type) == frames(block, 8 * block));
    CHECK(buddy.smallest(type, Order{0}) == Folio{Pfn{3}, Order{0}});
    buddy.remove(frames(4 * block + 1, 4 * block + 2), type);
    CHECK(buddy.row_of({Pfn{block}, Order{max_page_order}}, type) == frames(block, 4 * block));
    CHECK(buddy.free_in(frames(0, 9 * block), type) == buddy.free());
    CHECK(buddy.free_in(frames(4 * block, 5 * block), type) == block - 1);
    buddy.insert(frames(4 * block + 1, 4 * block + 2), type);
    CHECK(buddy.row_of({Pfn{block}, Order{max_page_order}}, type) == frames(block, 8 * block));
}

TEST_CASE("buddies of different migrate types stay apart") {
    Buddy buddy;
    buddy.insert(frames(0, 512), MigrateType::movable);
    buddy.insert(frames(512, 1024), MigrateType::cma);
    CHECK(buddy.block_with(Pfn{0}, MigrateType::movable) == Folio{Pfn{0}, Order{9}});
    CHECK(buddy.block_with(Pfn{512}, MigrateType::cma) == Folio{Pfn{512}, Order{9}});
    CHECK_FALSE(buddy.block_with(Pfn{512}, MigrateType::movable));
}

TEST_CASE("taking what is not free is a bug of the simulator") {
    Buddy buddy;
    buddy.insert(frames(0, 4), type);
    CHECK_THROWS_AS(buddy.remove(frames(3, 5), type), SimulatorBug);
}

TEST_CASE("pageblock types are kept by stretches") {
    PageblockTypes types;
    CHECK(types.of(Pfn{12345}) == MigrateType::movable);
    types.set(frames(512, 1536), MigrateType::cma);
    CHECK(types.of(Pfn{511}) == MigrateType::movable);
    CHECK(types.of(Pfn{512}) == MigrateType::cma);
    CHECK(types.of(Pfn{1535}) == MigrateType::cma);
    CHECK(types.of(Pfn{1536}) == MigrateType::movable);
    types.set(frames(1024, 2048), MigrateType::unmovable);
    CHECK(types.alike_from(Pfn{600}, Pfn{9999}) == frames(600, 1024));
    CHECK(types.alike_from(Pfn{1024}, Pfn{9999}) == frames(1024, 2048));
    types.set(frames(0, 2048), MigrateType::movable);
    CHECK(types.alike_from(Pfn{0}, Pfn{9999}) == frames(0, 9999));
}
