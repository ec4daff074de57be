// What the referee knows of restored memory beside its content: page metadata, areas, and what the map made a kernel keep.
#include "tests/machine/referee_fixture.hpp"

using namespace kexec_sim;
using namespace kexec_sim::test;

TEST_CASE("single pages that come back as a compound page are insane, a folio without tails is as well") {
    World world("linux-6.18");
    world.referee.kho_preserved({frames(5000, 8), std::nullopt, "bench"});
    world.referee.kho_finalized();
    world.kexec({frames(5000, 8)});
    SECTION("single pages") {
        world.referee.kho_restored(folio(5000, 3), "bench", true);
        world.referee.pages_adopted(frames(5000, 8), Order{0}, true);
        REQUIRE(world.ids() == "");
    }
    SECTION("a compound page") {
        world.referee.kho_restored(folio(5000, 3), "bench", true);
        world.referee.pages_adopted(frames(5000, 8), Order{3}, true);
        REQUIRE(world.ids() == "kernel.sane");
    }
    SECTION("a folio that was asked for") {
        world.referee.kho_restored(folio(5000, 3), "bench");
        world.referee.pages_adopted(frames(5000, 8), Order{3}, true);
        REQUIRE(world.ids() == "");
    }
    SECTION("a folio without its tails") {
        world.referee.kho_restored(folio(5000, 3), "bench");
        world.referee.pages_adopted(frames(5000, 8), Order{3}, false);
        REQUIRE(world.ids() == "kernel.sane");
        REQUIRE(world.only().frame_count == 7);
    }
}

TEST_CASE("an area has the same frame behind each page as before") {
    World world("linux-6.18");
    const std::vector<PfnRange> area{frames(5000, 2), frames(5010, 3)};
    for (const PfnRange& part : area) world.referee.kho_preserved({part, std::nullopt, "bench"});
    world.referee.area_preserved(Pfn{5100}, area);
    world.referee.kho_finalized();
    const bool resumed = GENERATE(false, true);
    world.leave();
    if (resumed) world.referee.load_promises(world.referee.save_promises());  // as for another process
    world.arrive(area);
    SECTION("cut otherwise") {
        const std::vector<PfnRange> now{frames(5000, 1), frames(5001, 1), frames(5010, 3)};
        world.referee.area_restored(Pfn{5100}, now, "bench");
        REQUIRE(world.ids() == "");
    }
    SECTION("a page twice") {
        const std::vector<PfnRange> now{frames(5000, 1), frames(5000, 1), frames(5010, 3)};
        world.referee.area_restored(Pfn{5100}, now, "bench");
        REQUIRE(world.only().invariant == InvariantId::frame_intact);
        REQUIRE(world.only().message.find("page 1 of an area of bench") != std::string::npos);
    }
    SECTION("a page less") {
        const std::vector<PfnRange> now{frames(5000, 2), frames(5010, 2)};
        world.referee.area_restored(Pfn{5100}, now, "bench");
        REQUIRE(world.only().invariant == InvariantId::frame_intact);
    }
}

TEST_CASE("what the map makes a kernel keep, somebody had preserved") {
    World world("linux-6.18");
    world.traits.map_bitmap_bytes = 4096;
    world.kexec();  // a kernel whose map is known
    world.referee.kho_preserved({frames(5000, 4), std::nullopt, "bench"});
    SECTION("by a kernel that finalized") {
        world.referee.kho_finalized();
        world.kexec({frames(5000, 4), frames(5200, 2)});
        REQUIRE(world.ids() == "frame.accounted");
        REQUIRE(world.only().frames == std::vector<u64>{5200, 5201});
    }
    SECTION("nothing else") {
        world.referee.kho_finalized();
        world.kexec({frames(5000, 4)});
        REQUIRE(world.ids() == "");
    }
    SECTION("by one that reads maps otherwise") {
        world.referee.kho_finalized();
        world.leave();
        world.traits.map_bitmap_bytes = 512;
        world.arrive({frames(5000, 4), frames(5200, 2)});
        REQUIRE(world.ids() == "");
    }
}

TEST_CASE("a scratch area begins and ends with a pageblock") {
    World world;
    const PhysRange whole = phys_range(PhysAddr{8 * MiB}, 4 * MiB), part = phys_range(PhysAddr{8 * MiB}, 3 * MiB);
    world.referee.scratch_areas(std::span(&whole, 1));
    REQUIRE(world.ids() == "");
    world.referee.scratch_areas(std::span(&part, 1));
    REQUIRE(world.ids() == "kernel.sane");
}
