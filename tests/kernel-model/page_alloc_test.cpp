// The page allocator: who gets which frame, and who gets none.
#include "kernel-model/page_alloc.hpp"

#include <catch2/catch.hpp>

#include "tests/kernel-model/memory_fixture.hpp"

using namespace kexec_sim;
using test::MemoryFixture;

namespace {

u64 pages_of(const std::vector<PfnRange>& runs) {
    u64 pages = 0;
    for (const PfnRange& run : runs) pages += run.pages();
    return pages;
}

}  // namespace

TEST_CASE("a folio of every order is aligned, zeroed, from the best block there is, and comes back") {
    MemoryFixture memory;
    const auto before = memory.state();
    for (unsigned order = 0; order <= max_page_order; ++order) {
        // The smallest block that is large enough, and the lowest of these.
        u64 best_order = max_page_order + 1;
        Pfn best;
        for (const auto& [head, block_order, state, references, pins] : before)
            if (block_order >= order && block_order < best_order) {
                best_order = block_order;
                best = Pfn{head};
            }
        const Folio folio = memory.pages.alloc_folio(MemoryFixture::request(order, true)).value();
        CHECK(folio.aligned());
        CHECK(folio.pfn == best);
        memory.machine->ram.fill_byte(folio.phys(), std::byte{0x5a});
        const PageMap::Block block = memory.pages.block(folio.pfn + (folio.order.pages() - 1));
        CHECK(block.head == folio.pfn);
        CHECK(block.meta.state == PageState::folio);
        CHECK(block.meta.refcount == 1);
        CHECK(memory.pages.site_name(block.meta.site) == "test.site");
        memory.pages.free_folio(folio);
        const Folio again = memory.pages.alloc_folio(MemoryFixture::request(order, true)).value();
        CHECK(again == folio);
        CHECK(memory.machine->ram.read<u64>(again.phys().begin) == 0);
        CHECK(memory.machine->ram.read<u64>(again.phys().begin + (again.order.bytes() - 8)) == 0);
        memory.pages.free_folio(again);
        memory.pages.check_sane();
    }
    CHECK(memory.state() == before);
    CHECK(memory.pages.alloc_folio(MemoryFixture::request(max_page_order + 1)) == fail(Errno::enomem));
}

TEST_CASE("pages come as the same frames, one by one or in one call") {
    const auto taken = [](bool movable, bool one_call) {
        MemoryFixture memory;
        // Holes first, so that small orders have free blocks as well.
        const auto holes = memory.pages.alloc_pages(MemoryFixture::request(0, movable), 40).value();
        const Pfn begin = holes.front().begin;
        for (const u64 hole : {3, 4, 9, 17, 30}) memory.pages.free_pages(pfn_range(begin + hole, hole == 17 ? 7 : 1));
        std::vector<u64> frames;
        if (one_call) {
            const auto runs = memory.pages.alloc_pages(MemoryFixture::request(0, movable), 700).value();
            for (const PfnRange& run : runs)
                for (Pfn pfn = run.begin; pfn < run.end; pfn = pfn + 1) frames.push_back(pfn.raw);
        } else {
            for (unsigned i = 0; i < 700; ++i)
                frames.push_back(memory.pages.alloc_folio(MemoryFixture::request(0, movable)).value().pfn.raw);
        }
        return frames;
    };
    for (const bool movable : {false, true}) CHECK(taken(movable, false) == taken(movable, true));
}

TEST_CASE("a gigabyte of pages is a few runs, and freed at once") {
    MemoryFixture memory({2 * GiB});
    const auto before = memory.state();
    const auto runs = memory.pages.alloc_pages(MemoryFixture::request(0, true), GiB / page_bytes).value();
    CHECK(pages_of(runs) == GiB / page_bytes);
    CHECK(runs.size() <= 16);  // the small blocks at both ends of RAM first, then one run
    for (const PfnRange& run : runs) memory.pages.free_pages(run);
    CHECK(memory.state() == before);
}

