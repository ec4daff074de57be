// The guest's program: the same every time, and different as soon as anything is.
#include <catch2/catch.hpp>

#include <map>
#include <vector>

#include "machine/device/dma_engine.hpp"
#include "machine/machine.hpp"

using namespace kexec_sim;

namespace {

constexpr u64 memory_bytes = 4 * MiB;

/// Guest memory behind a table of frames, and devices that are two numbers.
struct Bus final : GuestBus {
    Result<PhysAddr> translate(u64 gpa) override {
        ++translations;
        CHECK(gpa % page_bytes == 0);
        CHECK_FALSE(MachineEntry::inside());
        const auto found = pages.find(gpa >> page_shift);
        if (found == pages.end()) return fail(Errno::efault);
        return Pfn{found->second}.phys();
    }
    u64 device_completed(unsigned device) override {
        CHECK_FALSE(MachineEntry::inside());
        asked.push_back(device);
        return completed[device];
    }
    void device_tail(unsigned device, u32 tail) override { tails[device] = tail; }
    u16 asid() const override { return guest_asid; }

    std::map<u64, u64> pages;
    std::array<u64, guest_devices_max> completed{};
    std::map<unsigned, u32> tails;
    std::vector<unsigned> asked;
    u16 guest_asid = 0;
    u64 translations = 0;
};

struct World {
    World() {
        MachineConfig config;
        config.node_bytes = {64 * MiB};
        machine = make_machine(config);
        for (u64 page = 0; page < memory_bytes / page_bytes; ++page) bus.pages[page] = frame_of(page);
    }
    static u64 frame_of(u64 page) { return 4096 + (page * 7) % 1024; }  // scattered
    Result<> run(u64 steps, unsigned vcpu = 0) {
        machine->clock.advance(steps * guest_step_ns);
        return machine->guest_cpu.run("vm0", vcpu, registers, bus, memory_bytes, steps);
    }
    u64 word(u64 gpa) {
        return machine->ram.read<u64>(Pfn{bus.pages.at(gpa >> page_shift)}.phys() + (gpa & (page_bytes - 1)));
    }
    u32 flags(u64 ring, u64 slot) {
        return machine->ram.read<u32>(Pfn{bus.pages.at(ring >> page_shift)}.phys() + slot * 32 + 20);
    }
    void set_flags(u64 ring, u64 slot, u32 value) {
        machine->ram.write(Pfn{bus.pages.at(ring >> page_shift)}.phys() + slot * 32 + 20, value);
    }
    MachineHandle machine;
    Bus bus;
    GuestRegisters registers;
};

/// The program once more, written from its description.
struct Reference {
    u64 accumulator = 0x6b65786563;
    std::map<u64, u64> memory;
    void step(u64 steps, u64 work, u64 pages) {
        u64& word = memory[work + (steps % pages) * 4096 + (steps / pages % 8) * 512];
        const u64 mixed = accumulator ^ word;
        accumulator = ((mixed << 7) | (mixed >> 57)) * 0x9e37'79b9'7f4a'7c15 + steps;
        word = accumulator;
    }
};

}  // namespace

TEST_CASE("the program does what its description says") {
    World world;
    constexpr u64 steps = 20000;
    REQUIRE(world.run(steps, 2));
    // A quarter of 4 MiB, less 64 KiB, in 16 parts: 15 pages each.
    const u64 work = 64 * KiB + 2 * 15 * page_bytes;
    Reference reference;
    for (u64 i = 0; i < steps; ++i) reference.step(i, work, 15);
    CHECK(world.registers.steps == steps);
    CHECK(world.registers.accumulator == reference.accumulator);
    CHECK(world.registers.tsc_ns == world.machine->clock.now_ns());
    for (const auto& [gpa, value] : reference.memory) REQUIRE(world.word(gpa) == value);
    CHECK(reference.memory.size() == 15 * 8);
}

TEST_CASE("every 64th step is noted in the journal and in the state page") {
    World world;
    REQUIRE(world.run(1000, 1));
    // 15 checkpoints: the last is entry 14 % 8, of step 960.
    const u64 entry = 4 * KiB + 256 + 6 * 32;
    CHECK(world.word(entry) == 960);
    CHECK(world.word(entry + 8) == 960 * guest_step_ns);
    CHECK((world.word(entry) ^ world.word(entry + 8) ^ world.word(entry + 16)) == world.word(entry + 24));
    CHECK(world.word(entry + 32) == 512);  // the oldest
    CHECK(world.word(256) == 960);
    CHECK(world.word(264) == 960 * guest_step_ns);
    CHECK(world.word(272) == world.word(entry + 16));
    CHECK(world.word(0) == 0);  // vCPU 0 did not run
}

