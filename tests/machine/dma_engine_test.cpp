// The DMA engines of dma-nic: ticks off the event clock, whatever kernel is up.
#include "tests/machine/pci_fixture.hpp"

#include <cstring>

#define XXH_INLINE_ALL
#include <xxhash.h>

using namespace kexec_sim;
using namespace kexec_sim::test;
using namespace kexec_sim::nic;

namespace {

constexpr u64 ring_at = 16 * MiB, source_at = 17 * MiB, destination_at = 18 * MiB;
constexpr u32 transfer = 64;
constexpr u64 interval = 1000;

u64 cookie_of(u32 slot) { return 0xc00c'1e00'0000'0000 + u64{slot} * 0x1'0000; }
PhysAddr source_of(u32 slot) { return PhysAddr{source_at + slot * page_bytes}; }
PhysAddr destination_of(u32 slot) { return PhysAddr{destination_at + slot * page_bytes}; }
PhysAddr trailer_of(u32 slot) { return destination_of(slot) + (transfer - trailer_bytes); }

/// nic2, on the root bus, with a ring of its own sources and destinations, and bus mastering on.
struct EngineWorld : PciWorld {
    u32 entries;
    DmaNic& device;
    const DmaEngine& engine;
    explicit EngineWorld(u32 entries_, std::vector<std::string> plans = {}, u32 flags = DESC_OWNER)
        : PciWorld(usual_devices(), std::move(plans)),
          entries(entries_),
          device(nic("nic2")),
          engine(device.engine(0)) {
        // Without an IOMMU every page is meant to be what it is; findings would end the runs of the trace.
        const PfnRange all = pfn_range(Pfn{0}, 64 * MiB / page_bytes);
        machine.device_referee.domain_mapped(1, 0, std::span(&all, 1));
        for (const char* name : {"nic1", "nic2"}) machine.device_referee.domain_attached(1, nic(name));
        bus_master("nic2", true);
        for (u32 slot = 0; slot < entries; ++slot) {
            for (u64 word = 0; word < transfer; word += 8)
                machine.ram.write<u64>(source_of(slot) + word, word * 31 + slot);
            fill(slot, flags);
        }
        set(RING_BASE, ring_at, 8);
        set(RING_ENTRIES, entries);
        set(INTERVAL, interval);
        events();
    }
    void fill(u32 slot, u32 flags) {
        put(slot, {source_of(slot).raw, destination_of(slot).raw, transfer, flags, cookie_of(slot)});
    }
    void put(u32 slot, const Descriptor& descriptor) {
        machine.ram.write(PhysAddr{ring_at + slot * sizeof(Descriptor)}, descriptor);
    }
    u32 flags(u32 slot) { return machine.ram.read<Descriptor>(PhysAddr{ring_at + slot * sizeof(Descriptor)}).flags; }
    void set(u64 offset, u64 value, unsigned bytes = 4) { machine.mmio_write(bar("nic2", 0) + offset, bytes, value); }
    u64 get(u64 offset, unsigned bytes = 4) { return machine.mmio_read(bar("nic2", 0) + offset, bytes); }
    void start(u32 control = CONTROL_ENABLE) { set(CONTROL, control); }
    void run(u64 ns) { machine.clock.advance(ns); }
    u64 trailer_word(u32 slot) { return machine.ram.read<u64>(trailer_of(slot)); }
    u64 source_hash(u32 slot) {
        std::vector<std::byte> source = machine.ram.read_vector(source_of(slot), transfer);
        return XXH3_64bits(source.data(), source.size());
    }
};

}  // namespace

