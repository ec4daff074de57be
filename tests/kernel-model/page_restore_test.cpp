// CMA pageblocks, preserved blocks and what a restore makes of them.
#include <catch2/catch.hpp>

#include "kernel-model/page_alloc.hpp"
#include "tests/kernel-model/memory_fixture.hpp"

using namespace kexec_sim;
using test::MemoryFixture;

namespace {

constexpr u64 marker = 0x4b48'4f50'0000'0000;

PfnRange frames(u64 begin, u64 end) { return {Pfn{begin}, Pfn{end}}; }
PageState state_of(const MemoryFixture& memory, u64 pfn) { return memory.pages.block(Pfn{pfn}).meta.state; }

}  // namespace

// 64 MiB, frames 0x400..0x1000 (12 MiB) are CMA: less than half
TEST_CASE("CMA serves movable requests only, and last where it is the smaller part") {
    MemoryFixture memory;
    memory.pages.mark_cma(frames(0x400, 0x1000));
    CHECK(memory.pages.free_cma_frames() == 0xc00);
    CHECK(memory.pages.is_cma(Pfn{0x400}));
    CHECK_FALSE(memory.pages.is_cma(Pfn{0x1000}));
    const Folio movable = memory.pages.alloc_folio(MemoryFixture::request(0, true)).value();
    CHECK_FALSE(memory.pages.is_cma(movable.pfn));

    // Unmovable requests end where only CMA is left; movable ones go on.
    const u64 rest = memory.pages.free_frames() - memory.pages.free_cma_frames() - 16;
    CHECK(memory.pages.alloc_pages(MemoryFixture::request(0), rest + 1) == fail(Errno::enomem));
    const auto runs = memory.pages.alloc_pages(MemoryFixture::request(0), rest).value();
    for (const PfnRange& run : runs) CHECK_FALSE(memory.pages.is_cma(run.begin));
    CHECK(memory.pages.alloc_folio(MemoryFixture::request(0)) == fail(Errno::enomem));
    const Folio in_cma = memory.pages.alloc_folio(MemoryFixture::request(0, true)).value();
    CHECK(memory.pages.is_cma(in_cma.pfn));
    CHECK(memory.pages.block(in_cma.pfn).meta.cma);
}

TEST_CASE("movable requests take from CMA first while more than half of what is free is CMA") {
    MemoryFixture memory;
    memory.pages.mark_cma(frames(0x1000, 0x3c00));
    const u64 free = memory.pages.free_frames(), cma = memory.pages.free_cma_frames();
    REQUIRE(cma * 2 > free);
    u64 from_cma = 0;
    for (;;) {
        const Folio folio = memory.pages.alloc_folio(MemoryFixture::request(0, true)).value();
        if (!memory.pages.is_cma(folio.pfn)) break;
        ++from_cma;
    }
    CHECK(from_cma == 2 * cma - free);  // until both halves are equal
    CHECK(memory.pages.is_cma(memory.pages.alloc_folio(MemoryFixture::request(0, true)).value().pfn));
}

TEST_CASE("pageblocks that become CMA, or stop being it, take their free pages along") {
    MemoryFixture memory;
    const auto before = memory.state();
    const Folio used = memory.pages.alloc_folio(MemoryFixture::request(0, true)).value();
    memory.pages.mark_cma(frames(0x200, 0x600));
    CHECK(memory.pages.free_cma_frames() == 0x400);
    memory.pages.check_sane(true);
    memory.pages.clear_cma(frames(0x200, 0x600));
    CHECK(memory.pages.free_cma_frames() == 0);
    memory.pages.free_folio(used);
    CHECK(memory.state() == before);
}

TEST_CASE("only whole pageblocks are CMA") {
    MemoryFixture memory;
    memory.pages.mark_cma(frames(0x3ff, 0x801));
    CHECK_FALSE(memory.pages.is_cma(Pfn{0x3ff}));
    CHECK(memory.pages.is_cma(Pfn{0x400}));
    CHECK_FALSE(memory.pages.is_cma(Pfn{0x800}));
    memory.pages.mark_cma(frames(0xc01, 0xdff));
    CHECK(memory.pages.free_cma_frames() == 0x400);
}

TEST_CASE("an unmovable request takes over a whole pageblock, and later ones stay in it") {
    MemoryFixture memory;
    const Folio movable = memory.pages.alloc_folio(MemoryFixture::request(0, true)).value();
    const Folio first = memory.pages.alloc_folio(MemoryFixture::request(0)).value();
    const Folio second = memory.pages.alloc_folio(MemoryFixture::request(0)).value();
    CHECK(second.pfn == first.pfn + 1);
    CHECK(first.pfn.raw / pageblock_pages != movable.pfn.raw / pageblock_pages);
    CHECK(memory.pages.alloc_folio(MemoryFixture::request(0, true)).value().pfn == movable.pfn + 1);
}