TEST_CASE("allocation ends before the last page") {
    for (const u64 bytes : {16 * MiB, 64 * MiB, 2 * GiB}) {
        MemoryFixture memory({bytes});
        const u64 reserve = std::clamp<u64>(memory.pages.managed_frames() / 1024, 16, 1024);
        const u64 room = memory.pages.free_frames() - reserve;
        const auto before = memory.state();
        CHECK(memory.pages.alloc_pages(MemoryFixture::request(0), room + 1) == fail(Errno::enomem));
        CHECK(memory.state() == before);
        const auto runs = memory.pages.alloc_pages(MemoryFixture::request(0), room).value();
        CHECK(pages_of(runs) == room);
        CHECK(memory.pages.free_frames() == reserve);
        CHECK(memory.pages.alloc_folio(MemoryFixture::request(0)) == fail(Errno::enomem));
        memory.pages.free_pages(pfn_range(runs.front().begin, 1));
        CHECK(memory.pages.alloc_folio(MemoryFixture::request(0)).has_value());
    }
}

TEST_CASE("a write gets the pages that are there") {
    MemoryFixture memory({16 * MiB});
    const u64 room = memory.pages.free_frames() - 16;
    memory.plan("mm.folio_alloc[test.site]#6=fail(ENOMEM)");
    PageAllocator::Pages some = memory.pages.alloc_pages_partial(MemoryFixture::request(0), 100);
    CHECK(pages_of(some.runs) == 5);
    CHECK(some.error == Errno::enomem);
    some = memory.pages.alloc_pages_partial(MemoryFixture::request(0), room);
    CHECK(pages_of(some.runs) == room - 5);
    CHECK(some.error == Errno::enomem);
    some = memory.pages.alloc_pages_partial(MemoryFixture::request(0), 1);
    CHECK(some.runs.empty());
    CHECK(some.error == Errno::enomem);
}

// |node 0|node 1|node 2|, each 64 MiB; node 3 has no memory
TEST_CASE("the node asked for serves first, then the others by distance") {
    const auto node_taken_from = [](Nid nid, bool exact, std::vector<u64> full) -> i32 {
        MemoryFixture memory({64 * MiB, 64 * MiB, 64 * MiB, 0});
        AllocRequest request = MemoryFixture::request(0);
        for (const u64 node : full) {
            request.nid = Nid{static_cast<i32>(node)};
            request.exact_nid = true;
            const u64 frames = memory.pages.free_frames(request.nid);
            static_cast<void>(memory.pages.alloc_pages(request, frames - 16).value());
        }
        request.nid = nid;
        request.exact_nid = exact;
        const auto folio = memory.pages.alloc_folio(request);
        return folio ? memory.machine->node_of(folio->phys().begin).raw : -1;
    };
    CHECK(node_taken_from(nid_none, false, {}) == 0);
    CHECK(node_taken_from(Nid{2}, false, {}) == 2);
    CHECK(node_taken_from(Nid{1}, false, {1}) == 0);  // as far as node 2, but lower
    CHECK(node_taken_from(Nid{2}, false, {2}) == 1);
    CHECK(node_taken_from(Nid{2}, false, {1, 2}) == 0);
    CHECK(node_taken_from(Nid{3}, false, {}) == 2);
    CHECK(node_taken_from(Nid{1}, true, {1}) == -1);
    CHECK(node_taken_from(Nid{3}, true, {}) == -1);
    CHECK(node_taken_from(Nid{0}, false, {0, 1, 2}) == -1);
}

TEST_CASE("pages are spread over nodes when one has not enough") {
    MemoryFixture memory({64 * MiB, 64 * MiB});
    const u64 first = memory.pages.free_frames(Nid{0});
    const auto runs = memory.pages.alloc_pages(MemoryFixture::request(0), first).value();
    CHECK(pages_of(runs) == first);
    CHECK(memory.pages.free_frames(Nid{0}) == 16);
    AllocRequest exact = MemoryFixture::request(0);
    exact.nid = Nid{0};
    exact.exact_nid = true;
    CHECK(memory.pages.alloc_pages(exact, 1) == fail(Errno::enomem));
}