TEST_CASE("a completion writes a trailer at the end of the destination, and nothing else of it") {
    EngineWorld world(4);
    world.machine.ram.fill_byte(phys_range(destination_of(0), page_bytes), std::byte{0xee});
    world.set(TAIL, 1);
    world.start();
    world.run(interval - 1);
    CHECK(world.get(COMPLETED, 8) == 0);
    world.run(1);
    CHECK(world.get(COMPLETED, 8) == 1);
    CHECK(world.trailer_word(0) == cookie_of(0));
    CHECK(world.machine.ram.read<u64>(trailer_of(0) + 8) == world.source_hash(0));
    CHECK(world.machine.ram.read<u8>(trailer_of(0) + trailer_bytes) == 0xee);
    CHECK(world.machine.ram.read<u8>(PhysAddr{trailer_of(0).raw - 1}) == 0xee);
    CHECK(world.flags(0) == DESC_DONE);
}

TEST_CASE("a ring that its driver fills wraps, runs dry, and goes on when the tail moves") {
    EngineWorld world(3);
    world.set(TAIL, 3);  // full: head and tail differ by the number of entries
    world.start();
    world.run(3 * interval);
    CHECK(world.get(HEAD) == 3);
    CHECK(world.get(COMPLETED, 8) == 3);
    CHECK(world.get(STATUS) == STATUS_RUNNING);
    world.run(10 * interval);
    CHECK(world.get(STATUS) == (STATUS_RUNNING | STATUS_DRY));
    CHECK(world.get(SEQUENCE, 8) == 3);
    // Two more: the tick that waited takes place now, the other by the interval.
    for (const u32 slot : {0u, 1u}) world.fill(slot, DESC_OWNER);
    world.set(TAIL, 5);
    world.run(0);
    CHECK(world.get(COMPLETED, 8) == 4);
    CHECK(world.get(STATUS) == STATUS_RUNNING);
    world.run(interval);
    CHECK(world.get(COMPLETED, 8) == 5);
    CHECK(world.trailer_word(1) == (cookie_of(1) ^ 4));
    // Head counts modulo twice the entries. The tail moves before a tick finds the ring empty: it was never dry.
    world.fill(2, DESC_OWNER);
    world.set(TAIL, 0);
    world.run(2 * interval);
    CHECK(world.get(HEAD) == 0);
    CHECK(world.get(COMPLETED, 8) == 6);

    std::vector<std::string> names;
    for (const TraceEvent& event : world.events())
        if (event.name.starts_with("dma.")) names.push_back(event.name);
    CHECK(names == std::vector<std::string>{"dma.start", "dma.completions", "dma.dry", "dma.resume",
                                            "dma.completions", "dma.dry"});
}

TEST_CASE("the ticks of an engine are its running time without the dry time, by the interval") {
    EngineWorld world(8);
    world.set(TAIL, 2);
    world.start();
    world.run(10 * interval);  // dry from the third interval on: for 7
    world.set(TAIL, 8);
    world.run(5 * interval);
    CHECK(world.get(COMPLETED, 8) == 10 - 7 + 5);
}

TEST_CASE("a circular ring needs no driver, and its destinations hold the last round") {
    EngineWorld world(3);
    world.start(CONTROL_ENABLE | CONTROL_CIRCULAR);
    world.run(100 * interval);
    CHECK(world.get(COMPLETED, 8) == 100);
    CHECK(world.trailer_word(0) == (cookie_of(0) ^ 99));
    CHECK(world.trailer_word(1) == (cookie_of(1) ^ 97));
    CHECK(world.trailer_word(2) == (cookie_of(2) ^ 98));
    CHECK(world.flags(0) == (DESC_OWNER | DESC_DONE));
    CHECK(world.get(STATUS) == STATUS_RUNNING);
}

TEST_CASE("the engine runs on over a change of kernels, and however time is cut") {
    EngineWorld world(5);
    world.start(CONTROL_ENABLE | CONTROL_CIRCULAR);
    for (int i = 0; i < 50; ++i) world.run(interval / 2 + 7);
    world.machine.set_generation(1);
    world.run(100 * interval);
    const u64 elapsed = 50 * (interval / 2 + 7) + 100 * interval;
    CHECK(world.get(COMPLETED, 8) == elapsed / interval);
}

