// The shadow map: what a device may write to, by whose intent, before, during and after the jump.
#include "tests/machine/referee_devices_fixture.hpp"

using namespace kexec_sim;
using namespace kexec_sim::test;
using Catch::Matchers::Contains;

TEST_CASE("a device that writes where its domain says gives no finding, over a whole live update") {
    DeviceWorld world;
    world.open();
    world.write_well();
    world.promise();
    world.write_well();
    world.leave_frozen();
    world.write_well();  // nobody runs
    world.arrive({frames(memory_pfn, memory_pages + 1)});
    world.write_well();
    world.claim();
    world.write_well();
    world.attach(2, 21);
    world.write_well();
    world.finish();
    world.write_well();
    world.end();
    REQUIRE(world.ids() == "");
}

TEST_CASE("a write that ends in another frame than its IOVA is meant to be is not contained") {
    DeviceWorld world;
    world.open();
    world.referee.frames_handed_out(frames(0x3000, 1), "slab", FrameClass::slab);
    world.write_well();
    world.write_to_stranger();
    const Finding finding = world.only();
    REQUIRE(finding.invariant == InvariantId::dma_contained);
    REQUIRE(finding.resource == "nic0");
    REQUIRE(finding.frames == std::vector<u64>{0x3000});
    REQUIRE_THAT(finding.message, Contains("domain 0x1 maps to frame 0x1000"));
    REQUIRE_THAT(finding.message, Contains("frame 0x3000, which belongs to slab"));
}

TEST_CASE("a write at another offset in the right frame is not contained") {
    DeviceWorld world;
    world.open();
    world.write(buffer_iova, Pfn{memory_pfn}.phys().raw + 8);
    REQUIRE(world.ids() == "dma.contained");
}

TEST_CASE("a write over the end of a run of frames is judged page by page") {
    DeviceWorld world;
    world.open();
    const u64 last = memory_pages * page_bytes - 8;
    world.write(buffer_iova + last - 8, Pfn{memory_pfn}.phys().raw + last - 8);
    REQUIRE(world.ids() == "");
    world.write(buffer_iova + last, Pfn{memory_pfn}.phys().raw + last);
    REQUIRE_THAT(world.only().message, Contains("does not map"));
}

TEST_CASE("a device that is attached to nothing may write nowhere") {
    DeviceWorld world;
    SECTION("never attached") {}
    SECTION("detached") {
        world.open();
        world.write_well();
        world.devices.domain_detached(world.nic);
    }
    SECTION("its domain was destroyed") {
        world.open();
        world.write_well();
        world.devices.domain_destroyed(1);
    }
    REQUIRE(world.ids() == "");
    world.write_well();
    REQUIRE_THAT(world.only().message, Contains("attached to no domain"));
}

TEST_CASE("what is unmapped may be written no more") {
    DeviceWorld world;
    world.open();
    world.write_well();
    world.devices.domain_unmapped(1, buffer_iova, page_bytes);
    world.write(buffer_iova + page_bytes, Pfn{memory_pfn + 1}.phys().raw);
    REQUIRE(world.ids() == "");
    world.write_well();
    REQUIRE(world.ids() == "dma.contained");
}

TEST_CASE("a frame that was given back or handed out again is not the device's any more") {
    DeviceWorld world;
    world.referee.frames_to_allocator(frames(0x800, 0x1000));
    world.referee.frames_handed_out(frames(memory_pfn, memory_pages), "shmem", FrameClass::file);
    world.open();
    world.write_well();
    world.referee.frames_returned(frames(memory_pfn, 1));
    SECTION("free") {
        world.write_well();
        REQUIRE_THAT(world.only().message, Contains("given back to the allocator since"));
    }
    SECTION("another's") {
        world.referee.frames_handed_out(frames(memory_pfn, 1), "slab", FrameClass::slab);
        world.write_well();
        REQUIRE_THAT(world.only().message, Contains("handed out to slab since"));
    }
    SECTION("mapped anew by its new owner") {
        world.referee.frames_handed_out(frames(memory_pfn, 1), "shmem", FrameClass::file);
        world.attach(1, 11);
        world.write_well();
        REQUIRE(world.ids() == "");
    }
    SECTION("the frames beside it") {
        world.write(buffer_iova + page_bytes, Pfn{memory_pfn + 1}.phys().raw);
        REQUIRE(world.ids() == "");
    }
}