TEST_CASE("scratch released late belongs to CMA from the start") {
    MemoryFixture memory({64 * MiB}, false);
    memory.pages.mark_cma(frames(0x800, 0xc00));
    memory.pages.release_from_boot(frames(0x100, 0x800));
    CHECK(memory.pages.free_cma_frames() == 0);
    memory.pages.release_from_boot(frames(0x800, 0xc00));
    CHECK(memory.pages.free_cma_frames() == 0x400);
    CHECK(memory.pages.managed_frames() == 0xb00);
    CHECK(memory.pages.alloc_folio(MemoryFixture::request(9)).value().frames().end.raw <= 0x800);
}

TEST_CASE("pages are migrated out of CMA with content, owner and references") {
    MemoryFixture memory;
    memory.pages.mark_cma(frames(0x400, 0x3c00));
    AllocRequest request = MemoryFixture::request(0, true);
    request.site = "memfd.folio";
    request.frame_class = FrameClass::file;
    const auto runs = memory.pages.alloc_pages(request, 600).value();
    const PfnRange all = runs.front();
    REQUIRE(memory.pages.is_cma(all.begin));
    for (u64 i = 0; i < all.pages(); i += 5) memory.machine->ram.write<u64>((all.begin + i).phys(), i + 1);
    memory.pages.pin_pages(pfn_range(all.begin + 7, 1));
    memory.pages.get({all.begin + 9, Order{0}});

    const auto before = memory.state();
    memory.plan("mm.folio_alloc[memfd.pin]#599=fail(ENOMEM)");
    CHECK_FALSE(memory.pages.migrate_out_of_cma(all, "memfd.pin").has_value());
    CHECK(memory.state() == before);

    const auto moves = memory.pages.migrate_out_of_cma(all, "memfd.pin").value();
    u64 moved = 0;
    for (const PageAllocator::Move& move : moves)
        for (u64 i = 0; i < move.from.pages(); ++i, ++moved) {
            const u64 index = move.from.begin + i - all.begin;
            const PageMap::Block block = memory.pages.block(move.to + i);
            CHECK_FALSE(memory.pages.is_cma(move.to + i));
            CHECK(memory.pages.site_name(block.meta.site) == "memfd.folio");
            CHECK(block.meta.refcount == (index == 9 ? 2 : 1));
            CHECK(memory.machine->ram.read<u64>((move.to + i).phys()) == (index % 5 ? 0 : index + 1));
        }
    CHECK(moved == 599);
    CHECK(state_of(memory, all.begin.raw + 7) == PageState::folio);  // the pinned one
    CHECK(state_of(memory, all.begin.raw + 8) == PageState::free);
    CHECK(memory.pages.migrate_out_of_cma(all, "memfd.pin").value().empty());
}

TEST_CASE("preserved blocks stay out of the allocator until they are adopted") {
    MemoryFixture memory({64 * MiB}, false);
    memory.pages.mark_preserved(Pfn{0x203}, 2, Order{0}, marker);
    memory.pages.mark_preserved(Pfn{0x400}, 3, Order{3}, marker | 3);
    memory.pages.release_from_boot(frames(0x100, 0x203));
    memory.pages.release_from_boot(frames(0x205, 0x400));
    const u64 managed = memory.pages.managed_frames();
    const PageMap::Block block = memory.pages.block(Pfn{0x40f});
    CHECK(block.head.raw == 0x408);
    CHECK(block.meta.state == PageState::preserved);
    CHECK(block.meta.private_data == (marker | 3));

    memory.machine->ram.write<u64>(PhysAddr{0x408000}, 77);
    memory.pages.adopt_folio({Pfn{0x408}, Order{3}}, "kho.restore", FrameClass::bench);
    CHECK(memory.machine->ram.read<u64>(PhysAddr{0x408000}) == 77);
    CHECK(memory.pages.managed_frames() == managed + 8);
    CHECK(memory.pages.block(Pfn{0x408}).meta.refcount == 1);
    CHECK(memory.pages.block(Pfn{0x408}).meta.private_data == 0);
    CHECK(state_of(memory, 0x407) == PageState::preserved);
    memory.pages.free_folio({Pfn{0x408}, Order{3}});
    CHECK(state_of(memory, 0x408) == PageState::free);

    memory.pages.adopt_pages(frames(0x203, 0x205), "kho.restore", FrameClass::bench);
    memory.pages.free_pages(frames(0x203, 0x205));
    CHECK(memory.pages.block(Pfn{0x203}).head.raw == 0x200);  // merged
}

