// Page tables of the IOMMU in RAM: kept, left alone, and nobody else's.
#include "tests/machine/referee_devices_fixture.hpp"

using namespace kexec_sim;
using namespace kexec_sim::test;
using Catch::Matchers::Contains;

namespace {

constexpr u64 root_pfn = 0x2000, context_pfn = 0x2001, top_pfn = 0x2002, last_pfn = 0x2005;

/// Tables for nic0: root, context, and four levels of page table in six frames.
struct TableWorld : DeviceWorld {
    TableWorld() {
        referee.frames_handed_out(frames(root_pfn, 6), "iommu", FrameClass::kernel);
        machine.ram.write(Pfn{root_pfn}.phys() + 16 * nic.requester_id().bus(),
                          vtd::RootEntry{Pfn{context_pfn}.phys().raw | 1, 0});
        set_context(nic, top_pfn, 7);
        for (u64 pfn = top_pfn; pfn < last_pfn; ++pfn)
            machine.ram.write<u64>(Pfn{pfn}.phys(), Pfn{pfn + 1}.phys().raw | vtd::PTE_READ | vtd::PTE_WRITE);
        for (u64 i = 0; i < memory_pages; ++i)
            machine.ram.write<u64>(Pfn{last_pfn}.phys() + 8 * (0x10 + i), Pfn{memory_pfn + i}.phys().raw | 3);
        devices.root_table_set(0, Pfn{root_pfn}.phys());
        devices.translation_switched(0, true);
        open();
    }
    void set_context(const PciFunction& function, u64 top, u16 domain_id) {
        machine.ram.write(Pfn{context_pfn}.phys() + 16 * function.requester_id().devfn(),
                          vtd::ContextEntry::translated(Pfn{top}.phys(), vtd::width_4_levels, domain_id));
    }
    void clear_context(const PciFunction& function) {
        machine.ram.write(Pfn{context_pfn}.phys() + 16 * function.requester_id().devfn(), vtd::ContextEntry{});
    }
    void promise_tables(u64 pages = 6) {
        referee.kho_preserved({frames(root_pfn, pages), Order{0}, "iommufd", true});
        promise();
    }
    void arrive_with_tables() {
        arrive({frames(memory_pfn, memory_pages + 1), frames(root_pfn, 6)});
        for (u64 pfn = root_pfn; pfn < root_pfn + 6; ++pfn) referee.kho_restored(folio(pfn), "iommufd");
    }
    void jump_with_tables() {
        leave_frozen();
        arrive_with_tables();
    }
    void drop_contexts(std::optional<Bdf> source = {}) {
        DeviceReferee::Invalidation what;
        what.contexts = true;
        what.source = source;
        devices.cache_invalidated(0, what);
    }
    void drop_translations(std::optional<u16> domain_id = {}) {
        DeviceReferee::Invalidation what;
        what.domain_id = domain_id;
        devices.cache_invalidated(0, what);
    }
    /// The device walks one page in place of four from now on, as domain 9.
    void hotswap() {
        set_context(nic, 0x2100, 9);
        drop_contexts(nic.requester_id());
        drop_translations(7);
        attach(2, 21);
    }
};

}  // namespace

TEST_CASE("tables that are preserved and left alone give no finding") {
    TableWorld world;
    world.promise_tables();
    world.jump_with_tables();
    world.claim();
    world.hotswap();
    world.referee.frames_returned(frames(top_pfn, 4));
    world.referee.frames_handed_out(frames(top_pfn, 4), "slab", FrameClass::slab);
    world.finish();
    world.end();
    REQUIRE(world.ids() == "");
}

TEST_CASE("a table page that is not preserved is found at the jump") {
    TableWorld world;
    world.promise_tables(5);
    world.freeze();
    REQUIRE(world.ids() == "");
    world.leave();
    const Finding finding = world.only();
    REQUIRE(finding.invariant == InvariantId::iommu_tables);
    REQUIRE(finding.frames == std::vector<u64>{last_pfn});
    REQUIRE_THAT(finding.message, Contains("not preserved"));
}

TEST_CASE("a preserved device that is attached but has no context entry is found at the jump") {
    TableWorld world;
    world.clear_context(world.nic);
    world.promise_tables();
    world.leave_frozen();
    REQUIRE_THAT(world.only().message, Contains("no context entry"));
}

