// The pages of memfds: running out of memory, pins, migration out of CMA; and that none is lost on any way.
#include <algorithm>
#include <array>
#include <cstring>

#include "tests/kernel-model/memfd_bench.hpp"

using namespace kexec_sim;
using Bench = MemfdBench;

namespace {

constexpr std::array<PhysRange, 1> cma_area{phys_range(PhysAddr{32 * MiB}, 64 * MiB)};
void mark_cma(Kernel& kernel) {
    kernel.hooks.before_free_all.push_back([&kernel] {
        for (const PhysRange& area : cma_area) kernel.pages.mark_cma({area.begin.pfn(), area.end.pfn()});
    });
}

u64 pages_in_cma(const Bench& bench, const ShmemFile& file) {
    u64 count = 0;
    for (const FileExtent& extent : file.extents())
        for (u64 i = 0; i < extent.pages; ++i) count += bench.kernel->pages.is_cma(extent.pfn + i);
    return count;
}

/// splitmix64.
struct Random {
    u64 state;
    u64 next() {
        u64 value = state += 0x9e3779b97f4a7c15;
        value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9;
        value = (value ^ (value >> 27)) * 0x94d049bb133111eb;
        return value ^ (value >> 31);
    }
    u64 below(u64 bound) { return next() % bound; }
};

}  // namespace

TEST_CASE("a planned failure in the middle of a write makes it short") {
    // visit 3 of the pages of this write fails: two chunks are written
    Bench bench;
    const u64 before = bench.free_frames();
    MemfdRef file = bench.memfd(0);
    bench.plan("mm.folio_alloc[memfd.folio]#3=fail(ENOMEM)");
    CHECK(file->write(100, filled(5 * page_bytes, 4)).value() == 2 * page_bytes - 100);
    CHECK(file->size() == 2 * page_bytes);
    CHECK(file->allocated_bytes() == 2 * page_bytes);
    CHECK(bench.free_frames() == before - 2);
    CHECK(file->write(2 * page_bytes, filled(page_bytes, 4)).value() == page_bytes);  // the next attempt works
    file.reset();
    CHECK(bench.free_frames() == before);
}

TEST_CASE("a planned failure of the first page is the result of the write") {
    Bench bench;
    const u64 before = bench.free_frames();
    const MemfdRef file = bench.memfd(10);
    bench.plan("mm.folio_alloc[memfd.folio]#1=fail(ENOMEM)");
    CHECK(file->write(5, filled(page_bytes, 4)).error() == Errno::enomem);
    CHECK(file->size() == 10);
    CHECK(bench.free_frames() == before);
}

TEST_CASE("pages that are there need no memory") {
    Bench bench;
    const MemfdRef file = bench.memfd(0);
    REQUIRE(file->write(page_bytes, filled(page_bytes, 1)));
    REQUIRE(file->write(3 * page_bytes, filled(page_bytes, 1)));
    // holes at 0, 2 and 4: the second hole's page fails
    bench.plan("mm.folio_alloc[memfd.folio]#2=fail(ENOMEM)");
    CHECK(file->write(0, filled(5 * page_bytes, 2)).value() == 2 * page_bytes);
    CHECK(file->extents().back().index == 3);
    bench.plan("mm.folio_alloc[memfd.folio]#2=fail(ENOMEM)");
    CHECK(file->write(0, filled(5 * page_bytes, 2)).value() == 4 * page_bytes);
    check_extents(*file);
}

TEST_CASE("a file that fills the memory ends in a short write and gives all back") {
    Bench bench(64 * MiB);
    const u64 before = bench.free_frames();
    MemfdRef file = bench.memfd(0);
    const Bytes mebibyte = filled(MiB, 1);
    u64 written = 0;
    for (;;) {
        const auto result = file->write(written, mebibyte);
        if (!result) {
            CHECK(result.error() == Errno::enomem);
            break;
        }
        written += *result;
        REQUIRE(written <= 64 * MiB);
    }
    CHECK(written == file->size());
    CHECK(written == file->allocated_bytes());
    CHECK(bench.free_frames() == before - written / page_bytes);
    file.reset();
    CHECK(bench.free_frames() == before);
    bench.kernel->pages.check_sane(true);
    CHECK(bench.machine->referee.findings().empty());
}

TEST_CASE("pinning fills the holes up to the size") {
    Bench bench;
    const u64 before = bench.free_frames();
    MemfdRef file = bench.memfd(5 * page_bytes + 1);
    REQUIRE(file->write(2 * page_bytes, filled(page_bytes, 6)));
    const Bytes as_it_was = content(*file);
    REQUIRE(file->pin_all());
    CHECK(file->pinned());
    CHECK(file->allocated_bytes() == 6 * page_bytes);
    CHECK(content(*file) == as_it_was);
    for (const FileExtent& extent : file->extents()) CHECK(bench.kernel->pages.block(extent.pfn).meta.pins == 1);
    file->unpin_all();
    CHECK_FALSE(file->pinned());
    for (const FileExtent& extent : file->extents()) CHECK(bench.kernel->pages.block(extent.pfn).meta.pins == 0);
    file->unpin_all();  // nothing left: nothing happens
    file.reset();
    CHECK(bench.free_frames() == before);
}

