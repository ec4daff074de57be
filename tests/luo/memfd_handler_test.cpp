// memfds over a live update.
#include "luo_fixture.hpp"

#include "luo/abi/trees.hpp"

namespace kexec_sim::luo {
namespace {

/// Everything that a failed prepare must leave as it was.
struct Before {
    explicit Before(LuoWorld& world_)
        : world(world_),
          free(world.free_frames()),
          preserved(world.kho().preserved_folios()) {}
    bool holds(const ShmemFile& file) const {
        return world.free_frames() == free && world.kho().preserved_folios() == preserved && !file.frozen() &&
               !file.pinned();
    }
    LuoWorld& world;
    u64 free, preserved;
};

}  // namespace

TEST_CASE("a memfd crosses with content, size and position, and without seals") {
    for (const std::string profile : {"luo-v2", "luo-v3"}) {
        LuoWorld world({.profile = profile});
        auto file = memfd_create_file(world.kernel(), "sealed", 3 * page_bytes, {.allow_sealing = true});
        const i32 fd = *world.main().install(*file, false);
        std::vector<u64> words(3 * page_bytes / 8);
        for (u64 i = 0; i < words.size(); ++i) words[i] = u64{5} << 32 | i;
        REQUIRE((*file)->write(0, std::as_bytes(std::span(words))));
        REQUIRE((*file)->add_seals(F_SEAL_GROW_BIT));
        REQUIRE(world.client().fd_preserve(fd, 1));
        REQUIRE(world.prepare() == Errno::ok);
        (*file)->pos = 4321;  // read again at freeze
        file = fail(Errno::enoent);
        REQUIRE(world.kexec() == Errno::ok);

        const i32 restored = *world.client().fd_restore(1);
        CHECK(world.has_pattern(restored, 3 * page_bytes, 5));
        const auto memfd = world.shmem(restored);
        CHECK(memfd->size() == 3 * page_bytes);
        CHECK(memfd->pos == 4321);
        CHECK(memfd->seals == 0);
        CHECK(memfd->name().empty());
        CHECK_FALSE(memfd->frozen());
        REQUIRE(world.finish() == Errno::ok);
        CHECK(memfd->truncate(page_bytes));
        CHECK(world.findings() == Calls{});
    }
}

TEST_CASE("an update after the update carries the same file again") {
    LuoWorld world;
    i32 fd = world.memfd(16 * page_bytes, 3);
    for (unsigned round = 0; round < 3; ++round) {
        REQUIRE(world.client().fd_preserve(fd, 1));
        REQUIRE(world.prepare() == Errno::ok);
        REQUIRE(world.kexec() == Errno::ok);
        fd = *world.client().fd_restore(1);
        CHECK(world.has_pattern(fd, 16 * page_bytes, 3));
        REQUIRE(world.finish() == Errno::ok);
    }
    CHECK(world.findings() == Calls{});
}

TEST_CASE("while prepared the mapping is frozen and the pages are pinned outside scratch") {
    LuoWorld world;
    const i32 fd = world.memfd(8 * page_bytes);
    REQUIRE(world.client().fd_preserve(fd, 1));
    REQUIRE(world.prepare() == Errno::ok);
    const auto file = world.shmem(fd);
    CHECK(file->frozen());
    CHECK(file->pinned());
    for (const FileExtent& extent : file->extents())
        for (u64 page = 0; page < extent.pages; ++page) CHECK_FALSE(world.kernel().pages.is_cma(extent.pfn + page));
    CHECK(file->truncate(4 * page_bytes).error() == Errno::eperm);
    REQUIRE(world.cancel() == Errno::ok);
    CHECK_FALSE(file->frozen());
    CHECK_FALSE(file->pinned());
    CHECK(file->truncate(4 * page_bytes));
}

TEST_CASE("a prepare that fails at any point leaves the file and the memory as they were") {
    for (const char* fault : {"kho.preserve[memfd-v1]#1=fail(ENOMEM)", "kho.preserve[memfd-v1]#5=fail(ENOMEM)",
                              "kho.preserve[memfd-v1]#9=fail(ENOMEM)", "mm.folio_alloc[memfd.tree]#1=fail(ENOMEM)",
                              "luo.fdt_write[pos]#1=fail(ENOSPC)", "luo.fdt_write[size]#1=fail(ENOSPC)",
                              "luo.fdt_write[folios]#1=fail(ENOSPC)"}) {
        INFO(fault);
        LuoWorld world;
        const auto file = world.shmem(world.memfd(8 * page_bytes));
        u64 data = 0;
        REQUIRE(world.running->memfd.prepare(*file, data));
        world.running->memfd.cancel(*file, data);
        const Before before(world);
        world.plan(fault);
        CHECK_FALSE(world.running->memfd.prepare(*file, data));
        CHECK(before.holds(*file));
        REQUIRE(world.running->memfd.prepare(*file, data));
        world.running->memfd.cancel(*file, data);
        CHECK(before.holds(*file));
    }
}

TEST_CASE("large folios that cannot be preserved are given back, and those that can cross as they are") {
    LuoWorld world({.cmdline = "kho=on liveupdate=on transparent_hugepage_shmem=within_size"});
    const i32 fd = world.memfd(7 * MiB, 4);
    const auto file = world.shmem(fd);
    REQUIRE(file->folio_runs()[0].order == Order{9});
    u64 data = 0;
    REQUIRE(world.running->memfd.prepare(*file, data));
    world.running->memfd.cancel(*file, data);
    const Before before(world);
    // The second large folio, one of the single pages after the third, and the tree.
    for (const char* visit : {"2", "100", "260"}) {
        INFO(visit);
        world.plan(std::string("kho.preserve[memfd-v1]#") + visit + "=fail(ENOMEM)");
        CHECK_FALSE(world.running->memfd.prepare(*file, data));
        CHECK(before.holds(*file));
    }
    REQUIRE(world.client().fd_preserve(fd, 1));
    REQUIRE(world.prepare() == Errno::ok);
    REQUIRE(world.kexec() == Errno::ok);
    const i32 restored = *world.client().fd_restore(1);
    CHECK(world.has_pattern(restored, 7 * MiB, 4));
    CHECK(world.shmem(restored)->folio_runs()[0].order == Order{9});
    CHECK(world.findings() == Calls{});
}

TEST_CASE("a large folio directly behind single pages comes back as one") {
    for (const bool restored : {true, false}) {
        LuoWorld world;
        // |512 single pages|order 9|, in the file as in RAM.
        PageAllocator& pages = world.kernel().pages;
        const auto block =
            pages.alloc_folio({.order = Order{10}, .site = "memfd.folio", .frame_class = FrameClass::file});
        REQUIRE(block);
        const Folio large{block->pfn + 512, Order{9}};
        pages.adopt_pages(pfn_range(block->pfn, 512), "memfd.folio", FrameClass::file);
        pages.adopt_folio(large, "memfd.folio", FrameClass::file);
        const i32 fd = world.memfd(0);
        REQUIRE(world.shmem(fd)->insert_pages(0, block->frames()));
        std::vector<u64> words(4 * MiB / 8);
        for (u64 i = 0; i < words.size(); ++i) words[i] = u64{6} << 32 | i;
        REQUIRE(world.shmem(fd)->write(0, std::as_bytes(std::span(words))) == 4 * MiB);
        REQUIRE(world.client().fd_preserve(fd, 1));
        REQUIRE(world.prepare() == Errno::ok);
        REQUIRE(world.kexec() == Errno::ok);
        if (restored) {
            const i32 again = *world.client().fd_restore(1);
            CHECK(world.has_pattern(again, 4 * MiB, 6));
            const auto runs = world.shmem(again)->folio_runs();
            REQUIRE(runs.size() == 2);
            CHECK(runs[0].order == Order{0});
            CHECK(runs[1].order == Order{9});
            CHECK(runs[1].frames == large.frames());
        }
        REQUIRE(world.finish() == Errno::ok);
        CHECK((world.kernel().pages.block(large.pfn).meta.state == PageState::folio) == restored);
    }
}

TEST_CASE("a file under two tokens is preserved until the last one goes") {
    LuoWorld world;
    MemfdHandler& handler = world.running->memfd;
    const auto file = world.shmem(world.memfd(8 * page_bytes));
    u64 first = 0, second = 0;
    REQUIRE(handler.prepare(*file, first));
    handler.cancel(*file, first);
    const Before before(world);
    REQUIRE(handler.prepare(*file, first));
    const u64 preserved = world.kho().preserved_folios(), free = world.free_frames();
    const auto as_with_one = [&] {
        return world.kho().preserved_folios() == preserved && world.free_frames() == free && file->frozen() &&
               file->pinned();
    };
    for (const char* fault : {"kho.preserve[memfd-v1]#5=fail(ENOMEM)", "kho.preserve[memfd-v1]#9=fail(ENOMEM)",
                              "mm.folio_alloc[memfd.tree]#1=fail(ENOMEM)"}) {
        INFO(fault);
        world.plan(fault);
        CHECK_FALSE(handler.prepare(*file, second));
        CHECK(as_with_one());
    }
    for (u64* const goes_first : {&first, &second}) {
        REQUIRE(handler.prepare(*file, second));
        handler.cancel(*file, *goes_first);
        CHECK(as_with_one());
        if (goes_first == &first) first = second;
    }
    handler.cancel(*file, first);
    CHECK(before.holds(*file));
}

TEST_CASE("a file crosses under the token that is left") {
    for (const bool strict : {false, true}) {
        LuoWorld world({.strict = strict});
        const i32 fd = world.memfd(8 * page_bytes, 2);
        for (const u64 token : {1, 2}) {
            REQUIRE(world.client().fd_preserve(fd, token));
            REQUIRE(world.client().set_fd_event(token, static_cast<u32>(LuoEvent::prepare)));
        }
        REQUIRE(world.client().fd_unpreserve(2));
        REQUIRE(world.prepare() == Errno::ok);
        REQUIRE(world.kexec() == Errno::ok);
        CHECK(world.has_pattern(*world.client().fd_restore(1), 8 * page_bytes, 2));
        CHECK(world.finish() == Errno::ok);
        CHECK(world.findings() == Calls{});
    }
}

TEST_CASE("empty and absurd files are refused and thawed") {
    LuoWorld world;
    u64 data = 0;
    const auto empty = memfd_create_file(world.kernel(), "empty", 0, {});
    CHECK(world.running->memfd.prepare(**empty, data).error() == Errno::einval);
    CHECK_FALSE((*empty)->frozen());
    const auto huge = memfd_create_file(world.kernel(), "huge", 16 * TiB, {});
    CHECK(world.running->memfd.prepare(**huge, data).error() == Errno::e2big);
    CHECK_FALSE((*huge)->frozen());
    CHECK((*huge)->truncate(page_bytes));
}

TEST_CASE("the largest file has as many pages as its tree has room for") {
    CHECK(order_for_bytes(abi::memfd_tree_bytes(1)) == Order{1});
    CHECK(order_for_bytes(abi::memfd_tree_bytes(256)) == Order{1});
    CHECK(order_for_bytes(abi::memfd_tree_bytes(257)) == Order{2});
    CHECK(order_for_bytes(abi::memfd_tree_bytes(abi::memfd_folios_max)) == Order{10});
    CHECK(abi::memfd_folios_max * page_bytes == 1023 * MiB);
}

TEST_CASE("a damaged tree is an errno, never a crash, and nothing that was restored leaks") {
    struct Case {
        const char* what;
        u64 offset;  // into the tree of two pages
        u32 value;
        Errno wanted;
    };
    // The layout of the worked example: lengths at 0x44, 0x58 and 0x6c, the folios from 0x74 on.
    const Case cases[] = {
        {"no tree", 0x00, 0, Errno::einval},
        {"folios of an odd length", 0x6c, 0x1f00'0000, Errno::einval},
        {"pos of 4 bytes", 0x44, 0x0400'0000, Errno::einval},
        {"size of 4 bytes", 0x58, 0x0400'0000, Errno::einval},
        {"a page outside RAM", 0x88, 0x00ff'0000, Errno::enoent},
        {"two pages at one index", 0x8c, 0, Errno::enoent},
    };
    for (const Case& entry : cases) {
        INFO(entry.what);
        LuoWorld world;
        const i32 fd = world.memfd(2 * page_bytes);
        REQUIRE(world.client().fd_preserve(fd, 1));
        REQUIRE(world.prepare() == Errno::ok);
        u64 data = 0;
        for (const auto& node : [&] {
                 FileTree tree(world.kernel(), world.kho());
                 const auto luo = kho::FdtReader::open(world.ram(), world.luo().tree().page());
                 REQUIRE(tree.adopt(
                             PhysAddr{*luo->property_u64(luo->subnode(0, "subsystems"), "file-descriptors")}) == 0);
                 return tree.nodes();
             }())
            data = *node.data;
        world.before_jump = [&] { world.ram().write(PhysAddr{data} + entry.offset, entry.value); };
        REQUIRE(world.kexec() == Errno::ok);
        CHECK(world.client().fd_restore(1).error() == entry.wanted);
        CHECK(world.finish() == Errno::ok);
    }
}

TEST_CASE("a handle that names no memory is ENOENT, and discarding it is harmless") {
    LuoWorld world;
    for (const u64 data : {u64{1} << 40, u64{1} << 52, ~u64{0}}) {
        CHECK(world.running->memfd.retrieve(data).error() == Errno::enoent);
        CHECK_NOTHROW(world.running->memfd.finish(nullptr, data, false));
    }
}

TEST_CASE("without the handler, or without LUO, a memfd cannot be preserved") {
    LuoWorld world({.without = {"memfd"}});
    CHECK(world.client().fd_preserve(world.memfd(page_bytes), 1).error() == Errno::enoent);
}

}  // namespace kexec_sim::luo
