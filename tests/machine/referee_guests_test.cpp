// Guests over a live update: registers, time and words; and pages that the reverse map protects.
#include "tests/machine/referee_devices_fixture.hpp"

using namespace kexec_sim;
using namespace kexec_sim::test;
using Catch::Matchers::Contains;

namespace {

constexpr u64 kvm_token = 0x13;
constexpr PhysAddr page{0x1000000};

struct GuestWorld : DeviceWorld {
    GuestRegisters registers;
    GuestWorld() {
        devices.guest_created("vm", 13);
        devices.guest_memory("vm", 14);
    }
    void run(unsigned vcpu = 0) {
        devices.guest_enters("vm", vcpu, registers);
        registers.steps += 10;
        registers.tsc_ns += 10000;
        registers.accumulator ^= registers.steps;
        devices.guest_leaves("vm", vcpu, registers);
    }
    void update(bool with_memory = true) {
        referee.file_preserved(kvm_token, "kvm", 13);
        if (with_memory) referee.file_preserved(0x14, "kvm", 14);  // what kind of file does not matter here
        prepare();
        kexec();
        referee.file_restored(kvm_token, {23, 0, 0, {}});
        devices.guest_retrieved("vm", 23);
        if (with_memory) referee.file_restored(0x14, {24, 0, 0, {}});
        devices.guest_memory("vm", 24);
    }
};

}  // namespace

TEST_CASE("a guest that goes on as it left gives no finding") {
    GuestWorld world;
    world.run();
    world.run(1);
    world.devices.guest_stored("vm", 0x10000, page, 42);
    world.registers.pending_irq = 0;
    world.update();
    world.registers = {};
    world.devices.guest_created("vm2", 30);
    world.devices.guest_enters("vm2", 0, world.registers);
    world.devices.guest_loaded("vm", 0x10000, page, 42);
    world.devices.guest_loaded("vm", 0x10008, page, 0);
    REQUIRE(world.ids() == "");
    REQUIRE(world.devices.totals().guest_steps == 20);
}

TEST_CASE("registers that differ from those that a guest left with are found") {
    GuestWorld world;
    world.registers.devices[0] = {0x3000, 8, 0, 5, 2};
    world.run();
    if (GENERATE(false, true)) world.update();
    bool fine = false;
    SECTION("a step lost") { --world.registers.steps; }
    SECTION("accumulator") { ++world.registers.accumulator; }
    SECTION("time runs back") { world.registers.tsc_ns -= 5; }
    SECTION("completions forgotten") { world.registers.devices[0].seen = 4; }
    SECTION("all of it") { world.registers = {}; }
    SECTION("another ring") { world.registers.devices[0].ring_gpa = 0x4000; }
    SECTION("nothing") { fine = true; }
    SECTION("an interrupt is injected") {
        world.registers.pending_irq |= 1;
        fine = true;
    }
    SECTION("a device is plugged in") {
        world.registers.devices[1] = {0x5000, 8, 1, 0, 0};
        fine = true;
    }
    world.devices.guest_enters("vm", 0, world.registers);
    REQUIRE(world.ids() == (fine ? "" : "guest.progress"));
}

TEST_CASE("an injected interrupt that a guest had not taken is not forgotten") {
    GuestWorld world;
    world.registers.pending_irq = 3;
    world.run();
    world.registers.pending_irq = 1;
    world.devices.guest_enters("vm", 0, world.registers);
    REQUIRE_THAT(world.only().message, Contains("pending interrupts"));
}

TEST_CASE("time of a guest does not run back while it is in the CPU") {
    GuestWorld world;
    world.run();
    world.devices.guest_enters("vm", 0, world.registers);
    --world.registers.tsc_ns;
    world.devices.guest_leaves("vm", 0, world.registers);
    REQUIRE(world.ids() == "guest.progress");
}