TEST_CASE("steps may be cut into runs anywhere") {
    GuestRegisters whole;
    u64 hash = 0;
    {
        World world;
        REQUIRE(world.run(5000));
        whole = world.registers;
        hash = world.machine->ram.hash().low;
    }
    World world;
    for (const u64 part : {1, 63, 64, 0, 1000, 3872}) REQUIRE(world.run(part));
    CHECK(world.registers == whole);
    CHECK(world.machine->ram.hash().low == hash);
}

TEST_CASE("a step that is lost, done twice or done on other memory shows in the accumulator") {
    const auto result = [](void (*disturb)(World&)) {
        World world;
        REQUIRE(world.run(1000));
        disturb(world);
        REQUIRE(world.run(1000));
        return world.registers.accumulator;
    };
    const u64 undisturbed = result([](World&) {});
    CHECK(result([](World&) {}) == undisturbed);
    CHECK(result([](World& w) { w.registers.steps += 1; }) != undisturbed);
    CHECK(result([](World& w) {
              const GuestRegisters before = w.registers;
              REQUIRE(w.run(1));
              w.registers = before;  // registers of one step ago, memory of now
          }) != undisturbed);
    CHECK(result([](World& w) { w.machine->ram.write(Pfn{World::frame_of(17)}.phys(), u64{1}); }) != undisturbed);
    CHECK(result([](World& w) { w.bus.pages[16 + 3] = 9000; }) != undisturbed);
}

TEST_CASE("vCPUs work in parts of their own") {
    World world;
    GuestRegisters first;
    REQUIRE(world.run(3000, 0));
    first = std::exchange(world.registers, {});
    REQUIRE(world.run(3000, 15));
    CHECK(world.registers.accumulator == first.accumulator);  // same program, same empty memory
    CHECK(world.word(64 * KiB) == world.word(64 * KiB + 15 * 15 * page_bytes));
    CHECK(world.run(1, 16).error() == Errno::einval);
    CHECK(world.machine->guest_cpu.run("vm0", 0, world.registers, world.bus, 512 * KiB - 1, 1).error() ==
          Errno::einval);
}

TEST_CASE("a guest that touches what is not there stops before the step, and says how far it came") {
    World world;
    world.bus.pages.erase(16 + 5);  // the sixth page of the work area
    CHECK(world.run(100).error() == Errno::efault);
    CHECK(world.registers.steps == 5);
    CHECK(world.registers.tsc_ns == (5 + 0) * guest_step_ns);
    const u64 accumulator = world.registers.accumulator;
    CHECK(world.run(100).error() == Errno::efault);
    CHECK(world.registers.accumulator == accumulator);
    // Frames that are no RAM, or no frames.
    world.bus.pages[16 + 5] = 64 * MiB / page_bytes;
    CHECK(world.run(1).error() == Errno::efault);
    world.bus.pages[16 + 5] = World::frame_of(16 + 5);
    REQUIRE(world.run(95));
    CHECK(world.registers.steps == 100);
}

TEST_CASE("interrupts are handled before the next step, in order of devices, and descriptors are given back") {
    World world;
    constexpr u64 ring = 8 * KiB;
    world.registers.devices[1] = {ring, 4, 0, 0, 0};
    world.registers.devices[6] = {12 * KiB, 8, 1, 0, 0};
    for (u64 slot = 0; slot < 4; ++slot) world.set_flags(ring, slot, nic::DESC_IRQ | nic::DESC_DONE);
    world.bus.completed[1] = 3;
    world.bus.completed[6] = 1000;
    world.registers.pending_irq = 1 << 6 | 1 << 1 | 1 << 3 | u64{1} << 40;
    REQUIRE(world.run(1));
    CHECK(world.bus.asked == std::vector<unsigned>{1, 6});
    CHECK(world.registers.pending_irq == 0);
    CHECK(world.registers.devices[1].seen == 3);
    CHECK(world.registers.devices[1].interrupts == 1);
    CHECK(world.registers.devices[6].seen == 1000);
    for (u64 slot = 0; slot < 3; ++slot) CHECK(world.flags(ring, slot) == (nic::DESC_IRQ | nic::DESC_OWNER));
    CHECK(world.flags(ring, 3) == (nic::DESC_IRQ | nic::DESC_DONE));
    CHECK(world.bus.tails == std::map<unsigned, u32>{{1, 7}});  // (4 + 3) % 8; a circular ring has no tail to move
    CHECK(world.word((4 + 2) * 8) == 3);
    CHECK(world.word((4 + 2) * 8 + 8) == 1);

    // Spurious: nothing new. Then more at once than the ring has.
    world.registers.pending_irq = 2;
    REQUIRE(world.run(1));
    CHECK(world.registers.devices[1].interrupts == 2);
    world.bus.completed[1] = 13;
    world.registers.pending_irq = 2;
    REQUIRE(world.run(1));
    CHECK(world.bus.tails[1] == (4 + 13) % 8);
    CHECK(world.flags(ring, 3) == (nic::DESC_IRQ | nic::DESC_OWNER));

    // A device that was reset counts from 0; one that is gone reads as all ones.
    world.bus.completed[1] = 2;
    world.registers.pending_irq = 2;
    REQUIRE(world.run(1));
    CHECK(world.registers.devices[1].seen == 2);
    world.bus.completed[1] = ~u64{0};
    world.registers.pending_irq = 2;
    REQUIRE(world.run(1));
    CHECK(world.registers.devices[1].seen == 2);
    CHECK(world.registers.devices[1].interrupts == 4);
}

