// Registers that hold still from freeze to claim, resets, the claim itself, and interrupts of the blackout.
#include "tests/machine/referee_devices_fixture.hpp"

using namespace kexec_sim;
using namespace kexec_sim::test;
using Catch::Matchers::Contains;
using Fate = DeviceReferee::InterruptFate;

namespace {

struct Change {
    const char* name;
    bool of_bridge;
    u16 offset;
    unsigned bytes;
    u32 before, now;
    const char* says;  // nullptr: may change
};
const Change changes[] = {
    {"bus master of the device", false, pci::COMMAND, 2, 6, 2, "bus master bit of nic0 changed from 0x4 to 0x0"},
    {"memory decode of the device", false, pci::COMMAND, 2, 6, 4, "memory decode bit"},
    {"INTx of the device", false, pci::COMMAND, 2, 6, 0x406, nullptr},
    {"a BAR", false, pci::BASE_ADDRESS_0, 4, 0xfe000000, 0xfe100000, "BAR0 of nic0 changed from 0xfe000000"},
    {"a BAR that is sized", false, pci::BASE_ADDRESS_0 + 8, 4, 0x1000, ~u32{0}, "BAR2 of nic0"},
    {"MSI-X of the device", false, pci::msix_cap_at + pci::MSIX_FLAGS, 2, 0x8003, 3, "MSI-X control"},
    {"ACS of the device", false, pci::acs_cap_at + pci::ACS_CTRL, 2, 0, 0x1d, "ACS control"},
    {"bus master of the bridge", true, pci::COMMAND, 2, 6, 2, "bus master bit of rp0"},
    {"the secondary bus", true, pci::PRIMARY_BUS, 4, 0x010100, 0x010200,
     "secondary bus number of rp0 changed from 0x1"},
    {"the subordinate bus", true, pci::SUBORDINATE_BUS, 1, 1, 2, "subordinate bus number"},
    {"the latency timer", true, pci::PRIMARY_BUS, 4, 0x00010100, 0x40010100, nullptr},
    {"a window", true, pci::MEMORY_BASE, 4, 0xfe10fe00, 0xfe00fe00, "memory window's limit"},
    {"ARI forwarding", true, pci::express_cap_at + pci::EXP_DEVCTL2, 2, 0x20, 0, "ARI forwarding bit"},
    {"the bridge's control", true, pci::BRIDGE_CONTROL, 2, 0, 2, nullptr},
};

}  // namespace

TEST_CASE("registers of a preserved device and of bridges above it hold still from freeze to claim") {
    for (const Change& change : changes) {
        DYNAMIC_SECTION(change.name) {
            DeviceWorld world;
            world.open();
            const auto make = [&] {
                world.devices.config_changed(change.of_bridge ? world.port : world.nic, change.offset, change.bytes,
                                             change.before, change.now);
            };
            make();
            world.promise();
            make();
            REQUIRE(world.ids() == "");
            SECTION("frozen") {
                world.freeze();
                make();
            }
            SECTION("in the next kernel") {
                world.jump();
                make();
            }
            REQUIRE(world.of("pci.stable").empty() == (change.says == nullptr));
            if (change.says) REQUIRE_THAT(world.only().message, Contains(change.says));
        }
        DYNAMIC_SECTION(change.name << ", once claimed") {
            DeviceWorld world;
            world.open();
            world.promise();
            world.jump();
            world.claim();
            world.devices.config_changed(change.of_bridge ? world.port : world.nic, change.offset, change.bytes,
                                         change.before, change.now);
            REQUIRE(world.ids() == "");
        }
    }
}

TEST_CASE("what has no preserved device below it may change") {
    DeviceWorld world;
    world.open();
    world.promise();
    world.freeze();
    world.devices.config_changed(world.other, pci::COMMAND, 2, 6, 0);
    world.devices.function_reset(world.other, ResetKind::flr);
    world.devices.requester_id_changed(world.other, Bdf{1}, Bdf{2});
    REQUIRE(world.ids() == "");
}

TEST_CASE("a freeze that is cancelled lets registers change again") {
    DeviceWorld world;
    world.open();
    world.promise();
    world.freeze();
    world.referee.luo_state(LuoState::frozen, LuoState::normal);
    world.referee.luo_request(LuoEvent::cancel, {});
    world.devices.config_changed(world.nic, pci::COMMAND, 2, 6, 2);
    world.devices.function_reset(world.nic, ResetKind::flr);
    REQUIRE(world.of("pci.stable").empty());
}

TEST_CASE("a preserved device is not reset before finish, but may be afterwards") {
    DeviceWorld world;
    world.open();
    world.promise();
    SECTION("after the claim") {
        world.jump();
        world.claim();
        world.attach(2, 21);
        world.devices.function_reset(world.nic, ResetKind::bus_reset);
        REQUIRE(world.ids() == "pci.stable");
    }
    SECTION("after finish") {
        world.whole_update();
        world.devices.function_reset(world.nic, ResetKind::bus_reset);
        REQUIRE(world.ids() == "");
    }
}