TEST_CASE("tables of a preserved device that change are found at the next look") {
    TableWorld world;
    world.promise_tables();
    const PhysAddr leaf = Pfn{last_pfn}.phys() + 8 * 0x100;
    std::string moment;
    SECTION("between promise and jump") {
        world.freeze();
        world.machine.ram.write<u64>(leaf, 3);
        world.leave();
        moment = "at the jump than it had when its promise was made";
    }
    SECTION("while the next kernel boots") {
        world.leave_frozen();
        world.machine.ram.write<u64>(leaf, 3);
        world.arrive_with_tables();
        moment = "when user space was reached than it had at the jump";
    }
    SECTION("before the device leaves them") {
        world.jump_with_tables();
        world.claim();
        world.machine.ram.write<u64>(leaf, 3);
        world.hotswap();
        moment = "when it was attached elsewhere than it had at the jump";
    }
    const std::vector<Finding> found = world.of("iommu.tables");
    REQUIRE(found.size() == 1);
    REQUIRE(found.front().frames == std::vector<u64>{last_pfn});
    REQUIRE_THAT(found.front().message, Contains(moment));
}

TEST_CASE("tables may change once the device has left them, and entries of others at any time") {
    TableWorld world;
    world.promise_tables();
    world.set_context(world.other, 0x2200, 8);
    world.clear_context(world.other);
    world.jump_with_tables();
    world.set_context(world.other, 0x2200, 8);
    world.claim();
    world.hotswap();
    world.machine.ram.write<u64>(Pfn{last_pfn}.phys(), 3);
    world.finish();
    world.end();
    REQUIRE(world.of("iommu.tables").empty());
}

TEST_CASE("a context entry of the device that changes in the blackout is found") {
    TableWorld world;
    world.promise_tables();
    world.leave_frozen();
    SECTION("cleared") { world.clear_context(world.nic); }
    SECTION("another domain id") { world.set_context(world.nic, top_pfn, 8); }
    SECTION("the root entry too") { world.machine.ram.write<u64>(Pfn{root_pfn}.phys(), 0); }
    world.arrive_with_tables();
    REQUIRE(world.of("iommu.tables").size() == 1);
}

TEST_CASE("an entry of a device that is not preserved is found at the jump") {
    TableWorld world;
    world.set_context(world.other, 0x2200, 8);
    world.devices.device_opened(12, world.other);
    world.promise_tables();
    SECTION("still present") {
        world.leave_frozen();
        REQUIRE(world.only().resource == "nic1");
        REQUIRE_THAT(world.only().message, Contains("still present"));
    }
    SECTION("cleared at shutdown") {
        world.freeze();
        world.clear_context(world.other);
        world.leave();
        REQUIRE(world.ids() == "");
    }
    SECTION("of nobody that is known") {
        world.clear_context(world.other);
        world.machine.ram.write(Pfn{context_pfn}.phys() + 16 * 0x41,
                                vtd::ContextEntry::translated(PhysAddr{0}, vtd::width_4_levels, 1));
        world.leave_frozen();
        REQUIRE(world.only().resource == "0000:00:08.1");
    }
    SECTION("a table full of them is one finding") {
        world.clear_context(world.other);
        for (unsigned devfn = 0x41; devfn < 0x100; ++devfn)
            world.machine.ram.write(Pfn{context_pfn}.phys() + 16 * devfn,
                                    vtd::ContextEntry::translated(PhysAddr{0}, vtd::width_4_levels, 1));
        world.leave_frozen();
        REQUIRE(world.only().resource == "0000:00:08.1");
    }
}

TEST_CASE("a table that a device still walks is not the allocator's") {
    TableWorld world;
    world.promise_tables();
    world.jump_with_tables();
    SECTION("handed out") {
        world.referee.frames_handed_out(frames(last_pfn, 1), "slab", FrameClass::slab);
        REQUIRE_THAT(world.message("iommu.tables"), Contains("handed it out to slab"));
    }
    SECTION("freed") {
        world.referee.frames_returned(frames(last_pfn, 1));
        REQUIRE_THAT(world.message("iommu.tables"), Contains("gave it to its allocator"));
    }
    SECTION("freed by a finish that came before the device had left them") {
        world.claim();
        world.finish();
        REQUIRE(world.of("iommu.tables").empty());
        world.referee.frames_returned(frames(last_pfn, 1));
        REQUIRE(world.of("iommu.tables").size() == 1);
    }
    SECTION("not inherited at all") {
        world.referee.frames_handed_out(frames(last_pfn + 1, 1), "slab", FrameClass::slab);
        REQUIRE(world.of("iommu.tables").empty());
    }
}