// Every visit of a call that needs ten pages: the fault leaves no trace, and the call after it works.
TEST_CASE("a fault at any visit of an allocation leaves no trace") {
    for (u64 visit = 1; visit <= 10; ++visit) {
        MemoryFixture memory;
        const auto before = memory.state();
        memory.plan("mm.folio_alloc[test.*]#" + std::to_string(visit) + "=fail(ENOMEM)");
        CHECK(memory.pages.alloc_pages(MemoryFixture::request(0), 10) == fail(Errno::enomem));
        CHECK(memory.state() == before);
        CHECK(memory.pages.alloc_pages(MemoryFixture::request(0), 10).has_value());
        memory.plan("mm.folio_alloc[test.*]#1=fail(ENOMEM)");
        const auto between = memory.state();
        CHECK(memory.pages.alloc_folio(MemoryFixture::request(3)) == fail(Errno::enomem));
        CHECK(memory.state() == between);
    }
}

TEST_CASE("a block that is no such folio is not freed") {
    struct Case {
        const char* what;
        void (*act)(MemoryFixture&, Folio);
    };
    const Case cases[] = {
        {"freed twice",
         [](MemoryFixture& memory, Folio folio) {
             memory.pages.free_folio(folio);
             memory.pages.free_folio(folio);
         }},
        {"another order",
         [](MemoryFixture& memory, Folio folio) {
             memory.pages.free_folio({folio.pfn, Order{1}});
         }},
        {"a tail",
         [](MemoryFixture& memory, Folio folio) {
             memory.pages.free_folio({folio.pfn + 4, Order{2}});
         }},
        {"a page of it",
         [](MemoryFixture& memory, Folio folio) { memory.pages.free_pages(pfn_range(folio.pfn + 1, 2)); }},
        {"referenced",
         [](MemoryFixture& memory, Folio folio) {
             memory.pages.get(folio);
             memory.pages.free_folio(folio);
         }},
        {"pinned",
         [](MemoryFixture& memory, Folio folio) {
             memory.pages.pin_pages(folio.frames());
             memory.pages.free_folio(folio);
         }},
        {"no RAM",
         [](MemoryFixture& memory, Folio) {
             memory.pages.free_folio({Pfn{1}, Order{0}});
         }},
        {"a reference to a tail",
         [](MemoryFixture& memory, Folio folio) {
             memory.pages.get({folio.pfn + 1, Order{0}});
         }},
        {"unpinned too often", [](MemoryFixture& memory, Folio folio) { memory.pages.unpin_pages(folio.frames()); }},
    };
    for (const Case& bad : cases) {
        MemoryFixture memory;
        memory.insane_expected = true;
        CAPTURE(bad.what);
        const Folio folio = memory.pages.alloc_folio(MemoryFixture::request(3)).value();
        bad.act(memory, folio);
        REQUIRE(memory.findings().size() == 1);
        CHECK(memory.log.contains("BUG: Bad page state in process swapper/0  pfn:00"));
        memory.pages.check_sane(true);
        CHECK(memory.findings().size() == 1);  // the allocator itself is as it was
    }
}

TEST_CASE("the last reference frees a folio") {
    MemoryFixture memory;
    const auto before = memory.state();
    const Folio folio = memory.pages.alloc_folio(MemoryFixture::request(4)).value();
    memory.pages.get(folio);
    memory.pages.put(folio);
    CHECK(memory.pages.block(folio.pfn).meta.state == PageState::folio);
    memory.pages.put(folio);
    CHECK(memory.state() == before);
}

