// Page metadata: runs, dense sections, blocks that are never cut.
#include "kernel-model/page_map.hpp"

#include <catch2/catch.hpp>

#include "tests/kernel-model/memory_fixture.hpp"

using namespace kexec_sim;

namespace {

constexpr u64 section = 32768;

PageMeta meta_of(PageState state, unsigned order = 0, u16 site = 0) {
    PageMeta meta;
    meta.state = state;
    meta.order = Order{order};
    meta.site = site;
    return meta;
}

std::vector<std::pair<u64, u64>> runs_of(const PageMap& map, u64 begin, u64 end) {
    std::vector<std::pair<u64, u64>> runs;
    map.for_each_run({Pfn{begin}, Pfn{end}}, [&](Pfn at, u64 blocks, const PageMeta& meta) {
        runs.emplace_back(at.raw, blocks << meta.order.raw);
    });
    return runs;
}
using Runs = std::vector<std::pair<u64, u64>>;

}  // namespace

TEST_CASE("a fresh map holds nothing") {
    const PageMap map;
    CHECK(map.find(Pfn{0}).meta == PageMeta{});
    CHECK(map.find(Pfn{u64{1} << 40}).meta == PageMeta{});
    CHECK(runs_of(map, 0, u64{1} << 40).empty());
}

TEST_CASE("every frame of a block leads to its head") {
    for (const unsigned order : {0u, 1u, 3u, 9u, 10u, 15u, 18u}) {
        PageMap map;
        const u64 pages = u64{1} << order;
        map.set(Pfn{pages}, 2, meta_of(PageState::folio, order));
        for (const u64 pfn : {pages, pages + pages / 2, 2 * pages - 1}) CHECK(map.find(Pfn{pfn}).head.raw == pages);
        for (const u64 pfn : {2 * pages, 3 * pages - 1}) CHECK(map.find(Pfn{pfn}).head.raw == 2 * pages);
        CHECK(map.find(Pfn{pages - 1}).meta.state == PageState::absent);
        CHECK(map.find(Pfn{3 * pages}).meta.state == PageState::absent);
    }
}

TEST_CASE("alike neighbours are one run, over the ends of sections too") {
    PageMap map;
    map.set(Pfn{section - 2}, 2, meta_of(PageState::reserved));
    map.set(Pfn{section + 2}, 2, meta_of(PageState::reserved));
    CHECK(runs_of(map, 0, 2 * section) == Runs{{section - 2, 2}, {section + 2, 2}});
    map.set(Pfn{section}, 2, meta_of(PageState::reserved));
    CHECK(runs_of(map, 0, 2 * section) == Runs{{section - 2, 6}});
    map.set(Pfn{section}, 1, meta_of(PageState::folio));
    CHECK(runs_of(map, 0, 2 * section) == Runs{{section - 2, 2}, {section, 1}, {section + 1, 3}});
}

TEST_CASE("a run is clipped to whole blocks") {
    PageMap map;
    map.set(Pfn{16}, 4, meta_of(PageState::folio, 2));
    // |16..19|20..23|24..27|28..31|, looked at from the middle of the second to the start of the fourth
    CHECK(runs_of(map, 22, 29) == Runs{{20, 12}});
    CHECK(map.run_from(Pfn{23}, Pfn{24}).blocks == 1);
}

TEST_CASE("a block is not cut") {
    PageMap map;
    map.set(Pfn{16}, 1, meta_of(PageState::folio, 2));
    CHECK_THROWS_AS(map.set(Pfn{17}, 1, meta_of(PageState::reserved)), SimulatorBug);
    CHECK_THROWS_AS(map.set(Pfn{12}, 5, meta_of(PageState::reserved)), SimulatorBug);
    CHECK_THROWS_AS(map.set(Pfn{2}, 1, meta_of(PageState::folio, 2)), SimulatorBug);  // not aligned
    map.set(Pfn{12}, 8, meta_of(PageState::reserved));
    CHECK(runs_of(map, 0, 64) == Runs{{12, 8}});
}

TEST_CASE("uniform terabytes cost nothing") {
    PageMap map;
    const u64 frames = 4 * TiB >> page_shift;
    map.set(Pfn{0}, frames, meta_of(PageState::free));
    map.set(Pfn{section * 100}, 4096, meta_of(PageState::folio, 9));
    CHECK(map.bytes_used() < 128 * KiB);
    CHECK(runs_of(map, 0, frames).size() == 3);
}

