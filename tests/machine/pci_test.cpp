// PCI at rest: what the firmware leaves, config space, and who answers to a config cycle.
#include "tests/machine/pci_fixture.hpp"

#include <set>

using namespace kexec_sim;
using namespace kexec_sim::test;
using namespace kexec_sim::pci;

namespace {

/// Offsets of capabilities by id, as a kernel finds them; fails where the list is not well formed.
std::map<u8, u16> capabilities(PciWorld& world, std::string_view name) {
    std::map<u8, u16> found;
    REQUIRE(world.read(name, STATUS, 2) & STATUS_CAP_LIST);
    u16 at = static_cast<u16>(world.read(name, CAPABILITY_LIST, 1));
    while (at) {
        REQUIRE(at >= 0x40);
        REQUIRE(at % 4 == 0);
        const u8 id = static_cast<u8>(world.read(name, at, 1));
        REQUIRE(found.emplace(id, at).second);
        at = static_cast<u16>(world.read(name, at + 1, 1));
    }
    return found;
}
std::map<u16, u16> extended_capabilities(PciWorld& world, std::string_view name) {
    std::map<u16, u16> found;
    for (u16 at = ext_caps_begin; at;) {
        REQUIRE(at % 4 == 0);
        const u32 header = world.read(name, at, 4);
        REQUIRE((header >> 16 & 0xf) == 1);
        REQUIRE(found.emplace(static_cast<u16>(header), at).second);
        at = static_cast<u16>(header >> 20);
    }
    return found;
}
u8 port_type(PciWorld& world, std::string_view name) {
    return world.read(name, express_cap_at + EXP_FLAGS, 2) >> 4 & 0xf;
}

}  // namespace

// --- firmware ------------------------------------------------------------------------------------------------------

TEST_CASE("the firmware numbers buses depth first, in every segment from 0") {
    PciWorld world;
    const auto numbers = [&](const char* name) {
        return std::tuple{world.read(name, PRIMARY_BUS, 1), world.read(name, SECONDARY_BUS, 1),
                          world.read(name, SUBORDINATE_BUS, 1)};
    };
    CHECK(numbers("rp0") == std::tuple{0u, 1u, 4u});
    CHECK(numbers("sw0") == std::tuple{1u, 2u, 4u});
    CHECK(numbers("sw0.0") == std::tuple{2u, 3u, 3u});
    CHECK(numbers("sw0.1") == std::tuple{2u, 4u, 4u});
    CHECK(numbers("rp1") == std::tuple{0u, 5u, 5u});
    CHECK(numbers("rp2") == std::tuple{0u, 1u, 1u});
    CHECK(world.address("nic0").text() == "0000:03:00.0");
    CHECK(world.address("sw0.1").text() == "0000:02:01.0");
    CHECK(world.address("nic3").text() == "0001:01:00.0");
    CHECK(PciAddress{0x12345, Bdf(0xff, 0xff)}.text() == "12345:ff:1f.7");
    // What the requests of each carry.
    CHECK(world.function("nic0").requester_id() == Bdf(3, 0));
    CHECK(world.function("nic1").requester_id() == Bdf(5, 0));
    CHECK(world.function("nic2").requester_id() == Bdf(0, 4 << 3));
}

TEST_CASE("every BAR has a place of its own, inside the windows of all bridges above it") {
    PciWorld world;
    std::set<std::pair<u64, u64>> places;
    for (PciFunction* function : world.pci.functions()) {
        CHECK(function->memory_decode());
        CHECK(function->bus_master() == function->is_bridge());
        for (unsigned number = 0; number < 6; ++number) {
            const PciBar& bar = function->bar(number);
            if (!bar.bytes) continue;
            const u64 at = function->bar_address(number).value();
            CHECK(at % bar.bytes == 0);
            if (bar.is_64_bit)
                CHECK(at >= 0x1000'0000'0000);
            else
                CHECK((at >= 0xc000'0000 && at + bar.bytes <= 0xfeb0'0000));
            places.emplace(at, at + bar.bytes);
            for (const PciFunction* bridge = function->parent; bridge; bridge = bridge->parent) {
                CHECK(bridge->window_contains(at));
                CHECK(bridge->window_contains(at + bar.bytes - 1));
            }
        }
    }
    CHECK(places.size() == 10);
    u64 end_of_last = 0;
    for (const auto& [begin, end] : places) {
        CHECK(begin >= end_of_last);
        end_of_last = end;
    }
    CHECK_FALSE(world.function("rp0").window_contains(world.bar("nic1", 0).raw));
}