TEST_CASE("interrupts change nothing of what the program computes") {
    World quiet;
    REQUIRE(quiet.run(500));
    const u64 accumulator = quiet.registers.accumulator;
    quiet.machine.reset();
    World world;
    world.registers.devices[0] = {8 * KiB, 4, 0, 0, 0};
    for (u64 i = 0; i < 50; ++i) {
        world.bus.completed[0] += 2;
        world.registers.pending_irq = 1;
        REQUIRE(world.run(10));
    }
    CHECK(world.registers.accumulator == accumulator);
    CHECK(world.registers.devices[0].interrupts == 50);
}

TEST_CASE("registers out of a damaged file do no harm") {
    World world;
    world.bus.completed[0] = 5;
    for (const u64 entries : {u64{65537}, u64{1} << 63, ~u64{0}}) {
        world.registers.devices[0] = {8 * KiB, entries, 0, 0, 0};
        world.registers.pending_irq = ~u64{0};
        REQUIRE(world.run(1));
        CHECK(world.registers.devices[0].seen == 0);
    }
    for (const u64 ring : {memory_bytes, ~u64{0} - 100, u64{8 * KiB + 2}}) {
        world.registers.devices[0] = {ring, 4, 0, 0, 0};
        world.registers.pending_irq = 1;
        CHECK(world.run(1).error() == Errno::efault);
        CHECK(world.registers.pending_irq == 0);
        CHECK(world.registers.devices[0].seen == 0);
    }
}

TEST_CASE("a confidential guest computes the same on encrypted memory, and something else when a page was moved") {
    u64 accumulator = 0;
    {
        World plain;
        REQUIRE(plain.run(4000));
        accumulator = plain.registers.accumulator;
    }
    for (const bool moved : {false, true}) {
        World world;
        SnpFirmware& snp = world.machine->snp;
        snp.enable();
        REQUIRE(snp.create_context(Pfn{3000}, 5));
        for (const auto& [page, frame] : world.bus.pages) REQUIRE(snp.assign(pfn_range(Pfn{frame}, 1), 5, page));
        world.bus.guest_asid = 5;
        REQUIRE(world.run(2000));
        if (moved) {
            const Pfn from{world.bus.pages[20]}, to{9000};
            REQUIRE(snp.reclaim(pfn_range(from, 1)));
            world.machine->ram.write_bytes(to.phys(), world.machine->ram.read_vector(from.phys(), page_bytes));
            REQUIRE(snp.assign(pfn_range(to, 1), 5, 20));
            world.bus.pages[20] = to.raw;
        }
        REQUIRE(world.run(2000));
        CHECK((world.registers.accumulator == accumulator) != moved);
        // Its memory is nothing that a kernel could read, and another guest cannot either.
        CHECK_THROWS_AS(world.word(64 * KiB), KernelPanic);
        world.bus.guest_asid = 0;
        CHECK(world.run(1).error() == Errno::efault);
    }
}

TEST_CASE("the last translation is remembered during a run, and not longer") {
    World world;
    REQUIRE(world.run(1));
    const u64 once = world.bus.translations;
    CHECK(once == 1);  // load and store
    REQUIRE(world.run(1));
    CHECK(world.bus.translations == once + 1);
}