TEST_CASE("stopping keeps head and sequence, starting again goes on from there") {
    EngineWorld world(4);
    world.start(CONTROL_ENABLE | CONTROL_CIRCULAR);
    world.run(6 * interval);
    world.start(CONTROL_CIRCULAR);
    CHECK(world.get(STATUS) == 0);
    CHECK_FALSE(world.engine.running());
    world.run(10 * interval);
    CHECK(world.get(COMPLETED, 8) == 6);
    CHECK(world.machine.clock.events_pending() == 0);
    world.start(CONTROL_ENABLE | CONTROL_CIRCULAR);
    world.run(interval);
    CHECK(world.trailer_word(2) == (cookie_of(2) ^ 6));
    const auto events = world.events("dma.start");
    REQUIRE(events.size() == 2);
    CHECK(events[1].number("first_sequence") == 6);
    CHECK(events[1].number("interval_ns") == interval);
    CHECK(events[1].number("ring_base") == ring_at);
}

TEST_CASE("what cannot be a ring is refused by the status, and corrected by another try") {
    EngineWorld world(4);
    for (const auto& [offset, bad, good] : std::vector<std::tuple<u64, u64, u64>>{
             {RING_ENTRIES, 0, 4}, {RING_ENTRIES, ring_entries_max + 1, 4}, {INTERVAL, 0, interval}, {TAIL, 8, 7}}) {
        world.set(offset, bad);
        world.start(0);
        world.start();
        CHECK(world.get(STATUS) == STATUS_ERROR);
        world.set(offset, good);
    }
    world.start(0);
    world.start();
    CHECK(world.get(STATUS) == STATUS_RUNNING);
    // While it runs, the ring stays what it is.
    world.set(RING_ENTRIES, 9);
    world.set(RING_BASE, 0x1000, 8);
    world.set(INTERVAL, 1);
    CHECK(world.get(RING_ENTRIES) == 4);
    CHECK(world.get(RING_BASE, 8) == ring_at);
    CHECK(world.get(INTERVAL) == interval);
    world.set(TAIL, 17);
    CHECK(world.get(TAIL) == 1);
}

TEST_CASE("a reset of any kind stops the engine and forgets its ring") {
    for (const char* kind : {"register", "FLR", "D3hot", "power-on"}) {
        INFO(kind);
        EngineWorld world(4);
        world.start(CONTROL_ENABLE | CONTROL_CIRCULAR);
        world.run(3 * interval);
        if (kind == std::string("register")) {
            world.set(CONTROL, CONTROL_RESET);
        } else if (kind == std::string("FLR")) {
            world.set_bits("nic2", pci::express_cap_at + pci::EXP_DEVCTL, pci::EXP_DEVCTL_BCR_FLR);
        } else if (kind == std::string("D3hot")) {
            world.write("nic2", pci::pm_cap_at + pci::PM_CTRL, 2, pci::d3hot);
            world.write("nic2", pci::pm_cap_at + pci::PM_CTRL, 2, pci::d0);
        } else {
            world.machine.reset_devices();
        }
        CHECK_FALSE(world.engine.running());
        CHECK(world.engine.state().entries == 0);
        CHECK(world.engine.state().sequence == 0);
        CHECK(world.machine.clock.events_pending() == 0);
        world.run(10 * interval);
        CHECK(world.engine.state().completed == 0);
        const auto stops = world.events("dma.stop");
        REQUIRE(stops.size() == 1);
        CHECK(stops[0].text("by") == "reset");
        CHECK(stops[0].number("sequence") == 3);
    }
}