TEST_CASE("a crowded section costs four bytes a frame and answers the same") {
    PageMap map;
    map.set(Pfn{0}, 4 * section, meta_of(PageState::reserved));
    for (u64 pfn = section; pfn < 2 * section; pfn += 2) map.set(Pfn{pfn}, 1, meta_of(PageState::preserved));
    CHECK(map.bytes_used() < 512 * KiB);
    for (u64 pfn = section; pfn < 2 * section; ++pfn)
        if (map.find(Pfn{pfn}).meta.state != (pfn % 2 ? PageState::reserved : PageState::preserved)) FAIL(pfn);
    CHECK(runs_of(map, 0, section + 4) ==
          Runs{{0, section}, {section, 1}, {section + 1, 1}, {section + 2, 1}, {section + 3, 1}});
    // Over its edge, and uniform again.
    map.set(Pfn{2 * section - 2}, 4, meta_of(PageState::folio));
    CHECK(map.run_from(Pfn{2 * section - 2}, Pfn{4 * section}).pages() == 2);
    CHECK(map.find(Pfn{2 * section + 1}).meta.state == PageState::folio);
    map.set(Pfn{0}, 4 * section, meta_of(PageState::free));
    CHECK(runs_of(map, 0, 4 * section) == Runs{{0, 4 * section}});
    CHECK(map.bytes_used() < 64 * KiB);
}

TEST_CASE("a visitor may change the run it is given") {
    PageMap map;
    map.set(Pfn{0}, 8, meta_of(PageState::folio, 1, 1));
    map.set(Pfn{16}, 8, meta_of(PageState::folio, 0, 2));
    map.for_each_run({Pfn{0}, Pfn{24}}, [&](Pfn at, u64 blocks, PageMeta meta) {
        ++meta.pins;
        map.set(at, blocks, meta);
    });
    for (u64 pfn = 0; pfn < 24; ++pfn) CHECK(map.find(Pfn{pfn}).meta.pins == 1);
}

// Random sets on three sections against one entry a frame.
TEST_CASE("a map of runs and dense sections agrees with a plain array") {
    for (u64 seed = 1; seed <= 6; ++seed) {
        CAPTURE(seed);
        test::Random random(seed);
        PageMap map;
        const u64 frames = 3 * section;
        std::vector<PageMeta> plain(frames);
        const auto head_of = [&](u64 pfn) { return align_down(pfn, plain[pfn].order.pages()); };
        for (unsigned step = 0; step < 6000; ++step) {
            const unsigned order = random.one_in(4) ? static_cast<unsigned>(random.below(12)) : 0;
            const u64 pages = u64{1} << order;
            const u64 count_max = random.one_in(200) ? 2 * section / pages : random.one_in(10) ? 64 : 2;
            u64 begin = align_down(random.below(frames), pages);
            u64 end = std::min(begin + (1 + random.below(count_max)) * pages, align_down(frames, pages));
            // Widen to whole blocks as they stand; the edges must keep the alignment of the new order.
            while (begin % pages || head_of(begin) != begin)
                begin = std::min(head_of(begin), align_down(begin, pages));
            while (end < frames && (end % pages || head_of(end) != end))
                end = std::min(frames, std::max(align_up(end, pages), head_of(end) + plain[end].order.pages()));
            end = align_down(end, pages);
            if (begin >= end || (end < frames && head_of(end) != end)) continue;
            const PageMeta meta =
                meta_of(static_cast<PageState>(1 + random.below(4)), order, static_cast<u16>(random.below(3)));
            map.set(Pfn{begin}, (end - begin) / pages, meta);
            std::fill(plain.begin() + static_cast<i64>(begin), plain.begin() + static_cast<i64>(end), meta);
        }
        u64 wrong = 0, covered = 0;
        for (u64 pfn = 0; pfn < frames; ++pfn) {
            const PageMap::Block block = map.find(Pfn{pfn});
            wrong += block.meta != plain[pfn] || block.head.raw != head_of(pfn);
        }
        map.for_each_run({Pfn{0}, Pfn{frames}}, [&](Pfn at, u64 blocks, const PageMeta& meta) {
            for (u64 i = 0; i < blocks << meta.order.raw; ++i) wrong += plain[at.raw + i] != meta;
            covered += blocks << meta.order.raw;
        });
        for (const PageMeta& meta : plain) covered += meta.state == PageState::absent;
        CHECK(wrong == 0);
        CHECK(covered == frames);
    }
}