TEST_CASE("the firmware has ports redirect requests of peers, and leaves endpoints alone") {
    PciWorld world;
    for (const char* name : {"rp0", "rp1", "rp2", "sw0.0", "sw0.1"})
        CHECK(world.read(name, acs_cap_at + ACS_CTRL, 2) == (ACS_SV | ACS_RR | ACS_CR | ACS_UF));
    for (const char* name : {"sw0", "nic0", "gpu0"}) CHECK(world.read(name, acs_cap_at + ACS_CTRL, 2) == 0);
}

TEST_CASE("a bridge with nothing below has a bus and closed windows") {
    PciWorld world(
        {on_root("rp0", "root-port", 1), on_root("rp1", "root-port", 2), behind("rp1", "nic0", "dma-nic")});
    CHECK(world.read("rp0", SECONDARY_BUS, 1) == 1);
    CHECK(world.read("rp0", SUBORDINATE_BUS, 1) == 1);
    CHECK(world.read("rp1", SECONDARY_BUS, 1) == 2);
    for (const u64 address : {u64{0}, u64{0xc000'0000}, u64{0xfff0'0000}, u64{0x1000'0000'0000}})
        CHECK_FALSE(world.function("rp0").window_contains(address));
}

TEST_CASE("a power-on undoes whatever a kernel did, and leaves no mark in the log") {
    PciWorld world;
    const PhysAddr bar = world.bar("nic0", 0);
    world.bus_master("nic0", true);
    world.write("nic0", BASE_ADDRESS_0, 4, 0xd000'0000);
    world.write("rp0", SECONDARY_BUS, 1, 9);
    const std::size_t logged = world.pci.config_writes().size();
    CHECK(logged == 3);
    world.machine.reset_devices();
    CHECK(world.bar("nic0", 0) == bar);
    CHECK_FALSE(world.function("nic0").bus_master());
    CHECK(world.function("nic0").requester_id() == Bdf(3, 0));
    CHECK(world.function("nic0").resets == 0);
    CHECK(world.pci.config_writes().size() == logged);
}

TEST_CASE("devices that cannot be wired are refused") {
    const auto refused = [](std::vector<PciDeviceConfig> devices) {
        CHECK_THROWS_AS(PciWorld::make(std::move(devices)), UserError);
    };
    refused({on_root("x", "toaster", 1)});
    refused({behind("rp0", "x", "dma-nic")});
    refused({on_root("a", "dma-nic", 1), on_root("a", "dma-nic", 2)});
    refused({on_root("a", "dma-nic", 1), on_root("b", "dma-nic", 1)});
    refused({on_root("a", "dma-nic", 1), behind("a", "b", "dma-nic")});
    refused({on_root("a", "switch", 1)});
    refused({on_root("rp0", "root-port", 1), behind("rp0", "rp1", "root-port")});
    refused({on_root("rp0", "root-port", 1), behind("rp0", "a", "dma-nic"), behind("rp0", "b", "dma-nic")});
    refused({on_root("rp0", "root-port", 1), behind("rp0", "sw", "switch"), behind("sw", "a", "dma-nic")});
    refused({on_root("rp0", "root-port", 1), behind("rp0", "sw", "switch", 33)});
    PciDeviceConfig elsewhere = on_root("a", "dma-nic", 1);
    elsewhere.at.bdf = Bdf(1, 0);
    refused({elsewhere});
}

// --- config space --------------------------------------------------------------------------------------------------

TEST_CASE("capability lists are what a kernel can walk") {
    PciWorld world;
    for (PciFunction* function : world.pci.functions()) {
        INFO(function->name());
        const auto found = capabilities(world, function->name());
        CHECK(found.contains(CAP_ID_PM));
        CHECK(found.contains(CAP_ID_EXP));
        CHECK(found.contains(CAP_ID_MSIX) == !function->is_bridge());
        CHECK(extended_capabilities(world, function->name()).contains(EXT_CAP_ID_ACS));
        CHECK((world.read(function->name(), HEADER_TYPE, 1) & 0x7f) == function->is_bridge());
    }
    CHECK(port_type(world, "rp0") == EXP_TYPE_ROOT_PORT);
    CHECK(port_type(world, "sw0") == EXP_TYPE_UPSTREAM);
    CHECK(port_type(world, "sw0.1") == EXP_TYPE_DOWNSTREAM);
    CHECK(port_type(world, "nic0") == EXP_TYPE_ENDPOINT);
    CHECK(port_type(world, "nic2") == EXP_TYPE_RC_END);
    CHECK((world.read("nic0", msix_cap_at + MSIX_FLAGS, 2) & MSIX_FLAGS_QSIZE) == nic::msix_vectors - 1);
    CHECK(world.read("nic0", msix_cap_at + MSIX_TABLE, 4) == nic::msix_table_at);
    CHECK(world.read("nic0", VENDOR_ID, 4) == (u32{device_dma_nic} << 16 | vendor_id));
}

TEST_CASE("a register takes only the bits that can be written, and a status bit is cleared by writing it") {
    ConfigSpace config;
    config.declare(0x10, 4, 0x0000'000c, 0xffff'0000);
    CHECK(config.write(0x10, 4, ~u32{0}) == 0xffff'000c);
    CHECK(config.write(0x13, 1, 0x12) == 0x12);
    CHECK(config.read(0x10, 4) == 0x12ff'000c);
    config.declare(0x20, 2, 0, 0, 0xff);
    config.set(0x20, 2, 0x00f3);
    CHECK(config.write(0x20, 2, 0x0011) == 0x00e2);
    CHECK(config.write(0x40, 4, ~u32{0}) == 0);
    config.reset();
    CHECK(config.read(0x10, 4) == 0xc);
    CHECK(config.read(0x20, 2) == 0);
    CHECK_THROWS_AS(config.read(0x11, 2), SimulatorBug);
    CHECK_THROWS_AS(config.read(0x10, 3), SimulatorBug);
    CHECK(config.read(0xffc, 4) == 0);
}

TEST_CASE("a device of several functions says so in every header") {
    PciWorld world({on_root("a", "dma-nic", 1), on_root("b", "p2p-gpu", 1, 0, 1), on_root("c", "dma-nic", 2)});
    CHECK(world.read("a", HEADER_TYPE, 1) == HEADER_TYPE_MULTI);
    CHECK(world.read("b", HEADER_TYPE, 1) == HEADER_TYPE_MULTI);
    CHECK(world.read("c", HEADER_TYPE, 1) == 0);
}

TEST_CASE("config writes are logged with what changed, and shown") {
    PciWorld world;
    world.machine.set_generation(1);
    world.machine.clock.advance(500);
    world.bus_master("nic0", true);
    REQUIRE(world.pci.config_writes().size() == 1);
    const ConfigWrite& write = world.pci.config_writes()[0];
    CHECK(write.time_ns == 500);
    CHECK(write.generation == 1);
    CHECK(world.pci.functions()[write.function]->name() == "nic0");
    CHECK(write.bdf == Bdf(3, 0).raw);
    CHECK(write.offset == COMMAND);
    CHECK(write.bytes == 2);
    CHECK(write.old_value == 2);
    CHECK(write.new_value == 6);
    const auto events = world.events("pci.config_write");
    REQUIRE(events.size() == 1);
    CHECK(events[0].text("device") == "nic0");
    CHECK(events[0].text("address") == "0000:03:00.0");
    CHECK(events[0].number("offset") == COMMAND);
    CHECK(events[0].number("old") == 2);
    CHECK(events[0].number("new") == 6);
}

TEST_CASE("a planned fault loses a config write, which latches nothing either") {
    for (const char* action : {"skip", "drop", "fail(EIO)"}) {
        PciWorld world(usual_devices(), {std::string("pci.config_write[nic0]#2=") + action});
        world.write("rp1", SECONDARY_BUS, 1, 7);
        world.write("nic0", CACHE_LINE_SIZE, 1, 1);
        world.write("nic0", COMMAND, 2, 6);
        CHECK(world.read("nic0", COMMAND, 2) == 2);
        CHECK(world.pci.config_writes().size() == 2);
        world.write("nic0", COMMAND, 2, 6);
        CHECK(world.read("nic0", COMMAND, 2) == 6);
    }
}

TEST_CASE("a swapped card has other ids, and everything else as it was") {
    PciWorld world;
    world.bus_master("nic0", true);
    const u32 serial = world.read("nic0", ext_caps_begin + 8, 4);
    world.pci.swap_identity(world.function("nic0"), 0x1234, 0x5678);
    CHECK(world.read("nic0", VENDOR_ID, 4) == 0x5678'1234);
    CHECK(world.read("nic0", ext_caps_begin + 8, 4) != serial);
    CHECK(world.read("nic0", COMMAND, 2) == 6);
    CHECK(world.function("nic0").resets == 0);
    // The card stays in its slot.
    world.machine.reset_devices();
    CHECK(world.read("nic0", VENDOR_ID, 4) == 0x5678'1234);
}

// --- config cycles -------------------------------------------------------------------------------------------------

TEST_CASE("where nobody answers, a read gives all ones and a write goes nowhere") {
    PciWorld world;
    for (const PciAddress nobody : {PciAddress{0, Bdf(0, 0)}, PciAddress{0, Bdf(3, 1 << 3)}, PciAddress{0, Bdf(9, 0)},
                                    PciAddress{2, Bdf(0, 1 << 3)}, PciAddress{1, Bdf(3, 0)}}) {
        INFO(nobody.text());
        CHECK(world.pci.at(nobody) == nullptr);
        CHECK(world.pci.config_read(nobody, VENDOR_ID, 4) == 0xffff'ffff);
        CHECK(world.pci.config_read(nobody, VENDOR_ID, 2) == 0xffff);
        CHECK(world.pci.config_read(nobody, VENDOR_ID, 1) == 0xff);
        world.pci.config_write(nobody, COMMAND, 2, 6);
    }
    CHECK(world.pci.config_writes().empty());
    CHECK(world.events().empty());
}

TEST_CASE("config cycles follow the bus numbers as they stand") {
    PciWorld world;
    // rp1's bus becomes 20: its NIC answers there, and no more at bus 5.
    world.write("rp1", SUBORDINATE_BUS, 1, 20);
    world.write("rp1", SECONDARY_BUS, 1, 20);
    CHECK(world.pci.at({0, Bdf(20, 0)}) == &world.function("nic1"));
    CHECK(world.pci.at({0, Bdf(5, 0)}) == nullptr);
    // A bridge that claims what another one has: the first in order of devfn gets the cycle.
    world.write("rp0", SUBORDINATE_BUS, 1, 255);
    CHECK(world.pci.at({0, Bdf(20, 0)}) == nullptr);
    // Numbers of 0 let nothing through.
    world.write("rp1", SECONDARY_BUS, 1, 0);
    world.write("rp0", SUBORDINATE_BUS, 1, 4);
    CHECK(world.pci.at({0, Bdf(20, 0)}) == nullptr);
}

TEST_CASE("a renumbered bridge changes a requester id only once somebody writes to the function") {
    PciWorld world;
    PciFunction& nic = world.function("nic1");
    world.write("rp1", SUBORDINATE_BUS, 1, 20);
    world.write("rp1", SECONDARY_BUS, 1, 20);
    CHECK(nic.requester_id() == Bdf(5, 0));
    CHECK(world.read("nic1", VENDOR_ID, 2) == vendor_id);
    CHECK(nic.requester_id() == Bdf(5, 0));  // a read latches nothing
    world.write("nic1", CACHE_LINE_SIZE, 1, 0);
    CHECK(nic.requester_id() == Bdf(20, 0));
}

TEST_CASE("children and segments are as they are wired") {
    PciWorld world;
    const auto names = [](const std::vector<PciFunction*>& functions) {
        std::string out;
        for (const PciFunction* function : functions) out += std::string(function->name()) + " ";
        return out;
    };
    CHECK(names(world.pci.children(nullptr, 0)) == "rp0 rp1 nic2 ");
    CHECK(names(world.pci.children(nullptr, 1)) == "rp2 ");
    CHECK(names(world.pci.children(nullptr, 7)).empty());
    CHECK(names(world.pci.children(&world.function("sw0"), 0)) == "sw0.0 sw0.1 ");
    CHECK(std::vector<u32>(world.pci.segments().begin(), world.pci.segments().end()) == std::vector<u32>{0, 1});
    CHECK(pci_model_name(world.function("sw0.0").model) == "switch");
}

TEST_CASE("a machine without devices has one segment, in which nobody answers") {
    PciWorld world(std::vector<PciDeviceConfig>{});
    CHECK(world.pci.segments().size() == 1);
    CHECK(world.pci.functions().empty());
    CHECK(world.pci.config_read({0, Bdf(0, 0)}, VENDOR_ID, 4) == 0xffff'ffff);
}
