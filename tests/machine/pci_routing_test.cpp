// PCI in motion: routing of memory cycles and of requests, resets, MSI-X, the GPU that others write to.
#include "tests/machine/pci_fixture.hpp"

using namespace kexec_sim;
using namespace kexec_sim::test;
using namespace kexec_sim::pci;

namespace {

constexpr u64 somewhere = 16 * MiB;  // in RAM

/// Vector 0 of a function: enabled, its message 0x4041 to the local APIC.
void set_up_vector(PciWorld& world, std::string_view name, u32 control) {
    const PhysAddr table = world.bar(name, 0) + nic::msix_table_at;
    world.machine.mmio_write(table, 8, 0xfee0'0000);
    world.machine.mmio_write(table + 8, 4, 0x4041);
    world.machine.mmio_write(table + 12, 4, control);
    world.set_bits(name, msix_cap_at + MSIX_FLAGS, MSIX_FLAGS_ENABLE);
}

}  // namespace

// --- memory cycles -------------------------------------------------------------------------------------------------

TEST_CASE("a CPU access reaches the BAR that has its address") {
    PciWorld world;
    Machine& machine = world.machine;
    machine.mmio_write(world.bar("nic1", 0) + nic::RING_BASE, 8, 0x1234'5678'9abc'd000);
    CHECK(machine.mmio_read(world.bar("nic1", 0) + nic::RING_BASE, 8) == 0x1234'5678'9abc'd000);
    CHECK(machine.mmio_read(world.bar("nic1", 0) + nic::RING_BASE + 4, 4) == 0x1234'5678);
    CHECK(machine.mmio_read(world.bar("nic0", 0) + nic::RING_BASE, 8) == 0);
    // In segment 1 too: there is one address space.
    machine.mmio_write(world.bar("nic3", 2) + 8, 4, 77);
    CHECK(machine.mmio_read(world.bar("nic3", 2) + 8, 4) == 77);
    CHECK(machine.mmio_read(PhysAddr{0xd000'0000}, 4) == 0xffff'ffff);
    // Across the end of a BAR nobody answers.
    std::array<std::byte, 16> bytes{};
    CHECK(world.pci.memory_read(world.bar("nic0", 0).raw + nic::bar0_bytes - 8, bytes) == BusStatus::unsupported);
}

TEST_CASE("memory decode gates a function, and every bridge above it") {
    PciWorld world;
    const PhysAddr bar = world.bar("gpu0", 2);
    world.machine.mmio_write(bar, 4, 5);
    for (const char* name : {"gpu0", "sw0.1", "sw0", "rp0"}) {
        INFO(name);
        world.clear_bits(name, COMMAND, COMMAND_MEMORY);
        CHECK(world.machine.mmio_read(bar, 4) == 0xffff'ffff);
        world.set_bits(name, COMMAND, COMMAND_MEMORY);
        CHECK(world.machine.mmio_read(bar, 4) == 5);
    }
    // So does a window that does not hold the address.
    const u32 base = world.read("sw0", PREF_BASE_UPPER32, 4);
    world.write("sw0", PREF_BASE_UPPER32, 4, base + 1);
    CHECK(world.machine.mmio_read(bar, 4) == 0xffff'ffff);
}

TEST_CASE("a BAR that is sized with decode on answers elsewhere while its register holds all ones") {
    PciWorld world;
    // On the root bus, where no window is in the way.
    const PhysAddr bar = world.bar("nic2", 0);
    const u32 saved = world.read("nic2", BASE_ADDRESS_0, 4);
    world.write("nic2", BASE_ADDRESS_0, 4, 0xffff'ffff);
    CHECK(world.read("nic2", BASE_ADDRESS_0, 4) == 0xffff'c000);  // 16 KiB
    CHECK(world.machine.mmio_read(bar + nic::INTERVAL, 4) == 0xffff'ffff);
    world.machine.mmio_write(PhysAddr{0xffff'c000} + nic::INTERVAL, 4, 9);
    world.write("nic2", BASE_ADDRESS_0, 4, saved);
    CHECK(world.machine.mmio_read(bar + nic::INTERVAL, 4) == 9);
    // 64 bits: two registers, each of them wrong for a while.
    const u32 low = world.read("nic2", BASE_ADDRESS_0 + 8, 4), high = world.read("nic2", BASE_ADDRESS_0 + 12, 4);
    CHECK((low & 0xf) == (BAR_MEM_TYPE_64 | BAR_MEM_PREFETCH));
    world.write("nic2", BASE_ADDRESS_0 + 8, 4, 0xffff'ffff);
    CHECK(world.bar("nic2", 2).raw == (u64{high} << 32 | 0xffff'0000));  // 64 KiB
    world.write("nic2", BASE_ADDRESS_0 + 12, 4, 0xffff'ffff);
    CHECK(world.bar("nic2", 2).raw == 0xffff'ffff'ffff'0000);
    world.write("nic2", BASE_ADDRESS_0 + 8, 4, low);
    world.write("nic2", BASE_ADDRESS_0 + 12, 4, high);
    CHECK(world.bar("nic2", 2).raw == (u64{high} << 32 | (low & ~0xfu)));
}

TEST_CASE("of two functions that answer to an address, the first by devfn gets the access") {
    PciWorld world({on_root("a", "dma-nic", 1), on_root("b", "dma-nic", 2)});
    world.write("b", BASE_ADDRESS_0, 4, static_cast<u32>(world.bar("a", 0).raw));
    world.machine.mmio_write(world.bar("b", 0) + nic::INTERVAL, 4, 3);
    CHECK(world.nic("a").engine(0).state().interval_ns == 3);
    CHECK(world.nic("b").engine(0).state().interval_ns == 0);
}

// --- requests ------------------------------------------------------------------------------------------------------

TEST_CASE("a request goes out only where bus mastering is on, at the function and at every bridge") {
    PciWorld world;
    PciFunction& nic = world.function("nic0");
    const u64 word = 0x1122'3344'5566'7788;
    CHECK(world.pci.dma_write(nic, somewhere, bytes_of(word)) == BusStatus::no_bus_master);
    world.bus_master("nic0", true);
    CHECK(world.pci.dma_write(nic, somewhere, bytes_of(word)) == BusStatus::ok);
    CHECK(world.machine.ram.read<u64>(PhysAddr{somewhere}) == word);
    for (const char* name : {"sw0.0", "sw0", "rp0"}) {
        INFO(name);
        world.bus_master(name, false);
        CHECK(world.pci.dma_write(nic, somewhere + 8, bytes_of(word)) == BusStatus::no_bus_master);
        world.bus_master(name, true);
    }
    CHECK(nic.dropped == 4);
    CHECK(world.machine.ram.read<u64>(PhysAddr{somewhere + 8}) == 0);
    // A bridge elsewhere is in nobody's way.
    world.bus_master("rp1", false);
    CHECK(world.pci.dma_write(nic, somewhere + 8, bytes_of(word)) == BusStatus::ok);
}

TEST_CASE("a request crosses pages, and fails where nobody answers") {
    PciWorld world;
    PciFunction& nic = world.function("nic2");
    world.bus_master("nic2", true);
    std::vector<std::byte> out(3 * page_bytes), in(out.size());
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = static_cast<std::byte>(i * 7 >> 3);
    CHECK(world.pci.dma_write(nic, somewhere + 100, out) == BusStatus::ok);
    CHECK(world.pci.dma_read(nic, somewhere + 100, in) == BusStatus::ok);
    CHECK(in == out);
    CHECK(world.pci.dma_read(nic, 0x8000'0000, in) == BusStatus::unsupported);
    // Up to the end of RAM it is done, and not beyond.
    const u64 end = 64 * MiB;
    CHECK(world.pci.dma_write(nic, end - page_bytes, out) == BusStatus::unsupported);
    CHECK(world.machine.ram.read<u8>(PhysAddr{end - 1}) == static_cast<u8>(out[page_bytes - 1]));
}

TEST_CASE("a request for a peer turns at the switch only if ACS lets it") {
    PciWorld world;
    PciFunction& nic = world.function("nic0");
    P2pGpu& gpu = world.gpu("gpu0");
    world.bus_master("nic0", true);
    const u64 target = world.bar("gpu0", 2).raw, word = 0xabcd;
    CHECK(world.pci.dma_write(nic, target, bytes_of(word)) == BusStatus::ok);
    CHECK(world.pci.counters.turned_at_root == 1);
    CHECK(world.pci.counters.turned_at_switch == 0);
    world.clear_bits("sw0.0", acs_cap_at + ACS_CTRL, ACS_RR);
    CHECK(world.pci.dma_write(nic, target + 8, bytes_of(word)) == BusStatus::ok);
    CHECK(world.pci.counters.turned_at_root == 1);
    CHECK(world.pci.counters.turned_at_switch == 1);
    CHECK(gpu.writes_received() == 2);
    u64 read = 0;
    CHECK(world.pci.dma_read(nic, target + 8, std::as_writable_bytes(std::span(&read, 1))) == BusStatus::ok);
    CHECK(read == word);
    // What a port claims and nobody below it takes is lost; what it does not claim goes up, and comes to the same.
    world.clear_bits("gpu0", COMMAND, COMMAND_MEMORY);
    CHECK(world.pci.dma_write(nic, target, bytes_of(word)) == BusStatus::unsupported);
    world.clear_bits("sw0.1", COMMAND, COMMAND_MEMORY);
    CHECK(world.pci.dma_write(nic, target, bytes_of(word)) == BusStatus::unsupported);
    CHECK(world.pci.counters.turned_at_switch == 3);
    // What is in no sibling's window goes up as ever.
    CHECK(world.pci.dma_write(nic, somewhere, bytes_of(word)) == BusStatus::ok);
    CHECK(world.pci.counters.turned_at_switch == 3);
}

TEST_CASE("a peer below another root port, or in another segment, is reached through the root complex") {
    PciWorld world;
    world.bus_master("nic0", true);
    world.clear_bits("sw0.0", acs_cap_at + ACS_CTRL, ACS_RR);
    const u64 word = 99;
    for (const char* name : {"nic1", "nic2", "nic3"}) {
        CHECK(world.pci.dma_write(world.function("nic0"), world.bar(name, 2).raw + 16, bytes_of(word)) ==
              BusStatus::ok);
        CHECK(world.machine.mmio_read(world.bar(name, 2) + 16, 8) == word);
    }
    CHECK(world.pci.counters.turned_at_root == 3);
    CHECK(world.pci.counters.turned_at_switch == 0);
}

TEST_CASE("interrupt messages are words of four bytes") {
    PciWorld world;
    PciFunction& nic = world.function("nic0");
    world.bus_master("nic0", true);
    const u64 word = 0x41;
    CHECK(world.pci.dma_write(nic, 0xfee0'0000, bytes_of(word).first(4)) == BusStatus::ok);
    CHECK(world.pci.dma_write(nic, 0xfee0'0000, bytes_of(word)) == BusStatus::unsupported);
    std::array<std::byte, 4> in{};
    CHECK(world.pci.dma_read(nic, 0xfee0'0000, in) == BusStatus::unsupported);
}

// --- resets --------------------------------------------------------------------------------------------------------

TEST_CASE("a function-level reset clears registers and device, and keeps the latched bus") {
    PciWorld world;
    PciFunction& nic = world.function("nic0");
    world.bus_master("nic0", true);
    set_up_vector(world, "nic0", 0);
    world.write("nic0", express_cap_at + EXP_DEVCTL2, 2, 5);
    world.machine.mmio_write(world.bar("nic0", 0) + nic::INTERVAL, 4, 10);
    world.events();
    world.set_bits("nic0", express_cap_at + EXP_DEVCTL, EXP_DEVCTL_BCR_FLR);
    CHECK(world.read("nic0", COMMAND, 2) == 0);
    CHECK(world.read("nic0", BASE_ADDRESS_0, 4) == 0);
    CHECK_FALSE(nic.msix_enabled());
    CHECK(nic.msix_entry(0).address == 0);
    CHECK(world.read("nic0", express_cap_at + EXP_DEVCTL2, 2) == 0);
    CHECK_FALSE(world.read("nic0", express_cap_at + EXP_DEVCTL, 2) & EXP_DEVCTL_BCR_FLR);
    CHECK(world.nic("nic0").engine(0).state().interval_ns == 0);
    CHECK(nic.resets == 1);
    CHECK(nic.requester_id() == Bdf(3, 0));
    const auto events = world.events("pci.reset");
    REQUIRE(events.size() == 1);
    CHECK(events[0].text("device") == "nic0");
    CHECK(events[0].text("kind") == "FLR");
    // The same bit of a bridge's register is another one.
    world.set_bits("rp0", express_cap_at + EXP_DEVCTL, EXP_DEVCTL_BCR_FLR);
    CHECK(world.function("rp0").resets == 0);
}

TEST_CASE("a secondary bus reset resets everything below, and holds it as long as the bit stands") {
    PciWorld world;
    const PciAddress nic = world.address("nic0");
    world.bus_master("nic0", true);
    world.set_bits("rp0", BRIDGE_CONTROL, BRIDGE_CTL_BUS_RESET);
    CHECK(world.pci.at(nic) == nullptr);
    CHECK(world.pci.config_read(world.address("sw0"), VENDOR_ID, 4) == 0xffff'ffff);
    for (const char* name : {"sw0", "sw0.0", "sw0.1", "nic0", "gpu0"}) {
        CHECK(world.function(name).resets == 1);
        CHECK(world.function(name).requester_id().bus() == 0);
    }
    CHECK(world.function("rp0").resets == 0);
    CHECK(world.function("nic1").resets == 0);
    CHECK(world.pci.dma_write(world.function("nic0"), somewhere, bytes_of(1)) == BusStatus::no_bus_master);
    // Writing the bit again does not reset again; releasing it lets the switch answer, without bus numbers.
    world.set_bits("rp0", BRIDGE_CONTROL, BRIDGE_CTL_BUS_RESET);
    CHECK(world.function("nic0").resets == 1);
    world.clear_bits("rp0", BRIDGE_CONTROL, BRIDGE_CTL_BUS_RESET);
    CHECK(world.read("sw0", VENDOR_ID, 2) == vendor_id);
    CHECK(world.read("sw0", SECONDARY_BUS, 1) == 0);
    CHECK(world.pci.at(nic) == nullptr);
}

TEST_CASE("a function that comes back from D3hot has lost its state, a bridge has not") {
    PciWorld world;
    world.bus_master("nic0", true);
    const PhysAddr bar = world.bar("nic0", 0);
    world.write("nic0", pm_cap_at + PM_CTRL, 2, d3hot);
    CHECK(world.machine.mmio_read(bar, 4) == 0xffff'ffff);
    CHECK(world.pci.dma_write(world.function("nic0"), somewhere, bytes_of(1)) == BusStatus::no_bus_master);
    CHECK(world.read("nic0", COMMAND, 2) == 6);
    world.write("nic0", pm_cap_at + PM_CTRL, 2, d0);
    CHECK(world.read("nic0", COMMAND, 2) == 0);
    CHECK(world.function("nic0").resets == 1);
    CHECK(world.function("nic0").requester_id() == Bdf(3, 0));
    CHECK(world.events("pci.reset").at(0).text("kind") == "D3hot to D0");

    const PhysAddr mailbox = world.bar("nic1", 2);
    world.write("rp1", pm_cap_at + PM_CTRL, 2, d3hot);
    CHECK(world.machine.mmio_read(mailbox, 4) == 0xffff'ffff);
    CHECK(world.pci.at({0, Bdf(5, 0)}) == nullptr);
    world.write("rp1", pm_cap_at + PM_CTRL, 2, d0);
    CHECK(world.machine.mmio_read(mailbox, 4) == 0);
    CHECK(world.function("rp1").resets == 0);
}

TEST_CASE("power states that a function does not have leave it where it was") {
    PciWorld world;
    for (const u8 state : {1, 2}) {
        world.write("nic0", pm_cap_at + PM_CTRL, 2, state);
        CHECK(world.function("nic0").power_state() == d0);
    }
    world.write("nic0", pm_cap_at + PM_CTRL, 2, d3hot);
    world.write("nic0", pm_cap_at + PM_CTRL, 2, 1);
    CHECK(world.function("nic0").power_state() == d3hot);
}

// --- MSI-X ---------------------------------------------------------------------------------------------------------

TEST_CASE("a masked vector keeps its interrupt, a disabled function's is gone") {
    PciWorld world;
    PciFunction& nic = world.function("nic0");
    world.bus_master("nic0", true);
    nic.raise_interrupt(0);
    CHECK(world.pci.counters.interrupts_unheard == 1);
    CHECK_FALSE(nic.msix_pending(0));

    set_up_vector(world, "nic0", MSIX_ENTRY_CTRL_MASKBIT);
    const PhysAddr table = world.bar("nic0", 0) + nic::msix_table_at,
                   pending = world.bar("nic0", 0) + nic::msix_pba_at;
    CHECK(world.machine.mmio_read(table, 8) == 0xfee0'0000);
    CHECK(world.machine.mmio_read(table + 8, 4) == 0x4041);
    nic.raise_interrupt(0);
    nic.raise_interrupt(0);
    nic.raise_interrupt(3);
    CHECK(world.machine.mmio_read(pending, 8) == 0b1001);
    world.machine.mmio_write(pending, 8, 0);  // software cannot
    CHECK(world.machine.mmio_read(pending, 4) == 0b1001);
    world.machine.mmio_write(table + 12, 4, 0);
    CHECK_FALSE(nic.msix_pending(0));
    CHECK(nic.msix_pending(3));
    CHECK(world.pci.counters.interrupts_unheard == 1);
    CHECK(nic.dropped == 0);
}

TEST_CASE("what was pending is sent when the mask of all vectors goes, or MSI-X comes back") {
    PciWorld world;
    PciFunction& nic = world.function("nic0");
    world.bus_master("nic0", true);
    set_up_vector(world, "nic0", 0);
    world.set_bits("nic0", msix_cap_at + MSIX_FLAGS, MSIX_FLAGS_MASKALL);
    nic.raise_interrupt(0);
    CHECK(nic.msix_pending(0));
    world.clear_bits("nic0", msix_cap_at + MSIX_FLAGS, MSIX_FLAGS_ENABLE);
    world.clear_bits("nic0", msix_cap_at + MSIX_FLAGS, MSIX_FLAGS_MASKALL);
    CHECK(nic.msix_pending(0));
    world.set_bits("nic0", msix_cap_at + MSIX_FLAGS, MSIX_FLAGS_ENABLE);
    CHECK_FALSE(nic.msix_pending(0));
}

TEST_CASE("a message is a request: it goes where the entry says, and bus mastering gates it") {
    PciWorld world;
    PciFunction& nic = world.function("nic0");
    set_up_vector(world, "nic0", 0);
    nic.raise_interrupt(0);
    CHECK(nic.dropped == 1);
    world.bus_master("nic0", true);
    world.machine.mmio_write(world.bar("nic0", 0) + nic::msix_table_at, 8, somewhere);
    nic.raise_interrupt(0);
    CHECK(world.machine.ram.read<u32>(PhysAddr{somewhere}) == 0x4041);
    nic.raise_interrupt(nic::msix_vectors);
    CHECK(world.pci.counters.interrupts_unheard == 1);
}

// --- p2p-gpu -------------------------------------------------------------------------------------------------------

TEST_CASE("a GPU counts what devices write to it, not what a CPU stores") {
    PciWorld world;
    world.bus_master("nic1", true);
    const PhysAddr registers = world.bar("gpu0", 0), memory = world.bar("gpu0", 2);
    const std::array<u64, 3> words{1, 2, 0xfeed};
    CHECK(world.pci.dma_write(world.function("nic1"), memory.raw + 64, std::as_bytes(std::span(words))) ==
          BusStatus::ok);
    world.machine.mmio_write(memory + 64, 8, 5);
    CHECK(world.machine.mmio_read(memory + 64, 8) == 5);
    CHECK(world.machine.mmio_read(memory + 72, 4) == 2);
    CHECK(world.machine.mmio_read(registers + gpu::WRITES, 8) == 1);
    CHECK(world.machine.mmio_read(registers + gpu::BYTES, 8) == 24);
    CHECK(world.machine.mmio_read(registers + gpu::LAST_WORD, 8) == 0xfeed);
    // Beyond what is backed a write counts and reads as zeros.
    CHECK(world.pci.dma_write(world.function("nic1"), memory.raw + gpu::backed_bytes, bytes_of(words[2])) ==
          BusStatus::ok);
    CHECK(world.machine.mmio_read(memory + gpu::backed_bytes, 8) == 0);
    CHECK(world.machine.mmio_read(registers + gpu::WRITES, 4) == 2);
    world.machine.mmio_write(registers + gpu::CONTROL, 4, 2);
    CHECK(world.machine.mmio_read(registers + gpu::WRITES, 8) == 0);
    CHECK(world.machine.mmio_read(memory + 64, 8) == 0);
}