TEST_CASE("tables that a device has left are freed only once the unit has forgotten them") {
    TableWorld world;
    world.promise_tables();
    world.jump_with_tables();
    world.claim();
    const auto leave = [&] { world.set_context(world.nic, 0x2100, 9); };
    const auto free_them = [&] {
        world.attach(2, 21);
        world.referee.frames_returned(frames(top_pfn, 4));
    };
    std::string untold;
    SECTION("told nothing") {
        leave();
        untold = "the context entry";
    }
    SECTION("told of the translations alone") {
        leave();
        world.drop_translations();
        untold = "the context entry";
    }
    SECTION("told before the entry had changed") {
        world.drop_contexts();
        world.drop_translations();
        leave();
        untold = "the context entry";
    }
    SECTION("told of another device's entry") {
        leave();
        world.drop_contexts(world.other.requester_id());
        world.drop_translations();
        untold = "the context entry";
    }
    SECTION("told of the entry, and of another domain") {
        leave();
        world.drop_contexts();
        world.drop_translations(8);
        untold = "its translations";
    }
    SECTION("told of both, after it was said to be attached elsewhere") {
        leave();
        world.attach(2, 21);
        world.drop_contexts(world.nic.requester_id());
        world.drop_translations(7);
        world.referee.frames_returned(frames(top_pfn, 4));
        REQUIRE(world.of("dma.contained").empty());
        return;
    }
    SECTION("blocked, and told") {
        world.clear_context(world.nic);
        world.drop_contexts(world.nic.requester_id());
        world.drop_translations(7);
        world.referee.frames_returned(frames(top_pfn, 4));
        REQUIRE(world.of("dma.contained").empty());
        return;
    }
    free_them();
    REQUIRE_THAT(world.message("dma.contained"), Contains("was not told to drop " + untold));
}

TEST_CASE("tables of a promise that is lost are the allocator's") {
    TableWorld world;
    world.promise_tables();
    world.leave_frozen();
    world.boot(1);
    world.referee.handover_refused("bad magic");
    world.referee.frames_to_allocator(frames(1024, 14000));
    world.referee.frames_handed_out(frames(last_pfn, 1), "slab", FrameClass::slab);
    REQUIRE(world.of("iommu.tables").empty());
}

TEST_CASE("translation stays on and the root table stays while a device is preserved") {
    TableWorld world;
    SECTION("before the promise it may go") {
        world.devices.translation_switched(0, false);
        world.devices.root_table_set(0, PhysAddr{0x5000});
        REQUIRE(world.ids() == "");
    }
    SECTION("after the promise it may not") {
        world.promise_tables();
        world.devices.translation_switched(0, false);
        REQUIRE_THAT(world.only().message, Contains("translation was switched off"));
    }
    SECTION("nor in the next kernel") {
        world.promise_tables();
        world.jump_with_tables();
        world.devices.root_table_set(0, Pfn{root_pfn}.phys());
        REQUIRE(world.ids() == "");
        world.devices.root_table_set(0, PhysAddr{0x5000});
        REQUIRE_THAT(world.only().message, Contains("another one, at 0x5000"));
    }
    SECTION("another segment may") {
        world.promise_tables();
        world.devices.translation_switched(1, true);
        world.devices.translation_switched(1, false);
        REQUIRE(world.ids() == "");
    }
}

TEST_CASE("the domain id of tables that are still in use goes to nobody else") {
    TableWorld world;
    world.promise_tables();
    world.jump_with_tables();
    SECTION("taken") {
        world.set_context(world.other, 0x2200, 7);
        world.devices.domain_attached(4, world.other);
        REQUIRE_THAT(world.message("iommu.tables"), Contains("domain id 7"));
        REQUIRE(world.only().resource == "nic1");
    }
    SECTION("another") {
        world.set_context(world.other, 0x2200, 8);
        world.devices.domain_attached(4, world.other);
        REQUIRE(world.ids() == "");
    }
    SECTION("after the owner has left them") {
        world.claim();
        world.hotswap();
        world.set_context(world.other, 0x2200, 7);
        world.devices.domain_attached(4, world.other);
        REQUIRE(world.ids() == "");
    }
}

TEST_CASE("tables that lead out of RAM or back to themselves end the walk") {
    TableWorld world;
    SECTION("out of RAM") {
        world.machine.ram.write<u64>(Pfn{top_pfn}.phys() + 8, (u64{1} << 40) | 3);
        world.promise_tables();
        world.leave_frozen();
        REQUIRE_THAT(world.only().message, Contains("no RAM"));
    }
    SECTION("to itself") {
        world.machine.ram.write<u64>(Pfn{top_pfn}.phys() + 8, Pfn{top_pfn}.phys().raw | 3);
        world.promise_tables();
        world.leave_frozen();
        REQUIRE(world.ids() == "");
    }
}
