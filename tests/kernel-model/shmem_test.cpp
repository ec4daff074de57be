// memfds: content, holes, seals, frozen mappings, pins; and that no page is lost on any way.
#include <catch2/catch.hpp>
#include <cstring>

#include "tests/kernel-model/booted_kernel.hpp"

using namespace kexec_sim;

namespace {

using Bytes = std::vector<std::byte>;
using MemfdRef = std::shared_ptr<ShmemFile>;

Bytes filled(u64 bytes, unsigned value) { return Bytes(bytes, static_cast<std::byte>(value)); }

struct Bench : BootedKernel {
    using BootedKernel::BootedKernel;
    MemfdRef memfd(u64 size, MemfdFlags flags = {.allow_sealing = true}) {
        return memfd_create_file(*kernel, "test", size, flags).value();
    }
    u64 free_frames() const { return kernel->pages.free_frames(); }
};

Bytes content(const ShmemFile& file) {
    Bytes bytes(file.size());
    REQUIRE(file.read(0, bytes).value() == file.size());
    return bytes;
}

/// Extents are ascending, disjoint, merged.
void check_extents(const ShmemFile& file) {
    const auto extents = file.extents();
    for (std::size_t i = 0; i < extents.size(); ++i) {
        CHECK(extents[i].pages > 0);
        if (i == 0) continue;
        const FileExtent& before = extents[i - 1];
        CHECK(before.index + before.pages <= extents[i].index);
        CHECK_FALSE((before.index + before.pages == extents[i].index && before.pfn + before.pages == extents[i].pfn));
    }
}

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

TEST_CASE("what is written is read back, and holes are zeros") {
    Bench bench;
    const MemfdRef file = bench.memfd(64 * KiB);
    CHECK(file->allocated_bytes() == 0);
    CHECK(file->write(10000, filled(5000, 7)).value() == 5000);  // pages 2 and 3
    CHECK(file->allocated_bytes() == 8 * KiB);
    Bytes expected(64 * KiB);
    std::memset(expected.data() + 10000, 7, 5000);
    CHECK(content(*file) == expected);

    Bytes part(4);
    CHECK(file->read(9998, part).value() == 4);
    CHECK(part == Bytes{std::byte{0}, std::byte{0}, std::byte{7}, std::byte{7}});
    CHECK(file->read(64 * KiB - 2, part).value() == 2);
    CHECK(file->read(64 * KiB, part).value() == 0);
    CHECK(file->write(0, {}).value() == 0);
}

TEST_CASE("a write beyond the size extends the file and leaves a hole between") {
    Bench bench;
    const MemfdRef file = bench.memfd(100);
    CHECK(file->write(3 * page_bytes + 1, filled(1, 9)).value() == 1);
    CHECK(file->size() == 3 * page_bytes + 2);
    CHECK(file->allocated_bytes() == page_bytes);
    CHECK(content(*file).back() == std::byte{9});
}

TEST_CASE("offsets beyond 2^63 - 1 are refused") {
    Bench bench;
    const MemfdRef file = bench.memfd(0);
    constexpr u64 last = (u64{1} << 63) - 1;
    CHECK(file->write(~u64{0}, filled(1, 1)).error() == Errno::einval);
    CHECK(file->write(last, filled(1, 1)).error() == Errno::efbig);
    CHECK(file->truncate(~u64{0}).error() == Errno::einval);
    CHECK(file->truncate(last));
    CHECK(file->punch_hole(last, 2).error() == Errno::efbig);
    CHECK(file->punch_hole(0, 0).error() == Errno::einval);
    CHECK(file->punch_hole(0, last));
    CHECK(file->write(last - 2, filled(9, 1)).value() == 2);  // short, at the largest size
}

TEST_CASE("truncating frees pages and zeroes the rest of the last one") {
    Bench bench;
    const u64 before = bench.free_frames();
    const MemfdRef file = bench.memfd(0);
    REQUIRE(file->write(0, filled(5 * page_bytes, 3)));
    CHECK(bench.free_frames() == before - 5);
    REQUIRE(file->truncate(page_bytes + 100));
    CHECK(bench.free_frames() == before - 2);
    REQUIRE(file->truncate(5 * page_bytes));
    Bytes expected(5 * page_bytes);
    std::memset(expected.data(), 3, page_bytes + 100);
    CHECK(content(*file) == expected);
    REQUIRE(file->truncate(0));
    CHECK(bench.free_frames() == before);
}

TEST_CASE("punching a hole frees whole pages and zeroes parts of others") {
    Bench bench;
    const u64 before = bench.free_frames();
    const MemfdRef file = bench.memfd(0);
    REQUIRE(file->write(0, filled(6 * page_bytes, 3)));
    struct Case { u64 offset, length, freed; };
    const auto [offset, length, freed] = GENERATE(Case{page_bytes, page_bytes, 1}, Case{100, 50, 0}, Case{100, 2 * page_bytes, 1},
                                                  Case{0, page_bytes - 1, 0}, Case{4000, 200, 0}, Case{0, 6 * page_bytes, 6},
                                                  Case{5 * page_bytes + 1, 99 * page_bytes, 0}, Case{2 * page_bytes, 10, 0});
    REQUIRE(file->punch_hole(offset, length));
    CHECK(bench.free_frames() == before - 6 + freed);
    Bytes expected = filled(6 * page_bytes, 3);
    std::memset(expected.data() + offset, 0, std::min(length, 6 * page_bytes - offset));
    CHECK(content(*file) == expected);
    check_extents(*file);
}

TEST_CASE("a file that is written from its start to its end has few extents") {
    Bench bench;
    const MemfdRef file = bench.memfd(0);
    const Bytes mebibyte = filled(MiB, 1);
    for (u64 i = 0; i < 32; ++i) REQUIRE(file->write(i * MiB, mebibyte).value() == MiB);
    CHECK(file->allocated_bytes() == 32 * MiB);
    CHECK(file->extents().size() <= 4);
    check_extents(*file);
}

TEST_CASE("a frozen mapping can be written inside its size and nothing else") {
    Bench bench;
    const MemfdRef file = bench.memfd(2 * page_bytes + 100);
    REQUIRE(file->write(0, filled(2 * page_bytes + 100, 1)));
    file->freeze_mapping();
    CHECK(file->frozen());
    CHECK(file->write(50, filled(2 * page_bytes + 50, 2)).value() == 2 * page_bytes + 50);
    CHECK(file->truncate(page_bytes).error() == Errno::eperm);
    CHECK(file->truncate(2 * page_bytes + 100).error() == Errno::eperm);
    CHECK(file->truncate(9 * page_bytes).error() == Errno::eperm);
    CHECK(file->punch_hole(0, page_bytes).error() == Errno::eperm);
    const Bytes before = content(*file);
    // The chunk in which the size lies is refused as a whole; chunks before it are not.
    CHECK(file->write(2 * page_bytes + 99, filled(2, 8)).error() == Errno::eperm);
    CHECK(file->write(2 * page_bytes, filled(101, 8)).error() == Errno::eperm);
    CHECK(file->write(7 * page_bytes, filled(1, 8)).error() == Errno::eperm);
    CHECK(content(*file) == before);
    CHECK(file->write(page_bytes - 5, filled(2 * page_bytes, 8)).value() == page_bytes + 5);
    CHECK(file->size() == 2 * page_bytes + 100);
    CHECK(content(*file)[2 * page_bytes] == std::byte{2});

    file->thaw_mapping();
    CHECK(file->truncate(0));
}

TEST_CASE("a seal refuses what it names") {
    Bench bench;
    const MemfdRef file = bench.memfd(2 * page_bytes);
    REQUIRE(file->write(0, filled(2 * page_bytes, 1)));
    SECTION("shrink") {
        REQUIRE(file->add_seals(F_SEAL_SHRINK_BIT));
        CHECK(file->truncate(page_bytes).error() == Errno::eperm);
        CHECK(file->truncate(2 * page_bytes));
        CHECK(file->truncate(3 * page_bytes));
    }
    SECTION("grow") {
        REQUIRE(file->add_seals(F_SEAL_GROW_BIT));
        CHECK(file->truncate(3 * page_bytes).error() == Errno::eperm);
        CHECK(file->write(2 * page_bytes, filled(1, 2)).error() == Errno::eperm);
        CHECK(file->write(page_bytes, filled(page_bytes + 1, 2)).value() == page_bytes);
        CHECK(file->truncate(page_bytes));
    }
    SECTION("write, now and in future") {
        REQUIRE(file->add_seals(GENERATE(F_SEAL_WRITE_BIT, F_SEAL_FUTURE_WRITE_BIT)));
        CHECK(file->write(0, filled(1, 2)).error() == Errno::eperm);
        CHECK(file->punch_hole(0, page_bytes).error() == Errno::eperm);
        CHECK(file->write(0, {}).value() == 0);
        CHECK(file->truncate(page_bytes));
    }
    SECTION("seal") {
        REQUIRE(file->add_seals(F_SEAL_SEAL_BIT));
        CHECK(file->add_seals(F_SEAL_GROW_BIT).error() == Errno::eperm);
        CHECK(file->seals == F_SEAL_SEAL_BIT);
    }
    SECTION("what is no seal") { CHECK(file->add_seals(0x40).error() == Errno::einval); }
}

TEST_CASE("the flags of a memfd decide its first seals") {
    Bench bench;
    CHECK(bench.memfd(0, {})->seals == F_SEAL_SEAL_BIT);
    CHECK(bench.memfd(0, {})->add_seals(F_SEAL_GROW_BIT).error() == Errno::eperm);
    CHECK(bench.memfd(0, {.allow_sealing = true})->seals == 0);
    CHECK(bench.memfd(0, {.noexec_seal = true})->seals == F_SEAL_EXEC_BIT);
    // F_SEAL_EXEC on what can be executed seals its content too.
    const MemfdRef executable = bench.memfd(0, {.allow_sealing = true, .exec = true});
    REQUIRE(executable->add_seals(F_SEAL_EXEC_BIT));
    CHECK(executable->seals == (F_SEAL_EXEC_BIT | F_SEAL_SHRINK_BIT | F_SEAL_GROW_BIT | F_SEAL_WRITE_BIT | F_SEAL_FUTURE_WRITE_BIT));
    const MemfdRef plain = bench.memfd(0, {.noexec_seal = true});
    REQUIRE(plain->add_seals(F_SEAL_EXEC_BIT | F_SEAL_GROW_BIT));
    CHECK(plain->seals == (F_SEAL_EXEC_BIT | F_SEAL_GROW_BIT));

    CHECK(memfd_create_file(*bench.kernel, "", 0, {.noexec_seal = true, .exec = true}).error() == Errno::einval);
    CHECK(memfd_create_file(*bench.kernel, std::string(250, 'x'), 0, {}).error() == Errno::einval);
    CHECK(memfd_create_file(*bench.kernel, std::string(249, 'x'), 0, {}));
    CHECK(memfd_create_file(*bench.kernel, "", ~u64{0}, {}).error() == Errno::einval);
}

TEST_CASE("a hugetlb memfd has a size and no content") {
    Bench bench;
    const MemfdRef file = bench.memfd(4 * MiB, {.hugetlb = true});
    CHECK(file->kind() == "hugetlbfs");
    CHECK(file->write(0, filled(1, 1)).error() == Errno::einval);
    CHECK(file->truncate(page_bytes).error() == Errno::einval);
    CHECK(file->truncate(2 * MiB));
    CHECK(file->pin_all().error() == Errno::einval);
    CHECK(content(*file) == Bytes(2 * MiB));
    CHECK(bench.memfd(0)->kind() == "memfd");
}

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
    for (u64 index = 0; index < 512; index += 2) REQUIRE(file->write(index * page_bytes, filled(page_bytes, 1 + index % 250)));
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

TEST_CASE("a file gives its pages back when its last reference goes") {
    Bench bench;
    const u64 before = bench.free_frames();
    MemfdRef file = bench.memfd(0);
    REQUIRE(file->write(0, filled(MiB, 1)));
    SECTION("closed") {
        const i32 fd = bench.main().install(std::move(file), true).value();
        REQUIRE(bench.main().close(fd));
    }
    SECTION("its agent killed") {
        REQUIRE(bench.main().install(std::move(file), true));
        bench.main().kill();
    }
    SECTION("closed, and put by a handler") {
        const i32 fd = bench.main().install(file, true).value();
        REQUIRE(bench.main().close(fd));
        CHECK(bench.free_frames() < before);
        bench.kernel->vfs.put(std::move(file));
    }
    SECTION("pinned") {
        REQUIRE(file->pin_all());
        file.reset();
    }
    CHECK(bench.free_frames() == before);
}

TEST_CASE("a file that outlives its kernel is harmless") {
    Bench bench;
    MemfdRef file = bench.memfd(0);
    REQUIRE(file->write(0, filled(MiB, 1)));
    bench.kernel.reset();
    file.reset();
}

TEST_CASE("the referee sees a file through its kernel") {
    Bench bench;
    const MemfdRef file = bench.memfd(0);
    REQUIRE(file->write(page_bytes, filled(page_bytes, 1)));
    file->pos = 77;
    CHECK(bench.kernel->vfs.find_file(file->id()) == file);
    const FileView view = file->view();
    CHECK(view.id == file->id());
    CHECK(view.size == 2 * page_bytes);
    CHECK(view.pos == 77);
    REQUIRE(view.extents.size() == 1);
    CHECK(view.extents[0].index == 1);
    CHECK(bench.machine->ram.read<u8>(view.extents[0].pfn.phys()) == 1);
}

TEST_CASE("restored frames are inserted where nothing is") {
    Bench bench;
    const u64 before = bench.free_frames();
    MemfdRef file = bench.memfd(0);
    const PfnRange frames = bench.kernel->pages.alloc_pages({.order = Order{0}, .site = "test.folio"}, 1).value().at(0);
    bench.machine->ram.write(frames.begin.phys(), u64{0x1122});
    REQUIRE(file->insert_pages(3, frames));
    CHECK(file->insert_pages(3, frames).error() == Errno::eexist);
    CHECK(file->insert_pages(2, pfn_range(frames.begin, 2)).error() == Errno::eexist);
    file->set_size(4 * page_bytes);
    CHECK(content(*file)[3 * page_bytes] == std::byte{0x22});
    CHECK(file->allocated_bytes() == page_bytes);
    file.reset();
    CHECK(bench.free_frames() == before);
}

TEST_CASE("random operations leave what a plain array of bytes would hold") {
    const u64 seed = GENERATE(1, 2, 3, 4, 5, 6, 7, 8);
    INFO("seed " << seed);
    Random random{seed};
    Bench bench(128 * MiB, "", mark_cma);
    const u64 before = bench.free_frames();
    MemfdRef file = bench.memfd(0);
    Bytes model;
    constexpr u64 size_max = 40 * page_bytes;
    for (int step = 0; step < 300; ++step) {
        const u64 offset = random.below(size_max), length = 1 + random.below(6 * page_bytes);
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
