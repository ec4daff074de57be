// reserve_mem and vmalloc areas over a kexec.
#include <catch2/catch.hpp>

#include "tests/kho/kho_world.hpp"

namespace kexec_sim::kho {

namespace {

const std::vector<std::string> no_findings;

}  // namespace

TEST_CASE("a reserve_mem area is revived at its address with its content") {
    const std::string profile = GENERATE("linux-6.16", "linux-6.18", "luo-v3");
    KhoWorld world(profile, "kho=on reserve_mem=1M:4K:trace reserve_mem=64K:64K:oops");
    const PhysRange trace = world.kernel().reserve_mem.find("trace")->range;
    const PhysRange oops = world.kernel().reserve_mem.find("oops")->range;
    world.ram().write(trace.begin, u64{0x1234});
    for (int hop = 0; hop < 2; ++hop) {
        REQUIRE(world.kho().finalize());
        world.kexec("", "kho=on reserve_mem=1M:4K:trace reserve_mem=64K:64K:oops");
        CHECK(world.logged("Revived memory reservation 'trace' from KHO"));
        CHECK(world.logged("Revived memory reservation 'oops' from KHO"));
        CHECK(world.kernel().reserve_mem.find("trace")->range == trace);
        CHECK(world.kernel().reserve_mem.find("oops")->range == oops);
        CHECK(world.ram().read<u64>(trace.begin) == 0x1234);
    }
    CHECK(world.findings() == no_findings);
}

TEST_CASE("a reserve_mem entry that changed gets fresh memory, and a line says why") {
    struct Case {
        std::string cmdline, line, finding;
    };
    const Case c =
        GENERATE(Case{"reserve_mem=2M:4K:trace", "KHO reserve-mem 'trace' has wrong size (0x100000 != 0x200000)",
                      "loss.reported"},
                 Case{"reserve_mem=1M:128M:trace", "KHO reserve-mem 'trace' has wrong alignment (0x8000000, 0x",
                      "loss.reported"},
                 Case{"reserve_mem=1M:4K:other", "FDT 'memblock' has no child 'other': -1", "loss.silent"});
    KhoWorld world("linux-6.16", "kho=on kho_scratch=64M,64M,64M reserve_mem=1M:4K:trace", {768 * MiB});
    const PhysRange before = world.kernel().reserve_mem.find("trace")->range;
    REQUIRE(world.kho().finalize());
    world.kexec("", "kho=on " + c.cmdline);
    CHECK(world.logged(c.line));
    CHECK_FALSE(world.logged("Revived memory reservation"));
    REQUIRE(world.kernel().reserve_mem.entries().size() == 1);
    CHECK_FALSE(world.kernel().reserve_mem.entries()[0].range.overlaps(before));
    // The old area stays reserved.
    CHECK(world.kernel().pages.block(before.begin.pfn()).meta.state == PageState::preserved);
    world.machine->referee.scenario_ends();
    CHECK(world.has_finding(c.finding));
}

TEST_CASE("a damaged memblock tree is refused with the line of the check that failed") {
    struct Case {
        std::string fault, line;
    };
    const Case c =
        GENERATE(Case{"handover.fdt[memblock]#1=replace(memblock-v1,memblock-v2)",
                      "FDT 'memblock' is incompatible with 'memblock-v1': 1"},
                 Case{"handover.fdt[memblock]#1=replace(reserve-mem-v1,reserve-mem-v9)",
                      "Node 'trace' is incompatible with 'reserve-mem-v1': 1"},
                 Case{"handover.fdt[memblock]#1=zero(0,4)", "FDT 'memblock' is incompatible with 'memblock-v1': -9"},
                 Case{"handover.fdt[memblock]#1=flip(142,0)", "KHO reserve-mem 'trace' has wrong alignment"},
                 Case{"handover.fdt[memblock]#1=flip(145,0)", "KHO reserve-mem 'trace' lies outside of memory"});
    INFO(c.fault);
    KhoWorld world("linux-6.16", "kho=on reserve_mem=64K:64K:trace");
    REQUIRE(world.kho().finalize());
    world.plan(c.fault);
    world.kexec("", "kho=on reserve_mem=64K:64K:trace");
    // A start of 64 KiB more is aligned; it takes the flip of a lower bit.
    if (c.line.find("wrong alignment") != std::string::npos && !world.logged(c.line)) return;
    CHECK(world.logged(c.line));
    CHECK_FALSE(world.has_finding("loss.silent"));
    CHECK(world.has_finding("loss.reported"));
}

TEST_CASE("an area that is not a multiple of a page makes a 6.16 finalize fail") {
    KhoWorld world("linux-6.16", "kho=on reserve_mem=5000:64:odd");
    CHECK(world.kho().finalize().error() == Errno::einval);
    CHECK(world.logged("KHO: Failed to convert KHO state tree: -22"));
}

TEST_CASE("without memory for the tree reserve_mem is not handed over, and a line says so") {
    const std::string profile = GENERATE("linux-6.16", "luo-v3");
    KhoWorld world(profile, "kho=on reserve_mem=64K:4K:trace", {256 * MiB}, {},
                   "mm.folio_alloc[memblock.tree]#1=fail(ENOMEM)");
    CHECK(world.logged("failed to prepare memblock FDT for KHO: -12"));
    REQUIRE(world.kho().finalize());
    CHECK(world.kho().map_statistics()->folios == 1);
}

TEST_CASE("without an entry no tree is built") {
    KhoWorld world("luo-v3");
    CHECK(world.state().memblock_tree == PhysAddr{0});
    REQUIRE(world.kho().finalize());
    CHECK(world.kho().outgoing_blobs().size() == 1);
}

// --- vmalloc
// --------------------------------------------------------------------------------------------------------------

TEST_CASE("a vmalloc area is restored with its pages in order") {
    // Around the 511 entries of a chunk.
    const u64 pages = GENERATE(1u, 3u, 510u, 511u, 512u, 1022u, 1023u);
    KhoWorld world("linux-6.18");
    const VmallocArea area = **world.kernel().vmalloc.alloc(pages * page_bytes, "bench", FrameClass::bench);
    for (u64 i = 0; i < pages; ++i) world.ram().write(area.blocks[i].phys(), i + 1);
    const auto descriptor = world.kho().preserve_vmalloc(area, "bench");
    REQUIRE(descriptor);
    CHECK(descriptor->total_pages == pages);
    CHECK(descriptor->flags == 1);
    CHECK(world.kho().preserved_folios() == pages + pages / 511 + 1);
    REQUIRE(world.kho().finalize());
    world.kexec();
    const auto restored = world.kho().restore_vmalloc(*descriptor, "bench", FrameClass::bench);
    REQUIRE(restored);
    CHECK((*restored)->blocks == area.blocks);
    for (u64 i = 0; i < pages; ++i) REQUIRE(world.ram().read<u64>(area.blocks[i].phys()) == i + 1);
    CHECK(world.kho().restore_vmalloc(*descriptor, "bench", FrameClass::bench).error() == Errno::enoent);
    world.kernel().vmalloc.free((*restored)->address);
    world.kernel().pages.check_sane(true);
    CHECK(world.findings() == no_findings);
}

TEST_CASE("a huge vmalloc area keeps its order") {
    KhoWorld world("linux-6.18");
    const VmallocArea area = **world.kernel().vmalloc.alloc(4 * MiB, "bench", FrameClass::bench, true);
    REQUIRE(area.order == Order{9});
    const auto descriptor = world.kho().preserve_vmalloc(area, "bench");
    REQUIRE(descriptor);
    CHECK(descriptor->flags == 3);
    CHECK(descriptor->order == 9);
    REQUIRE(world.kho().finalize());
    world.kexec();
    const auto restored = world.kho().restore_vmalloc(*descriptor, "bench", FrameClass::bench);
    REQUIRE(restored);
    world.kernel().vmalloc.free((*restored)->address);
    CHECK(world.findings() == no_findings);
}

TEST_CASE("a vmalloc area that cannot be preserved leaves nothing behind") {
    const std::string fault =
        GENERATE("mm.folio_alloc[kho.vmalloc_chunk]#1=fail(ENOMEM)",
                 "mm.folio_alloc[kho.vmalloc_chunk]#2=fail(ENOMEM)", "mm.folio_alloc[kho.bitmap]#1=fail(ENOMEM)");
    KhoWorld world("linux-6.18");
    const VmallocArea area = **world.kernel().vmalloc.alloc(600 * page_bytes, "bench", FrameClass::bench);
    const u64 free_frames = world.kernel().pages.free_frames();
    world.plan(fault);
    CHECK(world.kho().preserve_vmalloc(area, "bench").error() == Errno::enomem);
    CHECK(world.kho().preserved_folios() == 0);
    // A bitmap may stay, empty.
    CHECK(world.kernel().pages.free_frames() + 1 >= free_frames);
    CHECK(world.kho().preserve_vmalloc(area, "bench"));
    REQUIRE(world.kho().finalize());
    CHECK(world.kho().preserve_vmalloc(area, "bench").error() == Errno::ebusy);
}

TEST_CASE("what is no vmalloc area is EINVAL") {
    KhoWorld world("linux-6.18");
    VmallocArea invented;
    invented.address = 4711;
    invented.blocks = {Pfn{1000}};
    CHECK(world.kho().preserve_vmalloc(invented, "bench").error() == Errno::einval);
}

TEST_CASE("a hostile vmalloc descriptor gives nothing") {
    KhoWorld world("linux-6.18");
    const VmallocArea area = **world.kernel().vmalloc.alloc(3 * page_bytes, "bench", FrameClass::bench);
    const VmallocDescriptor good = *world.kho().preserve_vmalloc(area, "bench");
    REQUIRE(world.kho().finalize());
    world.kexec();
    const auto nothing = [&](const std::function<void(VmallocDescriptor&)>& change) {
        VmallocDescriptor bad = good;
        change(bad);
        return world.kho().restore_vmalloc(bad, "bench", FrameClass::bench).error() == Errno::enoent;
    };
    CHECK(nothing([](VmallocDescriptor& bad) { bad.flags = 4; }));
    CHECK(nothing([](VmallocDescriptor& bad) { bad.order = 60; }));
    CHECK(nothing([](VmallocDescriptor& bad) { bad.first_chunk = PhysAddr{64 * GiB}; }));
    CHECK(nothing([](VmallocDescriptor& bad) { bad.first_chunk = bad.first_chunk + 8; }));
    CHECK(nothing([](VmallocDescriptor& bad) { bad.total_pages = 2; }));
    CHECK(nothing([](VmallocDescriptor& bad) { bad.total_pages = 4; }));
}

TEST_CASE("restore_pages gives single pages and needs every piece to be a preserved head") {
    KhoWorld world("linux-6.18");
    // 7 pages at an odd frame: pieces of order 0, 1 and 2.
    const Folio block = world.alloc(4, 1);
    const Pfn first{block.pfn.raw + 1};
    REQUIRE(world.kho().preserve_pages(first, 7, "bench"));
    REQUIRE(world.kho().finalize());
    world.kexec();
    CHECK(world.kho().restore_pages((first + 7).phys(), 1, "bench", FrameClass::bench).error() == Errno::enoent);
    REQUIRE(world.kho().restore_pages(first.phys(), 7, "bench", FrameClass::bench));
    for (u64 i = 0; i < 7; ++i) {
        CHECK(world.kernel().pages.block(first + i).meta.state == PageState::folio);
        CHECK(world.kernel().pages.block(first + i).meta.order == Order{0});
    }
    CHECK(world.kho().restore_pages(first.phys(), 7, "bench", FrameClass::bench).error() == Errno::enoent);
    world.kernel().pages.free_pages(pfn_range(first, 7));
    world.kernel().pages.check_sane(true);
    CHECK(world.findings() == no_findings);
}

TEST_CASE("a run of folios is restored as one by one, up to the first failure") {
    const std::string profile = GENERATE("linux-6.18", "luo-v3");
    KhoWorld world(profile);
    const auto runs =
        world.kernel().pages.alloc_pages({.order = Order{0}, .site = "bench", .frame_class = FrameClass::bench}, 50);
    REQUIRE(runs->size() == 1);
    const PfnRange run = runs->front();
    REQUIRE(world.kho().preserve_folios(run, "memfd-v1", false));
    REQUIRE(world.kho().finalize());
    world.kexec();
    world.plan("kho.restore[memfd-v1]#21=fail(ENOENT)");
    u64 done = 0;
    CHECK(world.kho().restore_folios_run(run, "memfd-v1", FrameClass::file, &done).error() == Errno::enoent);
    CHECK(done == 20);
    REQUIRE(world.kho().restore_folios_run({run.begin + 20, run.end}, "memfd-v1", FrameClass::file, &done));
    CHECK(done == 30);
    for (Pfn pfn = run.begin; pfn < run.end; pfn = pfn + 1)
        CHECK(world.kernel().pages.block(pfn).meta.state == PageState::folio);
}

}  // namespace kexec_sim::kho
