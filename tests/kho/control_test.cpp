// Finalize and abort: the notifier chain, sub-trees, debugfs, faults on the way.
#include <catch2/catch.hpp>

#include "tests/kho/kho_world.hpp"

namespace kexec_sim::kho {

namespace {

const std::vector<std::string> no_findings;

/// A tree of a consumer that is valid and has nothing in it.
Folio consumer_tree(KhoWorld& world) {
    const Folio page = world.alloc();
    FdtWriter writer(world.ram(), page.phys(), "test");
    REQUIRE((writer.create() | writer.begin_node("") | writer.end_node() | writer.finish()) == 0);
    return page;
}

}  // namespace

TEST_CASE("notifiers run by priority, equals in order of registration") {
    KhoWorld world("linux-6.18");
    std::string calls;
    const auto note = [&calls](char name) {
        return [&calls, name](NotifierAction action) {
            calls += action == NotifierAction::finalize ? name : static_cast<char>(name + 32);
            return NotifyResult::ok();
        };
    };
    REQUIRE(world.kho().register_notifier(0, note('A')));
    const auto removed = world.kho().register_notifier(0, note('X'));
    REQUIRE(world.kho().register_notifier(5, note('B')));
    REQUIRE(world.kho().register_notifier(0, note('C')));
    REQUIRE(world.kho().unregister_notifier(*removed));
    CHECK(world.kho().unregister_notifier(*removed).error() == Errno::enoent);
    REQUIRE(world.kho().finalize());
    REQUIRE(world.kho().abort());
    CHECK(calls == "BACbac");
}

TEST_CASE("a notifier that returns BAD makes finalize EPERM, and all see the abort") {
    struct Case {
        NotifyResult answer;
        Errno error;
    };
    const Case c =
        GENERATE(Case{NotifyResult::bad(), Errno::eperm}, Case{NotifyResult{true, Errno::enospc}, Errno::enospc});
    KhoWorld world("linux-6.16");
    std::string calls;
    REQUIRE(world.kho().register_notifier(1, [&](NotifierAction action) {
        calls += action == NotifierAction::finalize ? 'F' : 'A';
        return action == NotifierAction::finalize ? c.answer : NotifyResult::done();
    }));
    REQUIRE(world.kho().register_notifier(0, [&](NotifierAction action) {
        calls += action == NotifierAction::finalize ? 'f' : 'a';
        return NotifyResult::done();
    }));
    REQUIRE(world.kho().preserve_folio(world.alloc(), "bench"));
    CHECK(world.kho().finalize().error() == c.error);
    CHECK(calls == "FAa");
    CHECK_FALSE(world.kho().finalized());
    CHECK(world.logged(fmt::format("KHO: Failed to convert KHO state tree: {}", -static_cast<int>(c.error))));
    // 6.16 has forgotten the folio too.
    CHECK(world.kho().preserved_folios() == 0);
}

TEST_CASE("an abort that a notifier refuses leaves KHO finalized") {
    KhoWorld world("linux-6.16");
    REQUIRE(world.kho().register_notifier(0, [](NotifierAction action) {
        return action == NotifierAction::abort ? NotifyResult::bad() : NotifyResult::ok();
    }));
    REQUIRE(world.kho().finalize());
    CHECK(world.kho().abort().error() == Errno::eperm);
    CHECK(world.kho().finalized());
    CHECK(world.logged("KHO: Failed to abort KHO finalization: -1"));
}

TEST_CASE("a sub-tree is added only inside a finalize notification in mainline, any time in the LUO series") {
    SECTION("6.16") {
        KhoWorld world("linux-6.16");
        const Folio tree = consumer_tree(world);
        CHECK(world.kho().add_subtree("abc", tree.pfn.phys()).error() == Errno::einval);
        REQUIRE(world.kho().register_notifier(0, [&](NotifierAction action) {
            if (action == NotifierAction::abort) return NotifyResult::done();
            REQUIRE(world.kho().preserve_folio(tree, "bench"));
            return NotifyResult::from(world.kho().add_subtree("abc", tree.pfn.phys()));
        }));
        REQUIRE(world.kho().finalize());
        REQUIRE(world.kho().abort());
        CHECK(world.kernel().vfs.read("kho/out/sub_fdts/abc").error() == Errno::enoent);
        REQUIRE(world.kho().finalize());
        CHECK(world.kernel().vfs.read("kho/out/sub_fdts/abc").has_value());
        world.kexec();
        CHECK(world.kho().retrieve_subtree("abc") == tree.pfn.phys());
        CHECK(world.kernel().pages.block(tree.pfn).meta.state == PageState::preserved);
    }
    SECTION("luo") {
        KhoWorld world("luo-v3");
        const Folio tree = consumer_tree(world), other = consumer_tree(world);
        REQUIRE(world.kho().add_subtree("abc", tree.pfn.phys()));
        REQUIRE(world.kho().add_subtree("gone", other.pfn.phys()));
        REQUIRE(world.kho().remove_subtree(other.pfn.phys()));
        CHECK(world.kho().remove_subtree(other.pfn.phys()).error() == Errno::enoent);
        REQUIRE(world.kho().preserve_folio(tree, "bench"));
        REQUIRE(world.kho().finalize());
        CHECK(world.kho().outgoing_blobs().size() == 2);
        world.kexec();
        CHECK(world.kho().retrieve_subtree("abc") == tree.pfn.phys());
        CHECK(world.kho().retrieve_subtree("gone").error() == Errno::enoent);
        CHECK(world.kho().retrieve_subtree("fdt").error() == Errno::enoent);
    }
}

TEST_CASE("duplicate names are written twice and the first is found") {
    KhoWorld world("luo-v3");
    const Folio first = consumer_tree(world), second = consumer_tree(world);
    REQUIRE(world.kho().add_subtree("abc", first.pfn.phys()));
    REQUIRE(world.kho().add_subtree("abc", second.pfn.phys()));
    REQUIRE(world.kho().finalize());
    world.kexec();
    CHECK(world.kho().retrieve_subtree("abc") == first.pfn.phys());
}

TEST_CASE("109 sub-trees of 7 characters fit into the root tree, the next is no space") {
    const std::string profile = GENERATE("linux-6.16", "luo-v3");
    const unsigned count = GENERATE(109u, 110u);
    KhoWorld world(profile);
    const Folio tree = consumer_tree(world);
    const auto add_all = [&]() -> Result<> {
        for (unsigned i = 0; i < count; ++i)
            TRY(world.kho().add_subtree(fmt::format("sub{:04}", i), tree.pfn.phys()));
        return {};
    };
    if (profile == "linux-6.16")
        REQUIRE(world.kho().register_notifier(0, [&](NotifierAction action) {
            return action == NotifierAction::finalize ? NotifyResult::from(add_all()) : NotifyResult::done();
        }));
    else
        REQUIRE(add_all());
    const auto result = world.kho().finalize();
    if (count == 109) {
        CHECK(result);
    } else {
        // A libfdt code that looks like an errno: -3.
        CHECK(result.error() == Errno::esrch);
        CHECK(world.logged("KHO: Failed to convert KHO state tree: -3"));
        CHECK_FALSE(world.kho().finalized());
    }
}

TEST_CASE("a finalize that fails takes back what it did, whatever fails") {
    const std::string profile = GENERATE("linux-6.16", "linux-6.18", "luo-v3");
    const std::string fault =
        GENERATE("kho.finalize#1=fail(ENOMEM)", "kho.fdt_write[compatible]#1=fail(ENOSPC)",
                 "kho.fdt_write[preserved-memory-map]#1=fail(ENOSPC)", "mm.folio_alloc[kho.chunk]#1=fail(ENOMEM)",
                 "mm.folio_alloc[kho.bitmap]#1=fail(ENOMEM)", "kho.track[order]#1=fail(ENOMEM)");
    INFO(profile << " " << fault);
    KhoWorld world(profile);
    world.plan(fault);
    const u64 free_frames = world.kernel().pages.free_frames();
    const auto result = world.kho().finalize();
    REQUIRE_FALSE(result);
    CHECK((result.error() == Errno::enomem || result.error() == Errno::enospc));
    CHECK(world.logged(fmt::format("KHO: Failed to convert KHO state tree: {}", -static_cast<int>(result.error()))));
    CHECK_FALSE(world.kho().finalized());
    CHECK(world.kho().preserve_folio(world.alloc(), "bench"));
    // Without the fault it succeeds, and after the abort all is as it was.
    REQUIRE(world.kho().finalize());
    REQUIRE(world.kho().abort());
    if (profile != "luo-v3") CHECK(world.kernel().pages.free_frames() == free_frames - 1);
    CHECK(world.findings() == no_findings);
}

TEST_CASE("debugfs shows and switches") {
    KhoWorld world("linux-6.16");
    Vfs& vfs = world.kernel().vfs;
    CHECK(vfs.read("kho/out/finalize") == "0\n");
    CHECK(vfs.read("kho/out/fdt").error() == Errno::enoent);
    CHECK(vfs.write("kho/out/finalize", "0").error() == Errno::enoent);
    CHECK(vfs.write("kho/out/finalize", "x").error() == Errno::einval);
    REQUIRE(vfs.write("kho/out/finalize", "1\n"));
    CHECK(vfs.read("kho/out/finalize") == "1\n");
    CHECK(vfs.write("kho/out/finalize", "7").error() == Errno::eexist);
    const auto blob = vfs.read("kho/out/fdt");
    REQUIRE(blob);
    CHECK(blob->substr(0, 4) == "\xd0\x0d\xfe\xed");
    CHECK(blob->find("kho-v1") != std::string::npos);
    world.kexec();
    CHECK(world.kernel().vfs.read("kho/in/fdt") == *blob);
    CHECK(world.kernel().vfs.read("kho/out/finalize") == "0\n");
}

TEST_CASE("a bulk preserve is that many calls to every fault point, and undoes nothing") {
    KhoWorld world("luo-v3");
    const PfnRange run = pfn_range(Pfn{20000}, 100);
    world.plan("kho.preserve[memfd-v1]#41=fail(ENOMEM)");
    u64 done = 0;
    CHECK(world.kho().preserve_folios(run, "memfd-v1", false, &done).error() == Errno::enomem);
    CHECK(done == 40);
    CHECK(world.kho().preserved_folios() == 40);
    REQUIRE(world.kho().unpreserve_folios(pfn_range(run.begin, done), "memfd-v1"));
    CHECK(world.kho().preserved_folios() == 0);
    // The counter goes on: visit 41 is over.
    REQUIRE(world.kho().preserve_folios(run, "memfd-v1", false, &done));
    CHECK(done == 100);
}

TEST_CASE("a planned skip and lie of a preserve show as what the caller sees") {
    KhoWorld world("luo-v3");
    const Folio folio = world.alloc();
    SECTION("skip") {
        world.plan("kho.preserve#1=skip");
        CHECK(world.kho().preserve_folio(folio, "bench"));
        CHECK(world.kho().preserved_folios() == 0);
    }
    SECTION("lie") {
        world.plan("kho.preserve#1=lie(ENOMEM)");
        CHECK(world.kho().preserve_folio(folio, "bench").error() == Errno::enomem);
        CHECK(world.kho().preserved_folios() == 1);
    }
}

TEST_CASE("every write of the handover that is left out has a finding") {
    // One kernel's life records the names of its writes; each is then left out in a run of its own.
    const std::string profile = GENERATE("linux-6.16", "linux-6.18", "luo-v3");
    const auto run = [&profile] {
        KhoWorld world(profile);
        // Enough of low memory that a scratch area in the wrong place lies over some of it.
        std::vector<Folio> folios{world.alloc(0, 3), world.alloc(3, 4)};
        for (unsigned i = 0; i < 12; ++i) folios.push_back(world.alloc(10));
        // And a single page beyond the first bitmap of order 0.
        const auto pages = world.kernel().pages.alloc_pages(
            {.order = Order{0}, .site = "bench", .frame_class = FrameClass::bench}, 8000);
        folios.push_back({Pfn{pages->back().end.raw - 1}, Order{0}});
        for (const Folio& folio : folios) {
            world.ram().write(folio.phys().begin, u64{0x1234});
            static_cast<void>(world.kho().preserve_folio(folio, "bench"));
        }
        static_cast<void>(world.kho().finalize());
        world.kexec();
        for (const Folio& folio : folios)
            static_cast<void>(world.kho().restore_folio(folio.pfn.phys(), "bench", FrameClass::bench));
        world.machine->referee.scenario_ends();
        return world.findings();
    };
    record_abi_writes(true);
    CHECK(run() == no_findings);
    record_abi_writes(false);
    const std::vector<std::string> names = recorded_abi_writes();
    CHECK(names.size() >= 14);
    for (const std::string& name : names) {
        INFO(profile << " without " << name);
        // All of this lies below 128 MiB, where a bitmap of 6.18 starts at 0 anyway.
        if (name == "kho.chunk.phys_start" && profile == "linux-6.18") continue;
        set_dropped_abi_write(name);
        std::vector<std::string> findings;
        try {
            findings = run();
        } catch (const KernelPanic&) {
            findings = {"panic"};
        }
        set_dropped_abi_write({});
        CHECK(findings != no_findings);
    }
}

}  // namespace kexec_sim::kho
