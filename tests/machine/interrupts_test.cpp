// Interrupt messages: from a device or the IOMMU, through remapping, to the local APIC.
#include <catch2/catch.hpp>

#include "tests/machine/iommu_fixture.hpp"

using namespace kexec_sim;
using namespace kexec_sim::test;
using vtd::FaultReason;

namespace {

constexpr Bdf nic{2, 8};
constexpr u64 compatible = 0xfee0'0000;

/// A unit with a table of 16 interrupt entries at 4 MiB, remapping on.
struct RemappingWorld : IommuWorld {
    RemappingWorld() {
        unit->write_register(vtd::IRTA, 8, table.raw | 3);
        command(vtd::SIRTP);
        command(vtd::IRE);
    }
    void set(u16 index, vtd::InterruptEntry entry) {
        put(table + index * u64{16}, entry.low);
        put(table + index * u64{16} + 8, entry.high);
    }
    FaultReason fault_of(u64 address, u32 data = 0) { return unit->remap(nic, address, data).fault; }
    PhysAddr table{4 * MiB};
};

}  // namespace

TEST_CASE("with remapping off the vector is that of the message") {
    IommuWorld world;
    CHECK(world.unit->remap(nic, compatible, 0x4031).vector == 0x31);
}

TEST_CASE("a message finds its vector in the table, by index, or by index and sub-handle") {
    RemappingWorld world;
    CHECK((world.status() & (vtd::IRE | vtd::SIRTP)) == (vtd::IRE | vtd::SIRTP));
    world.set(5, vtd::InterruptEntry::delivering(0x51, nic.raw));
    const auto by_index = world.unit->remap(nic, vtd::remappable_message(5), 0xffff'ffff);
    CHECK(by_index.fault == FaultReason::none);
    CHECK(by_index.vector == 0x51);
    CHECK(world.unit->remap(nic, vtd::remappable_message(3) | vtd::MESSAGE_SUBHANDLE, 2).vector == 0x51);
    // The entry is read when the message comes.
    world.set(5, vtd::InterruptEntry::delivering(0x52, nic.raw));
    CHECK(world.unit->remap(nic, vtd::remappable_message(5), 0).vector == 0x52);
}

TEST_CASE("the upper bit of an index lies elsewhere in the address") {
    RemappingWorld world;
    world.unit->write_register(vtd::IRTA, 8, world.table.raw | 15);  // 65536 entries
    world.command(vtd::SIRTP);
    world.set(0x8001, vtd::InterruptEntry::delivering(0x60, nic.raw));
    CHECK(world.unit->remap(nic, vtd::remappable_message(0x8001), 0).vector == 0x60);
}

TEST_CASE("the source of a message is compared as the entry says") {
    RemappingWorld world;
    const auto entry = [](u16 source, u64 check, u64 ignored) {
        return vtd::InterruptEntry{1 | u64{0x51} << 16, source | check << 18 | ignored << 16};
    };
    struct Case {
        vtd::InterruptEntry entry;
        bool good;
    };
    const Case cases[] = {{entry(0, 0, 0), true},
                          {entry(nic.raw, 1, 0), true},
                          {entry(nic.raw + 1, 1, 0), false},
                          {entry(nic.raw + 4, 1, 0), false},
                          {entry(nic.raw + 4, 1, 1), true},
                          {entry(nic.raw + 7, 1, 2), false},
                          {entry(nic.raw + 7, 1, 3), true},
                          {entry(nic.raw + 8, 1, 3), false},
                          {entry(0x0103, 2, 0), true},
                          {entry(0x0202, 2, 0), true},
                          {entry(0x0304, 2, 0), false}};
    for (const Case& one : cases) {
        INFO(one.entry.high);
        world.set(0, one.entry);
        CHECK(world.fault_of(vtd::remappable_message(0)) ==
              (one.good ? FaultReason::none : FaultReason::ir_source_id));
    }
}

TEST_CASE("every fault of remapping has its reason and is recorded with the index") {
    struct Case {
        FaultReason reason;
        void (*break_it)(RemappingWorld&);
        u64 address = vtd::remappable_message(5);
        u32 data = 0;
    };
    const vtd::InterruptEntry good = vtd::InterruptEntry::delivering(0x51, nic.raw);
    static vtd::InterruptEntry entry;
    entry = good;
    const Case cases[] = {
        {FaultReason::ir_reserved, [](RemappingWorld&) {}, vtd::remappable_message(5) | 1},
        {FaultReason::ir_reserved, [](RemappingWorld&) {}, vtd::remappable_message(5) | vtd::MESSAGE_SUBHANDLE,
         1 << 16},
        {FaultReason::ir_index, [](RemappingWorld&) {}, vtd::remappable_message(16)},
        {FaultReason::ir_index, [](RemappingWorld&) {}, vtd::remappable_message(5) | vtd::MESSAGE_SUBHANDLE, 11},
        {FaultReason::ir_not_present, [](RemappingWorld& w) { w.set(5, {}); }},
        {FaultReason::ir_table_access,
         [](RemappingWorld& w) {
             w.unit->write_register(vtd::IRTA, 8, 0x7'0000'0003);
             w.command(vtd::SIRTP);
         }},
        {FaultReason::ir_reserved_in_entry,
         [](RemappingWorld& w) {
             w.set(5, {entry.low | 1 << 15, entry.high});
         }},
        {FaultReason::ir_reserved_in_entry,
         [](RemappingWorld& w) {
             w.set(5, {entry.low | 1 << 24, entry.high});
         }},
        {FaultReason::ir_reserved_in_entry,
         [](RemappingWorld& w) {
             w.set(5, {entry.low, entry.high | 1 << 20});
         }},
        {FaultReason::ir_reserved_in_entry,
         [](RemappingWorld& w) {
             w.set(5, {entry.low, entry.high | 3 << 18});
         }},
        {FaultReason::ir_compatibility_blocked, [](RemappingWorld&) {}, compatible, 0x51},
        {FaultReason::ir_source_id,
         [](RemappingWorld& w) {
             w.set(5, {entry.low, entry.high + 1});
         }},
    };
    for (const Case& one : cases) {
        INFO(static_cast<int>(one.reason));
        RemappingWorld world;
        world.set(5, good);
        REQUIRE(world.fault_of(vtd::remappable_message(5)) == FaultReason::none);
        one.break_it(world);
        CHECK(world.fault_of(one.address, one.data) == one.reason);
        CHECK((world.record_high(0) >> 32 & 0xff) == static_cast<u64>(one.reason));
        CHECK((world.record_high(0) & 0xffff) == nic.raw);
        if (one.reason == FaultReason::ir_not_present) CHECK(world.record_low(0) == u64{5} << 48);
    }
    RemappingWorld silent;
    silent.set(5, {good.low | 2, good.high + 1});
    CHECK(silent.fault_of(vtd::remappable_message(5)) == FaultReason::ir_source_id);
    CHECK(silent.fault_status() == 0);
}

TEST_CASE("a set interrupt table counts from the command on") {
    RemappingWorld world;
    world.set(5, vtd::InterruptEntry::delivering(0x51, nic.raw));
    world.unit->write_register(vtd::IRTA, 8, 5 * MiB);
    CHECK(world.fault_of(vtd::remappable_message(5)) == FaultReason::none);
    world.command(vtd::SIRTP);
    CHECK(world.fault_of(vtd::remappable_message(5)) == FaultReason::ir_index);  // 2 entries now
    CHECK(world.fault_of(vtd::remappable_message(1)) == FaultReason::ir_not_present);
}

TEST_CASE("vectors are taken highest first, and one that is pending merges with itself") {
    IommuWorld world;
    LocalApic& apic = world.machine->apic;
    apic.enable();
    for (const u32 vector : {0x20u, 0xffu, 0x41u, 0x80u, 0x41u}) apic.message(nullptr, compatible, vector);
    CHECK(apic.counters == LocalApic::Counters{4, 1});
    for (const u8 vector : {0xff, 0x80, 0x41, 0x20}) {
        CHECK(apic.pending());
        CHECK(apic.take() == vector);
    }
    CHECK_FALSE(apic.pending());
    CHECK_FALSE(apic.take());
}

TEST_CASE("a message that finds the APIC disabled is lost, and of a run of them the trace knows the first") {
    IommuWorld world;
    LocalApic& apic = world.machine->apic;
    apic.enable();
    apic.message(nullptr, compatible, 0x41);
    apic.disable();
    CHECK_FALSE(apic.pending());
    CHECK(apic.counters.discarded == 1);
    for (int i = 0; i < 100; ++i) apic.message(nullptr, compatible, 0x41);
    CHECK(apic.counters.lost_disabled == 100);
    apic.enable();
    CHECK_FALSE(apic.pending());
    apic.message(nullptr, compatible, 0x41);
    CHECK(apic.take() == u8{0x41});
    apic.message(nullptr, compatible, 0x0f);  // no APIC takes an exception's vector
    CHECK(apic.counters.lost_vector == 1);
    apic.disable();
    apic.message(nullptr, compatible, 0x41);

    const auto events = world.events("irq.lost");
    REQUIRE(events.size() == 3);
    CHECK(events[0].text("device") == "iommu");
    CHECK(events[0].number("vector") == 0x41);
    CHECK(events[0].text("why") == "APIC disabled");
    CHECK(events[1].text("why") == "reserved vector");
    CHECK(events[2].text("why") == "APIC disabled");
}

TEST_CASE("a reset of the machine leaves nothing pending, and the APIC disabled") {
    IommuWorld world;
    LocalApic& apic = world.machine->apic;
    apic.enable();
    apic.message(nullptr, compatible, 0x41);
    apic.reset();
    CHECK_FALSE(apic.enabled());
    CHECK_FALSE(apic.pending());
}

TEST_CASE("the unit's own event is not remapped") {
    RemappingWorld world;
    world.machine->apic.enable();
    world.unit->write_register(vtd::FEDATA, 4, 0x42);
    world.unit->write_register(vtd::FEADDR, 4, compatible);
    world.unit->write_register(vtd::FECTL, 4, 0);
    CHECK(world.fault_of(compatible) == FaultReason::ir_compatibility_blocked);
    CHECK(world.machine->apic.take() == u8{0x42});
}

TEST_CASE("a device's message goes through the fault point and the IOMMU of its segment") {
    MachineConfig config;
    config.node_bytes = {64 * MiB};
    config.iommu = true;
    PciDeviceConfig device;
    device.name = "nic0";
    device.model = "dma-nic";
    device.at = {0, Bdf{0, 3 << 3}};
    config.devices.push_back(device);
    const MachineHandle machine = make_machine(config);
    machine->reset_devices();
    PciFunction* function = machine->pci.find("nic0");
    if (!function) return;  // a machine without a PCI fabric
    LocalApic& apic = machine->apic;
    apic.enable();
    std::vector<PlannedFault> plan{parse_fault("irq.deliver[nic0]#2=drop").value(),
                                   parse_fault("irq.deliver[nic0]#3=duplicate").value()};
    machine->faults.set_plan(plan);
    apic.message(function, compatible, 0x41);
    CHECK(apic.take() == u8{0x41});
    apic.message(function, compatible, 0x41);
    CHECK_FALSE(apic.pending());
    CHECK(apic.counters.dropped == 1);
    apic.message(function, compatible, 0x41);
    CHECK(apic.counters.merged == 1);
    CHECK(apic.take() == u8{0x41});

    Iommu* unit = machine->iommu_of(function->segment);
    REQUIRE(unit);
    unit->write_register(vtd::IRTA, 8, 4 * MiB);
    unit->write_register(vtd::GCMD, 4, vtd::SIRTP);
    unit->write_register(vtd::GCMD, 4, vtd::IRE);
    apic.message(function, compatible, 0x41);
    CHECK(apic.counters.lost_faults == 1);
    const auto entry = vtd::InterruptEntry::delivering(0x77, function->requester_id().raw);
    machine->ram.write(PhysAddr{4 * MiB}, entry);
    apic.message(function, vtd::remappable_message(0), 0);
    CHECK(apic.take() == u8{0x77});
}
