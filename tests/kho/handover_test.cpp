// Whole handovers through two and more kernels: the scenario checklist of kho-v1 §16.
#include <catch2/catch.hpp>

#include "tests/kho/kho_world.hpp"

namespace kexec_sim::kho {

const std::vector<std::string> no_findings;

TEST_CASE("a preserved folio is found again at its address with its order and content") {
    const std::string profile = GENERATE("linux-6.16", "linux-6.18", "luo-v3");
    KhoWorld world(profile);
    const Folio kept = world.alloc(3, 0x1000'0000);
    const Folio lost = world.alloc(0, 0x2000'0000);
    REQUIRE(world.kho().preserve_folio(kept, "bench"));
    REQUIRE(world.kho().finalize());
    CHECK(world.kho().map_statistics()->folios == 2);
    CHECK(world.kho().map_statistics()->orders == std::map<unsigned, u64>{{0, 1}, {3, 1}});
    const auto scratch = world.kho().scratch_areas();

    world.kexec();
    CHECK(world.kho().incoming());
    CHECK(world.logged("KHO: found kexec handover data"));
    CHECK(world.kho().scratch_areas() == scratch);
    CHECK(world.kernel().pages.block(kept.pfn).meta.state == PageState::preserved);
    CHECK(world.kernel().pages.block(lost.pfn).meta.state == PageState::free);
    const auto restored = world.kho().restore_folio(kept.pfn.phys(), "bench", FrameClass::bench);
    REQUIRE(restored);
    CHECK(*restored == kept);
    CHECK(world.filled(kept, 0x1000'0000));
    world.kernel().pages.free_folio(kept);
    world.kernel().pages.check_sane(true);
    CHECK(world.findings() == no_findings);
}

TEST_CASE("after finalize nothing can be preserved until an abort") {
    KhoWorld world("luo-v3");
    const Folio first = world.alloc(), second = world.alloc();
    REQUIRE(world.kho().preserve_folio(first, "bench"));
    REQUIRE(world.kho().finalize());
    CHECK(world.kho().preserve_folio(second, "bench").error() == Errno::ebusy);
    CHECK(world.kho().preserve_phys(second.pfn.phys(), page_bytes, "bench").error() == Errno::ebusy);
    CHECK(world.kho().unpreserve_folio(first, "bench").error() == Errno::ebusy);
    CHECK(world.kho().unpreserve_phys(first.pfn.phys(), page_bytes, "bench").error() == Errno::ebusy);
    CHECK(world.kho().finalize().error() == Errno::eexist);
    REQUIRE(world.kho().abort());
    CHECK(world.kho().abort().error() == Errno::enoent);
    CHECK(world.kho().preserve_folio(second, "bench"));
}

TEST_CASE("an abort forgets what was preserved in mainline and keeps it in the LUO series") {
    struct Case {
        std::string profile;
        u64 folios;
    };
    const auto [profile, folios] = GENERATE(Case{"linux-6.16", 1}, Case{"linux-6.18", 1}, Case{"luo-v3", 3});
    KhoWorld world(profile);
    REQUIRE(world.kho().preserve_folio(world.alloc(), "bench"));
    REQUIRE(world.kho().preserve_folio(world.alloc(2), "bench"));
    REQUIRE(world.kho().finalize());
    CHECK(world.kho().map_statistics()->folios == 3);
    const u64 free_frames = world.kernel().pages.free_frames();
    REQUIRE(world.kho().abort());
    CHECK(world.kernel().pages.free_frames() > free_frames);
    REQUIRE(world.kho().finalize());
    CHECK(world.kho().map_statistics()->folios == folios);
}

TEST_CASE("functions that an edition does not export answer EOPNOTSUPP") {
    struct Case {
        std::string profile;
        bool phys, pages, vmalloc, unpreserve, notifiers;
    };
    const Case c = GENERATE(
        Case{"linux-6.16", true, false, false, false, true}, Case{"linux-6.18", false, true, true, false, true},
        Case{"luo-v2", true, false, false, true, false}, Case{"luo-v3", true, false, false, true, false});
    KhoWorld world(c.profile);
    Kho& kho = world.kho();
    const auto offered = [](const auto& result) { return result.has_value() || result.error() != Errno::eopnotsupp; };
    const Folio folio = world.alloc();
    const auto area = world.kernel().vmalloc.alloc(page_bytes, "bench", FrameClass::bench);
    CHECK(offered(kho.preserve_phys(folio.pfn.phys(), page_bytes, "bench")) == c.phys);
    CHECK(offered(kho.preserve_pages(folio.pfn, 1, "bench")) == c.pages);
    CHECK(offered(kho.restore_pages(folio.pfn.phys(), 1, "bench", FrameClass::bench)) == c.pages);
    CHECK(offered(kho.preserve_vmalloc(**area, "bench")) == c.vmalloc);
    CHECK(offered(kho.unpreserve_folio(folio, "bench")) == c.unpreserve);
    CHECK(offered(kho.unpreserve_phys(folio.pfn.phys(), page_bytes, "bench")) == c.unpreserve);
    CHECK(offered(kho.register_notifier(0, [](NotifierAction) { return NotifyResult::ok(); })) == c.notifiers);
    CHECK(offered(kho.remove_subtree(PhysAddr{0})) == !c.notifiers);
}

TEST_CASE("an unaligned phys range is refused and sets nothing") {
    KhoWorld world("linux-6.16");
    CHECK(world.kho().preserve_phys(PhysAddr{0x5000001}, page_bytes, "bench").error() == Errno::einval);
    CHECK(world.kho().preserve_phys(PhysAddr{0x5000000}, page_bytes + 1, "bench").error() == Errno::einval);
    CHECK(world.kho().preserved_folios() == 0);
    REQUIRE(world.kho().preserve_phys(PhysAddr{0x5003000}, 0x9000, "bench"));
    CHECK(world.kho().preserved_folios() == 3);
    REQUIRE(world.kho().finalize());
    CHECK(world.kho().map_statistics()->orders == std::map<unsigned, u64>{{0, 2}, {2, 2}});
}

TEST_CASE("three kexecs in a row keep the scratch areas") {
    KhoWorld world("linux-6.18", "kho=on kho_scratch=32M,32M,32M");
    const auto scratch = world.kho().scratch_areas();
    REQUIRE(scratch.size() == 3);
    const Folio kept = world.alloc(1, 7);
    for (int hop = 0; hop < 3; ++hop) {
        REQUIRE(world.kho().preserve_folio(kept, "bench"));
        REQUIRE(world.kho().finalize());
        // The parameter has no effect on a boot with a handover.
        world.kexec("", "kho=on kho_scratch=16M,16M,16M");
        CHECK(world.kho().scratch_areas() == scratch);
        REQUIRE(world.kho().restore_folio(kept.pfn.phys(), "bench", FrameClass::bench));
        CHECK(world.filled(kept, 7));
    }
    CHECK(world.findings() == no_findings);
}

TEST_CASE("an unfinished tree page is refused by the next kernel") {
    const std::string profile = GENERATE("linux-6.16", "luo-v3");
    KhoWorld world(profile);
    world.kexec();
    CHECK_FALSE(world.kho().incoming());
    CHECK(world.logged(fmt::format("KHO: setup: handover FDT ({:#x}) is invalid: -9", world.handed_over_root().raw)));
    CHECK(world.logged("KHO: disabling KHO revival: -22"));
    CHECK(world.kho().enabled());
    CHECK(world.kho().scratch_areas().size() == 3);
    CHECK(world.findings() == no_findings);
}

TEST_CASE("6.18 passes handover data only if finalized as the image is loaded") {
    KhoWorld world("linux-6.18");
    SECTION("never finalized") {
        world.kexec();
        CHECK_FALSE(world.kho().incoming());
        CHECK_FALSE(world.logged("disabling KHO revival"));
    }
    SECTION("loaded, then finalized") {
        REQUIRE(world.load());
        REQUIRE(world.kho().finalize());
        world.kexec();
        CHECK_FALSE(world.kho().incoming());
    }
    SECTION("finalized, then loaded") {
        REQUIRE(world.kho().finalize());
        world.kexec();
        CHECK(world.kho().incoming());
    }
}

TEST_CASE("6.16 hands over what is finalized after the image was loaded") {
    KhoWorld world("linux-6.16");
    REQUIRE(world.load());
    REQUIRE(world.kho().finalize());
    world.kexec();
    CHECK(world.kho().incoming());
}

TEST_CASE("a segment larger than every scratch area cannot be placed") {
    KhoWorld world("linux-6.16", "kho=on kho_scratch=16M,16M,16M");
    world.image_bytes = 17 * MiB;
    CHECK(world.load().error() == Errno::eaddrnotavail);
    world.image_bytes = 8 * MiB;
    REQUIRE(world.load());
    for (const KexecSegment& segment : world.kernel().kexec.image()->segments) {
        bool inside = false;
        for (const PhysRange& area : world.kho().scratch_areas()) inside |= area.contains(segment.destination);
        CHECK(inside);
    }
}

TEST_CASE("with kho=off calls just track, and control does not exist") {
    KhoWorld luo("luo-v3", "kho=off");
    CHECK_FALSE(luo.kho().enabled());
    CHECK(luo.kho().preserve_folio(luo.alloc(), "bench"));
    CHECK(luo.kho().finalize().error() == Errno::eopnotsupp);
    CHECK(luo.kho().abort().error() == Errno::eopnotsupp);
    CHECK(luo.kho().scratch_areas().empty());
}

TEST_CASE("debugfs does not exist with kho=off, so a 6.16 kernel cannot finalize") {
    KhoWorld world("linux-6.16", "");
    CHECK(world.kernel().vfs.write("kho/out/finalize", "1").error() == Errno::enoent);
    CHECK(world.kho().finalize().error() == Errno::enoent);
}

TEST_CASE("with kho=off in the successor preserved memory stays reserved and nothing goes on") {
    KhoWorld world("linux-6.16");
    const Folio kept = world.alloc(0, 9);
    REQUIRE(world.kho().preserve_folio(kept, "bench"));
    REQUIRE(world.kho().finalize());
    world.kexec("", "kho=off");
    CHECK(world.kho().incoming());
    CHECK_FALSE(world.kho().enabled());
    CHECK(world.kernel().pages.block(kept.pfn).meta.state == PageState::preserved);
    CHECK(world.kho().finalize().error() == Errno::enoent);
    world.kexec("", "kho=on");
    CHECK_FALSE(world.kho().incoming());
}

TEST_CASE("what an aborted finalize left is revived by a 6.16 successor") {
    KhoWorld world("linux-6.16");
    const Folio kept = world.alloc(0, 9);
    REQUIRE(world.kho().preserve_folio(kept, "bench"));
    REQUIRE(world.kho().finalize());
    REQUIRE(world.load());
    REQUIRE(world.kho().abort());
    world.kexec();
    CHECK(world.logged("KHO: found kexec handover data"));
}

TEST_CASE("a map of 6.16 is misread by 6.18 and nothing notices at boot") {
    KhoWorld world("linux-6.16");
    for (int i = 0; i < 3; ++i) REQUIRE(world.kho().preserve_folio(world.alloc(i), "bench"));
    REQUIRE(world.kho().finalize());
    world.kexec("linux-6.18");
    CHECK(world.kho().incoming());
    CHECK(world.kernel().in_user_space());
}

TEST_CASE("NUMA: a memoryless node disables KHO, loudly only in 6.18") {
    const std::string profile = GENERATE("linux-6.16", "linux-6.18");
    KhoWorld world(profile, "kho=on", {256 * MiB, 0});
    CHECK_FALSE(world.kho().enabled());
    CHECK(world.kho().scratch_areas().empty());
    CHECK(world.logged("KHO: Failed to reserve scratch area, disabling kexec handover") == (profile == "linux-6.18"));
    world.kernel().pages.check_sane(true);
    CHECK(world.findings() == no_findings);
}

TEST_CASE("each node has a scratch area of its own") {
    KhoWorld world("linux-6.16", "kho=on kho_scratch=16M,32M,15M", {512 * MiB, 512 * MiB});
    const auto areas = world.kho().scratch_areas();
    REQUIRE(areas.size() == 4);
    CHECK(areas[0].bytes() == 16 * MiB);
    CHECK(areas[1].bytes() == 32 * MiB);
    CHECK(areas[2].bytes() == 16 * MiB);
    CHECK(world.machine->node_of(areas[2].begin) == Nid{0});
    CHECK(areas[3].bytes() == 16 * MiB);
    CHECK(world.machine->node_of(areas[3].begin) == Nid{1});
    for (const PhysRange& area : areas) CHECK(world.kernel().pages.is_cma(area.begin.pfn()));
    CHECK(world.kernel().vfs.read("kho/out/scratch_len") ==
          fmt::format("{:#x}\n{:#x}\n{:#x}\n{:#x}\n", 16 * MiB, 32 * MiB, 16 * MiB, 16 * MiB));
}

TEST_CASE("without a page for the root tree KHO is off and the scratch areas are ordinary memory") {
    KhoWorld world("linux-6.16", "kho=on", {256 * MiB}, {}, "mm.folio_alloc[kho.root]#1=fail(ENOMEM)");
    CHECK_FALSE(world.kho().enabled());
    CHECK(world.kho().scratch_areas().empty());
    CHECK(world.kernel().pages.free_cma_frames() == 0);
    world.kernel().pages.check_sane(true);
    CHECK(world.findings() == no_findings);
}

TEST_CASE("preserving in scratch is an error in 6.18 and a finding in 6.16") {
    SECTION("6.18") {
        KhoWorld world("linux-6.18");
        const Pfn inside = world.kho().scratch_areas()[0].begin.pfn();
        CHECK(world.kho().preserve_pages(inside, 1, "bench").error() == Errno::einval);
        CHECK(world.kho().preserve_pages(Pfn{inside.raw - 2}, 3, "bench").error() == Errno::einval);
        CHECK(world.kho().preserve_folio({inside, Order{0}}, "bench").error() == Errno::einval);
        CHECK(world.kho().preserved_folios() == 0);
        CHECK(world.findings() == no_findings);
    }
    SECTION("6.16") {
        KhoWorld world("linux-6.16");
        const Pfn inside = world.kho().scratch_areas()[0].begin.pfn();
        CHECK(world.kho().preserve_folio({inside, Order{0}}, "bench"));
        REQUIRE(world.kho().finalize());
        world.kexec();
        CHECK(world.has_finding("frame.scratch"));
    }
}

}  // namespace kexec_sim::kho
