// vfio-pci and iommufd: a function, and an address space, in the hands of user space.
#include "device_kernel.hpp"

namespace kexec_sim {
namespace {

constexpr u64 rw = vtd::PTE_READ | vtd::PTE_WRITE;

Errno enable(VfioFile& file, u16 vectors, std::vector<u16>* seen = nullptr) {
    return errno_of(file.enable_interrupts(vectors, [seen](u16 vector) {
        if (seen) seen->push_back(vector);
    }));
}

}  // namespace

// --- vfio: open and close ----------------------------------------------------------------------------------------

TEST_CASE("opening a function takes it from its driver and resets it; closing leaves it quiet") {
    DeviceKernel world;
    const u32 resets = world.function("nic0").resets;
    REQUIRE(world.device("nic0").driver->name() == "dma-nic");
    auto file = world.open("nic0");
    CHECK(world.device("nic0").driver->name() == "vfio-pci");
    CHECK(world.function("nic0").resets == resets + 1);
    CHECK(world.function("nic0").memory_decode());
    CHECK(world.master("nic0"));
    CHECK(world.kernel->vfio.file_of(world.device("nic0")) == file);
    CHECK(errno_of(world.kernel->vfio.open(world.device("nic0"))) == Errno::ebusy);
    world.put(std::move(file));
    CHECK(world.function("nic0").resets == resets + 2);
    CHECK_FALSE(world.master("nic0"));
    CHECK(world.kernel->vfio.file_of(world.device("nic0")) == nullptr);
    CHECK(world.kernel->vfio.open(world.device("nic0")));
}

TEST_CASE("there is nothing to open where there is no endpoint") {
    DeviceKernel world;
    CHECK(errno_of(world.kernel->vfio.open(world.device("sw0"))) == Errno::enodev);
    PciDevice& nic = world.device("nic0");
    world.kernel->pci.remove(nic);
    CHECK(errno_of(world.kernel->vfio.open(nic)) == Errno::enodev);
    CHECK(errno_of(world.kernel->vfio.adopt(nic)) == Errno::enodev);
}

TEST_CASE("an incoming function is not to be had by opening, and is adopted untouched") {
    DeviceKernel world;
    const PciAddress address = world.device("nic0").address;
    world.next_kernel([&](Kernel& kernel) { kernel.pci.adopted = {address}; });
    PciDevice& nic = world.device("nic0");
    CHECK(errno_of(world.kernel->vfio.open(nic)) == Errno::ebusy);
    const std::size_t writes = world.machine->pci.config_writes().size();
    const u32 resets = world.function("nic0").resets;
    const auto file = world.kernel->vfio.adopt(nic);
    REQUIRE(file);
    CHECK(world.machine->pci.config_writes().size() == writes);
    CHECK(world.function("nic0").resets == resets);
    CHECK(errno_of(world.kernel->vfio.adopt(nic)) == Errno::ebusy);
}

TEST_CASE("closing a preserved file leaves the function alone") {
    DeviceKernel world;
    auto file = world.open("nic0");
    const u32 resets = world.function("nic0").resets;
    file->preserved = true;
    world.put(std::move(file));
    CHECK(world.function("nic0").resets == resets);
    CHECK(world.master("nic0"));
}

TEST_CASE("an open function that is removed is stopped there and then, and leaves nothing behind") {
    for (const bool preserved : {false, true}) {
        DeviceKernel world;
        IommuDriver& iommu = world.kernel->iommu;
        {
            auto warm = world.iommufd();  // makes the context table, which stays
            REQUIRE(warm->attach(world.open("nic0")));
            world.put(std::move(warm));
        }
        const u64 frames = world.free_frames();
        auto nic = world.open("nic0");
        auto fd = world.iommufd();
        REQUIRE(fd->map_anonymous(0x200000, page_bytes, rw));
        REQUIRE(fd->attach(nic));
        REQUIRE(enable(*nic, 2) == Errno::ok);
        REQUIRE(world.reaches("nic0", 0x200000));
        const u32 resets = world.function("nic0").resets;
        nic->preserved = preserved;
        world.kernel->pci.remove(world.device("nic0"));
        CHECK_FALSE(world.reaches("nic0", 0x200000));
        CHECK_FALSE(world.master("nic0"));
        CHECK_FALSE(world.function("nic0").msix_enabled());
        CHECK(world.function("nic0").resets == resets + 1);
        CHECK(fd->devices().empty());
        CHECK(*world.kernel->irq.request([] {}) == 0x30);
        CHECK(iommu.allocate_interrupt(world.device("nic1"), 0x30)->value() == 0);
        world.put(std::move(nic));
        world.put(std::move(fd));
        CHECK(world.free_frames() == frames);
        CHECK((*iommu.create_domain("next"))->domain_id == 1);
        CHECK(world.function("nic0").resets == resets + 1);
    }
}

TEST_CASE("an incoming function that is removed before anybody claimed it is stopped, too") {
    DeviceKernel world;
    const PciAddress address = world.device("nic0").address;
    const auto nic = world.open("nic0");
    world.next_kernel([&](Kernel& kernel) { kernel.pci.adopted = {address}; });
    REQUIRE(world.master("nic0"));
    world.kernel->pci.remove(world.device("nic0"));
    CHECK_FALSE(world.master("nic0"));
}

// --- vfio: access ------------------------------------------------------------------------------------------------

TEST_CASE("access beyond a BAR is EINVAL, and up to its end is not") {
    DeviceKernel world;
    const auto file = world.open("nic0");
    struct Row {
        unsigned bar;
        u64 offset;
        unsigned bytes;
        Errno result;
    };
    for (const Row& row :
         {Row{0, 0, 4, Errno::ok}, Row{0, 16 * KiB - 8, 8, Errno::ok}, Row{0, 16 * KiB - 4, 8, Errno::einval},
          Row{0, 16 * KiB, 4, Errno::einval}, Row{0, ~u64{0} - 3, 4, Errno::einval}, Row{1, 0, 4, Errno::einval},
          Row{3, 0, 4, Errno::einval}, Row{6, 0, 4, Errno::einval}, Row{2, 0, 8, Errno::ok}}) {
        CHECK(errno_of(file->read(row.bar, row.offset, row.bytes)) == row.result);
        CHECK(errno_of(file->write(row.bar, row.offset, row.bytes, 0)) == row.result);
    }
    CHECK(file->write(2, 0x10, 8, 0x1234));
    CHECK(*file->read(2, 0x10, 8) == 0x1234);
}

TEST_CASE("a file that is frozen, or whose function has gone, answers EIO to everything but close") {
    for (const bool gone : {false, true}) {
        DeviceKernel world;
        auto file = world.open("nic0");
        REQUIRE(enable(*file, 1) == Errno::ok);
        if (gone)
            world.kernel->pci.remove(world.device("nic0"));
        else
            file->set_frozen(true);
        CHECK(errno_of(file->read(0, 0, 4)) == Errno::eio);
        CHECK(errno_of(file->write(0, 0, 4, 0)) == Errno::eio);
        CHECK(errno_of(file->reset()) == Errno::eio);
        CHECK(enable(*file, 1) == Errno::eio);
        CHECK(errno_of(file->mask_interrupts(true)) == Errno::eio);
        CHECK(file->present() == !gone);
        const u32 resets = world.function("nic0").resets;
        world.put(std::move(file));
        CHECK(world.function("nic0").resets == resets + !gone);
    }
}

// --- vfio: interrupts --------------------------------------------------------------------------------------------

TEST_CASE("each vector calls its trigger, with and without remapping") {
    for (const bool iommu : {true, false}) {
        DeviceKernel world({.iommu = iommu});
        const auto file = world.open("nic0");
        std::vector<u16> seen;
        REQUIRE(enable(*file, 3, &seen) == Errno::ok);
        CHECK(file->interrupt_vectors() == 3);
        CHECK(file->interrupts_on());
        for (const u16 vector : {u16{2}, u16{0}}) {
            world.function("nic0").raise_interrupt(vector);
            world.kernel->irq.handle_pending();
        }
        world.function("nic0").raise_interrupt(3);  // never set up: its entry is masked
        world.kernel->irq.handle_pending();
        CHECK(seen == std::vector<u16>{2, 0});
        CHECK(world.kernel->irq.spurious() == 0);
    }
}

TEST_CASE("the number of vectors is checked against the function's") {
    DeviceKernel world;
    const auto file = world.open("nic0");
    CHECK(enable(*file, 0) == Errno::einval);
    CHECK(enable(*file, 5) == Errno::einval);
    CHECK_FALSE(file->interrupts_on());
    CHECK(enable(*file, 4) == Errno::ok);
}

TEST_CASE("what comes while interrupts are masked waits; what comes while they are off is lost") {
    DeviceKernel world;
    const auto file = world.open("nic0");
    std::vector<u16> seen;
    REQUIRE(enable(*file, 1, &seen) == Errno::ok);
    const auto raise = [&] {
        world.function("nic0").raise_interrupt(0);
        world.kernel->irq.handle_pending();
        return seen.size();
    };
    REQUIRE(file->mask_interrupts(true));
    CHECK_FALSE(file->interrupts_on());
    CHECK(raise() == 0);
    REQUIRE(file->mask_interrupts(false));
    world.kernel->irq.handle_pending();
    CHECK(seen.size() == 1);
    file->disable_interrupts();
    CHECK(raise() == 1);
    CHECK(world.machine->pci.counters.interrupts_unheard == 1);
    REQUIRE(enable(*file, 1, &seen) == Errno::ok);
    world.kernel->irq.handle_pending();
    CHECK(seen.size() == 1);
    CHECK(raise() == 2);
}

TEST_CASE("vectors go back when interrupts are turned off, set up anew, or the file is closed") {
    DeviceKernel world;
    for (unsigned round = 0; round < 100; ++round) {
        auto file = world.open("nic0");
        REQUIRE(enable(*file, 4) == Errno::ok);
        REQUIRE(enable(*file, 2) == Errno::ok);
        if (round % 2) file->disable_interrupts();
        world.put(std::move(file));
    }
    CHECK(*world.kernel->irq.request([] {}) == 0x30);
    CHECK(world.kernel->iommu.allocate_interrupt(world.device("nic0"), 0x30)->value() == 0);
}

TEST_CASE("with too few vectors left none is taken, and MSI-X is off") {
    DeviceKernel world;
    const auto file = world.open("nic0");
    u8 last = 0;
    for (unsigned left = 0; left < 190; ++left) last = *world.kernel->irq.request([] {});
    REQUIRE(last == 0x30 + 189);
    CHECK(enable(*file, 3) == Errno::enospc);
    CHECK_FALSE(file->interrupts_on());
    CHECK_FALSE(world.function("nic0").msix_enabled());
    CHECK(file->interrupt_vectors() == 0);
    CHECK(*world.kernel->irq.request([] {}) == last + 1);
    CHECK(enable(*file, 1) == Errno::ok);
}

TEST_CASE("a failed change of the number of vectors leaves those that there were") {
    DeviceKernel world;
    const auto file = world.open("nic0");
    std::vector<u16> seen;
    REQUIRE(enable(*file, 2, &seen) == Errno::ok);
    while (world.kernel->irq.request([] {})) {}
    world.kernel->irq.free(0xef);  // one is left, three are wanted
    CHECK(enable(*file, 3) == Errno::enospc);
    CHECK(file->interrupts_on());
    CHECK(file->interrupt_vectors() == 2);
    world.function("nic0").raise_interrupt(1);
    world.kernel->irq.handle_pending();
    CHECK(seen == std::vector<u16>{1});
    CHECK(*world.kernel->irq.request([] {}) == 0xef);
}

TEST_CASE("with too few remapping entries left no vector is taken") {
    DeviceKernel world;
    const auto file = world.open("nic0");
    for (unsigned left = 0; left < 255; ++left)
        REQUIRE(world.kernel->iommu.allocate_interrupt(world.device("nic1"), 0x30));
    CHECK(enable(*file, 2) == Errno::enospc);
    CHECK(*world.kernel->irq.request([] {}) == 0x30);
    CHECK(enable(*file, 1) == Errno::ok);
}

// --- iommufd: mappings -------------------------------------------------------------------------------------------

TEST_CASE("an attached device reaches what is mapped, where it is mapped") {
    DeviceKernel world;
    const auto nic = world.open("nic0");
    const auto fd = world.iommufd();
    const auto memory = world.memory(64 * KiB);
    REQUIRE(fd->attach(nic));
    REQUIRE(fd->map(0x100000, memory, 16 * KiB, 32 * KiB, rw));
    CHECK(memory->pinned());
    u64 offset = 0;
    for (const FileExtent& extent : memory->extents())
        for (u64 page = 0; page < extent.pages; ++page) {
            const u64 at = (extent.index + page) * page_bytes;
            const auto expected =
                at >= 16 * KiB && at < 48 * KiB ? std::optional((extent.pfn + page).phys().raw) : std::nullopt;
            CHECK(world.reaches("nic0", 0x100000 + at - 16 * KiB) == expected);
            ++offset;
        }
    CHECK(offset == 16);
    REQUIRE(fd->unmap(0x100000, 32 * KiB));
    CHECK_FALSE(world.reaches("nic0", 0x100000));
    CHECK_FALSE(memory->pinned());
}

TEST_CASE("a mapping for reading is not written through") {
    DeviceKernel world;
    const auto nic = world.open("nic0");
    const auto fd = world.iommufd();
    REQUIRE(fd->attach(nic));
    REQUIRE(fd->map(0x100000, world.memory(page_bytes), 0, page_bytes, vtd::PTE_READ));
    CHECK(world.reaches("nic0", 0x100000, false));
    CHECK_FALSE(world.reaches("nic0", 0x100000, true));
}

TEST_CASE("map refuses what is no whole pages of the file, or has no rights that there are") {
    DeviceKernel world;
    const auto fd = world.iommufd();
    const auto memory = world.memory(8 * KiB + 100);
    struct Row {
        const char* what;
        u64 iova, offset, bytes, prot;
    };
    constexpr u64 at = 0x100000;
    for (const Row& row :
         {Row{"empty", at, 0, 0, rw}, Row{"IOVA", at + 8, 0, 0x1000, rw}, Row{"offset", at, 8, 0x1000, rw},
          Row{"length", at, 0, 0x1008, rw}, Row{"beyond the end", at, 0x1000, 0x3000, rw},
          Row{"begins beyond the end", at, 0x3000, 0x1000, rw}, Row{"wraps", at, ~u64{0xfff}, 0x2000, rw},
          Row{"beyond 48 bits", IommuDomain::iova_end, 0, 0x1000, rw}, Row{"no rights", at, 0, 0x1000, 0},
          Row{"a bit that is none", at, 0, 0x1000, rw | vtd::PTE_LARGE},
          Row{"an address in the rights", at, 0, 0x1000, rw | 0x5000}}) {
        INFO(row.what);
        CHECK(errno_of(fd->map(row.iova, memory, row.offset, row.bytes, row.prot)) == Errno::einval);
    }
    CHECK_FALSE(memory->pinned());
    CHECK(fd->map(at, memory, 0, 12 * KiB, rw));  // the last page counts whole
    CHECK(errno_of(fd->map_anonymous(at + 8, 0x1000, rw)) == Errno::einval);
    CHECK(errno_of(fd->map_anonymous(0x200000, 0x1000, 0)) == Errno::einval);
}

TEST_CASE("mappings do not overlap, and go as they came") {
    DeviceKernel world;
    const auto fd = world.iommufd();
    const auto memory = world.memory(64 * KiB);
    REQUIRE(fd->map(0x10000, memory, 0, 0x4000, rw));
    struct Row {
        const char* what;
        u64 iova, bytes;
        Errno result;
    };
    for (const Row& row :
         {Row{"the same", 0x10000, 0x4000, Errno::eexist}, Row{"inside", 0x11000, 0x1000, Errno::eexist},
          Row{"around", 0xf000, 0x6000, Errno::eexist}, Row{"begin", 0xe000, 0x3000, Errno::eexist},
          Row{"end", 0x13000, 0x2000, Errno::eexist}, Row{"before", 0xe000, 0x2000, Errno::ok},
          Row{"after", 0x14000, 0x2000, Errno::ok}}) {
        INFO(row.what);
        CHECK(errno_of(fd->map(row.iova, memory, 0, row.bytes, rw)) == row.result);
    }
    CHECK(errno_of(fd->unmap(0x10000, 0x2000)) == Errno::enoent);
    CHECK(errno_of(fd->unmap(0x11000, 0x1000)) == Errno::enoent);
    CHECK(errno_of(fd->unmap(0xe000, 0x6000)) == Errno::enoent);
    CHECK(errno_of(fd->unmap(0x10000, 0x4000)) == Errno::ok);
    CHECK(errno_of(fd->unmap(0x10000, 0x4000)) == Errno::enoent);
    CHECK(memory->pinned());  // by the neighbours
}

TEST_CASE("a map that fails for want of any page leaves nothing pinned and nothing mapped") {
    for (const bool anonymous : {false, true}) {
        for (unsigned nth = 1; nth <= 4; ++nth) {
            DeviceKernel world;
            const auto fd = world.iommufd();
            const auto memory = world.memory(page_bytes);
            REQUIRE(memory->pin_all());  // its page is there
            memory->unpin_all();
            const u64 frames = world.free_frames();
            world.plan(fmt::format("mm.folio_alloc[iommu.table]#{}=fail(ENOMEM)", nth));
            const auto map = [&] {
                return errno_of(anonymous ? fd->map_anonymous(0x10000, page_bytes, rw)
                                          : fd->map(0x10000, memory, 0, page_bytes, rw));
            };
            CHECK(map() == Errno::enomem);
            CHECK_FALSE(memory->pinned());
            CHECK(fd->mappings().empty());
            CHECK(world.free_frames() == frames - (nth - 1));  // tables that were made stay
            CHECK(map() == Errno::ok);
        }
    }
}

TEST_CASE("a BAR is mapped only for whoever has the function, and not beyond its end") {
    DeviceKernel world;
    const auto fd = world.iommufd();
    const PciDevice& gpu = world.device("gpu0");
    CHECK(errno_of(fd->map_peer(0x100000, gpu, 2, MiB)) == Errno::eacces);
    const auto file = world.open("gpu0");
    CHECK(errno_of(fd->map_peer(0x100000, gpu, 1, page_bytes)) == Errno::einval);
    CHECK(errno_of(fd->map_peer(0x100000, gpu, 6, page_bytes)) == Errno::einval);
    CHECK(errno_of(fd->map_peer(0x100000, gpu, 2, 0)) == Errno::einval);
    CHECK(errno_of(fd->map_peer(0x100000, gpu, 2, MiB + page_bytes)) == Errno::einval);
    CHECK(fd->mappings().empty());
    REQUIRE(fd->map_peer(0x100000, gpu, 2, MiB));
    CHECK(errno_of(fd->map_peer(0x180000, gpu, 0, page_bytes)) == Errno::eexist);
    CHECK((*fd->page_table())->lookup(0x100000 + 8) == *world.function("gpu0").bar_address(2) + 8);
    REQUIRE(fd->unmap(0x100000, MiB));
    CHECK_FALSE((*fd->page_table())->lookup(0x100000));
}

// --- iommufd: devices --------------------------------------------------------------------------------------------

TEST_CASE("a device belongs to one iommufd at a time") {
    DeviceKernel world;
    const auto nic = world.open("nic0"), gone = world.open("nic1");
    auto first = world.iommufd("first");
    const auto second = world.iommufd("second");
    REQUIRE(first->attach(nic));
    CHECK(first->attach(nic));
    CHECK(first->devices().size() == 1);
    CHECK(nic->iommufd.lock() == first);
    CHECK(errno_of(second->attach(nic)) == Errno::ebusy);
    world.kernel->pci.remove(world.device("nic1"));
    CHECK(errno_of(second->attach(gone)) == Errno::enodev);
    CHECK(second->devices().empty());
    world.put(std::move(first));
    CHECK(world.kernel->iommu.domain_of(world.device("nic0")) == nullptr);
    CHECK(second->attach(nic));
}

TEST_CASE("an immutable iommufd refuses every change") {
    DeviceKernel world;
    const auto nic = world.open("nic0"), gpu = world.open("gpu0");
    const auto fd = world.iommufd();
    const auto memory = world.memory(page_bytes);
    REQUIRE(fd->map(0x10000, memory, 0, page_bytes, rw));
    fd->immutable = true;
    CHECK(errno_of(fd->map(0x20000, memory, 0, page_bytes, rw)) == Errno::eperm);
    CHECK(errno_of(fd->map_anonymous(0x20000, page_bytes, rw)) == Errno::eperm);
    CHECK(errno_of(fd->map_peer(0x20000, gpu->device(), 0, page_bytes)) == Errno::eperm);
    CHECK(errno_of(fd->unmap(0x10000, page_bytes)) == Errno::eperm);
    CHECK(errno_of(fd->attach(nic)) == Errno::eperm);
    CHECK(fd->mappings().size() == 1);
}

TEST_CASE("closing an iommufd takes its devices out, then gives every frame back") {
    DeviceKernel world;
    auto nic = world.open("nic0");
    const auto memory = world.memory(64 * KiB);
    REQUIRE(memory->pin_all());
    memory->unpin_all();
    {
        auto warm = world.iommufd();  // makes the context table, which stays
        REQUIRE(warm->attach(nic));
        world.put(std::move(warm));
    }
    const u64 frames = world.free_frames();
    auto fd = world.iommufd();
    REQUIRE(fd->attach(nic));
    REQUIRE(fd->map(0x100000, memory, 0, 64 * KiB, rw));
    REQUIRE(fd->map_anonymous(0x200000, 3 * page_bytes, rw));
    CHECK(world.reaches("nic0", 0x200000));
    CHECK(world.free_frames() < frames);
    world.put(std::move(fd));
    CHECK_FALSE(world.reaches("nic0", 0x200000));
    CHECK_FALSE(world.reaches("nic0", 0x100000));
    CHECK(world.free_frames() == frames);
    CHECK_FALSE(memory->pinned());
}

TEST_CASE("a function that is closed is blocked before its iommufd is") {
    DeviceKernel world;
    auto nic = world.open("nic0");
    const auto fd = world.iommufd();
    REQUIRE(fd->map_anonymous(0x200000, page_bytes, rw));
    REQUIRE(fd->attach(nic));
    CHECK(world.reaches("nic0", 0x200000));
    world.put(std::move(nic));
    CHECK_FALSE(world.reaches("nic0", 0x200000));
    CHECK(fd->devices().empty());
    CHECK((*fd->page_table())->attached == 0);
}

TEST_CASE("who gave an iommufd a restored page table is told of each device that leaves it, whichever way") {
    struct Row {
        const char* what;
        std::function<void(DeviceKernel&, std::shared_ptr<VfioFile>&, std::shared_ptr<IommufdFile>&)> leave;
    };
    const Row rows[] = {
        {"moved over", [](DeviceKernel&, auto& nic, auto& fd) { REQUIRE(fd->attach(nic)); }},
        {"closed", [](DeviceKernel& world, auto& nic, auto&) { world.put(std::move(nic)); }},
        {"its iommufd is closed", [](DeviceKernel& world, auto&, auto& fd) { world.put(std::move(fd)); }},
        {"removed", [](DeviceKernel& world, auto& nic, auto&) { world.kernel->pci.remove(nic->device()); }},
    };
    for (const Row& row : rows) {
        INFO(row.what);
        DeviceKernel world;
        auto nic = world.open("nic0");
        auto fd = world.iommufd();
        const auto restored = *world.kernel->iommu.create_domain("restored");
        std::vector<u32> left;
        fd->restored = restored;
        fd->on_moved = [&](IommufdFile& file) { left.push_back(file.restored->attached); };
        fd->adopt_device(nic);
        REQUIRE(restored->attached == 1);
        row.leave(world, nic, fd);
        CHECK(left == std::vector<u32>{0});
        CHECK(world.kernel->iommu.destroy_domain(*restored));
        if (nic) world.put(std::move(nic));  // out of its own page table, if it has one
        CHECK(left.size() == 1);
    }
}

TEST_CASE("the lowest IOVA of memory below a limit is found, and BARs do not count") {
    DeviceKernel world;
    const auto gpu = world.open("gpu0");
    const auto fd = world.iommufd();
    REQUIRE(fd->map_peer(0x1000, gpu->device(), 0, page_bytes));
    CHECK_FALSE(fd->mapped_below(PhysAddr{~u64{0}}));
    REQUIRE(fd->map_anonymous(0x200000, 2 * page_bytes, rw));
    const u64 phys = *(*fd->page_table())->lookup(0x200000);
    CHECK_FALSE(fd->mapped_below(PhysAddr{phys}));
    CHECK(fd->mapped_below(PhysAddr{phys + 1}) == 0x200000);
}

}  // namespace kexec_sim