TEST_CASE("requests of a preserved device keep their requester id and their way") {
    DeviceWorld world;
    world.open();
    world.promise();
    world.leave_frozen();
    SECTION("another id") {
        world.devices.requester_id_changed(world.nic, Bdf{1, 0}, Bdf{2, 0});
        REQUIRE_THAT(world.only().message, Contains("came from 01:00.0, now they come from 02:00.0"));
    }
    SECTION("another bus behind the bridge, however it came about") {
        world.port.config.set(pci::SECONDARY_BUS, 1, 2);
        world.arrive({frames(memory_pfn, memory_pages + 1)});
        REQUIRE_THAT(world.only().message, Contains("rp0, above nic0"));
    }
    SECTION("the same way") {
        world.arrive({frames(memory_pfn, memory_pages + 1)});
        REQUIRE(world.ids() == "");
    }
}

TEST_CASE("a file of a device comes back with the same device") {
    DeviceWorld world;
    world.open();
    world.promise();
    world.jump();
    SECTION("the same") {
        world.claim();
        REQUIRE(world.ids() == "");
    }
    SECTION("another") {
        world.claim(world.other);
        REQUIRE_THAT(world.only().message, Contains("promised for nic0; generation 1 restored it with nic1"));
        REQUIRE(world.only().invariant == InvariantId::pci_stable);
    }
    SECTION("another, opened after the restore was told") {
        world.restore_file(memory_token, memory_pfn, memory_pages);
        world.referee.file_restored(vfio_token, {20, 0, 0, {}});
        REQUIRE(world.ids() == "");
        world.devices.device_opened(20, world.other);
        REQUIRE(world.ids() == "pci.stable");
    }
}

// --- irq.delivered -----------------------------------------------------------------------------------------------

TEST_CASE("an interrupt of the blackout that nobody hears must be made up for") {
    DeviceWorld world;
    world.open();
    world.devices.interrupt(world.nic, 0, Fate::unheard);  // before the promise: the owner's business
    world.promise();
    world.freeze();
    const Fate fate = GENERATE(Fate::unheard, Fate::lost, Fate::dropped);
    world.devices.interrupt(world.nic, 1, fate);
    world.leave();
    world.arrive({frames(memory_pfn, memory_pages + 1)});
    world.claim();
    world.attach(2, 21);
    SECTION("nobody does") {
        world.finish();
        const Finding finding = world.only();
        REQUIRE(finding.invariant == InvariantId::irq_delivered);
        REQUIRE_THAT(finding.message, Contains("interrupt 1") && Contains("until finish"));
        REQUIRE(world.devices.totals().interrupts_lost == 2);
    }
    SECTION("the driver polls") {
        world.devices.device_polled(world.nic);
        world.finish();
        REQUIRE(world.ids() == "");
    }
    SECTION("a later one is delivered") {
        world.devices.interrupt(world.nic, 1, Fate::delivered);
        world.finish();
        REQUIRE(world.ids() == "");
    }
    SECTION("a later one is lost as well, but the driver had claimed the device: its own business") {
        world.devices.device_polled(world.nic);
        world.devices.interrupt(world.nic, 1, Fate::dropped);
        world.finish();
        world.end();
        REQUIRE(world.ids() == "");
    }
}

TEST_CASE("a pending interrupt and a delivered one are not lost") {
    DeviceWorld world;
    world.open();
    world.promise();
    world.freeze();
    world.devices.interrupt(world.nic, 0, Fate::pending);
    world.devices.interrupt(world.nic, 0, Fate::delivered);
    world.whole_update();
    world.end();
    REQUIRE(world.ids() == "");
    REQUIRE(world.devices.totals().interrupts_lost == 0);
}

TEST_CASE("the handler of a guest makes up for a lost interrupt, also after finish") {
    DeviceWorld world;
    world.devices.guest_created("vm", 13);
    world.open();
    world.devices.guest_interrupt_wired(world.nic, "vm", 2);
    GuestRegisters registers;
    world.referee.file_preserved(0x13, "kvm", 13);
    world.promise();
    world.freeze();
    world.devices.interrupt(world.nic, 0, Fate::unheard);
    world.jump();
    world.referee.file_restored(0x13, {23, 0, 0, {}});
    world.devices.guest_retrieved("vm", 23);
    world.claim();
    world.attach(2, 21);
    const auto run = [&](unsigned device) {
        world.devices.guest_enters("vm", 0, registers);
        ++registers.devices[device].interrupts;
        world.devices.guest_leaves("vm", 0, registers);
    };
    SECTION("its handler ran before finish") {
        run(2);
        world.finish();
        world.end();
        REQUIRE(world.ids() == "");
    }
    SECTION("its handler ran after finish") {
        world.finish();
        run(2);
        world.end();
        REQUIRE(world.ids() == "");
    }
    SECTION("the handler of another device ran") {
        run(1);
        world.finish();
        REQUIRE(world.ids() == "irq.delivered");
    }
    SECTION("it never runs") {
        world.finish();
        REQUIRE(world.ids() == "");
        world.end();
        REQUIRE(world.ids() == "irq.delivered");
    }
}