TEST_CASE("a closed bus master gate loses ticks, which the engine does not notice") {
    EngineWorld world(4);
    world.start(CONTROL_ENABLE | CONTROL_CIRCULAR);
    world.run(10 * interval);
    world.bus_master("nic2", false);
    world.run(5 * interval);
    world.bus_master("nic2", true);
    world.run(2 * interval);
    CHECK(world.get(COMPLETED, 8) == 12);
    CHECK(world.get(FAULTS, 8) == 0);
    CHECK(world.get(SEQUENCE, 8) == 17);
    CHECK(world.device.dropped == 5);
    std::vector<TraceEvent> events = world.events();
    std::erase_if(events, [](const TraceEvent& event) { return !event.name.starts_with("dma."); });
    REQUIRE(events.size() == 4);
    CHECK(events[1].name == "dma.completions");
    CHECK(events[1].number("first_sequence") == 0);
    CHECK(events[1].number("count") == 10);
    CHECK(events[1].number("first_ns") == interval);
    CHECK(events[1].number("last_ns") == 10 * interval);
    CHECK(events[2].name == "dma.lost");
    CHECK(events[2].text("device") == "nic2");
    CHECK(events[2].text("status") == "bus master off");
    CHECK(events[2].number("first_sequence") == 10);
    CHECK(events[2].number("count") == 5);
    CHECK(events[2].number("last_ns") == 15 * interval);
    CHECK(events[3].number("first_sequence") == 15);
    CHECK(events[3].number("count") == 2);
}

