// The file handlers of iommufd, vfio-pci and KVM: what they refuse, what they undo, what the next kernel gets.
#include "tests/support/device_world.hpp"

namespace kexec_sim::luo {
namespace {

struct HandlerWorld : DeviceWorld {
    explicit HandlerWorld(LuoOptions wanted = {}) : DeviceWorld(std::move(wanted)) {
        // KHO's tracking pages are made with the first folio, and stay.
        static_cast<void>(participants().pci.ensure_registered());
        PciDevice& first = *kernel().pci.devices().back();
        static_cast<void>(participants().pci.preserve(first));
        participants().pci.unpreserve(first);
    }
    void live_update() {
        REQUIRE(prepare() == Errno::ok);
        REQUIRE(kexec() == Errno::ok);
    }
    /// The page of the only record that was made at that place.
    PhysAddr record(std::string_view site) {
        for (Pfn pfn{0}; pfn.phys().raw < ram().bytes_max(); pfn = pfn + 1) {
            const auto block = kernel().pages.block(pfn);
            if (block.meta.state == PageState::folio && kernel().pages.site_name(block.meta.site) == site)
                return pfn.phys();
        }
        FAIL("no record of " << site);
        return {};
    }
    i32 vm(u64 bytes, bool confidential, i32* memory = nullptr) {
        auto made = kernel().kvm.create_vm("vm");
        const i32 backing = memfd(bytes);
        if (memory) *memory = backing;
        REQUIRE(made->set_memory(shmem(backing)));
        REQUIRE(made->create_vcpus(1));
        if (confidential) REQUIRE(made->launch_confidential());
        return install(made);
    }
    Errno preserve_fd(i32 fd, u64 token) { return errno_of(client().fd_preserve(fd, token)); }
    /// A VM of 1 MiB, its memory under token 4 and itself under 5.
    i32 preserve_vm(bool confidential) {
        i32 memory = -1;
        const i32 fd = vm(MiB, confidential, &memory);
        REQUIRE(preserve_fd(memory, 4) == Errno::ok);
        REQUIRE(preserve_fd(fd, 5) == Errno::ok);
        return fd;
    }
    Errno restore_fd(u64 token) { return errno_of(client().fd_restore(token)); }
};

}  // namespace

// --- iommufd -----------------------------------------------------------------------------------------------------

TEST_CASE("an iommufd maps only what outlives the kernel") {
    struct Row {
        const char* what;
        std::function<void(HandlerWorld&)> set_up;
    };
    const auto with = [](HandlerWorld& world, i32 fd, u64 token) {
        REQUIRE(world.preserve_fd(fd, token) == Errno::ok);
    };
    const Row rows[] = {
        {"anonymous memory",
         [&](HandlerWorld& world) {
             const auto fd = open_iommufd(world.kernel(), "fd");
             REQUIRE(fd->map_anonymous(world.iova, page_bytes, world.rw));
             with(world, world.install(fd), 1);
         }},
        {"a memfd that is not preserved", [&](HandlerWorld& world) { with(world, world.assign("nic0").iommufd, 1); }},
        {"a memfd that is prepared later",
         [&](HandlerWorld& world) {
             const auto assigned = world.assign("nic0");
             with(world, assigned.memory, 2);
             with(world, assigned.iommufd, 1);
         }},
    };
    for (const Row& row : rows) {
        INFO(row.what);
        HandlerWorld world;
        row.set_up(world);
        CHECK(world.prepare() == Errno::einval);
        CHECK(world.luo().state() == LuoState::normal);
    }
}

TEST_CASE("memory below 1 MiB is not mapped over a live update") {
    HandlerWorld world({.faults = "boot.reserve_low=skip"});
    const auto assigned = world.assign("nic0");
    world.preserve(assigned, 1);
    REQUIRE(world.file<IommufdFile>(assigned.iommufd)->mapped_below(PhysAddr{MiB}));
    CHECK(world.prepare() == Errno::einval);
    CHECK(world.logged("is mapped to memory below 1 MiB, which a booting kernel writes to"));
}

TEST_CASE("a cancelled prepare gives back what files of devices took") {
    for (const bool strict : {false, true}) {
        HandlerWorld world({.strict = strict});
        const auto assigned = world.assign("nic0");
        world.preserve(assigned, 1);
        const i32 vm = world.preserve_vm(true);
        // LUO's own pages, and KHO's, are there after the first round.
        REQUIRE(world.prepare() == Errno::ok);
        const auto fd = world.file<IommufdFile>(assigned.iommufd);
        const auto nic = world.file<VfioFile>(assigned.nic);
        CHECK(fd->immutable);
        CHECK(nic->preserved);
        CHECK(world.device("rp0").keep_running == 1);
        REQUIRE(world.cancel() == Errno::ok);
        CHECK_FALSE(fd->immutable);
        CHECK_FALSE(fd->preserved);
        CHECK_FALSE((*fd->page_table())->immutable);
        CHECK_FALSE(nic->preserved);
        CHECK_FALSE(nic->frozen());
        CHECK_FALSE(world.file<VmFile>(vm)->preserved);
        CHECK(world.device("rp0").keep_running == 0);
        CHECK(world.handle("pci").raw == 0);
        CHECK(world.handle("iommu").raw == 0);
        const auto held = world.held();
        for (unsigned round = 0; round < 3; ++round) {
            REQUIRE(world.prepare() == Errno::ok);
            REQUIRE(world.cancel() == Errno::ok);
        }
        CHECK(world.held() == held);
        CHECK(world.findings().empty());
        CHECK(fd->unmap(world.iova, world.mapped_bytes));
    }
}

TEST_CASE("whichever record cannot be made, a failed prepare gives everything back") {
    for (const char* fault : {"mm.folio_alloc[iommufd.ser]#1=fail(ENOMEM)", "mm.folio_alloc[vfio.ser]#1=fail(ENOMEM)",
                              "mm.folio_alloc[kvm.ser]#1=fail(ENOMEM)", "mm.folio_alloc[pci.ser]#1=fail(ENOMEM)",
                              "mm.folio_alloc[iommu.ser]#1=fail(ENOMEM)", "kho.preserve[kvm-v1]#1=fail(ENOMEM)",
                              "kho.preserve[kvm-v1]#2=fail(ENOMEM)", "iommu.preserve_table[unit]#1=fail(ENOMEM)",
                              "pci.preserve[rp0]#1=fail(ENOMEM)"}) {
        INFO(fault);
        HandlerWorld world;
        const auto assigned = world.assign("nic0");
        world.preserve(assigned, 1);
        const i32 vm = world.preserve_vm(true);
        REQUIRE(world.prepare() == Errno::ok);
        REQUIRE(world.cancel() == Errno::ok);
        const auto held = world.held();
        world.plan(fault);
        CHECK(world.prepare() == Errno::enomem);
        CHECK(world.luo().state() == LuoState::normal);
        CHECK(world.held() == held);
        CHECK(world.device("rp0").keep_running == 0);
        CHECK_FALSE(world.file<IommufdFile>(assigned.iommufd)->immutable);
        CHECK_FALSE(world.file<VmFile>(vm)->preserved);
        CHECK(world.prepare() == Errno::ok);
    }
}

TEST_CASE("a record of an iommufd that makes no sense is refused") {
    struct Row {
        const char* what;
        u64 at, value;
        Errno result;
    };
    constexpr u64 hwpt = sizeof(abi::IommufdSer);
    for (const Row& row :
         {Row{"no page table", 0, 0, Errno::einval}, Row{"more than can be", 0, ~u64{0}, Errno::einval},
          Row{"another token", hwpt + offsetof(abi::IommufdHwptSer, token), 2, Errno::einval},
          Row{"a domain that is none", hwpt + offsetof(abi::IommufdHwptSer, domain_data), 8, Errno::enoent}}) {
        INFO(row.what);
        HandlerWorld world;
        world.preserve(world.assign("nic0"), 1);
        REQUIRE(world.prepare() == Errno::ok);
        world.ram().write<u64>(world.record("iommufd.ser") + row.at, row.value);
        REQUIRE(world.kexec() == Errno::ok);
        CHECK(world.restore_fd(2) == row.result);
        CHECK(world.finish() == Errno::ok);
    }
}

TEST_CASE("a record that is refused or lost keeps nothing of its page table") {
    struct Row {
        const char* what;
        std::function<void(HandlerWorld&)> damage;
        const char* fault;
    };
    const auto put = [](HandlerWorld& world, u64 at, u64 value) {
        world.ram().write<u64>(world.record("iommufd.ser") + at, value);
    };
    constexpr u64 hwpt = sizeof(abi::IommufdSer);
    const Row rows[] = {
        {"more page tables than can be", [&](HandlerWorld& world) { put(world, 0, 2); }, nullptr},
        {"a domain that is none",
         [&](HandlerWorld& world) { put(world, hwpt + offsetof(abi::IommufdHwptSer, domain_data), 8); }, nullptr},
        {"the iommufd's record is lost", [](HandlerWorld&) {}, "kho.restore[iommufd-v1]#1=fail(ENOENT)"},
        {"the device's record is lost", [](HandlerWorld&) {}, "kho.restore[vfio-pci-v1]#1=fail(ENOENT)"},
    };
    for (const Row& row : rows) {
        for (const bool asked : {false, true}) {
            INFO(row.what << (asked ? ", asked for" : ""));
            HandlerWorld world;
            const auto assigned = world.assign("nic0");
            const PhysAddr table = (*world.file<IommufdFile>(assigned.iommufd)->page_table())->top().phys();
            world.preserve(assigned, 1);
            REQUIRE(world.prepare() == Errno::ok);
            row.damage(world);
            const PhysAddr top = world.handle("iommu");
            REQUIRE(world.kexec() == Errno::ok);
            REQUIRE(world.is_folio(table));
            if (row.fault) world.plan(row.fault);
            if (asked)
                for (const u64 token : {2, 3}) static_cast<void>(world.restore_fd(token));
            REQUIRE(world.finish() == Errno::ok);
            CHECK_FALSE(world.reaches("nic0", world.iova));
            CHECK_FALSE(world.is_folio(table));
            CHECK_FALSE(world.is_folio(top));
        }
    }
}

TEST_CASE("a record that cannot be restored is ENOENT") {
    for (const auto& [handler, token] :
         {std::pair{"iommufd-v1", u64{2}}, std::pair{"vfio-pci-v1", u64{3}}, std::pair{"kvm-v1", u64{5}}}) {
        INFO(handler);
        HandlerWorld world;
        world.preserve(world.assign("nic0"), 1);
        world.preserve_vm(false);
        world.live_update();
        world.plan(fmt::format("kho.restore[{}]#1=fail(ENOENT)", handler));
        CHECK(world.restore_fd(token) == Errno::enoent);
        CHECK(world.finish() == Errno::ok);
    }
}

TEST_CASE("the same iommufd or VM under two tokens is EBUSY, and nothing of it is preserved") {
    HandlerWorld world;
    const auto assigned = world.assign("nic0");
    i32 memory = -1;
    const i32 vm = world.vm(MiB, true, &memory);
    REQUIRE(world.preserve_fd(assigned.memory, 1) == Errno::ok);
    REQUIRE(world.preserve_fd(assigned.iommufd, 2) == Errno::ok);
    REQUIRE(world.preserve_fd(memory, 4) == Errno::ok);
    REQUIRE(world.preserve_fd(vm, 5) == Errno::ok);
    REQUIRE(world.prepare() == Errno::ok);
    REQUIRE(world.cancel() == Errno::ok);
    const auto held = world.held();
    for (const i32 twice : {assigned.iommufd, vm}) {
        REQUIRE(world.preserve_fd(twice, 6) == Errno::ok);
        CHECK(world.prepare() == Errno::ebusy);
        CHECK(world.held() == held);
        CHECK_FALSE(world.file<IommufdFile>(assigned.iommufd)->immutable);
        CHECK_FALSE(world.file<VmFile>(vm)->preserved);
        REQUIRE(world.client().fd_unpreserve(6));
    }
    CHECK(world.prepare() == Errno::ok);
}

TEST_CASE("the page table of the previous kernel is kept until the last device has left it") {
    HandlerWorld world;
    world.preserve(world.assign("nic0"), 1);
    REQUIRE(world.prepare() == Errno::ok);
    REQUIRE(world.kexec() == Errno::ok);
    const i32 memory = *world.client().fd_restore(1);
    const auto fd = world.restored<IommufdFile>(2);
    const auto nic = world.restored<VfioFile>(3);
    const auto old = fd->restored;
    REQUIRE(old);
    CHECK(old->attached == 1);
    CHECK(fd->mappings().empty());
    const PhysAddr table = old->top().phys();
    REQUIRE(world.finish() == Errno::ok);
    CHECK(world.logged("iommufd: the preserved page table is kept, 1 device(s) use it"));
    CHECK(world.is_folio(table));
    CHECK(world.reaches("nic0", world.iova) == world.shmem(memory)->extents()[0].pfn.phys().raw);
    REQUIRE(world.client().fd_preserve(memory, 1));
    REQUIRE(world.client().fd_preserve(world.install(fd), 2));
    CHECK(world.prepare() == Errno::ebusy);  // it cannot be handed on like this
    REQUIRE(fd->map(world.iova, world.shmem(memory), 0, world.mapped_bytes, world.rw));
    REQUIRE(fd->attach(nic));
    CHECK_FALSE(world.is_folio(table));
    CHECK(fd->restored == nullptr);
    CHECK(world.prepare() == Errno::ok);
}

TEST_CASE("the page table of the previous kernel goes with the last device, by whatever way that leaves") {
    struct Row {
        const char* what;
        std::function<void(HandlerWorld&, i32 iommufd, i32 nic)> leave;
    };
    const Row rows[] = {
        {"the device is closed", [](HandlerWorld& world, i32, i32 nic) { REQUIRE(world.main().close(nic)); }},
        {"the iommufd is closed",
         [](HandlerWorld& world, i32 iommufd, i32) { REQUIRE(world.main().close(iommufd)); }},
        {"the device is removed",
         [](HandlerWorld& world, i32, i32) { world.kernel().pci.remove(world.device("nic0")); }},
    };
    for (const Row& row : rows) {
        INFO(row.what);
        HandlerWorld world;
        world.preserve(world.assign("nic0"), 1);
        world.live_update();
        const i32 iommufd = *world.client().fd_restore(2), nic = *world.client().fd_restore(3);
        const PhysAddr table = world.file<IommufdFile>(iommufd)->restored->top().phys();
        REQUIRE(world.finish() == Errno::ok);
        REQUIRE(world.is_folio(table));
        row.leave(world, iommufd, nic);
        CHECK_FALSE(world.is_folio(table));
        CHECK_FALSE(world.reaches("nic0", world.iova));
    }
}

TEST_CASE("an iommufd that only its device was restored with dies with its kernel, and blocks nothing") {
    HandlerWorld world;
    world.preserve(world.assign("nic0"), 1);
    world.live_update();
    static_cast<void>(world.restored<VfioFile>(3));
    REQUIRE(world.reaches("nic0", world.iova));
    world.running.reset();
    CHECK(world.reaches("nic0", world.iova));
}

TEST_CASE("files that nobody restores are taken apart at finish, their device blocked and reset") {
    HandlerWorld world;
    world.preserve(world.assign("nic0"), 1);
    world.live_update();
    const u32 resets = world.function("nic0").resets;
    REQUIRE(world.reaches("nic0", world.iova));
    REQUIRE(world.finish() == Errno::ok);
    CHECK_FALSE(world.reaches("nic0", world.iova));
    CHECK(world.function("nic0").resets == resets + 1);
    CHECK_FALSE(world.function("nic0").bus_master());
    CHECK_FALSE(world.device("nic0").adopted);
    CHECK(world.kernel().vfio.open(world.device("nic0")));
}

// --- vfio --------------------------------------------------------------------------------------------------------

TEST_CASE("a device needs its iommufd prepared before it, or with late binding by the time of freeze") {
    for (const bool late : {false, true}) {
        HandlerWorld world(
            {.cmdline = late ? "kho=on liveupdate=on vfio_pci.late_binding=1" : "kho=on liveupdate=on"});
        const auto assigned = world.assign("nic0");
        REQUIRE(world.preserve_fd(assigned.memory, 1) == Errno::ok);
        REQUIRE(world.preserve_fd(assigned.nic, 2) == Errno::ok);
        REQUIRE(world.preserve_fd(assigned.iommufd, 3) == Errno::ok);
        CHECK(world.prepare() == (late ? Errno::ok : Errno::enoent));
        CHECK(world.device("nic0").keep_running == late);
        if (!late) continue;
        REQUIRE(world.kexec() == Errno::ok);
        const auto nic = world.restored<VfioFile>(2);
        CHECK(nic->iommufd.lock() == world.restored<IommufdFile>(3));
    }
}

TEST_CASE("with late binding an iommufd that was never preserved is missed at freeze") {
    HandlerWorld world({.cmdline = "kho=on liveupdate=on vfio_pci.late_binding=1"});
    const auto assigned = world.assign("nic0");
    REQUIRE(world.preserve_fd(assigned.nic, 2) == Errno::ok);
    REQUIRE(world.prepare() == Errno::ok);
    CHECK(world.freeze() == Errno::enoent);
}

TEST_CASE("an iommufd that is cancelled by itself is missed at freeze, unless it is prepared again") {
    for (const bool again : {false, true}) {
        HandlerWorld world;
        world.preserve(world.assign("nic0"), 1);
        for (const u64 token : {1, 2, 3})
            REQUIRE(world.client().set_fd_event(token, static_cast<u32>(LuoEvent::prepare)));
        REQUIRE(world.client().set_fd_event(2, static_cast<u32>(LuoEvent::cancel)));
        if (again) REQUIRE(world.client().set_fd_event(2, static_cast<u32>(LuoEvent::prepare)));
        if (!again) {
            CHECK(errno_of(world.client().set_fd_event(3, static_cast<u32>(LuoEvent::freeze))) == Errno::enoent);
            continue;
        }
        REQUIRE(world.prepare() == Errno::ok);
        REQUIRE(world.kexec() == Errno::ok);
        CHECK(world.restored<VfioFile>(3)->iommufd.lock() == world.restored<IommufdFile>(2));
        CHECK(world.reaches("nic0", world.iova));
    }
}

TEST_CASE("a file does not freeze while its interrupts are on, and answers to nothing afterwards") {
    HandlerWorld world({.strict = true});
    const i32 fd = world.open("nic0");
    const auto nic = world.file<VfioFile>(fd);
    REQUIRE(world.preserve_fd(fd, 1) == Errno::ok);
    REQUIRE(nic->enable_interrupts(1, [](u16) {}));
    REQUIRE(world.prepare() == Errno::ok);
    CHECK(world.freeze() == Errno::ebusy);
    CHECK_FALSE(nic->frozen());
    REQUIRE(nic->mask_interrupts(true));
    REQUIRE(world.prepare() == Errno::ok);
    REQUIRE(world.freeze() == Errno::ok);
    CHECK(errno_of(nic->read(0, 0, 4)) == Errno::eio);
    REQUIRE(world.cancel() == Errno::ok);
    CHECK(nic->read(0, 0, 4));
}

TEST_CASE("the same function under two tokens is EBUSY, and neither is preserved") {
    HandlerWorld world;
    const i32 fd = world.open("nic0");
    REQUIRE(world.preserve_fd(fd, 1) == Errno::ok);
    REQUIRE(world.preserve_fd(fd, 2) == Errno::ok);
    CHECK(world.prepare() == Errno::ebusy);
    CHECK(world.device("nic0").keep_running == 0);
    CHECK_FALSE(world.file<VfioFile>(fd)->preserved);
}

TEST_CASE("a function that was removed is not preserved") {
    HandlerWorld world;
    const i32 fd = world.open("nic0");
    REQUIRE(world.preserve_fd(fd, 1) == Errno::ok);
    world.kernel().pci.remove(world.device("nic0"));
    CHECK(world.prepare() == Errno::enodev);
}

TEST_CASE("a device comes back untouched, with the sizes of its BARs") {
    HandlerWorld world;
    const auto assigned = world.assign("nic0");
    const auto bars = world.device("nic0").bars;
    const u32 resets = world.function("nic0").resets;
    REQUIRE(world.file<VfioFile>(assigned.nic)->write(2, 0x10, 8, 0x1234));
    world.preserve(assigned, 1);
    world.live_update();
    CHECK(errno_of(world.kernel().vfio.open(world.device("nic0"))) == Errno::ebusy);
    const auto nic = world.restored<VfioFile>(3);  // the iommufd is found by its record
    for (unsigned bar = 0; bar < bars.size(); ++bar) {
        CHECK(nic->device().bars[bar].bytes == bars[bar].bytes);
        CHECK(nic->device().bars[bar].address == bars[bar].address);
    }
    CHECK(*nic->read(2, 0x10, 8) == 0x1234);
    CHECK(world.function("nic0").resets == resets);
    CHECK(world.function("nic0").bus_master());
    CHECK(nic->iommufd.lock() == world.restored<IommufdFile>(2));
    CHECK(world.restore_fd(3) == Errno::einval);  // once only
}

TEST_CASE("a record that names no incoming endpoint is ENODEV, and finish touches nothing") {
    struct Row {
        const char* what;
        std::function<u16(HandlerWorld&)> bdf;
        u16 segment;
    };
    const Row rows[] = {
        {"nobody", [](HandlerWorld&) { return u16{0x7700}; }, 0},
        {"another segment", [](HandlerWorld& world) { return world.device("nic0").address.bdf.raw; }, 1},
        {"one that was not preserved", [](HandlerWorld& world) { return world.device("nic1").address.bdf.raw; }, 0},
        {"a bridge", [](HandlerWorld& world) { return world.device("rp0").address.bdf.raw; }, 0},
    };
    for (const Row& row : rows) {
        INFO(row.what);
        HandlerWorld world;
        const i32 fd = world.open("nic0");
        REQUIRE(world.preserve_fd(fd, 1) == Errno::ok);
        REQUIRE(world.prepare() == Errno::ok);
        const PhysAddr record = world.record("vfio.ser");
        world.ram().write<u16>(record + offsetof(abi::VfioSer, bdf), row.bdf(world));
        world.ram().write<u16>(record + offsetof(abi::VfioSer, domain), row.segment);
        REQUIRE(world.kexec() == Errno::ok);
        CHECK(world.restore_fd(1) == Errno::enodev);
        const std::size_t writes = world.machine->pci.config_writes().size();
        CHECK(world.finish() == Errno::ok);
        CHECK(world.machine->pci.config_writes().size() == writes);
        CHECK(world.function("rp0").bus_master());
    }
}

TEST_CASE("finish of a record that is lost touches no other function, not even 0000:00:00.0") {
    HandlerWorld world({.devices = {test::on_root("first", "dma-nic", 0), test::on_root("other", "dma-nic", 1)}});
    REQUIRE(world.device("first").address == PciAddress{});
    REQUIRE(world.preserve_fd(world.open("other"), 1) == Errno::ok);
    REQUIRE(world.preserve_fd(world.open("first"), 2) == Errno::ok);
    world.live_update();
    const auto nic = world.restored<VfioFile>(2);
    const u32 resets = world.function("first").resets;
    world.plan("kho.restore[vfio-pci-v1]#1=fail(ENOENT)");
    REQUIRE(world.client().set_fd_event(1, static_cast<u32>(LuoEvent::finish)));
    CHECK(world.function("first").resets == resets);
    CHECK(world.function("first").bus_master());
    CHECK(world.participants().pci.incoming(PciAddress{}));
    CHECK(world.finish() == Errno::ok);
}

TEST_CASE("a record of an attachment whose requester id has more than 16 bits names another function") {
    HandlerWorld world;
    world.preserve(world.assign("nic0"), 1);
    REQUIRE(world.prepare() == Errno::ok);
    const PhysAddr attachment{world.ram().read<u64>(world.record("vfio.ser") + offsetof(abi::VfioSer, iommu_device))};
    const PhysAddr devid = attachment + offsetof(abi::IommuDeviceSer, devid);
    world.ram().write<u32>(devid, world.ram().read<u32>(devid) | 1u << 16);
    REQUIRE(world.kexec() == Errno::ok);
    CHECK(world.restore_fd(3) == Errno::enodev);
    CHECK(world.finish() == Errno::ok);
}

TEST_CASE("a size of a BAR that cannot be is not believed") {
    for (const u64 bytes : {u64{3 * page_bytes}, u64{8}, ~u64{0}, u64{1} << 63}) {
        HandlerWorld world;
        const i32 fd = world.open("nic0");
        REQUIRE(world.preserve_fd(fd, 1) == Errno::ok);
        REQUIRE(world.prepare() == Errno::ok);
        world.ram().write<u64>(world.record("vfio.ser") + offsetof(abi::VfioSer, bar_bytes), bytes);
        REQUIRE(world.kexec() == Errno::ok);
        CHECK(world.restore_fd(1) == Errno::einval);
        CHECK(world.finish() == Errno::ok);
    }
}

TEST_CASE("a function that another driver has is ENODEV") {
    HandlerWorld world;
    const i32 fd = world.open("nic0");
    REQUIRE(world.preserve_fd(fd, 1) == Errno::ok);
    world.live_update();
    REQUIRE(world.kernel().pci.rebind(world.device("nic0"), *world.kernel().pci.driver("dma-nic")));
    CHECK(world.restore_fd(1) == Errno::enodev);
}

// --- KVM ---------------------------------------------------------------------------------------------------------

TEST_CASE("a VM comes back without memory or vCPUs, a confidential one with its context") {
    for (const bool confidential : {false, true}) {
        HandlerWorld world;
        i32 memory = -1;
        const i32 fd = world.vm(MiB, confidential, &memory);
        const auto context = world.file<VmFile>(fd)->snp_context();
        CHECK(context.has_value() == confidential);
        REQUIRE(world.preserve_fd(memory, 1) == Errno::ok);
        REQUIRE(world.preserve_fd(fd, 2) == Errno::ok);
        world.live_update();
        CHECK(world.machine->snp.enabled() == confidential);
        const auto vm = world.restored<VmFile>(2);
        CHECK(vm->vcpus() == 0);
        CHECK(vm->memory() == nullptr);
        CHECK(vm->snp_context() == context);
        CHECK(vm->asid() == (confidential ? 1 : 0));
        REQUIRE(vm->set_memory(world.restored<ShmemFile>(1)));
        CHECK(vm->memory()->pinned() == confidential);
        CHECK(world.finish() == Errno::ok);
    }
}

TEST_CASE("a confidential VM that nobody restores is taken apart at finish") {
    HandlerWorld world;
    i32 memory = -1;
    const i32 fd = world.vm(MiB, true, &memory);
    const PhysAddr context = world.file<VmFile>(fd)->snp_context()->pfn.phys();
    const Pfn first = world.shmem(memory)->extents()[0].pfn;
    REQUIRE(world.preserve_fd(memory, 1) == Errno::ok);
    REQUIRE(world.preserve_fd(fd, 2) == Errno::ok);
    world.live_update();
    CHECK(world.machine->snp.owner(first) == RmpOwner::guest);
    REQUIRE(world.finish() == Errno::ok);
    CHECK(world.machine->snp.owner(first) == RmpOwner::hypervisor);
    CHECK(world.machine->snp.owner(context.pfn()) == RmpOwner::hypervisor);
    CHECK_FALSE(world.is_folio(context));
}

TEST_CASE("a confidential VM that is closed before it has memory gives its frames back") {
    HandlerWorld world;
    i32 memory = -1;
    const i32 fd = world.vm(MiB, true, &memory);
    const Pfn first = world.shmem(memory)->extents()[0].pfn;
    REQUIRE(world.preserve_fd(memory, 1) == Errno::ok);
    REQUIRE(world.preserve_fd(fd, 2) == Errno::ok);
    world.live_update();
    const i32 restored_memory = *world.client().fd_restore(1), restored_vm = *world.client().fd_restore(2);
    REQUIRE(world.finish() == Errno::ok);
    CHECK(world.machine->snp.owner(first) == RmpOwner::guest);
    REQUIRE(world.main().close(restored_vm));
    CHECK(world.machine->snp.owner(first) == RmpOwner::hypervisor);
    REQUIRE(world.main().close(restored_memory));
    CHECK(memfd_create_file(world.kernel(), "all", 100 * MiB, {}).value()->pin_all());
}

TEST_CASE("a record that names the private memory of another guest takes nothing from it") {
    for (const bool context_known : {true, false}) {
        INFO(context_known);
        HandlerWorld world;
        i32 memory = -1, other_memory = -1;
        const i32 fd = world.vm(MiB, true, &memory), other = world.vm(MiB, true, &other_memory);
        const PhysAddr context = world.file<VmFile>(fd)->snp_context()->pfn.phys();
        const FileExtent taken = world.shmem(other_memory)->extents()[0];
        for (const auto& [file, token] :
             {std::pair{memory, 1u}, std::pair{fd, 2u}, std::pair{other_memory, 3u}, std::pair{other, 4u}})
            REQUIRE(world.preserve_fd(file, token) == Errno::ok);
        REQUIRE(world.prepare() == Errno::ok);
        for (Pfn pfn{0}; pfn.phys().raw < world.ram().bytes_max(); pfn = pfn + 1) {
            const auto block = world.kernel().pages.block(pfn);
            if (block.meta.state != PageState::folio ||
                world.kernel().pages.site_name(block.meta.site) != "kvm.ser" ||
                world.ram().read<abi::KvmSer>(pfn.phys()).snp_context != context.raw)
                continue;
            world.ram().write(pfn.phys() + sizeof(abi::KvmSer), abi::KvmRun{taken.pfn.raw, 1});
            if (!context_known) world.ram().write<u64>(pfn.phys() + offsetof(abi::KvmSer, snp_context), 32 * MiB);
        }
        REQUIRE(world.kexec() == Errno::ok);
        const auto vm = world.restored<VmFile>(4);
        CHECK(world.restore_fd(2) == (context_known ? Errno::ok : Errno::enoent));
        CHECK(world.finish() == Errno::ok);
        CHECK(world.machine->snp.owner(taken.pfn) == RmpOwner::guest);
        vm->release_once();
        CHECK(world.machine->snp.owner(taken.pfn) == RmpOwner::hypervisor);
    }
}

TEST_CASE("private memory in too many pieces is E2BIG") {
    HandlerWorld world;
    // Two files that grow page by page in turn: no two pages of either are neighbours.
    constexpr u64 pages = 4 * (abi::kvm_runs_max + 1), quarter = pages / 4;
    const i32 memory = world.memfd(0), other = world.memfd(0);
    const std::vector<std::byte> page(page_bytes);
    for (const i32 fd : {memory, other}) REQUIRE(world.shmem(fd)->truncate(pages * page_bytes));
    for (u64 index = 0; index < quarter; ++index)
        for (const i32 fd : {memory, other}) REQUIRE(world.shmem(fd)->write(index * page_bytes, page));
    auto vm = world.kernel().kvm.create_vm("vm");
    REQUIRE(vm->set_memory(world.shmem(memory)));
    REQUIRE(vm->launch_confidential());
    REQUIRE(world.preserve_fd(memory, 1) == Errno::ok);
    REQUIRE(world.preserve_fd(world.install(vm), 2) == Errno::ok);
    CHECK(world.prepare() == Errno::e2big);
    CHECK_FALSE(vm->preserved);
    CHECK(world.luo().state() == LuoState::normal);
}

TEST_CASE("a VM of no known type, or whose context is none, is not restored and leaves no page") {
    struct Row {
        const char* what;
        u64 at, value;
        Errno result;
    };
    for (const Row& row :
         {Row{"type", offsetof(abi::KvmSer, type), 7, Errno::einval},
          Row{"context outside RAM", offsetof(abi::KvmSer, snp_context), GiB, Errno::enoent},
          Row{"context unaligned", offsetof(abi::KvmSer, snp_context), 8, Errno::enoent},
          Row{"a page that is no context", offsetof(abi::KvmSer, snp_context), 32 * MiB, Errno::enoent}}) {
        INFO(row.what);
        HandlerWorld world;
        i32 memory = -1;
        const i32 fd = world.vm(MiB, true, &memory);
        REQUIRE(world.preserve_fd(memory, 1) == Errno::ok);
        REQUIRE(world.preserve_fd(fd, 2) == Errno::ok);
        REQUIRE(world.prepare() == Errno::ok);
        world.ram().write<u64>(world.record("kvm.ser") + row.at, row.value);
        REQUIRE(world.kexec() == Errno::ok);
        const bool was_folio = world.is_folio(PhysAddr{32 * MiB});
        CHECK(world.restore_fd(2) == row.result);
        if (row.value == 32 * MiB) CHECK(world.is_folio(PhysAddr{32 * MiB}) == was_folio);
        CHECK(world.finish() == Errno::ok);
    }
}

TEST_CASE("runs of private memory that cannot be reclaim nothing, and finish goes on") {
    struct Row {
        const char* what;
        u64 count, pfn, pages;
    };
    for (const Row& row :
         {Row{"beyond RAM", 1, u64{1} << 40, 1}, Row{"wraps", 1, 8, ~u64{0}}, Row{"all that there is", 1, 0, ~u64{0}},
          Row{"more runs than the page has", ~u64{0}, 0, 0}, Row{"empty", 1, 8, 0}}) {
        INFO(row.what);
        HandlerWorld world;
        i32 memory = -1;
        const i32 fd = world.vm(MiB, true, &memory);
        const PhysAddr context = world.file<VmFile>(fd)->snp_context()->pfn.phys();
        const Pfn first = world.shmem(memory)->extents()[0].pfn;
        REQUIRE(world.preserve_fd(memory, 1) == Errno::ok);
        REQUIRE(world.preserve_fd(fd, 2) == Errno::ok);
        REQUIRE(world.prepare() == Errno::ok);
        const PhysAddr record = world.record("kvm.ser");
        world.ram().write<u64>(record + offsetof(abi::KvmSer, nr_runs), row.count);
        world.ram().write(record + sizeof(abi::KvmSer), abi::KvmRun{row.pfn, row.pages});
        REQUIRE(world.kexec() == Errno::ok);
        CHECK(world.finish() == Errno::ok);
        CHECK(world.machine->snp.owner(context.pfn()) == RmpOwner::hypervisor);
        CHECK(world.machine->snp.owner(first) == RmpOwner::guest);
    }
}

}  // namespace kexec_sim::luo
