// memfds as a process sees them: content, holes, seals, frozen mappings, and their end.
#include <cstring>

#include "tests/kernel-model/memfd_bench.hpp"

using namespace kexec_sim;
using Bench = MemfdBench;

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
    struct Case {
        u64 offset, length, freed;
    };
    const auto [offset, length, freed] =
        GENERATE(Case{page_bytes, page_bytes, 1}, Case{100, 50, 0}, Case{100, 2 * page_bytes, 1},
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
    CHECK(file->extents().size() <= 32);  // one a write at most
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
    CHECK(executable->seals ==
          (F_SEAL_EXEC_BIT | F_SEAL_SHRINK_BIT | F_SEAL_GROW_BIT | F_SEAL_WRITE_BIT | F_SEAL_FUTURE_WRITE_BIT));
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
    const PfnRange frames =
        bench.kernel->pages.alloc_pages({.order = Order{0}, .site = "test.folio"}, 1).value().at(0);
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
