// The IOMMU's registers, walk and faults, on tables that the tests write into RAM.
#include <catch2/catch.hpp>

#include <set>

#include "tests/machine/iommu_fixture.hpp"

using namespace kexec_sim;
using namespace kexec_sim::test;
using vtd::FaultReason;

TEST_CASE("after reset a unit says what it can do, and lets everything through") {
    IommuWorld world;
    CHECK(world.unit->read_register(vtd::VER, 4) == 0x10);
    const u64 cap = world.unit->read_register(vtd::CAP, 8);
    CHECK((cap & 7) == 6);            // 2^16 domains
    CHECK((cap >> 8 & 0x1f) == 6);    // 3 and 4 levels
    CHECK((cap >> 16 & 0x3f) == 47);  // 48 bits
    CHECK((cap >> 24 & 0x3ff) * 16 == vtd::FRCD);
    CHECK((cap >> 34 & 0xf) == 3);  // 2 MiB and 1 GiB
    CHECK((cap >> 40 & 0xff) == vtd::fault_records - 1);
    const u64 ecap = world.unit->read_register(vtd::ECAP, 8);
    CHECK((ecap & vtd::ECAP_QI) != 0);
    CHECK((ecap & vtd::ECAP_IR) != 0);
    CHECK(world.unit->read_register(vtd::CAP + 4, 4) == cap >> 32);
    CHECK(world.unit->read_register(vtd::FECTL, 4) == vtd::FECTL_IM);
    CHECK(world.status() == 0);
    CHECK(world.unit->read_register(vtd::GCMD, 4) == 0);
    CHECK(world.unit->read_register(0x19, 4) == ~u64{0});
    CHECK(world.unit->read_register(0x18, 2) == ~u64{0});
    const auto through = world.unit->translate(Bdf{3, 0}, 0x1234'5678'9abc'def0, true);
    CHECK(through.fault == FaultReason::none);
    CHECK(through.address == 0x1234'5678'9abc'def0);
    CHECK(world.unit->translate(Bdf{3, 0}, ~u64{0}, true).contiguous == 1);
}

TEST_CASE("the root pointer counts from the command on, not from the write of its register") {
    MappedWorld world;
    const PhysAddr other = world.page();
    world.unit->write_register(vtd::RTADDR, 4, other.raw & 0xffff'ffff);
    world.unit->write_register(vtd::RTADDR + 4, 4, other.raw >> 32);
    CHECK(world.unit->read_register(vtd::RTADDR, 8) == other.raw);
    CHECK(world.unit->root_table() == world.root);
    CHECK(world.fault_of(MappedWorld::iova) == FaultReason::none);
    // A command's bit is no state: a later write of GCMD without it leaves GSTS as it is.
    CHECK((world.status() & vtd::SRTP) != 0);
    world.command(0);
    CHECK((world.status() & vtd::SRTP) != 0);
    world.command(vtd::SRTP);
    CHECK(world.unit->root_table() == other);
    CHECK(world.unit->translate(Bdf{2, 9}, MappedWorld::iova, false).fault == FaultReason::root_not_present);
}

TEST_CASE("a write of GCMD without TE turns translation off, and the trace says so") {
    MappedWorld world;
    world.unit->write_register(vtd::GCMD, 4, 0);
    CHECK_FALSE(world.unit->translation_enabled());
    CHECK(world.unit->translate(MappedWorld::nic, 0x999'0000, true).address == 0x999'0000);
    const auto events = world.events("iommu.command");
    REQUIRE(events.size() == 3);
    CHECK(events[0].text("command") == "set root table");
    CHECK(events[0].number("root") == world.root.raw);
    CHECK(events[1].text("command") == "translation on");
    CHECK(events[2].text("command") == "translation off");
}

TEST_CASE("a page is translated with its offset, up to its end") {
    MappedWorld world;
    for (int round = 0; round < 2; ++round) {  // from the tables, from the cache
        const auto result = world.unit->translate(MappedWorld::nic, MappedWorld::iova + 0x123, true);
        CHECK(result.fault == FaultReason::none);
        CHECK(result.address == MappedWorld::target + 0x123);
        CHECK(result.contiguous == page_bytes - 0x123);
    }
    CHECK(world.unit->counters.iotlb_misses == 1);
    CHECK(world.unit->counters.iotlb_hits == 1);
    CHECK(world.unit->counters.context_misses == 1);
    CHECK(world.unit->counters.context_hits == 1);
}

TEST_CASE("large pages are translated whole, and are one entry of the cache") {
    MappedWorld world;
    world.map(world.top, 4 * MiB, 16 * MiB, all_rights, 2);
    world.map(world.top, 3 * GiB, 5 * GiB, all_rights, 3);  // beyond RAM: a device's memory may be mapped too
    for (const u64 offset : {u64{0}, 2 * MiB - 1, u64{0x1234}}) {
        const auto result = world.unit->translate(MappedWorld::nic, 4 * MiB + offset, true);
        CHECK(result.fault == FaultReason::none);
        CHECK(result.address == 16 * MiB + offset);
        CHECK(result.contiguous == 2 * MiB - offset);
    }
    for (const u64 offset : {u64{0}, GiB - 1, 0x1234 * page_bytes}) {
        const auto result = world.unit->translate(MappedWorld::nic, 3 * GiB + offset, false);
        CHECK(result.address == 5 * GiB + offset);
        CHECK(result.contiguous == GiB - offset);
    }
    CHECK(world.unit->cached_pages() == 2);
}

TEST_CASE("a domain of three levels is walked from its own top, and ends at 39 bits") {
    MappedWorld world;
    constexpr Bdf other{2, 16};
    const PhysAddr top = world.page();
    world.set_context(other, vtd::ContextEntry::translated(top, vtd::width_3_levels, 8));
    world.map(top, 5 * GiB, 9 * MiB, all_rights, 1, 3);
    CHECK(world.unit->translate(other, 5 * GiB + 1, false).address == 9 * MiB + 1);
    CHECK(world.unit->translate(other, u64{1} << 39, false).fault == FaultReason::beyond_width);
    CHECK(world.unit->translate(other, (u64{1} << 39) + 5 * GiB, false).fault == FaultReason::beyond_width);
}

TEST_CASE("pass-through lets a device's addresses be") {
    MappedWorld world;
    constexpr Bdf other{2, 16};
    world.set_context(other, {1 | vtd::type_pass_through << 2, vtd::width_4_levels | 9 << 8});
    for (int round = 0; round < 2; ++round)
        CHECK(world.unit->translate(other, 0x4321'0000, true).address == 0x4321'0000);
    CHECK(world.unit->counters.context_hits == 1);
}

TEST_CASE("every fault of a walk has its reason, is recorded, and is found again by the next request") {
    struct Case {
        FaultReason reason;
        const char* what;
        void (*break_it)(MappedWorld&);
        u64 iova = MappedWorld::iova;
        bool write = false;
    };
    const auto context_at = [](MappedWorld& world) { return world.context_table(2) + 8 * 16; };
    static PhysAddr (*const context)(MappedWorld&) = context_at;
    static PhysAddr (*const leaf)(MappedWorld&) = [](MappedWorld& world) {
        return world.entry_at(world.top, MappedWorld::iova, 1);
    };
    const Case cases[] = {
        {FaultReason::root_not_present, "empty root table", [](MappedWorld& w) { w.put(w.root + 2 * 16, 0); }},
        {FaultReason::context_not_present, "empty context table", [](MappedWorld& w) { w.put(context(w), 0); }},
        {FaultReason::context_invalid, "five levels",
         [](MappedWorld& w) { w.put(context(w) + 8, vtd::width_5_levels | 7 << 8); }},
        {FaultReason::context_invalid, "reserved type",
         [](MappedWorld& w) { w.put(context(w), w.top.raw | 1 | 3 << 2); }},
        {FaultReason::beyond_width, "bit 48", [](MappedWorld&) {}, u64{1} << 48},
        {FaultReason::beyond_width, "the same page beyond", [](MappedWorld&) {}, (u64{1} << 60) + MappedWorld::iova},
        {FaultReason::write_denied, "read-only page",
         [](MappedWorld& w) { w.map(w.top, MappedWorld::iova, MappedWorld::target, vtd::PTE_READ); },
         MappedWorld::iova, true},
        {FaultReason::write_denied, "read-only table above",
         [](MappedWorld& w) {
             const PhysAddr at = w.entry_at(w.top, MappedWorld::iova, 3);
             w.put(at, w.word(at) & ~vtd::PTE_WRITE);
         },
         MappedWorld::iova, true},
        {FaultReason::write_denied, "nothing mapped", [](MappedWorld&) {}, 0x9999'0000, true},
        {FaultReason::read_denied, "write-only page",
         [](MappedWorld& w) { w.map(w.top, MappedWorld::iova, MappedWorld::target, vtd::PTE_WRITE); }},
        {FaultReason::read_denied, "nothing mapped", [](MappedWorld&) {}, 0x9999'0000},
        {FaultReason::bad_next_table, "top table beyond RAM",
         [](MappedWorld& w) { w.put(context(w), 0x7'0000'0001); }},
        {FaultReason::bad_next_table, "page table beyond RAM",
         [](MappedWorld& w) { w.put(w.entry_at(w.top, MappedWorld::iova, 2), 0x7'0000'0000 | all_rights); }},
        {FaultReason::bad_root_table, "root table beyond RAM",
         [](MappedWorld& w) {
             w.unit->write_register(vtd::RTADDR, 8, 0x7'0000'0000);
             w.command(vtd::SRTP);
         }},
        {FaultReason::bad_root_table, "root table of another kind",
         [](MappedWorld& w) {
             w.unit->write_register(vtd::RTADDR, 8, w.root.raw | 1 << 10);
             w.command(vtd::SRTP);
         }},
        {FaultReason::bad_context_table, "context table beyond RAM",
         [](MappedWorld& w) { w.put(w.root + 2 * 16, 0x7'0000'0001); }},
        {FaultReason::reserved_in_root, "low half",
         [](MappedWorld& w) { w.put(w.root + 32, w.word(w.root + 32) | 2); }},
        {FaultReason::reserved_in_root, "high half", [](MappedWorld& w) { w.put(w.root + 40, 1); }},
        {FaultReason::reserved_in_context, "low half",
         [](MappedWorld& w) { w.put(context(w), w.top.raw | 1 | 1 << 11); }},
        {FaultReason::reserved_in_context, "high half",
         [](MappedWorld& w) { w.put(context(w) + 8, vtd::width_4_levels | 7 << 8 | 1 << 24); }},
        {FaultReason::reserved_in_entry, "bits 62:52",
         [](MappedWorld& w) { w.put(leaf(w), w.word(leaf(w)) | u64{1} << 52); }},
        {FaultReason::reserved_in_entry, "large page of 512 GiB",
         [](MappedWorld& w) {
             const PhysAddr at = w.entry_at(w.top, MappedWorld::iova, 4);
             w.put(at, w.word(at) | vtd::PTE_LARGE);
         }},
        {FaultReason::reserved_in_entry, "large page that is not aligned",
         [](MappedWorld& w) { w.map(w.top, 4 * MiB, 8 * MiB + page_bytes, all_rights, 2); }, 4 * MiB},
        {FaultReason::blocked_type, "device TLB",
         [](MappedWorld& w) { w.put(context(w), w.top.raw | 1 | vtd::type_device_tlb << 2); }},
    };
    std::set<FaultReason> seen;
    for (const Case& one : cases) {
        INFO(one.what << ", reason " << static_cast<int>(one.reason));
        MappedWorld world;
        one.break_it(world);
        CHECK(world.fault_of(one.iova, one.write) == one.reason);
        CHECK(world.fault_of(one.iova, one.write) == one.reason);
        CHECK(world.record_low(0) == (one.iova & ~u64{0xfff}));
        const u64 high = world.record_high(0);
        CHECK((high & vtd::FRCD_F) != 0);
        CHECK(((high & vtd::FRCD_READ) == 0) == one.write);
        CHECK((high >> 32 & 0xff) == static_cast<u64>(one.reason));
        CHECK((high & 0xffff) == MappedWorld::nic.raw);
        CHECK(world.unit->counters.faults == 2);
        CHECK_FALSE(vtd::fault_reason_text(one.reason).empty());
        seen.insert(one.reason);
    }
    CHECK(seen.size() == 0xd);
}

TEST_CASE("a table page that is overwritten really breaks the walk") {
    MappedWorld world;
    const PhysAddr table{world.word(world.entry_at(world.top, MappedWorld::iova, 2)) & vtd::PTE_ADDRESS};
    // What a plausible other owner leaves there leads somewhere else …
    for (u64 i = 0; i < 512; ++i) world.put(table + 8 * i, 0x0123'4567'8003);
    CHECK(world.unit->translate(MappedWorld::nic, MappedWorld::iova, true).fault == FaultReason::none);
    CHECK(world.unit->translate(MappedWorld::nic, MappedWorld::iova, true).address == 0x0123'4567'8000);
    // … or nowhere.
    world.machine->ram.zero(phys_range(table, page_bytes));
    CHECK(world.fault_of(MappedWorld::iova + page_bytes, true) == FaultReason::write_denied);
}

TEST_CASE("records fill in turn; when the next is taken the overflow bit is set until software clears it") {
    MappedWorld world;
    for (u64 i = 0; i < vtd::fault_records; ++i) CHECK(world.fault_of((100 + i) * page_bytes) != FaultReason::none);
    CHECK(world.fault_status() == vtd::FSTS_PPF);  // first pending record: 0
    world.fault_of(200 * page_bytes);
    CHECK((world.fault_status() & vtd::FSTS_PFO) != 0);

    // The oldest two are read and freed; while PFO stands nothing is recorded all the same.
    world.unit->write_register(vtd::FRCD + 12, 4, 1u << 31);
    world.unit->write_register(vtd::FRCD + 16 + 8, 8, vtd::FRCD_F);
    CHECK((world.fault_status() >> 8 & 0xff) == 2);
    world.fault_of(201 * page_bytes);
    CHECK((world.record_high(0) & vtd::FRCD_F) == 0);
    world.unit->write_register(vtd::FSTS, 4, vtd::FSTS_PFO);
    CHECK((world.fault_status() & vtd::FSTS_PFO) == 0);
    world.fault_of(202 * page_bytes);
    CHECK(world.record_low(0) == 202 * page_bytes);
    CHECK(world.unit->counters.faults == 11);
    // An event for each fault that was recorded.
    CHECK(world.events("iommu.fault").size() == 9);
}

TEST_CASE("a fault that its context entry does not want recorded is refused silently") {
    MappedWorld world;
    world.set_context(MappedWorld::nic, {world.top.raw | 1 | 2, vtd::width_4_levels | 7 << 8});
    CHECK(world.fault_of(0x9999'0000) == FaultReason::read_denied);
    CHECK(world.fault_status() == 0);
    CHECK(world.unit->counters.faults == 1);
}

TEST_CASE("the first fault raises the unit's own interrupt, the next ones do not") {
    MappedWorld world;
    LocalApic& apic = world.machine->apic;
    apic.enable();
    world.unit->write_register(vtd::FEADDR, 4, 0xfee0'0000);
    world.unit->write_register(vtd::FEDATA, 4, 0x41);
    world.fault_of(0x9999'0000);
    CHECK_FALSE(apic.pending());
    CHECK(world.unit->read_register(vtd::FECTL, 4) == (vtd::FECTL_IM | vtd::FECTL_IP));
    world.unit->write_register(vtd::FECTL, 4, 0);  // what was held back comes now
    CHECK(apic.take() == u8{0x41});
    CHECK(world.unit->read_register(vtd::FECTL, 4) == 0);
    world.fault_of(0x999a'0000);
    CHECK_FALSE(apic.pending());
    for (unsigned i = 0; i < vtd::fault_records; ++i)
        world.unit->write_register(vtd::FRCD + 16 * i + 12, 4, 1u << 31);
    CHECK(world.fault_status() == 0);
    world.fault_of(0x999b'0000);
    CHECK(apic.take() == u8{0x41});
}

TEST_CASE("an event that is masked is forgotten when its cause is gone") {
    MappedWorld world;
    world.machine->apic.enable();
    world.fault_of(0x9999'0000);
    world.unit->write_register(vtd::FRCD + 12, 4, 1u << 31);
    world.unit->write_register(vtd::FECTL, 4, 0);
    CHECK_FALSE(world.machine->apic.pending());
}

TEST_CASE("a planned fault of the walk fails it, or damages the leaf as it is read, not in RAM") {
    {
        MappedWorld world(false, "iommu.walk#1=fail(EIO)");
        CHECK(world.fault_of(MappedWorld::iova) == FaultReason::bad_next_table);
        CHECK(world.fault_of(MappedWorld::iova) == FaultReason::none);
    }
    {
        MappedWorld world(false, "iommu.walk#1=flip(0x1,4)");
        const auto result = world.unit->translate(MappedWorld::nic, MappedWorld::iova, false);
        CHECK(result.address == (MappedWorld::target ^ 0x1000));
        CHECK((world.word(world.entry_at(world.top, MappedWorld::iova, 1)) & vtd::PTE_ADDRESS) ==
              MappedWorld::target);
        // What was cached is the damaged one.
        CHECK(world.unit->translate(MappedWorld::nic, MappedWorld::iova, false).address == result.address);
    }
    {
        MappedWorld world(false, "iommu.walk#1=zero(0x0,8)");
        CHECK(world.fault_of(MappedWorld::iova) == FaultReason::read_denied);
    }
    {
        MappedWorld world(false, "iommu.walk#1=misdirect(0x555000)");
        CHECK(world.unit->translate(MappedWorld::nic, MappedWorld::iova + 5, false).address == 0x555005);
    }
    {
        MappedWorld world(false, "iommu.walk#1=flip(0x0,1)");
        CHECK(world.fault_of(MappedWorld::iova, true) == FaultReason::write_denied);
    }
    {
        MappedWorld world(false, "iommu.walk#1=flip(0x8,0)");  // an entry has 8 bytes
        CHECK(world.fault_of(MappedWorld::iova) == FaultReason::none);
        CHECK_FALSE(world.machine->faults.any_fired());
    }
}

TEST_CASE("reset turns everything off and empties the caches") {
    MappedWorld world;
    world.fault_of(MappedWorld::iova);
    world.fault_of(0x9999'0000);
    world.unit->reset();
    CHECK(world.status() == 0);
    CHECK(world.fault_status() == 0);
    CHECK(world.unit->cached_contexts() == 0);
    CHECK(world.unit->cached_pages() == 0);
    CHECK(world.unit->root_table() == PhysAddr{});
}

TEST_CASE("registers are reached by the CPU at the unit's place") {
    MappedWorld world;
    CHECK(world.machine->mmio_read(world.unit->registers + vtd::GSTS, 4) == (vtd::TE | vtd::SRTP));
    world.machine->mmio_write(world.unit->registers + vtd::GCMD, 4, 0);
    CHECK_FALSE(world.unit->translation_enabled());
}