TEST_CASE("a descriptor that leads nowhere loses its tick, counts as a fault, and the next is done") {
    EngineWorld world(6);
    world.put(0, {0x8000'0000, destination_of(0).raw, transfer, DESC_OWNER, 1});   // no such source
    world.put(1, {source_of(1).raw, 0x8000'0000, transfer, DESC_OWNER, 1});        // no such destination
    world.put(2, {source_of(2).raw, destination_of(2).raw, 15, DESC_OWNER, 1});    // no room for a trailer
    world.put(3, {source_of(3).raw, destination_of(3).raw, 4097, DESC_OWNER, 1});  // too long
    world.put(4, {source_of(4).raw, destination_of(4).raw, transfer, 0, 1});       // not the device's
    world.set(TAIL, 6);
    world.start();
    world.run(6 * interval);
    CHECK(world.get(FAULTS, 8) == 5);
    CHECK(world.get(COMPLETED, 8) == 1);
    for (u32 slot = 0; slot < 5; ++slot) CHECK(world.flags(slot) == DESC_ERROR);
    CHECK(world.trailer_word(5) == (cookie_of(5) ^ 5));
    CHECK(world.events("dma.lost").at(0).text("status") == "unsupported");
    // A ring that is not there.
    world.start(0);
    world.set(RING_BASE, 0x8000'0000, 8);
    world.start(CONTROL_ENABLE | CONTROL_CIRCULAR);
    world.run(2 * interval);
    CHECK(world.get(FAULTS, 8) == 7);
}

TEST_CASE("a descriptor may ask for an interrupt") {
    EngineWorld world(2, {}, DESC_OWNER | DESC_IRQ);
    const PhysAddr table = world.bar("nic2", 0) + msix_table_at;
    world.machine.mmio_write(table + 16, 8, ring_at + page_bytes);  // vector 1: a word in RAM
    world.machine.mmio_write(table + 24, 8, 0x4041);
    world.set(MSIX_VECTOR, 1);
    world.fill(1, DESC_OWNER);
    world.start(CONTROL_ENABLE | CONTROL_CIRCULAR);
    world.run(2 * interval);
    CHECK(world.pci.counters.interrupts_unheard == 1);
    world.set_bits("nic2", pci::msix_cap_at + pci::MSIX_FLAGS, pci::MSIX_FLAGS_ENABLE);
    world.run(interval);
    CHECK(world.machine.ram.read<u32>(PhysAddr{ring_at + page_bytes}) == 0x4041);
    CHECK(world.pci.counters.interrupts_unheard == 1);
}

TEST_CASE("an engine writes into the mailbox of another function") {
    EngineWorld world(1);
    const u64 mailbox = world.bar("nic1", 2).raw;
    world.put(0, {source_of(0).raw, mailbox, transfer, DESC_OWNER | DESC_P2P, 0x99});
    world.start(CONTROL_ENABLE | CONTROL_CIRCULAR);
    world.run(3 * interval);
    CHECK(world.machine.mmio_read(PhysAddr{mailbox} + (transfer - trailer_bytes), 8) == (0x99 ^ 2));
    CHECK(world.machine.mmio_read(PhysAddr{mailbox} + page_bytes, 8) == 0);
    CHECK(world.pci.counters.turned_at_root == 3);
    // Beyond its first page the mailbox takes a write and keeps nothing.
    world.machine.mmio_write(PhysAddr{mailbox} + page_bytes, 8, 5);
    CHECK(world.machine.mmio_read(PhysAddr{mailbox} + page_bytes, 8) == 0);
}

TEST_CASE("an engine that writes its own reset register stops after that tick") {
    EngineWorld world(1);
    // The second word of the trailer is a hash; the first lies on the register page's control register.
    const u64 control = world.bar("nic2", 0).raw;
    world.put(0, {source_of(0).raw, control, trailer_bytes, DESC_OWNER, CONTROL_RESET});
    world.start(CONTROL_ENABLE | CONTROL_CIRCULAR);
    world.run(5 * interval);
    CHECK_FALSE(world.engine.running());
    CHECK(world.engine.state().completed == 0);
    CHECK(world.machine.clock.events_pending() == 0);
}

TEST_CASE("engines of two devices take their ticks in order of time") {
    EngineWorld world(4);
    world.bus_master("nic1", true);
    const PhysAddr other = world.bar("nic1", 0);
    for (const auto& [offset, value] :
         std::vector<std::pair<u64, u64>>{{RING_BASE, ring_at}, {RING_ENTRIES, 4}, {INTERVAL, interval / 2}})
        world.machine.mmio_write(other + offset, offset == RING_BASE ? 8 : 4, value);
    world.start(CONTROL_ENABLE | CONTROL_CIRCULAR);
    world.machine.mmio_write(other + CONTROL, 4, CONTROL_ENABLE | CONTROL_CIRCULAR);
    world.run(100 * interval);
    CHECK(world.engine.state().completed == 100);
    CHECK(world.nic("nic1").engine(0).state().completed == 200);
    // Each holds back a run of its own.
    const auto events = world.events("dma.completions");
    REQUIRE(events.size() == 2);
    CHECK(events[0].number("count") + events[1].number("count") == 300);
}

// --- the second engine ---------------------------------------------------------------------------------------------

namespace {

/// Engine 1 has a ring of one entry beside, and writes into the mailbox of nic1.
struct TwoEnginesWorld : EngineWorld {
    const DmaEngine& second;
    u64 mailbox;
    explicit TwoEnginesWorld(std::vector<std::string> plans = {})
        : EngineWorld(4, std::move(plans)),
          second(device.engine(1)),
          mailbox(bar("nic1", 2).raw) {
        machine.ram.write(PhysAddr{second_ring_at},
                          Descriptor{source_of(0).raw, mailbox, transfer, DESC_OWNER | DESC_P2P, 0x99});
        set(engine_stride + RING_BASE, second_ring_at, 8);
        set(engine_stride + RING_ENTRIES, 1);
        set(engine_stride + INTERVAL, interval / 2);
    }
    void start_both() {
        start(CONTROL_ENABLE | CONTROL_CIRCULAR);
        set(engine_stride + CONTROL, CONTROL_ENABLE | CONTROL_CIRCULAR);
    }
    static constexpr u64 second_ring_at = ring_at + 16 * page_bytes;
};

}  // namespace

TEST_CASE("both engines of a device run side by side, each by its own registers") {
    TwoEnginesWorld world;
    world.start_both();
    world.run(10 * interval);
    CHECK(world.engine.state().completed == 10);
    CHECK(world.second.state().completed == 20);
    CHECK(world.get(COMPLETED, 8) == 10);
    CHECK(world.get(engine_stride + COMPLETED, 8) == 20);
    CHECK(world.get(engine_stride + STATUS) == STATUS_RUNNING);
    CHECK(world.trailer_word(1) == (cookie_of(1) ^ 9));
    CHECK(world.machine.mmio_read(PhysAddr{world.mailbox} + (transfer - trailer_bytes), 8) == (0x99 ^ 19));
    // The referee counts both, and each.
    DeviceReferee& referee = world.machine.device_referee;
    CHECK(referee.engine("nic2").completions == 30);
    CHECK(referee.engine("nic2", 0).completions == 10);
    CHECK(referee.engine("nic2", 1).completions == 20);
    CHECK(referee.engine("nic2", 1).lost == 0);
    CHECK(referee.totals().completions == 30);

    const auto events = world.events();
    const auto count_of = [&](u64 engine) {
        u64 count = 0;
        for (const TraceEvent& event : events)
            if (event.name == "dma.completions" && event.number("engine") == engine) count += event.number("count");
        return count;
    };
    CHECK(count_of(0) == 10);
    CHECK(count_of(1) == 20);
}

TEST_CASE("stopping or resetting one engine by its control register leaves the other running") {
    for (const u32 control : {u32{0}, CONTROL_RESET}) {
        TwoEnginesWorld world;
        world.start_both();
        world.machine.mmio_write(PhysAddr{world.mailbox} + 64, 8, 5);
        world.run(2 * interval);
        world.set(engine_stride + CONTROL, control);
        CHECK(world.engine.running());
        CHECK_FALSE(world.second.running());
        CHECK(world.second.state().entries == (control == 0 ? 1 : 0));
        world.run(2 * interval);
        CHECK(world.engine.state().completed == 4);
        CHECK(world.second.state().completed == (control == 0 ? 4 : 0));
        const auto stops = world.events("dma.stop");
        REQUIRE(stops.size() == 1);
        CHECK(stops[0].number("engine") == 1);
        CHECK(stops[0].text("device") == "nic2");
    }
}

TEST_CASE("a reset of the function resets both engines and the mailbox") {
    TwoEnginesWorld world;
    const PhysAddr own = world.bar("nic2", 2);
    world.machine.mmio_write(own, 8, 5);
    world.start_both();
    world.run(2 * interval);
    CHECK(world.machine.mmio_read(own, 8) == 5);
    world.machine.reset_devices();
    CHECK_FALSE(world.engine.running());
    CHECK_FALSE(world.second.running());
    CHECK(world.second.state().ring_base == 0);
    CHECK(world.machine.clock.events_pending() == 0);
    CHECK(world.machine.mmio_read(world.bar("nic2", 2), 8) == 0);
    CHECK(world.events("dma.stop").size() == 2);
}

TEST_CASE("a fault point counts the ticks of both engines by the function's name") {
    // In order of time: engine 1 at 500, then at 1000 engine 0, whose event was there first, and engine 1 again.
    TwoEnginesWorld world({"dma.write[nic2]#2=drop"});
    world.start_both();
    world.run(interval);
    CHECK(world.engine.state().completed == 0);
    CHECK(world.engine.state().sequence == 1);
    CHECK(world.second.state().completed == 2);
    CHECK(world.machine.device_referee.engine("nic2", 0).lost == 1);
    CHECK(world.machine.device_referee.engine("nic2", 1).lost == 0);
}

TEST_CASE("behind the engines there are no registers") {
    EngineWorld world(1);
    world.set(2 * engine_stride + RING_ENTRIES, 7);
    CHECK(world.get(2 * engine_stride + RING_ENTRIES) == 0);
    // A write of 8 bytes that begins in the last word of one ends in the first of the other.
    world.set(engine_stride - 4, u64{CONTROL_CIRCULAR} << 32, 8);
    CHECK(world.get(engine_stride + CONTROL) == CONTROL_CIRCULAR);
    CHECK(world.get(engine_stride - 4, 8) == u64{CONTROL_CIRCULAR} << 32);
}

TEST_CASE("a source that lies in two frames, or where nobody wrote, is hashed as one that does not") {
    EngineWorld world(3);
    const PhysAddr across = source_of(9) + (page_bytes - 24);
    std::vector<std::byte> text(transfer);
    for (u32 i = 0; i < transfer; ++i) text[i] = std::byte(i * 7);
    world.machine.ram.write_bytes(across, text);
    world.put(0, {across.raw, destination_of(0).raw, transfer, DESC_OWNER, 1});
    world.put(1, {source_of(20).raw, destination_of(1).raw, transfer, DESC_OWNER, 1});
    world.put(2, {world.bar("nic1", 2).raw, destination_of(2).raw, transfer, DESC_OWNER, 1});  // a BAR
    world.start(CONTROL_ENABLE | CONTROL_CIRCULAR);
    world.run(3 * interval);
    const std::vector<std::byte> zeros(transfer);
    CHECK(world.machine.ram.read<u64>(trailer_of(0) + 8) == XXH3_64bits(text.data(), transfer));
    CHECK(world.machine.ram.read<u64>(trailer_of(1) + 8) == XXH3_64bits(zeros.data(), transfer));
    CHECK(world.machine.ram.read<u64>(trailer_of(2) + 8) == XXH3_64bits(zeros.data(), transfer));
}

TEST_CASE("a flipped bit of the source is not in RAM") {
    EngineWorld world(1, {"dma.read#1=flip(8,0)"});
    const std::vector<std::byte> before = world.machine.ram.read_vector(source_of(0), transfer);
    world.start(CONTROL_ENABLE | CONTROL_CIRCULAR);
    world.run(interval);
    CHECK(world.machine.ram.read_vector(source_of(0), transfer) == before);
}

// --- planned faults ------------------------------------------------------------------------------------------------

TEST_CASE("a planned fault drops the source or the trailer of one tick") {
    for (const char* point : {"dma.read", "dma.write"}) {
        EngineWorld world(2, {std::string(point) + "[nic2]#3=drop"});
        world.start(CONTROL_ENABLE | CONTROL_CIRCULAR);
        world.run(5 * interval);
        CHECK(world.get(COMPLETED, 8) == 4);
        CHECK(world.get(FAULTS, 8) == 0);
        CHECK(world.get(SEQUENCE, 8) == 5);
        const auto lost = world.events("dma.lost");
        REQUIRE(lost.size() == 1);
        CHECK(lost[0].number("first_sequence") == 2);
        CHECK(lost[0].number("count") == 1);
        CHECK(lost[0].text("status") == "lost");
    }
}

TEST_CASE("a misdirected write ends at a physical address of its own") {
    EngineWorld world(4, {"dma.write#2=misdirect(0x1500000)"});
    world.start(CONTROL_ENABLE | CONTROL_CIRCULAR);
    world.run(3 * interval);
    CHECK(world.machine.ram.read<u64>(PhysAddr{0x1500000}) == (cookie_of(1) ^ 1));
    CHECK(world.trailer_word(1) == 0);
    CHECK(world.trailer_word(2) == (cookie_of(2) ^ 2));
    CHECK(world.get(COMPLETED, 8) == 3);
}

TEST_CASE("a duplicate writes the number of the tick before") {
    EngineWorld world(4, {"dma.write#3=duplicate"});
    world.start(CONTROL_ENABLE | CONTROL_CIRCULAR);
    world.run(4 * interval);
    CHECK(world.trailer_word(2) == (cookie_of(2) ^ 1));
    CHECK(world.trailer_word(3) == (cookie_of(3) ^ 3));
    CHECK(world.machine.faults.any_fired());
}

TEST_CASE("the first tick has none to duplicate") {
    EngineWorld world(4, {"dma.write#1=duplicate"});
    world.start(CONTROL_ENABLE | CONTROL_CIRCULAR);
    world.run(interval);
    CHECK(world.trailer_word(0) == cookie_of(0));
    CHECK_FALSE(world.machine.faults.any_fired());
}

TEST_CASE("a flipped bit is in what was read, or in what is written") {
    EngineWorld world(
        4, {"dma.read#1=flip(8,0)", "dma.write#2=flip(0,3)", "dma.read#3=flip(64,0)", "dma.write#4=flip(16,0)"});
    world.start(CONTROL_ENABLE | CONTROL_CIRCULAR);
    world.run(4 * interval);
    CHECK(world.trailer_word(0) == cookie_of(0));
    CHECK(world.machine.ram.read<u64>(trailer_of(0) + 8) != world.source_hash(0));
    CHECK(world.trailer_word(1) == (cookie_of(1) ^ 1 ^ 8));
    CHECK(world.machine.ram.read<u64>(trailer_of(1) + 8) == world.source_hash(1));
    // Beyond the end there is nothing to flip.
    CHECK(world.machine.ram.read<u64>(trailer_of(2) + 8) == world.source_hash(2));
    CHECK(world.trailer_word(3) == (cookie_of(3) ^ 3));
    const auto status = world.machine.faults.status();
    CHECK(status.at(0).fired);
    CHECK(status.at(1).fired);
    CHECK_FALSE(status.at(2).fired);
    CHECK_FALSE(status.at(3).fired);
}

TEST_CASE("a planned panic or delay at a tick does not stop the device") {
    EngineWorld world(4, {"dma.write#2=panic", "dma.write#4=delay(10us)"});
    world.start(CONTROL_ENABLE | CONTROL_CIRCULAR);
    CHECK_THROWS_AS(world.run(100 * interval), KernelPanic);
    CHECK(world.machine.clock.now_ns() == 2 * interval);
    // Two ticks were made, one of which ended in the middle. The delay holds up whoever lets time pass, not the device.
    world.run(98 * interval);
    constexpr u64 late = 10'000 / interval;
    CHECK(world.machine.clock.now_ns() == (100 + late) * interval);
    CHECK(world.get(SEQUENCE, 8) == 100 + late);
    CHECK(world.get(COMPLETED, 8) == 99 + late);
}

TEST_CASE("delays at every tick are made up for once, and end") {
    EngineWorld world(4, {"dma.write#every=delay(1us)"});
    world.start(CONTROL_ENABLE | CONTROL_CIRCULAR);
    world.run(100 * interval);
    CHECK(world.machine.clock.now_ns() == 200 * interval);
    CHECK(world.get(SEQUENCE, 8) == 200);
}

// --- held runs -----------------------------------------------------------------------------------------------------

TEST_CASE("a run of ticks is one event, before the next event of another kind and at the end") {
    EngineWorld world(4);
    world.start(CONTROL_ENABLE | CONTROL_CIRCULAR);
    world.run(1'000'000 * interval);
    world.machine.trace.range(Layer::kho, "kho.preserve", Pfn{1}, Order{0}, 1, "test");
    world.run(2 * interval);
    const auto events = world.events();
    REQUIRE(events.size() == 4);
    CHECK(events[0].name == "dma.start");
    CHECK(events[1].name == "dma.completions");
    CHECK(events[1].number("count") == 1'000'000);
    CHECK(events[2].name == "kho.preserve");
    CHECK(events[3].name == "dma.completions");
    CHECK(events[3].number("count") == 2);
}

TEST_CASE("the same run leaves the same trace and the same memory, by one advance or by many") {
    const auto run = [](u64 steps) {
        EngineWorld world(3);
        world.start(CONTROL_ENABLE | CONTROL_CIRCULAR);
        for (u64 i = 0; i < steps; ++i) world.run(1200 * interval / steps);
        return std::tuple{world.machine.trace.hash().hex(), world.machine.ram.hash().hex()};
    };
    CHECK(run(1) == run(2400));
}