TEST_CASE("words that a guest stored are there when it looks, over the jump too") {
    GuestWorld world;
    for (u64 i = 0; i < 5000; ++i) world.devices.guest_stored("vm", 0x10000 + 8 * i, page, i * i);
    world.devices.guest_stored("vm", 0x10000, page, 7);
    if (GENERATE(false, true)) world.update();
    world.devices.guest_loaded("vm", 0x10000, page, 7);
    for (u64 i = 1; i < 5000; ++i) world.devices.guest_loaded("vm", 0x10000 + 8 * i, page, i * i);
    world.devices.guest_loaded("vm", 0x90000, page, 0);
    REQUIRE(world.ids() == "");
    SECTION("changed") {
        world.devices.guest_loaded("vm", 0x10000, page, 8);
        REQUIRE_THAT(world.only().message, Contains("stored 0x7 at 0x10000; it reads 0x8") && Contains("0x1000"));
    }
    SECTION("not zero where nothing was stored") {
        world.devices.guest_loaded("vm", 0x90000, page, 8);
        REQUIRE(world.ids() == "guest.progress");
    }
    SECTION("another guest's words are its own") {
        world.devices.guest_created("vm2", 40);
        world.devices.guest_loaded("vm2", 0x10000, page, 0);
        REQUIRE(world.ids() == "");
    }
}

TEST_CASE("a guest that is made anew knows nothing of the one before") {
    GuestWorld world;
    world.run();
    world.devices.guest_stored("vm", 0x10000, page, 42);
    SECTION("in the same kernel") { world.devices.guest_created("vm", 15); }
    SECTION("in the next one, of which it was not preserved") {
        world.prepare();
        world.kexec();
    }
    SECTION("its promise is lost") {
        world.referee.file_preserved(kvm_token, "kvm", 13);
        world.prepare();
        world.freeze();
        world.leave();
        world.boot(1);
        world.referee.handover_refused("bad magic");
    }
    world.devices.guest_enters("vm", 0, GuestRegisters{});
    world.devices.guest_loaded("vm", 0x10000, page, 0);
    REQUIRE(world.of("guest.progress").empty());
}

TEST_CASE("a guest whose memory was not preserved keeps its registers alone") {
    GuestWorld world;
    world.run();
    world.devices.guest_stored("vm", 0x10000, page, 42);
    world.update(false);
    world.devices.guest_loaded("vm", 0x10000, page, 0);
    REQUIRE(world.ids() == "luo.resource");  // check F2: freeze should have refused
    world.registers.steps = 0;
    world.devices.guest_enters("vm", 0, world.registers);
    REQUIRE(world.of("guest.progress").size() == 1);
}

TEST_CASE("a running guest that touches missing memory is found") {
    GuestWorld world;
    world.devices.guest_faulted("vm", 0x1000);
    REQUIRE(world.ids() == "");  // it never ran
    world.run();
    world.devices.guest_faulted("vm", 0x1000);
    REQUIRE(world.ids() == "guest.progress");
}

// --- snp.reverse_map ---------------------------------------------------------------------------------------------

TEST_CASE("an access that the reverse map denies is a finding with who and whose") {
    DeviceWorld world;
    world.devices.reverse_map_violation(frames(0x40, 2), "kernel", "guest 1");
    REQUIRE(world.only().invariant == InvariantId::snp_reverse_map);
    REQUIRE(world.only().frame_count == 2);
    REQUIRE_THAT(world.only().message, Contains("kernel touched frame 0x40") && Contains("guest 1's"));
}

TEST_CASE("the context page of a guest stays where it is") {
    GuestWorld world;
    world.devices.snp_context("vm", Pfn{0x500});
    world.update();
    SECTION("it does") {
        world.devices.snp_context("vm", Pfn{0x500});
        world.finish();
        REQUIRE(world.ids() == "");
    }
    SECTION("it moved") {
        world.devices.snp_context("vm", Pfn{0x501});
        world.finish();
        REQUIRE_THAT(world.only().message, Contains("was frame 0x500") && Contains("frame 0x501 now"));
    }
    SECTION("it is lost") {
        world.finish();
        REQUIRE_THAT(world.only().message, Contains("nobody knows of that page"));
    }
    SECTION("the guest is made anew") {
        world.devices.guest_created("vm", 50);
        world.devices.snp_context("vm", Pfn{0x501});
        REQUIRE(world.ids() == "");
    }
}
