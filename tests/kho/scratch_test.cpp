// Scratch areas: what the parameter takes, and the sizes that come of it.
#include <catch2/catch.hpp>

#include "tests/kho/kho_world.hpp"

namespace kexec_sim::kho {

TEST_CASE("kho_scratch= is parsed as each edition does") {
    struct Case {
        std::string value;
        bool in_616, in_618;
    };
    const Case c =
        GENERATE(Case{"200%", true, true}, Case{"0%", true, true}, Case{"4294967295%", true, true},
                 Case{"4294967296%", false, false}, Case{"12345678901%", false, false}, Case{"%", false, false},
                 Case{"1x%", false, false}, Case{"", false, false}, Case{"16M,512M,256M", true, true},
                 Case{"16M,0,64M", false, true}, Case{"0,0,64M", false, true}, Case{"0,0,0", false, false},
                 Case{"16M,512M,256Mx", true, false}, Case{"16M,512M,256M,1M", true, false},
                 Case{"16M,512M", false, false}, Case{"16M", false, false}, Case{",1M,1M", false, false},
                 Case{"16M 512M 1M", false, false}, Case{"M,1M,1M", false, false});
    INFO(c.value);
    const KhoWorld world("linux-6.16", "");
    const auto accepted = [&](const char* profile, ScratchParams& params) {
        return parse_scratch(c.value, edition_for_profile(profile), params, const_cast<KhoWorld&>(world).kernel().log)
            .has_value();
    };
    ScratchParams old, fresh;
    CHECK(accepted("linux-6.16", old) == c.in_616);
    CHECK(accepted("linux-6.18", fresh) == c.in_618);
    // What is refused leaves the default.
    if (!c.in_616) CHECK(old.scale == 200);
    if (!c.in_618) CHECK(fresh.scale == 200);
}

TEST_CASE("the parameter says what it understood, and a malformed one is reported by the kernel") {
    struct Case {
        std::string profile, cmdline, line;
    };
    const Case c =
        GENERATE(Case{"linux-6.16", "kho=on kho_scratch=150%", "KHO: scratch scale is 150%"},
                 Case{"linux-6.16", "kho=on kho_scratch=16M,32M,8M",
                      "KHO: scratch areas: lowmem: 16MiB global: 32MiB pernode: 8MiB"},
                 Case{"linux-6.16", "kho=on kho_scratch=16M,0,64M", "Malformed early option 'kho_scratch'"},
                 Case{"linux-6.18", "kho=on kho_scratch=16M,0,64M",
                      "scratch areas: lowmem: 16MiB global: 0MiB pernode: 64MiB"},
                 Case{"linux-6.16", "kho=on kho=maybe", "Malformed early option 'kho'"});
    KhoWorld world(c.profile, c.cmdline);
    CHECK(world.logged(c.line));
    CHECK(world.kho().enabled());
}

TEST_CASE("a size of 0 among the three makes an empty area in 6.18 and is no size at all in 6.16") {
    const std::string profile = GENERATE("linux-6.16", "linux-6.18");
    KhoWorld world(profile, "kho=on kho_scratch=16M,0,64M");
    CHECK((world.kho().scratch_areas()[2].bytes() == 64 * MiB) == (profile == "linux-6.18"));
}

TEST_CASE("the worked example of sizing") {
    // R below 4 GiB 70 MiB, in all 180 MiB, 150 MiB on node 0 and 30 MiB on node 1. The images of a kernel with no KHO
    // stand for what it reserved.
    MachineConfig config;
    config.node_bytes = {6 * GiB, 4 * GiB};
    const MachineHandle machine = make_machine(config);
    Kernel kernel(*machine, {}, {});
    for (const NodeRange& node : machine->nodes) kernel.memblock.add(node.range, node.nid);
    const auto reserve = [&](u64 bytes, Nid nid, bool low) {
        REQUIRE(kernel.memblock.alloc({.bytes = bytes,
                                       .max = PhysAddr{low ? 4 * GiB : ~u64{0}},
                                       .nid = nid,
                                       .exact_nid = true,
                                       .site = "test"}));
    };
    reserve(70 * MiB, Nid{0}, true);
    reserve(80 * MiB, Nid{0}, false);
    reserve(30 * MiB, Nid{1}, false);
    const auto reservation = reserve_scratch(kernel, {});
    REQUIRE(reservation);
    REQUIRE(reservation->areas.size() == 4);
    CHECK(reservation->areas[0].bytes() == 140 * MiB);
    CHECK(reservation->areas[0].end.raw <= 4 * GiB);
    CHECK(reservation->areas[1].bytes() == 220 * MiB);
    CHECK(reservation->areas[2].bytes() == 300 * MiB);
    CHECK(reservation->areas[3].bytes() == 60 * MiB);
    for (const PhysRange& area : reservation->areas) CHECK(area.begin.raw % scratch_align == 0);
    CHECK(reservation->array.bytes() == 64);
    CHECK(reservation->array.begin.page_aligned());
}

TEST_CASE("explicit sizes of the worked example add up to 1040 MiB") {
    KhoWorld world("linux-6.16", "kho=on kho_scratch=16M,512M,256M", {2 * GiB, 2 * GiB});
    u64 total = 0;
    for (const PhysRange& area : world.kho().scratch_areas()) total += area.bytes();
    CHECK(total == 1040 * MiB);
}

TEST_CASE("with all memory below 4 GiB the global area is empty") {
    KhoWorld world("linux-6.16", "kho=on", {512 * MiB});
    CHECK(world.kho().scratch_areas()[1].bytes() == 0);
    CHECK(world.kho().enabled());
}

TEST_CASE("a scratch area that cannot be had gives back those before it") {
    const unsigned visit = GENERATE(1u, 2u, 3u);
    KhoWorld world("linux-6.18", "kho=on kho_scratch=16M,16M,16M", {256 * MiB}, {},
                   fmt::format("memblock.alloc[kho.scratch]#{}=fail(ENOMEM)", visit));
    CHECK_FALSE(world.kho().enabled());
    CHECK(world.logged("KHO: Failed to reserve scratch area, disabling kexec handover"));
    for (const MemblockRegion& region : world.kernel().memblock.reserved())
        CHECK_FALSE(region.site.starts_with("kho."));
    CHECK(world.findings() == std::vector<std::string>{});
}

TEST_CASE("scratch serves movable pages only") {
    KhoWorld world("linux-6.16", "kho=on kho_scratch=64M,64M,64M", {256 * MiB});
    while (const auto folio = world.kernel().pages.alloc_folio(
               {.order = Order{4}, .site = "test", .frame_class = FrameClass::kernel})) {
        for (const PhysRange& area : world.kho().scratch_areas()) REQUIRE_FALSE(area.overlaps(folio->phys()));
    }
    CHECK(world.kernel().pages.free_cma_frames() >= 190 * MiB / page_bytes);
}

}  // namespace kexec_sim::kho