TEST_CASE("a debug kernel poisons what it frees, and hands it out zeroed again") {
    MemoryFixture memory;
    memory.pages.poison_on_free = true;
    const Folio folio = memory.pages.alloc_folio(MemoryFixture::request(1)).value();
    memory.pages.free_folio(folio);
    CHECK(memory.machine->ram.read<u64>(folio.phys().begin + 4096) == 0xaaaa'aaaa'aaaa'aaaa);
    const Folio again = memory.pages.alloc_folio(MemoryFixture::request(1)).value();
    CHECK(memory.machine->ram.read<u64>(again.phys().begin + 4096) == 0);
}

// What a kernel must never hand out twice: random calls against a bitmap of the frames in use.
TEST_CASE("random allocations and releases agree with a bitmap") {
    for (u64 seed = 1; seed <= 5; ++seed) {
        CAPTURE(seed);
        test::Random random(seed);
        MemoryFixture memory({16 * MiB, 24 * MiB});
        memory.pages.mark_cma({Pfn{0x400}, Pfn{0x800}});
        const auto before = memory.state();
        const u64 free_before = memory.pages.free_frames();
        std::vector<bool> used(16384);
        std::vector<PfnRange> ranges;
        std::vector<Folio> folios;
        u64 wrong = 0, in_use = 0;
        const auto mark = [&](PfnRange range, bool use) {
            for (Pfn pfn = range.begin; pfn < range.end; pfn = pfn + 1) {
                wrong += used[pfn.raw] == use;
                used[pfn.raw] = use;
            }
            in_use += use ? range.pages() : -range.pages();
        };
        for (unsigned step = 0; step < 4000; ++step) {
            AllocRequest request = MemoryFixture::request(
                static_cast<unsigned>(random.below(random.one_in(3) ? 11 : 3)), random.one_in(2));
            if (random.one_in(3)) request.nid = Nid{static_cast<i32>(random.below(2))};
            const u64 choice = random.below(10);
            if (choice < 4) {
                if (const auto folio = memory.pages.alloc_folio(request)) {
                    mark(folio->frames(), true);
                    folios.push_back(*folio);
                    wrong += !request.movable && memory.pages.is_cma(folio->pfn);
                }
            } else if (choice < 5) {
                if (const auto runs = memory.pages.alloc_pages(request, 1 + random.below(300)))
                    for (const PfnRange& run : *runs) {
                        mark(run, true);
                        ranges.push_back(run);
                        wrong += !request.movable && memory.pages.is_cma(run.begin);
                    }
            } else if (choice < 8 && !folios.empty()) {
                const std::size_t index = random.below(folios.size());
                mark(folios[index].frames(), false);
                memory.pages.free_folio(folios[index]);
                folios.erase(folios.begin() + static_cast<i64>(index));
            } else if (!ranges.empty()) {
                // A part of a run: the rest stays.
                const std::size_t index = random.below(ranges.size());
                const u64 pages = 1 + random.below(ranges[index].pages());
                const PfnRange part = pfn_range(ranges[index].begin, pages);
                mark(part, false);
                memory.pages.free_pages(part);
                ranges[index].begin = part.end;
                if (ranges[index].empty()) ranges.erase(ranges.begin() + static_cast<i64>(index));
            }
            wrong += memory.pages.free_frames() != free_before - in_use;
            memory.pages.check_sane(step % 500 == 0);
        }
        for (const Folio& folio : folios) memory.pages.free_folio(folio);
        for (const PfnRange& range : ranges) memory.pages.free_pages(range);
        CHECK(wrong == 0);
        CHECK(memory.pages.free_frames() == free_before);
        // Types of pageblocks have moved, so blocks at their borders may stay apart; nothing else may differ.
        CHECK(memory.state().size() <= before.size() + 40);
    }
}

TEST_CASE("a kernel that changes its metadata behind the allocator is found out") {
    struct Case {
        const char* what;
        void (*act)(PageAllocator&);
    };
    const Case cases[] = {
        {"a free frame marked as in use",
         [](PageAllocator& pages) {
             PageMeta meta;
             meta.state = PageState::folio;
             meta.refcount = 1;
             pages.page_map().set(Pfn{0x345}, 1, meta);
         }},
        {"a frame in use marked as free",
         [](PageAllocator& pages) {
             const Folio folio = pages.alloc_folio(MemoryFixture::request(0)).value();
             PageMeta meta;
             meta.state = PageState::free;
             pages.page_map().set(folio.pfn, 1, meta);
         }},
        {"a folio without a reference",
         [](PageAllocator& pages) {
             const Folio folio = pages.alloc_folio(MemoryFixture::request(0)).value();
             PageMeta meta = pages.block(folio.pfn).meta;
             meta.refcount = 0;
             pages.page_map().set(folio.pfn, 1, meta);
         }},
        {"a wrong CMA flag",
         [](PageAllocator& pages) {
             PageMeta meta = pages.page_map().find(Pfn{0x345}).meta;
             meta.cma = true;
             pages.page_map().set(Pfn{0x345}, 1, meta);
         }},
    };
    for (const Case& bad : cases) {
        MemoryFixture memory;
        memory.insane_expected = true;
        CAPTURE(bad.what);
        bad.act(memory.pages);
        memory.pages.check_sane(true);
        CHECK(memory.findings().size() >= 1);
    }
}
