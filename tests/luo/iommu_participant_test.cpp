// The IOMMU over a live update: domains, devices and units in their arrays, and what the next kernel rebuilds.
#include "tests/support/device_world.hpp"

namespace kexec_sim::luo {
namespace {

/// Domains and devices without files, as the handlers use the participant.
struct ArrayWorld : DeviceWorld {
    explicit ArrayWorld(LuoOptions wanted = {}) : DeviceWorld(std::move(wanted)) {
        if (!iommu().ensure_registered()) return;
        // KHO's tracking pages are made with the first folio, and stay.
        static_cast<void>(participants().pci.ensure_registered());
        PciDevice& first = *kernel().pci.devices().back();
        static_cast<void>(participants().pci.preserve(first));
        participants().pci.unpreserve(first);
    }
    IommuParticipant& iommu() { return participants().iommu; }
    using Domain = std::shared_ptr<IommuDomain>;
    Domain domain(u64 phys) {
        auto made = kernel().iommu.create_domain("d");
        REQUIRE(made);
        REQUIRE((*made)->map(iova, phys_range(PhysAddr{phys}, page_bytes), rw));
        return *made;
    }
    void attach(const Domain& to, std::string_view name) { REQUIRE(kernel().iommu.attach(to, device(name))); }
    PhysAddr preserved(const Domain& one) {
        const auto record = iommu().preserve_domain(*one);
        REQUIRE(record);
        return *record;
    }
    PhysAddr preserved(std::string_view name, PhysAddr domain) {
        const auto record = iommu().preserve_device(device(name));
        REQUIRE(record);
        iommu().bind_device(device(name), domain);
        return *record;
    }
    struct Attached {
        Domain domain;
        PhysAddr domain_record, device_record;
    };
    /// nic0 in a domain with a page at 8 MiB, and all of it preserved.
    Attached preserve_nic() {
        Attached made{domain(8 * MiB), {}, {}};
        attach(made.domain, "nic0");
        REQUIRE(participants().pci.preserve(device("nic0")));
        made.domain_record = preserved(made.domain);
        made.device_record = preserved("nic0", made.domain_record);
        return made;
    }
    abi::IommuFlbSer top() { return ram().read<abi::IommuFlbSer>(handle("iommu")); }
    u64 array_pages(u64 first) {
        u64 pages = 0;
        for (u64 at = first; at; at = ram().read<u64>(PhysAddr{at})) ++pages;
        return pages;
    }
    void live_update() {
        REQUIRE(prepare() == Errno::ok);
        REQUIRE(kexec() == Errno::ok);
    }
};

}  // namespace

// --- the old kernel ----------------------------------------------------------------------------------------------

TEST_CASE("a preserved domain does not change, and one that is given up is as before") {
    ArrayWorld world;
    const auto domain = world.domain(8 * MiB);
    const auto held = world.held();
    const PhysAddr record = world.preserved(domain);
    CHECK(domain->immutable);
    CHECK(world.kho().preserved_folios() == held.preserved_folios + 4 + domain->tables().size());
    const auto ser = world.ram().read<abi::IommuDomainSer>(record);
    CHECK(ser.top_table == domain->top().phys().raw);
    CHECK(ser.top_level == 4);
    world.iommu().unpreserve_domain(*domain);
    CHECK_FALSE(domain->immutable);
    CHECK(world.held() == held);
    CHECK(world.handle("iommu").raw == 0);
    world.iommu().unpreserve_domain(*domain);  // is not preserved
    CHECK(world.held() == held);
}

TEST_CASE("whichever page cannot be preserved, the domain is as before") {
    std::vector<std::string> faults{"mm.folio_alloc[iommu.ser]#1=fail(ENOMEM)", "kho.preserve[iommu]#1=fail(ENOMEM)"};
    for (unsigned nth = 1; nth <= 3; ++nth)
        faults.push_back(fmt::format("mm.folio_alloc[iommu.array]#{}=fail(ENOMEM)", nth));
    for (unsigned nth = 1; nth <= 4; ++nth)
        faults.push_back(fmt::format("iommu.preserve_table[d]#{}=fail(ENOMEM)", nth));
    for (const std::string& fault : faults) {
        INFO(fault);
        ArrayWorld world;
        const auto domain = world.domain(8 * MiB);
        const auto held = world.held();
        world.plan(fault);
        CHECK(errno_of(world.iommu().preserve_domain(*domain)) == Errno::enomem);
        CHECK_FALSE(domain->immutable);
        CHECK(world.held() == held);
        CHECK(world.handle("iommu").raw == 0);
        world.preserved(domain);
    }
}

TEST_CASE("whichever page of a unit cannot be preserved, its device and it are as before") {
    for (const char* fault :
         {"iommu.preserve_table[unit]#1=fail(ENOMEM)", "iommu.preserve_table[unit]#2=fail(ENOMEM)",
          "mm.folio_alloc[iommu.array]#2=fail(ENOMEM)"}) {
        INFO(fault);
        ArrayWorld world;
        const auto domain = world.domain(8 * MiB);
        world.attach(domain, "nic0");
        const auto held = world.held();
        world.plan(fault);
        CHECK(errno_of(world.iommu().preserve_device(world.device("nic0"))) == Errno::enomem);
        CHECK(world.held() == held);
        CHECK(world.handle("iommu").raw == 0);
    }
}

TEST_CASE("a kernel without the IOMMU's part in LUO preserves no domain") {
    ArrayWorld world({.without = {"iommu"}});
    const auto domain = world.domain(8 * MiB);
    CHECK(errno_of(world.iommu().preserve_domain(*domain)) == Errno::enodev);
    CHECK_FALSE(domain->immutable);
}

TEST_CASE("a unit is preserved with its first device and given up with its last") {
    ArrayWorld world;
    const auto domain = world.domain(8 * MiB);
    for (const char* name : {"nic0", "nic1", "nic3"}) world.attach(domain, name);
    const PhysAddr record = world.preserved(domain);
    const auto before = world.held();
    const u64 folios = before.preserved_folios;
    world.preserved("nic0", record);
    CHECK(world.kho().preserved_folios() == folios + 3);  // root table, context tables of two buses
    world.preserved("nic1", record);
    CHECK(world.kho().preserved_folios() == folios + 3);
    world.preserved("nic3", record);
    CHECK(world.kho().preserved_folios() == folios + 5);  // the other segment's
    world.iommu().unpreserve_device(world.device("nic0"));
    CHECK(world.kho().preserved_folios() == folios + 5);
    world.iommu().unpreserve_device(world.device("nic1"));
    CHECK(world.kho().preserved_folios() == folios + 2);
    world.iommu().unpreserve_device(world.device("nic3"));
    CHECK(world.held() == before);
}

TEST_CASE("an array grows by a page after 102 domains") {
    ArrayWorld world;
    std::vector<ArrayWorld::Domain> domains;
    for (unsigned i = 0; i < 103; ++i) domains.push_back(world.domain(8 * MiB));
    const auto held = world.held();
    for (unsigned i = 0; i < 102; ++i) world.preserved(domains[i]);
    CHECK(world.array_pages(world.top().domain_array) == 1);
    world.plan("mm.folio_alloc[iommu.array]#1=fail(ENOMEM)");
    const auto full = world.held();
    CHECK(errno_of(world.iommu().preserve_domain(*domains[102])) == Errno::enomem);
    CHECK(world.held() == full);
    world.preserved(domains[102]);
    CHECK(world.array_pages(world.top().domain_array) == 2);
    CHECK(world.array_pages(world.top().device_array) == 1);
    for (const auto& domain : domains) world.iommu().unpreserve_domain(*domain);
    CHECK(world.held() == held);
}

// --- the new kernel ----------------------------------------------------------------------------------------------

TEST_CASE("a preserved domain is rebuilt with its id, and its device goes on in it") {
    ArrayWorld world;
    const auto [domain, domain_record, device_record] = world.preserve_nic();
    const PhysAddr top = world.handle("iommu");
    const u16 id = domain->domain_id;
    const std::vector<Pfn> tables(domain->tables().begin(), domain->tables().end());
    world.live_update();
    CHECK(world.reaches("nic0", world.iova) == 8 * MiB);
    const auto incoming = world.iommu().incoming_domain(domain_record);
    REQUIRE(incoming);
    CHECK(incoming->lookup(world.iova) == 8 * MiB);
    CHECK(incoming->domain_id == id);
    CHECK(incoming->immutable);
    CHECK(std::ranges::equal(incoming->tables(), tables));
    CHECK(errno_of(world.kernel().iommu.reserve_domain_id(id)) == Errno::ebusy);
    // Nobody has claimed the device: it is blocked before the tables are freed.
    world.iommu().finish_domain(domain_record);
    CHECK_FALSE(world.reaches("nic0", world.iova));
    for (const Pfn table : tables) CHECK_FALSE(world.is_folio(table.phys()));
    CHECK(world.iommu().incoming_domain(domain_record) == nullptr);
    CHECK(world.kernel().iommu.reserve_domain_id(id));
    world.iommu().finish_device(device_record);
    CHECK(world.is_folio(top));
    REQUIRE(world.finish() == Errno::ok);
    CHECK_FALSE(world.is_folio(top));
}

TEST_CASE("a domain that no file has goes at FINISH, its device blocked, and all pages with it") {
    ArrayWorld world;
    const auto [domain, record, device_record] = world.preserve_nic();
    const PhysAddr top = world.handle("iommu");
    const std::vector<Pfn> tables(domain->tables().begin(), domain->tables().end());
    world.live_update();
    REQUIRE(world.reaches("nic0", world.iova));
    REQUIRE(world.finish() == Errno::ok);
    CHECK_FALSE(world.reaches("nic0", world.iova));
    CHECK(world.iommu().incoming_domain(record) == nullptr);
    for (const Pfn table : tables) CHECK_FALSE(world.is_folio(table.phys()));
    CHECK_FALSE(world.is_folio(top));
}

TEST_CASE("the id of a domain is that of the context entry, whatever the record says") {
    for (const u64 said : {u64{1}, u64{2}, u64{0x10002}, ~u64{0}}) {
        INFO(said);
        ArrayWorld world;
        const auto [domain, domain_record, device_record] = world.preserve_nic();
        REQUIRE(domain->domain_id == 1);
        world.ram().write<u64>(device_record + offsetof(abi::IommuDeviceSer, attachment_id), said);
        world.live_update();
        CHECK(world.iommu().incoming_domain(domain_record)->domain_id == 1);
        const auto another = world.domain(12 * MiB);
        REQUIRE(another->domain_id == 2);
        world.iommu().finish_domain(domain_record);
        CHECK(errno_of(world.kernel().iommu.reserve_domain_id(2)) == Errno::ebusy);
        CHECK(world.kernel().iommu.reserve_domain_id(1));
    }
}

TEST_CASE("a domain keeps its id where its device is out of sight, behind a bridge that makes no sense") {
    ArrayWorld world;
    const auto [domain, record, device_record] = world.preserve_nic();
    REQUIRE(world.prepare() == Errno::ok);
    world.kernel().pci.write(world.device("rp0"), pci::PRIMARY_BUS + 2, 1, 0);  // the highest bus behind it
    REQUIRE(world.kexec() == Errno::ok);
    REQUIRE(world.kernel().pci.find_by_name("nic0") == nullptr);
    CHECK(world.iommu().incoming_domain(record)->domain_id == 1);
    REQUIRE(world.finish() == Errno::ok);
    CHECK_FALSE(world.has_finding("dma.contained"));
}

TEST_CASE("no two domains of the previous kernel get one id") {
    ArrayWorld world;
    const auto first = world.domain(8 * MiB), second = world.domain(12 * MiB);
    world.attach(first, "nic0");
    world.attach(second, "nic1");
    const PhysAddr one = world.preserved(first), two = world.preserved(second);
    world.preserved("nic0", one);
    world.preserved("nic1", two);
    for (const char* name : {"nic0", "nic1"}) REQUIRE(world.participants().pci.preserve(world.device(name)));
    // The context entry of nic1 gets the id of nic0's.
    const Bdf nic = world.device("nic1").address.bdf;
    const PhysAddr root = world.machine->iommu_of(0)->root_table();
    const auto bus = world.ram().read<vtd::RootEntry>(root + nic.bus() * sizeof(vtd::RootEntry));
    world.ram().write(bus.context_table() + nic.devfn() * sizeof(vtd::ContextEntry),
                      vtd::ContextEntry::translated(second->top().phys(), vtd::width_4_levels, first->domain_id));
    world.live_update();
    CHECK(world.iommu().incoming_domain(one)->domain_id == 1);
    CHECK(world.iommu().incoming_domain(two)->domain_id == 0);
}

TEST_CASE("objects of every page come over, but for those that were deleted") {
    ArrayWorld world;
    std::vector<PhysAddr> records;
    std::vector<ArrayWorld::Domain> domains;
    for (u64 i = 0; i < 110; ++i) {
        domains.push_back(world.domain(8 * MiB + i * page_bytes));
        records.push_back(world.preserved(domains.back()));
    }
    for (const unsigned index : {0u, 50u, 101u, 102u}) world.iommu().unpreserve_domain(*domains[index]);
    const PhysAddr top = world.handle("iommu");
    domains.clear();
    world.live_update();
    for (u64 i = 0; i < 110; ++i) {
        const auto incoming = world.iommu().incoming_domain(records[i]);
        const bool deleted = i == 0 || i == 50 || i == 101 || i == 102;
        if ((incoming == nullptr) != deleted) FAIL("domain " << i);
        if (incoming && incoming->lookup(world.iova) != 8 * MiB + i * page_bytes) FAIL("tables of domain " << i);
        world.iommu().finish_domain(records[i]);
    }
    REQUIRE(world.finish() == Errno::ok);
    CHECK_FALSE(world.is_folio(top));
}

TEST_CASE("a context table that was made after the unit was preserved is nobody's in the next kernel") {
    ArrayWorld world;
    const auto kept = world.domain(8 * MiB), other = world.domain(12 * MiB);
    world.attach(kept, "nic0");
    REQUIRE(world.participants().pci.preserve(world.device("nic0")));
    world.preserved("nic0", world.preserved(kept));
    REQUIRE(world.prepare() == Errno::ok);
    world.attach(other, "nic1");  // on a bus of its own
    const auto root = [&](u8 bus) {
        return world.ram().read<vtd::RootEntry>(world.machine->iommu_of(0)->root_table() +
                                                bus * sizeof(vtd::RootEntry));
    };
    REQUIRE(root(5).present());
    REQUIRE(world.kexec() == Errno::ok);
    CHECK(world.reaches("nic0", world.iova) == 8 * MiB);
    CHECK_FALSE(root(5).present());
    for (const Finding& finding : world.machine->referee.findings())
        CHECK(finding.check == CheckId::f1);  // no file is promised here
}

TEST_CASE("a device on a bus that had none when its unit was preserved goes on all the same") {
    ArrayWorld world;
    const auto first = world.domain(8 * MiB), second = world.domain(12 * MiB);
    world.attach(first, "nic0");
    const PhysAddr one = world.preserved(first);
    world.preserved("nic0", one);
    world.attach(second, "nic1");
    const PhysAddr two = world.preserved(second);
    const auto held = world.held();
    world.plan("iommu.preserve_table[unit]#1=fail(ENOMEM)");
    CHECK(errno_of(world.iommu().preserve_device(world.device("nic1"))) == Errno::enomem);
    CHECK(world.held() == held);
    world.preserved("nic1", two);
    for (const char* name : {"nic0", "nic1"}) REQUIRE(world.participants().pci.preserve(world.device(name)));
    world.live_update();
    CHECK(world.reaches("nic0", world.iova) == 8 * MiB);
    CHECK(world.reaches("nic1", world.iova) == 12 * MiB);
}

// --- records that are not what they should be --------------------------------------------------------------------

TEST_CASE("top object, arrays and tables of units that cannot be restored panic") {
    struct Row {
        const char* what;
        std::function<void(ArrayWorld&)> damage;
        const char* panic;
    };
    const auto unit = [](ArrayWorld& world) { return PhysAddr{world.top().iommu_array + sizeof(abi::ArrayHeader)}; };
    const auto put = [](ArrayWorld& world, PhysAddr at, u64 value) { world.ram().write<u64>(at, value); };
    const Row rows[] = {
        {"version", [&](ArrayWorld& world) { put(world, world.handle("iommu"), 2); },
         "iommu: live update version 2 is not 1"},
        {"no array of domains",
         [&](ArrayWorld& world) { put(world, world.handle("iommu") + offsetof(abi::IommuFlbSer, domain_array), 0); },
         "iommu: the array of preserved domains cannot be restored"},
        {"an array outside RAM",
         [&](ArrayWorld& world) {
             put(world, world.handle("iommu") + offsetof(abi::IommuFlbSer, device_array), ~u64{0xfff});
         },
         "iommu: the array of preserved devices cannot be restored"},
        {"an array in a circle",
         [&](ArrayWorld& world) { put(world, PhysAddr{world.top().iommu_array}, world.top().iommu_array); },
         "iommu: the array of preserved units cannot be restored"},
        {"one array twice",
         [&](ArrayWorld& world) {
             put(world, world.handle("iommu") + offsetof(abi::IommuFlbSer, device_array), world.top().domain_array);
         },
         "iommu: the array of preserved devices cannot be restored"},
        {"a root table outside RAM",
         [&](ArrayWorld& world) { put(world, unit(world) + offsetof(abi::IommuHwSer, root_table), GiB); },
         "iommu: a translation table of a preserved unit cannot be restored"},
        {"a context table that there is none",
         [&](ArrayWorld& world) { put(world, unit(world) + offsetof(abi::IommuHwSer, contexts), 1 << 7); },
         "iommu: a translation table of a preserved unit cannot be restored"},
    };
    for (const Row& row : rows) {
        INFO(row.what);
        ArrayWorld world;
        world.preserve_nic();
        row.damage(world);
        REQUIRE(world.prepare() == Errno::ok);
        CHECK_THROWS_WITH(world.kexec(), row.panic);
    }
}

TEST_CASE("an entry that points outside RAM, or back at a table above it, is left out") {
    for (const bool circle : {false, true}) {
        ArrayWorld world;
        const auto domain = world.domain(8 * MiB);
        const PhysAddr record = world.preserved(domain), top = domain->top().phys();
        const u64 target = circle ? top.raw : u64{GiB};
        // Every other entry of the top table: 511 ways into the circle.
        for (unsigned index = 1; index < 512; ++index) world.ram().write<u64>(top + 8 * index, target | world.rw);
        world.live_update();
        const auto incoming = world.iommu().incoming_domain(record);
        REQUIRE(incoming);
        CHECK(incoming->tables().size() == 4);
        CHECK(incoming->lookup(world.iova) == 8 * MiB);
        CHECK(world.logged("of a preserved table is left out"));
        world.iommu().finish_domain(record);
        CHECK_FALSE(world.logged("Bad page state"));
    }
}

TEST_CASE("a table of two domains belongs to the first of them") {
    ArrayWorld world;
    const auto first = world.domain(8 * MiB), second = world.domain(12 * MiB);
    const PhysAddr one = world.preserved(first), two = world.preserved(second);
    world.ram().write<u64>(second->top().phys(), world.ram().read<u64>(first->top().phys()));
    world.live_update();
    CHECK(world.iommu().incoming_domain(one)->tables().size() == 4);
    CHECK(world.iommu().incoming_domain(two)->tables().size() == 1);
    world.iommu().finish_domain(one);
    world.iommu().finish_domain(two);
    CHECK_FALSE(world.logged("Bad page state"));
}

TEST_CASE("a domain of another depth, or without a top table, is lost, and others are not") {
    for (const u64 at : {offsetof(abi::IommuDomainSer, top_level), offsetof(abi::IommuDomainSer, top_table)}) {
        ArrayWorld world;
        const auto bad = world.domain(8 * MiB), good = world.domain(12 * MiB);
        const PhysAddr lost = world.preserved(bad), found = world.preserved(good);
        world.ram().write<u64>(lost + at, 5);
        world.live_update();
        CHECK(world.iommu().incoming_domain(lost) == nullptr);
        CHECK(world.iommu().incoming_domain(found) != nullptr);
        CHECK(world.logged(fmt::format("iommu: the preserved domain at {:#x} cannot be rebuilt", lost.raw)));
    }
}

}  // namespace kexec_sim::luo