TEST_CASE("overlapping marks of a corrupted map are taken as they come") {
    MemoryFixture memory({64 * MiB}, false);
    memory.pages.mark_preserved(Pfn{0x400}, 1, Order{4}, marker | 4);
    memory.pages.mark_preserved(Pfn{0x404}, 1, Order{1}, marker | 1);
    // The first block is in pieces, its marker still in its first frame.
    CHECK(memory.pages.block(Pfn{0x404}).meta.order == Order{1});
    CHECK(memory.pages.block(Pfn{0x400}).meta.private_data == (marker | 4));
    CHECK(memory.pages.block(Pfn{0x401}).meta.private_data == 0);
    CHECK(state_of(memory, 0x40f) == PageState::preserved);
    memory.pages.mark_preserved(Pfn{0x400}, 2, Order{3}, marker | 3);
    CHECK(memory.pages.block(Pfn{0x407}).head.raw == 0x400);
    // Beyond RAM, partly and wholly, and of absurd size.
    memory.pages.mark_preserved(Pfn{0x0}, 1, Order{9}, marker | 9);
    CHECK(state_of(memory, 0x100) == PageState::reserved);
    memory.pages.mark_preserved(Pfn{u64{1} << 30}, 5, Order{0}, marker);
    memory.pages.mark_preserved(Pfn{0}, 1, Order{51}, marker | 51);
    memory.pages.mark_preserved(Pfn{0}, ~u64{0} >> 12, Order{12}, marker);
    CHECK(memory.pages.block(Pfn{u64{1} << 30}).meta.state == PageState::absent);
}

TEST_CASE("a block of any order can be preserved and restored") {
    MemoryFixture memory({4 * GiB}, false);
    memory.pages.mark_preserved(Pfn{0x40000}, 1, Order{18}, 18);  // 1 GiB
    memory.pages.mark_preserved(Pfn{0x48000}, 1, Order{15}, 15);  // inside it
    CHECK(memory.pages.block(Pfn{0x48001}).head.raw == 0x48000);
    memory.pages.mark_preserved(Pfn{0x40000}, 1, Order{18}, 18);
    CHECK(memory.pages.block(Pfn{0x7ffff}).head.raw == 0x40000);
    memory.pages.adopt_folio({Pfn{0x40000}, Order{10}}, "kho.restore", FrameClass::bench);
    CHECK(state_of(memory, 0x40400) == PageState::preserved);
    memory.pages.free_folio({Pfn{0x40000}, Order{10}});
}

// A kernel that trusts an address out of a handover takes whatever lies there.
TEST_CASE("adopting frames that are free or in use tears them out") {
    MemoryFixture memory;
    const u64 free = memory.pages.free_frames();
    memory.pages.adopt_folio({Pfn{0x801}, Order{0}}, "kho.restore", FrameClass::bench);
    CHECK(memory.pages.free_frames() == free - 1);
    CHECK(memory.pages.block(Pfn{0x802}).meta.order == Order{1});
    memory.pages.check_sane();

    const Folio folio = memory.pages.alloc_folio(MemoryFixture::request(3)).value();
    memory.pages.adopt_folio(folio, "kho.restore", FrameClass::bench);  // restored twice
    CHECK(memory.pages.block(folio.pfn).meta.refcount == 1);
    memory.pages.adopt_folio({folio.pfn + 2, Order{1}}, "kho.restore", FrameClass::bench);
    CHECK(memory.pages.block(folio.pfn + 3).head == folio.pfn + 2);
    CHECK(memory.pages.block(folio.pfn + 1).meta.order == Order{0});
    memory.pages.check_sane(true);
    // Half free, half in use, and all of it one folio afterwards.
    memory.pages.adopt_folio({Pfn{0x800}, Order{9}}, "kho.restore", FrameClass::bench);
    memory.pages.check_sane(true);
    memory.pages.free_folio({Pfn{0x800}, Order{9}});
    CHECK(memory.pages.free_frames() == free - 8);
    // Not aligned, and no RAM: single frames, or nothing.
    memory.pages.adopt_folio({Pfn{0xa01}, Order{2}}, "kho.restore", FrameClass::bench);
    CHECK(memory.pages.block(Pfn{0xa03}).head.raw == 0xa03);
    memory.pages.adopt_folio({Pfn{0xff}, Order{0}}, "kho.restore", FrameClass::bench);
    memory.pages.adopt_folio({Pfn{0x0}, Order{9}}, "kho.restore", FrameClass::bench);
    CHECK(memory.pages.block(Pfn{0x1ff}).meta.order == Order{0});
}

TEST_CASE("a machine of four terabytes boots with little metadata, scattered preserved frames included") {
    MemoryFixture memory({4 * TiB}, false);
    for (u64 i = 0; i < 100'000; ++i) memory.pages.mark_preserved(Pfn{0x100000 + 3 * i}, 1, Order{0}, 0);
    for (const PfnRange& range : memory.ram) {
        Pfn at = range.begin;
        for (u64 i = 0; i < 100'000 && range.contains(Pfn{0x100000}); ++i) {
            memory.pages.release_from_boot({at, Pfn{0x100000 + 3 * i}});
            at = Pfn{0x100000 + 3 * i + 1};
        }
        memory.pages.release_from_boot({at, range.end});
    }
    u64 frames_of_ram = 0;
    for (const PfnRange& range : memory.ram) frames_of_ram += range.pages();
    CHECK(memory.pages.free_frames() == frames_of_ram - 100'000);
    CHECK(memory.pages.page_map().bytes_used() < 4 * MiB);
}