TEST_CASE("a device keeps its map over the jump only if its file and its iommufd's were promised") {
    DeviceWorld world;
    world.open();
    bool keeps = false;
    SECTION("both") {
        world.promise();
        keeps = true;
    }
    SECTION("the device's file alone") { world.promise(false); }
    SECTION("cancelled before the jump") {
        world.promise();
        world.referee.luo_state(LuoState::prepared, LuoState::normal);
        world.referee.luo_request(LuoEvent::cancel, {});
        world.state = LuoState::normal;
    }
    world.leave_frozen();
    world.write_well();
    REQUIRE(world.of("dma.contained").empty() == keeps);
}

TEST_CASE("what a preserved device may write must be preserved at the jump") {
    DeviceWorld world;
    world.open();
    world.referee.reserve_mem_allocated("trace", frames(0x2800, 2).phys());
    const std::array<PfnRange, 2> more{frames(0x2800, 2), frames(0x2900, 2)};
    bool kept = true;
    SECTION("memory of a promised file") {}
    SECTION("reserve_mem") { world.devices.domain_mapped(1, 0x80000, std::span(more).first(1)); }
    SECTION("another device's BAR") { world.devices.domain_mapped_peer(1, 0x80000, 64 * KiB, world.gpu); }
    SECTION("memory that nobody preserves") {
        world.devices.domain_mapped(1, 0x80000, more);
        kept = false;
    }
    world.promise();
    world.leave_frozen();
    REQUIRE(world.of("dma.contained").empty() == kept);
    if (!kept) {
        REQUIRE(world.only().frames == std::vector<u64>{0x2900, 0x2901});
        REQUIRE_THAT(world.only().message, Contains("nobody preserved that frame"));
    }
}

TEST_CASE("a device goes through two live updates in a row") {
    DeviceWorld world;
    world.open();
    world.promise();
    world.whole_update();
    world.write_well();
    world.preserve_file(memory_token, memory_pfn, memory_pages, true);
    world.referee.file_preserved(vfio_token, "vfio-pci", 20);
    world.referee.file_preserved(iommufd_token, "iommufd", 21);
    world.list(1);
    world.shares("pci", DeviceWorld::Shared::made);
    world.shares("iommu", DeviceWorld::Shared::made);
    world.prepare();
    world.leave_frozen();
    world.write_well();
    world.arrive({frames(memory_pfn, memory_pages + 1)});
    world.write_well();
    world.claim();
    world.attach(2, 21);
    world.finish();
    world.write_well();
    world.end();
    REQUIRE(world.ids() == "");
    world.write_to_stranger();
    REQUIRE(world.ids() == "dma.contained");
}

TEST_CASE("a promise that is lost ends what the device may write") {
    DeviceWorld world;
    world.open();
    world.promise();
    world.leave_frozen();
    world.boot(1);
    world.write_well();
    REQUIRE(world.ids() == "");
    world.referee.handover_refused("bad magic");
    world.write_well();
    REQUIRE(world.of("dma.contained").size() == 1);
}

TEST_CASE("a device that finish discards may write nowhere afterwards") {
    DeviceWorld world;
    world.open();
    world.promise();
    world.jump();
    for (const u64 token : {vfio_token, iommufd_token, memory_token}) {
        world.referee.file_callback(token, "vfio-pci", LuoCallback::finish, std::nullopt);
        world.referee.file_callback(token, "vfio-pci", LuoCallback::finish, Result<>{});
    }
    world.write_well();
    REQUIRE(world.of("dma.contained").empty());
    world.finish();
    world.write_well();
    REQUIRE(world.of("dma.contained").size() == 1);
}

TEST_CASE("the domain that replaces a carried one must map all that it did, to the same") {
    DeviceWorld world;
    world.open();
    world.promise();
    world.jump();
    world.claim();
    SECTION("the same") {
        world.attach(2, 21);
        REQUIRE(world.ids() == "");
    }
    SECTION("more") {
        world.attach(2, 21, memory_pfn, memory_pages + 4);
        REQUIRE(world.ids() == "");
    }
    SECTION("a page is missing") {
        world.attach(2, 21, memory_pfn, memory_pages - 1);
        const Finding finding = world.only();
        REQUIRE(finding.invariant == InvariantId::dma_contained);
        REQUIRE(finding.frames == std::vector<u64>{memory_pfn + memory_pages - 1});
        REQUIRE_THAT(finding.message, Contains("does not map it"));
    }
    SECTION("other frames") {
        world.attach(2, 21, memory_pfn + 1);
        REQUIRE_THAT(world.only().message, Contains("maps it to frame 0x1001"));
    }
}

