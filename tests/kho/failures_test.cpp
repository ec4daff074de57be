// Every way in which a handover is refused or damaged, with its message (kho-v1 §11.1, §12).
#include <catch2/catch.hpp>

#include "kho/abi/kho_v1.hpp"
#include "tests/kho/kho_world.hpp"

namespace kexec_sim::kho {

namespace {

const std::vector<std::string> no_findings;

/// A kernel that has preserved a folio of order 2 and finalized.
struct Ready : KhoWorld {
    explicit Ready(const std::string& edition = "linux-6.16", const std::string& cmdline = "kho=on")
        : KhoWorld(edition, cmdline) {
        folio = alloc(2, 0x77);
        REQUIRE(kho().preserve_folio(folio, "bench"));
        REQUIRE(kho().finalize());
    }
    abi::kho_data passed() {
        abi::kho_data data{};
        std::memcpy(&data, params.setup_data.at(0).payload.data(), sizeof data);
        return data;
    }
    /// Rewrites what the next kernel is told.
    void pass(const std::function<void(abi::kho_data&)>& change) {
        before_jump = [this, change](const BootParams&) {
            abi::kho_data data = passed();
            change(data);
            std::memcpy(params.setup_data.at(0).payload.data(), &data, sizeof data);
        };
    }
    void refused(const std::string& why, int error) {
        CHECK_FALSE(kho().incoming());
        CHECK(logged(why));
        CHECK(logged(fmt::format("KHO: disabling KHO revival: {}", error)));
        CHECK_FALSE(logged("found kexec handover data"));
        CHECK(kho().retrieve_subtree("x").error() == Errno::enoent);
        CHECK(kernel().pages.block(folio.pfn).meta.state != PageState::preserved);
        CHECK(kho().enabled());
        CHECK_FALSE(has_finding("loss.silent"));
        CHECK(has_finding("loss.reported"));
    }
    Folio folio;
};

}  // namespace

TEST_CASE("populate refuses what it cannot map or believe") {
    Ready world;
    SECTION("payload too short") {
        world.before_jump = [&](const BootParams&) { world.params.setup_data[0].payload.resize(20); };
        world.kexec();
        CHECK(world.logged("setup: failed to memremap kho data (0x"));
        CHECK_FALSE(world.kho().incoming());
        CHECK(world.has_finding("loss.reported"));
    }
    SECTION("tree outside of memory") {
        world.pass([](abi::kho_data& data) { data.fdt_addr = 64 * GiB; });
        world.kexec();
        world.refused("KHO: setup: failed to memremap FDT (0x1000000000)", -14);
    }
    SECTION("tree larger than an early mapping") {
        world.pass([](abi::kho_data& data) { data.fdt_size = MiB; });
        world.kexec();
        world.refused("KHO: setup: failed to memremap FDT (0x", -14);
    }
    SECTION("bad magic") {
        world.plan("handover.fdt#1=zero(0,4)");
        world.kexec();
        world.refused("is invalid: -9", -22);
    }
    SECTION("other version of the ABI") {
        world.plan("handover.fdt#1=replace(kho-v1,kho-v2)");
        world.kexec();
        world.refused(fmt::format("KHO: setup: handover FDT ({:#x}) is incompatible with 'kho-v1': 1",
                                  world.handed_over_root().raw),
                      -22);
    }
    SECTION("scratch array outside of memory") {
        world.pass([](abi::kho_data& data) { data.scratch_addr = 64 * GiB; });
        world.kexec();
        world.refused("KHO: setup: failed to memremap scratch (phys=0x1000000000, len=48)", -14);
    }
    SECTION("scratch area that is no memory") {
        // Bit 40 of the lowmem area's address.
        world.plan("handover.scratch#1=flip(5,0)");
        world.kexec();
        world.refused("KHO: failed to mark the scratch region 0x", -22);
    }
    SECTION("a fault says so") {
        world.plan("boot.populate#1=fail(EFAULT)");
        world.kexec();
        world.refused("KHO: setup: failed to memremap FDT (0x", -14);
    }
}

TEST_CASE("a root tree without a map: nothing is reserved, sub-trees are still found") {
    KhoWorld world("luo-v3");
    const Folio tree = world.alloc(0, 5);
    REQUIRE(world.kho().preserve_folio(tree, "bench"));
    REQUIRE(world.kho().add_subtree("bench", tree.pfn.phys()));
    REQUIRE(world.kho().finalize());
    SECTION("length 4") {
        // The length of the property, at 0x58 of the root tree (big-endian 8).
        world.plan("handover.fdt#1=flip(91,2)");
    }
    SECTION("another name") { world.plan("handover.fdt#1=replace(preserved-memory-map,preserved-memory-mop)"); }
    world.kexec();
    CHECK(world.kho().incoming());
    CHECK(world.logged("KHO: failed to get preserved memory bitmaps"));
    CHECK(world.kernel().pages.block(tree.pfn).meta.state != PageState::preserved);
}

TEST_CASE("a damaged map ends the walk with a line that says where") {
    struct Case {
        std::string fault, line;
    };
    const Case c =
        GENERATE(Case{"handover.map[chunk:0]#1=flip(8,6)", "KHO: handover map: order 64 in the chunk at 0x"},
                 Case{"handover.map[chunk:0]#1=flip(13,0)", "KHO: handover map: 257 elements in the chunk at 0x"},
                 Case{"handover.map[chunk:0]#1=flip(0,3)", "KHO: handover map: misaligned chunk at 0x"},
                 Case{"handover.map[chunk:0]#1=flip(5,0)", "KHO: handover map: chunk outside of memory at 0x"},
                 Case{"handover.map[chunk:0]#1=flip(29,0)", "outside of memory, named at 0x"},
                 Case{"handover.map[chunk:0]#1=flip(16,3)", "KHO: handover map: misaligned start 0x"},
                 Case{"handover.map[chunk:0]#1=flip(21,0)", "KHO: handover map: block of order 0 outside of memory"});
    INFO(c.fault);
    Ready world;
    world.plan(c.fault);
    world.kexec();
    CHECK(world.kho().incoming());
    CHECK(world.logged(c.line));
    CHECK(world.logged("; rest ignored"));
    CHECK_FALSE(world.has_finding("loss.silent"));
    CHECK_FALSE(world.has_finding("abi.bounded"));
}

TEST_CASE("a chain of chunks that runs in a circle ends") {
    Ready world;
    world.before_jump = [&](const BootParams&) {
        const PhysAddr chunk = world.state().map.chunks.back().phys();
        world.ram().write(chunk, chunk.raw);
    };
    world.kexec();
    CHECK(world.logged("KHO: handover map: chain too long at 0x"));
    CHECK(world.kernel().pages.block(world.folio.pfn).meta.state == PageState::preserved);
}

TEST_CASE("a zeroed bitmap loses its blocks silently, and the referee says so") {
    Ready world;
    world.plan("handover.map[bitmap:1]#1=zero(0,512)");
    world.kexec();
    CHECK(world.kernel().pages.block(world.folio.pfn).meta.state != PageState::preserved);
    // 6.16 restores it all the same.
    const auto restored = world.kho().restore_folio(world.folio.pfn.phys(), "bench", FrameClass::bench);
    REQUIRE(restored);
    CHECK(restored->order == Order{0});
    CHECK(world.findings() != no_findings);
}

TEST_CASE("6.18 notices that the folio of the root tree was not preserved") {
    Ready world("linux-6.18");
    world.plan("handover.map[bitmap:0]#1=zero(0,4096)");
    world.kexec();
    CHECK(world.logged("KHO: failed to restore folio for KHO fdt"));
}

TEST_CASE("a debug build of 6.18 refuses its own bookkeeping in scratch") {
    KhoWorld world("linux-6.18");
    const Folio folio = world.alloc();
    const std::vector<PhysRange> scratch = world.state().scratch;
    SECTION("a bitmap") {
        // The block itself lies beyond, so that only its bitmap can be refused.
        world.state().scratch = {phys_range(PhysAddr{0}, folio.phys().begin.raw),
                                 {folio.phys().end, PhysAddr{256 * MiB}}};
        CHECK(world.kho().preserve_folio(folio, "bench").error() == Errno::einval);
        CHECK(world.logged("WARNING: KHO: a tracking bitmap lies in a scratch area"));
    }
    SECTION("a chunk") {
        REQUIRE(world.kho().preserve_folio(folio, "bench"));
        REQUIRE(world.kho().preserve_folio({world.state().root.pfn(), Order{0}}, "bench"));  // finalize does it again
        world.state().scratch = {phys_range(PhysAddr{0}, world.state().root.raw),
                                 {world.state().root + page_bytes, PhysAddr{256 * MiB}}};
        CHECK(world.kho().finalize().error() == Errno::einval);
        CHECK(world.logged("WARNING: KHO: a chunk of the map lies in a scratch area"));
    }
    world.state().scratch = scratch;
    CHECK(world.kho().finalize());
}

TEST_CASE("a scratch area too small for the next boot is a panic with a name") {
    KhoWorld world("linux-6.16", "kho=on kho_scratch=8M,8M,2M", {512 * MiB});
    REQUIRE(world.kho().finalize());
    CHECK_THROWS_AS(world.kexec(), KernelPanic);
}

TEST_CASE("an incoming child with a bad property is skipped in debugfs") {
    KhoWorld world("luo-v3");
    const Folio tree = world.alloc();
    REQUIRE(world.kho().preserve_folio(tree, "bench"));
    FdtWriter writer(world.ram(), tree.phys(), "test");
    CHECK((writer.create() | writer.begin_node("") | writer.end_node() | writer.finish()) == 0);
    REQUIRE(world.kho().add_subtree("abc", tree.pfn.phys()));
    REQUIRE(world.kho().finalize());
    // Length of `fdt`: big-endian 8 at 0x77 becomes 0xc; the name offset and value follow, then END_NODE is eaten.
    world.before_jump = [&](const BootParams&) {
        const PhysAddr root = world.kho().root_tree();
        CHECK(world.ram().read<u8>(root + 0x77) == 8);
        world.ram().write(root + 0x77, u8{4});
        // What is left of the value must be a token that structure reading skips: FDT_NOP.
        world.ram().write(root + 0x80, __builtin_bswap32(4));
    };
    world.kexec();
    CHECK(world.logged("KHO: node `abc`'s prop `fdt` has invalid length: 4"));
    CHECK(world.kho().retrieve_subtree("abc").error() == Errno::einval);
    CHECK(world.kernel().vfs.read("kho/in/sub_fdts/abc").error() == Errno::enoent);
}

TEST_CASE("restoring what was not preserved, or twice, is noticed by 6.18 only") {
    SECTION("6.18") {
        Ready world("linux-6.18");
        world.kexec();
        const PhysAddr phys = world.folio.pfn.phys();
        CHECK(world.kho().restore_folio(phys + page_bytes, "bench", FrameClass::bench).error() == Errno::enoent);
        CHECK(world.kho().restore_folio(phys, "bench", FrameClass::bench)->order == Order{2});
        CHECK(world.kho().restore_folio(phys, "bench", FrameClass::bench).error() == Errno::enoent);
        CHECK(world.kho().restore_folio(PhysAddr{64 * GiB}, "bench", FrameClass::bench).error() == Errno::enoent);
        // Warned once, and by name: no finding.
        u64 warnings = 0;
        for (const auto& line : world.kernel().log.lines())
            warnings += line.text.find("was not preserved as it is restored") != std::string::npos;
        CHECK(warnings == 1);
        CHECK(world.findings() == no_findings);
    }
    SECTION("6.16") {
        Ready world("linux-6.16");
        world.kexec();
        const PhysAddr phys = world.folio.pfn.phys();
        CHECK(world.kho().restore_folio(phys, "bench", FrameClass::bench)->order == Order{2});
        CHECK(world.kho().restore_folio(phys, "bench", FrameClass::bench)->order == Order{2});
        CHECK(world.has_finding("frame.once"));
        CHECK(world.kho().restore_folio(PhysAddr{64 * GiB}, "bench", FrameClass::bench).error() == Errno::enoent);
    }
}

TEST_CASE("blocks above order 10 stay reserved and cannot become folios") {
    KhoWorld world("linux-6.16", "kho=on", {512 * MiB});
    const PhysAddr at{256 * MiB};
    REQUIRE(world.kho().preserve_phys(at, 8 * MiB, "bench"));
    REQUIRE(world.kho().finalize());
    CHECK(world.kho().map_statistics()->orders == std::map<unsigned, u64>{{0, 1}, {11, 1}});
    world.kexec();
    CHECK(world.kho().restore_folio(at, "bench", FrameClass::bench).error() == Errno::enoent);
    CHECK(world.kernel().pages.block(at.pfn()).meta.state == PageState::preserved);
}

}  // namespace kexec_sim::kho