TEST_CASE("an empty file cannot be pinned") {
    Bench bench;
    CHECK(bench.memfd(0)->pin_all().error() == Errno::einval);
}

TEST_CASE("pinning fills a file with a hole at every other page") {
    Bench bench;
    const MemfdRef file = bench.memfd(0);
    for (u64 index = 0; index < 512; index += 2)
        REQUIRE(file->write(index * page_bytes, filled(page_bytes, 1 + index % 250)));
    REQUIRE(file->truncate(512 * page_bytes));
    const Bytes as_it_was = content(*file);
    REQUIRE(file->pin_all());
    CHECK(file->allocated_bytes() == 512 * page_bytes);
    CHECK(content(*file) == as_it_was);
    check_extents(*file);
    file->unpin_all();
}

TEST_CASE("pinning moves pages out of CMA and keeps their content") {
    // |  kernel  |  free  |======== CMA, 64 MiB of 128 ========|  free  |
    Bench bench(128 * MiB, "", mark_cma);
    const u64 before = bench.free_frames();
    MemfdRef file = bench.memfd(0);
    for (u64 i = 0; i < 8; ++i) REQUIRE(file->write(i * MiB, filled(MiB, 10 + static_cast<unsigned>(i))));
    REQUIRE(pages_in_cma(bench, *file) > 0);  // movable pages may lie there
    const Bytes as_it_was = content(*file);
    REQUIRE(file->pin_all());
    CHECK(pages_in_cma(bench, *file) == 0);
    CHECK(content(*file) == as_it_was);
    CHECK(bench.free_frames() == before - 8 * MiB / page_bytes);
    check_extents(*file);
    file->unpin_all();
    file.reset();
    CHECK(bench.free_frames() == before);
    bench.kernel->pages.check_sane(true);
    CHECK(bench.machine->referee.findings().empty());
}

TEST_CASE("a pin that fails leaves the content, and no pin") {
    Bench bench(128 * MiB, "", mark_cma);
    const u64 before = bench.free_frames();
    MemfdRef file = bench.memfd(0);
    REQUIRE(file->write(0, filled(4 * MiB, 5)));
    SECTION("no page for a hole: those filled before it stay with the file") {
        REQUIRE(file->truncate(5 * MiB));
        bench.plan("mm.folio_alloc[memfd.folio]#3=fail(ENOMEM)");
        CHECK(file->pin_all().error() == Errno::enomem);
        CHECK(file->allocated_bytes() == 4 * MiB + 2 * page_bytes);
    }
    SECTION("no page to move to") {
        REQUIRE(pages_in_cma(bench, *file) > 3);
        bench.plan("mm.folio_alloc[memfd.folio]#3=fail(ENOMEM)");
        CHECK(file->pin_all().error() == Errno::enomem);
        CHECK(file->allocated_bytes() == 4 * MiB);
    }
    CHECK_FALSE(file->pinned());
    Bytes start(4 * MiB);
    REQUIRE(file->read(0, start));
    CHECK(start == filled(4 * MiB, 5));
    for (const FileExtent& extent : file->extents()) CHECK(bench.kernel->pages.block(extent.pfn).meta.pins == 0);
    check_extents(*file);
    file.reset();
    CHECK(bench.free_frames() == before);
}

TEST_CASE("pins nest") {
    Bench bench;
    const MemfdRef file = bench.memfd(4 * page_bytes);
    REQUIRE(file->pin_all());
    REQUIRE(file->pin_all());
    const Pfn pfn = file->extents()[0].pfn;
    CHECK(bench.kernel->pages.block(pfn).meta.pins == 2);
    file->unpin_all();
    CHECK(file->pinned());
    CHECK(bench.kernel->pages.block(pfn).meta.pins == 1);
    CHECK(file->add_seals(F_SEAL_WRITE_BIT).error() == Errno::ebusy);
    file->unpin_all();
    CHECK(file->add_seals(F_SEAL_WRITE_BIT));
}

TEST_CASE("a page that leaves its file while pinned lives until it is unpinned") {
    Bench bench;
    const u64 before = bench.free_frames();
    const MemfdRef file = bench.memfd(4 * page_bytes);
    REQUIRE(file->pin_all());
    REQUIRE(file->truncate(page_bytes));
    CHECK(bench.free_frames() == before - 4);
    REQUIRE(file->write(page_bytes, filled(page_bytes, 1)));  // a new page, which nobody pinned
    REQUIRE(file->truncate(page_bytes));
    CHECK(bench.free_frames() == before - 4);
    file->unpin_all();
    CHECK(bench.free_frames() == before - 1);
}