TEST_CASE("the map of the new kernel does not hold before the device is attached to it") {
    DeviceWorld world;
    world.open();
    world.promise();
    world.jump();
    const PfnRange mapped = frames(0x2000, 4);
    world.devices.domain_mapped(2, 0x90000, std::span(&mapped, 1));
    world.write(0x90000, Pfn{0x2000}.phys().raw);
    REQUIRE(world.ids() == "dma.contained");
}

TEST_CASE("a write to another device must be meant for it") {
    DeviceWorld world;
    world.open();
    world.devices.domain_mapped_peer(1, 0x80000, 64 * KiB, world.gpu);
    world.devices.dma_written_to_peer(world.nic, 0x81000, world.gpu);
    REQUIRE(world.ids() == "");
    SECTION("another peer") {
        world.devices.dma_written_to_peer(world.nic, 0x81000, world.other);
        REQUIRE_THAT(world.only().message, Contains("maps to gpu0; the write ended in nic1"));
    }
    SECTION("memory that is mapped to RAM") {
        world.devices.dma_written_to_peer(world.nic, buffer_iova, world.gpu);
        REQUIRE_THAT(world.only().message, Contains("maps to frame 0x1000; the write ended in gpu0"));
    }
    SECTION("RAM, where a peer is meant") {
        world.write(0x80000, Pfn{0x3000}.phys().raw);
        REQUIRE_THAT(world.only().message, Contains("maps to gpu0"));
    }
}

TEST_CASE("a read outside the map is told once") {
    DeviceWorld world;
    world.open();
    world.devices.dma_read(world.nic, buffer_iova, phys_range(Pfn{memory_pfn}.phys(), 64));
    REQUIRE(world.ids() == "");
    for (u64 pfn = 0x3000; pfn < 0x3010; ++pfn)
        world.devices.dma_read(world.nic, buffer_iova, phys_range(Pfn{pfn}.phys(), 64));
    REQUIRE_THAT(world.only().message, Contains("reads IOVA"));
    REQUIRE(world.only().frame_count == 1);
}

TEST_CASE("what a device wrote in the blackout, as it was allowed to, does not count as changed content") {
    DeviceWorld world;
    world.open();
    write_word(world.machine, memory_pfn, 1);
    world.promise();
    world.leave_frozen();
    SECTION("allowed") {
        write_word(world.machine, memory_pfn, 2);
        world.write_well();
        REQUIRE(world.devices.written_by_device(Pfn{memory_pfn}));
        REQUIRE(!world.devices.written_by_device(Pfn{memory_pfn + 1}));
        world.arrive({frames(memory_pfn, memory_pages + 1)});
        world.claim();
        REQUIRE(world.ids() == "");
    }
    SECTION("somebody else wrote") {
        write_word(world.machine, memory_pfn, 2);
        world.arrive({frames(memory_pfn, memory_pages + 1)});
        world.claim();
        REQUIRE(world.ids() == "frame.intact");
    }
    SECTION("the device was not allowed to") {
        write_word(world.machine, memory_pfn + 1, 2);
        world.write(buffer_iova, Pfn{memory_pfn + 1}.phys().raw);
        world.arrive({frames(memory_pfn, memory_pages + 1)});
        world.claim();
        REQUIRE(world.of("frame.intact").size() == 1);
        REQUIRE(world.of("dma.contained").size() == 1);
    }
}

TEST_CASE("after a panic devices may go on writing to what the dead kernel mapped, and nowhere else") {
    DeviceWorld world;
    world.open();
    world.referee.kernel_ended(KernelEnd::panic);
    world.write_well();
    REQUIRE(world.ids() == "");
    world.write_to_stranger();
    REQUIRE(world.ids() == "dma.contained");
}

TEST_CASE("after power loss nothing is known of devices") {
    DeviceWorld world;
    world.open();
    world.promise();
    world.referee.kernel_ended(KernelEnd::power_loss);
    world.devices.function_reset(world.nic, ResetKind::power_on);
    world.boot(1);
    REQUIRE(world.ids() == "");
    world.write_well();
    REQUIRE(world.ids() == "dma.contained");
}

TEST_CASE("a device that runs wild is one finding") {
    DeviceWorld world;
    world.open();
    for (u64 i = 0; i < 10000; ++i) world.write(buffer_iova, (0x2000 + i % 100) * page_bytes);
    REQUIRE(world.of("dma.contained").size() == 1);
}
