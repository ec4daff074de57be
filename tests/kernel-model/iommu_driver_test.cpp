// The IOMMU driver: what a device reaches by the tables it writes, by what the unit has cached, and over kernels.
#include "device_kernel.hpp"

namespace kexec_sim {
namespace {

constexpr u64 rw = vtd::PTE_READ | vtd::PTE_WRITE;
constexpr u64 iova = 0x10000;

struct DriverWorld : DeviceKernel {
    DriverWorld() = default;
    explicit DriverWorld(const Options& options) : DeviceKernel(options) {}

    using Domain = std::shared_ptr<IommuDomain>;
    /// A domain in which `iova` is that address.
    Domain domain(u64 phys) {
        auto made = kernel->iommu.create_domain(fmt::format("to {:#x}", phys));
        REQUIRE(made);
        REQUIRE((*made)->map(iova, phys_range(PhysAddr{phys}, page_bytes), rw));
        return *made;
    }
    Errno attach(const Domain& to, std::string_view name) { return errno_of(kernel->iommu.attach(to, device(name))); }
    Errno replace(const Domain& to, std::string_view name) {
        return errno_of(kernel->iommu.replace(to, device(name)));
    }
    void detach(std::string_view name) { kernel->iommu.detach(device(name)); }

    /// A device of `domain` as the next kernel inherits it: its unit, and every page of it a folio of that kernel.
    Prepare inheriting(std::string_view name, const Domain& from) {
        const auto view = *kernel->iommu.unit_of(device(name));
        std::vector<Pfn> pages(from->tables().begin(), from->tables().end());
        pages.insert(pages.end(), view.context_tables.begin(), view.context_tables.end());
        pages.push_back(view.root_table.pfn());
        return [view, pages](Kernel& next) {
            next.hooks.initcall[1].push_back([&next, view, pages] {
                for (const Pfn page : pages) next.pages.adopt_folio({page, Order{0}}, "test", FrameClass::kernel);
                next.iommu.inherited.push_back({view.registers, view.root_table, view.context_tables});
            });
        };
    }
};

}  // namespace

// --- domains and devices -----------------------------------------------------------------------------------------

TEST_CASE("domain ids start at 1 and are used again when the domain is gone") {
    DriverWorld world;
    IommuDriver& iommu = world.kernel->iommu;
    const auto a = world.domain(0), b = world.domain(0);
    CHECK(a->domain_id == 1);
    CHECK(b->domain_id == 2);
    REQUIRE(iommu.destroy_domain(*a));
    CHECK(world.domain(0)->domain_id == 1);
    CHECK(errno_of(iommu.reserve_domain_id(2)) == Errno::ebusy);
    CHECK(errno_of(iommu.reserve_domain_id(3)) == Errno::ok);
    CHECK(world.domain(0)->domain_id == 4);
}

TEST_CASE("a domain that cannot be made keeps neither id nor page") {
    DriverWorld world;
    const u64 frames = world.free_frames();
    world.plan("mm.folio_alloc[iommu.table]#1=fail(ENOMEM)");
    CHECK(errno_of(world.kernel->iommu.create_domain("d")) == Errno::enomem);
    CHECK(world.free_frames() == frames);
    const auto made = world.domain(0);
    CHECK(made->domain_id == 1);
    for (unsigned id = 2; id < vtd::domain_ids; ++id)
        REQUIRE(world.kernel->iommu.reserve_domain_id(static_cast<u16>(id)));
    const u64 before = world.free_frames();
    CHECK(errno_of(world.kernel->iommu.create_domain("d")) == Errno::enospc);
    CHECK(world.free_frames() == before);
    REQUIRE(world.kernel->iommu.destroy_domain(*made));
    CHECK(world.free_frames() == frames);
}

TEST_CASE("a device is blocked, then attached, then blocked again at once") {
    DriverWorld world;
    const auto domain = world.domain(8 * MiB);
    CHECK_FALSE(world.reaches("nic0", iova));
    REQUIRE(world.attach(domain, "nic0") == Errno::ok);
    CHECK(world.reaches("nic0", iova + 8) == 8 * MiB + 8);  // cached from here on
    CHECK_FALSE(world.reaches("nic1", iova));
    CHECK_FALSE(world.reaches("nic0", iova + page_bytes));
    CHECK(errno_of(world.kernel->iommu.destroy_domain(*domain)) == Errno::ebusy);
    world.detach("nic0");
    CHECK_FALSE(world.reaches("nic0", iova));
    world.detach("nic0");  // nothing is attached
    CHECK(domain->attached == 0);
    CHECK(errno_of(world.kernel->iommu.destroy_domain(*domain)) == Errno::ok);
}

TEST_CASE("attach refuses a device of another domain; replace moves it with nothing of the old one cached") {
    DriverWorld world;
    const auto first = world.domain(8 * MiB), second = world.domain(12 * MiB);
    REQUIRE(world.attach(first, "nic0") == Errno::ok);
    CHECK(world.attach(first, "nic0") == Errno::ok);
    CHECK(first->attached == 1);
    CHECK(world.attach(second, "nic0") == Errno::ebusy);
    CHECK(world.reaches("nic0", iova) == 8 * MiB);
    REQUIRE(world.unit().cached_pages() == 1);
    REQUIRE(world.replace(second, "nic0") == Errno::ok);
    CHECK(world.unit().cached_pages() == 0);
    CHECK(world.reaches("nic0", iova) == 12 * MiB);
    CHECK(first->attached == 0);
    CHECK(second->attached == 1);
    CHECK(world.replace(first, "nic1") == Errno::ok);  // attached to none so far
    CHECK(world.reaches("nic1", iova) == 8 * MiB);
}

TEST_CASE("what is unmapped stays cached until it is flushed, for that domain alone") {
    DriverWorld world;
    const auto first = world.domain(8 * MiB), second = world.domain(12 * MiB);
    REQUIRE(world.attach(first, "nic0") == Errno::ok);
    REQUIRE(world.attach(second, "nic1") == Errno::ok);
    CHECK(world.reaches("nic0", iova));
    CHECK(world.reaches("nic1", iova));
    const u64 cached = world.unit().cached_pages();
    REQUIRE(first->unmap(iova, page_bytes));
    CHECK(world.reaches("nic0", iova) == 8 * MiB);
    world.kernel->iommu.flush(*first);
    CHECK_FALSE(world.reaches("nic0", iova));
    CHECK(world.unit().cached_pages() == cached - 1);
}

TEST_CASE("a context table that cannot be had leaves the device unattached") {
    DriverWorld world;
    const auto domain = world.domain(8 * MiB);
    const u64 frames = world.free_frames();
    world.plan("mm.folio_alloc[iommu.context]#1=fail(ENOMEM)");
    for (const bool moves : {false, true}) {
        world.plan("mm.folio_alloc[iommu.context]#1=fail(ENOMEM)");
        CHECK((moves ? world.replace(domain, "nic0") : world.attach(domain, "nic0")) == Errno::enomem);
        CHECK(domain->attached == 0);
        CHECK(world.kernel->iommu.domain_of(world.device("nic0")) == nullptr);
        CHECK(world.free_frames() == frames);
        CHECK_FALSE(world.reaches("nic0", iova));
    }
    CHECK(world.attach(domain, "nic0") == Errno::ok);
}

TEST_CASE("without a unit nothing can be attached, and interrupts are not remapped") {
    DriverWorld world({.iommu = false});
    CHECK_FALSE(world.kernel->iommu.present());
    const auto domain = world.domain(8 * MiB);
    CHECK(world.attach(domain, "nic0") == Errno::enodev);
    CHECK_FALSE(world.kernel->iommu.unit_of(world.device("nic0")));
    const auto entry = world.kernel->iommu.allocate_interrupt(world.device("nic0"), 0x40);
    REQUIRE(entry);
    CHECK_FALSE(*entry);
}

TEST_CASE("a unit serves its segment alone") {
    DriverWorld world;
    const auto domain = world.domain(8 * MiB);
    REQUIRE(world.attach(domain, "nic3") == Errno::ok);
    CHECK(world.reaches("nic3", iova) == 8 * MiB);
    CHECK(world.kernel->iommu.unit_of(world.device("nic3"))->context_tables.size() == 1);
    CHECK(world.kernel->iommu.unit_of(world.device("nic0"))->context_tables.empty());
}

// --- the invalidation queue --------------------------------------------------------------------------------------

TEST_CASE("the invalidation queue wraps, and goes on invalidating") {
    DriverWorld world;
    const auto domain = world.domain(8 * MiB);
    REQUIRE(world.attach(domain, "nic0") == Errno::ok);
    // Two descriptors each, in a queue of 256: every position of the tail where it wraps.
    for (unsigned round = 0; round < 600; ++round) {
        if (!world.reaches("nic0", iova)) FAIL("round " << round);
        world.kernel->iommu.flush(*domain);
        if (world.unit().cached_pages() != 0) FAIL("not invalidated in round " << round);
    }
    CHECK_FALSE(world.logged("did not complete"));
    CHECK(world.unit().counters.invalidations >= 600);
}

TEST_CASE("a queue that has stopped is said in the log, and the kernel goes on") {
    DriverWorld world;
    const auto domain = world.domain(8 * MiB);
    REQUIRE(world.attach(domain, "nic0") == Errno::ok);
    CHECK(world.reaches("nic0", iova));
    const u64 states = world.unit().read_register(vtd::GSTS, 4) & (vtd::TE | vtd::IRE);
    world.unit().write_register(vtd::GCMD, 4, states);  // the queue is off
    world.detach("nic0");
    CHECK(world.logged("DMAR: unit 0xfed90000: invalidation did not complete"));
    CHECK(world.kernel->iommu.domain_of(world.device("nic0")) == nullptr);
    CHECK(world.reaches("nic0", iova));  // which is why the log says so
}

// --- units and kernels -------------------------------------------------------------------------------------------

TEST_CASE("a unit that is off gets an empty root table and is turned on") {
    DriverWorld world;
    CHECK(world.unit(0).translation_enabled());
    CHECK(world.unit(0).remapping_enabled());
    CHECK(world.unit(1).translation_enabled());
    CHECK(world.unit(0).root_table() != world.unit(1).root_table());
    CHECK(world.unit(0).root_table() == world.kernel->iommu.unit_of(world.device("nic0"))->root_table);
    CHECK_FALSE(world.logged("was on already"));
}

TEST_CASE("a kernel that is told nothing of a unit that is on turns it off with a warning") {
    DriverWorld world;
    REQUIRE(world.attach(world.domain(8 * MiB), "nic0") == Errno::ok);
    CHECK(world.reaches("nic0", iova));
    world.next_kernel();
    CHECK(world.logged("DMAR: translation of unit 0xfed90000 was on already, turned off"));
    CHECK(world.unit().translation_enabled());
    CHECK_FALSE(world.reaches("nic0", iova));
}

TEST_CASE("a kernel without memory for a unit's tables panics") {
    for (const char* site : {"iommu.root", "iommu.queue", "iommu.interrupts"}) {
        DriverWorld world;
        world.plan(fmt::format("mm.folio_alloc[{}]#1=fail(ENOMEM)", site));
        CHECK_THROWS_AS(world.next_kernel(), KernelPanic);
    }
}

TEST_CASE("an inherited unit keeps its root table, and its devices what they reach") {
    DriverWorld world;
    const auto domain = world.domain(8 * MiB);
    REQUIRE(world.attach(domain, "nic0") == Errno::ok);
    const PhysAddr root = world.unit().root_table();
    const u16 id = domain->domain_id;
    world.next_kernel(world.inheriting("nic0", domain));
    CHECK(world.unit().root_table() == root);
    CHECK(world.logged("DMAR: unit 0xfed90000: translation tables adopted"));
    CHECK(world.reaches("nic0", iova) == 8 * MiB);
    CHECK(errno_of(world.kernel->iommu.reserve_domain_id(id)) == Errno::ebusy);
    CHECK(world.domain(0)->domain_id != id);
    // The context table that was adopted is the one that is written.
    const auto moved = world.domain(12 * MiB);
    CHECK(world.attach(moved, "nic0") == Errno::ok);
    CHECK(world.reaches("nic0", iova) == 12 * MiB);
    CHECK(world.unit(1).root_table() != root);  // nothing was inherited there
}

TEST_CASE("a crash kernel copies the tables it finds, and gives their domain ids to nobody") {
    DriverWorld world;
    const auto domain = world.domain(8 * MiB);
    REQUIRE(world.attach(domain, "nic0") == Errno::ok);
    const PhysAddr root = world.unit().root_table();
    const u16 id = domain->domain_id;
    // The old tables stay where they are: a crash kernel lives in memory of its own.
    const auto inherit = world.inheriting("nic0", domain);
    KernelConfig config;
    config.crash_kernel = true;
    const auto keep = [&](Kernel& kernel) {
        inherit(kernel);
        kernel.hooks.initcall[2].push_back([&kernel] { kernel.iommu.inherited.clear(); });
    };
    world.next_kernel(keep, {}, config);
    CHECK(world.logged("DMAR: copied translation tables from the previous kernel"));
    CHECK_FALSE(world.logged("turned off"));
    CHECK(world.unit().root_table() != root);
    CHECK(world.reaches("nic0", iova) == 8 * MiB);
    CHECK(world.domain(0)->domain_id != id);
}

TEST_CASE("shutdown turns units off, but for one that serves a device that is kept") {
    DriverWorld world;
    const auto kept = world.domain(8 * MiB), other = world.domain(12 * MiB);
    REQUIRE(world.attach(kept, "nic0") == Errno::ok);
    REQUIRE(world.attach(other, "nic1") == Errno::ok);
    CHECK(world.reaches("nic1", iova));
    ++world.device("nic0").keep_running;
    world.kernel->iommu.shutdown();
    CHECK(world.unit(0).translation_enabled());
    CHECK_FALSE(world.unit(1).translation_enabled());
    CHECK_FALSE(world.unit(1).remapping_enabled());
    CHECK(world.reaches("nic0", iova) == 8 * MiB);
    CHECK_FALSE(world.reaches("nic1", iova));
    CHECK(other->attached == 0);
}

// --- interrupt remapping -----------------------------------------------------------------------------------------

TEST_CASE("a remapping entry is its device's alone, and goes back when it is freed") {
    DriverWorld world;
    PciDevice &nic = world.device("nic0"), &other = world.device("nic1");
    IommuDriver& iommu = world.kernel->iommu;
    const u16 index = iommu.allocate_interrupt(nic, 0x41)->value();
    const auto remap = [&](const PciDevice& from) {
        return world.unit().remap(from.address.bdf, vtd::remappable_message(index), 0);
    };
    CHECK(remap(nic).vector == 0x41);
    CHECK(remap(other).fault == vtd::FaultReason::ir_source_id);
    CHECK(iommu.allocate_interrupt(other, 0x42)->value() == index + 1);
    iommu.free_interrupt(nic, index);
    CHECK(remap(nic).fault == vtd::FaultReason::ir_not_present);
    CHECK(iommu.allocate_interrupt(other, 0x43)->value() == index);
    for (unsigned left = 0; left < 254; ++left) REQUIRE(iommu.allocate_interrupt(nic, 0x44));
    CHECK(errno_of(iommu.allocate_interrupt(nic, 0x44)) == Errno::enospc);
    CHECK(iommu.allocate_interrupt(world.device("nic3"), 0x44));  // the other unit's table
}

TEST_CASE("vectors are handed out from 0x30 to 0xef, and one without a handler is spurious") {
    DriverWorld world;
    Irq& irq = world.kernel->irq;
    unsigned called = 0;
    for (unsigned vector = 0x30; vector <= 0xef; ++vector) REQUIRE(*irq.request([&] { ++called; }) == vector);
    CHECK(errno_of(irq.request([] {})) == Errno::enospc);
    irq.free(0x77);
    world.machine->apic.message(nullptr, vtd::message_base, 0x77);
    world.machine->apic.message(nullptr, vtd::message_base, 0x78);
    irq.handle_pending();
    CHECK(called == 1);
    CHECK(irq.spurious() == 1);
    const auto events = world.events("irq.spurious");
    CHECK(events.size() == 1);
    CHECK(*irq.request([] {}) == 0x77);
}

}  // namespace kexec_sim