namespace {

void operate_at_random(u64 seed, const std::string& cmdline, u64 size_max, u64 length_max, int steps) {
    INFO("seed " << seed << " " << cmdline);
    Random random{seed};
    Bench bench(128 * MiB, cmdline, mark_cma);
    const u64 before = bench.free_frames();
    MemfdRef file = bench.memfd(0);
    Bytes model;
    for (int step = 0; step < steps; ++step) {
        const u64 offset = random.below(size_max), length = 1 + random.below(length_max);
        switch (random.below(6)) {
        case 0:
        case 1: {
            const Bytes data = filled(length, static_cast<unsigned>(step % 255 + 1));
            REQUIRE(file->write(offset, data).value() == length);
            if (model.size() < offset + length) model.resize(offset + length);
            std::memcpy(model.data() + offset, data.data(), length);
            break;
        }
        case 2: {
            REQUIRE(file->truncate(offset));
            model.resize(offset);
            break;
        }
        case 3: {
            REQUIRE(file->punch_hole(offset, length));
            if (offset < model.size()) std::memset(model.data() + offset, 0, std::min(length, model.size() - offset));
            break;
        }
        case 4: {
            if (!model.empty()) REQUIRE(file->pin_all());
            break;
        }
        case 5: file->unpin_all(); break;
        }
        REQUIRE(file->size() == model.size());
        REQUIRE(content(*file) == model);
    }
    check_extents(*file);
    file.reset();
    CHECK(bench.free_frames() == before);
    bench.kernel->pages.check_sane(true);
    CHECK(bench.machine->referee.findings().empty());
}

}  // namespace

TEST_CASE("random operations leave what a plain array of bytes would hold") {
    for (u64 seed = 1; seed <= 8; ++seed) operate_at_random(seed, "", 40 * page_bytes, 6 * page_bytes, 300);
}

TEST_CASE("random operations on large folios leave what a plain array of bytes would hold") {
    for (u64 seed = 1; seed <= 4; ++seed)
        operate_at_random(seed, "transparent_hugepage_shmem=within_size", 6 * MiB, 3 * MiB, 60);
}

TEST_CASE("a memfd has large folios where the policy lets it, and holes that are large enough") {
    const auto orders = [](const ShmemFile& file) {
        std::vector<unsigned> found;
        for (const ShmemFile::FolioRun& run : file.folio_runs()) found.push_back(run.order.raw);
        return found;
    };
    const std::string policy = GENERATE("within_size", "always", "force");
    Bench bench(128 * MiB, "transparent_hugepage_shmem=" + policy);
    const u64 before = bench.free_frames();
    MemfdRef file = bench.memfd(5 * MiB);
    SECTION("one byte takes a whole folio below the size") {
        REQUIRE(file->write(3 * MiB, filled(1, 7)));
        CHECK(file->allocated_bytes() == 2 * MiB);
        CHECK(file->folio_runs()[0].index == 2 * MiB / page_bytes);
        CHECK(orders(*file) == std::vector<unsigned>{9});
    }
    SECTION("what reaches beyond the size is single pages") {
        REQUIRE(file->write(4 * MiB, filled(1, 7)));
        CHECK(file->allocated_bytes() == page_bytes);
    }
    SECTION("a hole that is not empty is filled page by page") {
        REQUIRE(file->write(0, filled(1, 7)));
        REQUIRE(file->punch_hole(0, 2 * MiB));
        bench.plan("mm.folio_alloc[memfd.folio]#1=fail(ENOMEM)");
        REQUIRE(file->write(0, filled(1, 7)));  // no large folio: a page does
        CHECK(file->allocated_bytes() == page_bytes);
        REQUIRE(file->pin_all());
        CHECK(std::ranges::count(orders(*file), 9u) == 1);
        CHECK(file->allocated_bytes() == 5 * MiB);
        file->unpin_all();
    }
    SECTION("a folio that is cut keeps its memory, and goes with its last page") {
        REQUIRE(file->write(0, filled(5 * MiB, 7)));
        REQUIRE(file->truncate(3 * MiB));
        CHECK(file->allocated_bytes() == 4 * MiB);
        REQUIRE(file->punch_hole(MiB, 2 * MiB));
        CHECK(file->allocated_bytes() == 4 * MiB);
        REQUIRE(file->truncate(2 * MiB));
        CHECK(file->allocated_bytes() == 2 * MiB);
        REQUIRE(file->punch_hole(0, 2 * MiB));
        CHECK(file->allocated_bytes() == 0);
    }
    SECTION("a pinned folio that leaves its file lives until it is unpinned") {
        REQUIRE(file->pin_all());
        REQUIRE(file->truncate(0));
        CHECK(bench.free_frames() == before - 5 * MiB / page_bytes);
        file->unpin_all();
        CHECK(bench.free_frames() == before);
    }
    file.reset();
    CHECK(bench.free_frames() == before);
    bench.kernel->pages.check_sane(true);
    CHECK(bench.machine->referee.findings().empty());
}

TEST_CASE("no policy but those three gives large folios, and an unknown one is said to be") {
    for (const char* policy : {"never", "advise", "deny", "huge", ""}) {
        Bench bench(128 * MiB, std::string("transparent_hugepage_shmem=") + policy);
        const MemfdRef file = bench.memfd(0);
        REQUIRE(file->write(0, filled(4 * MiB, 7)));
        CHECK(file->folio_runs()[0].order.raw == 0);
    }
}
