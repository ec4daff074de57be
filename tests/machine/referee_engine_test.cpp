// The oracle: which ticks of a DMA engine are due when, and what a preserved one must not do.
#include "tests/machine/referee_devices_fixture.hpp"

using namespace kexec_sim;
using namespace kexec_sim::test;
using Catch::Matchers::Contains;

namespace {

/// An engine of 4 slots that ticks every microsecond; slot s writes its trailer at the end of page s of the buffer.
struct EngineWorld : DeviceWorld {
    u64 sequence = 0;
    EngineWorld() {
        open();
        devices.engine_started(nic, 0, {buffer_iova, 1000, 0, 4, true});
    }
    static std::array<std::byte, 16> trailer_of(u64 number) {
        std::array<std::byte, 16> trailer{};
        trailer[0] = static_cast<std::byte>(number + 1);
        trailer[8] = std::byte{0xab};
        return trailer;
    }
    static u64 offset_of(u64 number) { return number % 4 * page_bytes + page_bytes - 16; }
    void tell(u64 number, BusStatus status = BusStatus::ok) {
        const std::array<std::byte, 16> trailer = trailer_of(number);
        devices.engine_tick(nic, 0, number, static_cast<u32>(number % 4), buffer_iova + offset_of(number), trailer,
                            status);
    }
    /// A microsecond passes and the next tick is carried out.
    void tick(BusStatus status = BusStatus::ok) {
        machine.clock.advance(1000);
        if (status == BusStatus::ok) {
            const u64 at = Pfn{memory_pfn}.phys().raw + offset_of(sequence);
            machine.ram.write_bytes(PhysAddr{at}, trailer_of(sequence));
            write(buffer_iova + offset_of(sequence), at);
        }
        tell(sequence++, status);
    }
    void ticks(unsigned count) {
        for (unsigned i = 0; i < count; ++i) tick();
    }
};

}  // namespace

TEST_CASE("an engine that ticks through a live update gives no finding, and its completions are counted") {
    EngineWorld world;
    world.ticks(3);
    world.promise();
    world.devices.blackout_begins();
    world.ticks(3);
    world.devices.blackout_called_off();  // and so they do not count
    world.devices.blackout_begins();
    world.freeze();
    world.ticks(2);
    world.leave();
    world.ticks(5);
    CHECK(world.devices.engine("nic0").completions_in_blackouts == 7);
    world.arrive({frames(memory_pfn, memory_pages + 1)});
    world.ticks(2);
    CHECK(world.devices.engine("nic0").completions_in_blackouts == 7);
    world.claim();
    world.attach(2, 21);
    world.devices.guest_goes_on();
    world.ticks(9);
    world.finish();
    world.ticks(1);
    world.end();
    REQUIRE(world.ids() == "");
    const DeviceReferee::EngineCounters counters = world.devices.engine("nic0");
    REQUIRE(counters.completions == 25);
    REQUIRE(counters.completions_in_blackouts == 9);
    REQUIRE(counters.lost == 0);
    REQUIRE(world.devices.totals().completions == 25);
    REQUIRE(world.devices.totals().gaps == 0);
    REQUIRE(world.devices.engine("rp0").completions == 0);
    REQUIRE(world.devices.engine("nobody").completions == 0);
}

TEST_CASE("a lost tick of a preserved engine is a finding that says why") {
    EngineWorld world;
    world.tick(BusStatus::no_bus_master);
    REQUIRE(world.ids() == "");  // not promised yet
    world.promise();
    world.tick(BusStatus::no_bus_master);
    world.tick(BusStatus::translation);
    const Finding finding = world.only();
    REQUIRE(finding.invariant == InvariantId::dma_continuous);
    REQUIRE_THAT(finding.message, Contains("tick 1 of nic0 was due at") &&
                                      Contains(std::string(bus_status_name(BusStatus::no_bus_master))));
    REQUIRE(world.devices.engine("nic0").lost == 3);
    REQUIRE(world.devices.totals().gaps == 3);
}

TEST_CASE("sequence numbers that are left out or come again break the continuity of a preserved engine") {
    EngineWorld world;
    world.ticks(2);
    world.promise();
    SECTION("left out") {
        world.machine.clock.advance(2000);
        world.tell(3);
        REQUIRE_THAT(world.only().message, Contains("tick 2 of nic0 was due") && Contains("what came was tick 3"));
        REQUIRE(world.devices.engine("nic0").lost == 1);
    }
    SECTION("again") {
        world.tell(1);
        REQUIRE_THAT(world.only().message, Contains("was over already"));
        REQUIRE(world.devices.engine("nic0").repeated == 1);
    }
}

TEST_CASE("a preserved engine that falls silent is found when somebody looks") {
    EngineWorld world;
    world.ticks(2);
    world.promise();
    SECTION("at the jump") {
        world.freeze();
        world.machine.clock.advance(3500);
        world.leave();
    }
    SECTION("when user space is reached") {
        world.leave_frozen();
        world.machine.clock.advance(3500);
        world.arrive({frames(memory_pfn, memory_pages + 1)});
    }
    SECTION("at finish") {
        world.jump();
        world.claim();
        world.attach(2, 21);
        world.machine.clock.advance(3500);
        world.finish();
    }
    SECTION("at the end") {
        world.machine.clock.advance(3500);
        world.end();
    }
    REQUIRE(world.ids() == "dma.continuous");
    REQUIRE_THAT(world.only().message, Contains("tick 2 of nic0 was due at 3000 ns"));
    REQUIRE(world.devices.engine("nic0").lost == 3);
}

TEST_CASE("a tick that is due at this moment is not missed") {
    EngineWorld world;
    world.ticks(2);
    world.promise();
    world.machine.clock.advance(1000);
    world.end();
    REQUIRE(world.ids() == "");
}

TEST_CASE("a tick that comes late is a gap") {
    EngineWorld world;
    world.promise();
    world.machine.clock.advance(3000);
    world.tick();
    REQUIRE_THAT(world.only().message, Contains("tick 0 of nic0 was due at 1000 ns; it came at 4000 ns"));
}

TEST_CASE("a ring that ran dry is counted, and no finding") {
    EngineWorld world;
    world.ticks(2);
    world.promise();
    world.machine.clock.advance(1000);
    world.devices.engine_dry(world.nic, 0, true);
    world.machine.clock.advance(7000);
    REQUIRE(world.devices.engine("nic0").dry_ns == 7000);
    world.jump();
    world.devices.engine_dry(world.nic, 0, false);
    SECTION("it goes on after an interval") {}
    SECTION("it goes on at once") {
        world.tell(world.sequence, BusStatus::ok);
        world.machine.ram.write_bytes(Pfn{memory_pfn}.phys() + EngineWorld::offset_of(world.sequence),
                                      EngineWorld::trailer_of(world.sequence));
        ++world.sequence;
    }
    world.ticks(3);
    world.end();
    REQUIRE(world.devices.engine("nic0").dry_ns == 7000);
    REQUIRE(world.devices.totals().dry_ns == 7000);
    REQUIRE(world.ids() == "");
    REQUIRE(world.devices.engine("nic0").lost == 0);
}

TEST_CASE("who stops an engine must own it: the control register is the owner's until freeze") {
    EngineWorld world;
    world.ticks(2);
    world.promise();
    SECTION("before freeze") {
        world.devices.engine_stopped(world.nic, 0);
        world.machine.clock.advance(9000);
        world.jump();
        REQUIRE(world.ids() == "");
    }
    SECTION("after freeze") {
        world.freeze();
        world.devices.engine_stopped(world.nic, 0);
        REQUIRE_THAT(world.only().message, Contains("its control register stopped it"));
    }
    SECTION("in the next kernel, before the claim") {
        world.jump();
        world.devices.engine_stopped(world.nic, 0);
        REQUIRE(world.ids() == "dma.continuous");
    }
    SECTION("started anew in the next kernel, before the claim") {
        world.jump();
        world.devices.engine_started(world.nic, 0, {buffer_iova, 1000, 0, 4, true});
        REQUIRE_THAT(world.only().message, Contains("started it anew"));
    }
    SECTION("after the claim") {
        world.jump();
        world.claim();
        world.devices.engine_stopped(world.nic, 0);
        REQUIRE(world.ids() == "");
    }
}

TEST_CASE("a reset of a preserved device that runs is a finding twice over") {
    EngineWorld world;
    world.devices.function_reset(world.nic, ResetKind::flr);
    REQUIRE(world.ids() == "");
    world.devices.engine_started(world.nic, 0, {buffer_iova, 1000, 0, 4, true});
    world.promise();
    world.devices.function_reset(world.nic, ResetKind::flr);
    REQUIRE(world.ids() == "pci.stable dma.continuous");
    REQUIRE_THAT(world.message("dma.continuous"), Contains("FLR"));
}

TEST_CASE("a trailer that is not where it was reported is found at the jump, at finish and at the end") {
    EngineWorld world;
    world.ticks(6);
    world.promise();
    const PhysAddr victim = Pfn{memory_pfn + 3}.phys() + (page_bytes - 16);  // of tick 3
    std::string moment;
    SECTION("gone at the jump") {
        write_word(world.machine, 0, 0);
        world.machine.ram.write<u64>(victim, 0);
        world.jump();
        moment = "at the jump there is";
    }
    SECTION("gone at finish") {
        world.jump();
        world.claim();
        world.attach(2, 21);
        world.machine.ram.write<u64>(victim, 0);
        world.finish();
        moment = "at finish there is";
    }
    SECTION("gone at the end") {
        world.machine.ram.write<u64>(victim, 0);
        world.end();
        moment = "at the end there is";
    }
    REQUIRE(world.of("dma.continuous").size() == 1);
    REQUIRE_THAT(world.message("dma.continuous"), Contains("completed tick 3") && Contains(moment));
    REQUIRE(world.of("dma.continuous").front().frames == std::vector<u64>{memory_pfn + 3});
}

TEST_CASE("where slots share a destination the trailer written last counts") {
    EngineWorld world;
    world.promise();
    const u64 at = page_bytes - 16;
    for (u64 number = 0; number < 3; ++number) {
        world.machine.clock.advance(1000);
        const auto trailer = EngineWorld::trailer_of(number);
        world.machine.ram.write_bytes(Pfn{memory_pfn}.phys() + at, trailer);
        world.devices.engine_tick(world.nic, 0, number, static_cast<u32>(number), buffer_iova + at, trailer,
                                  BusStatus::ok);
    }
    world.end();
    REQUIRE(world.ids() == "");
}

TEST_CASE("a device that shares the buffer of a preserved one may overwrite its trailers") {
    EngineWorld world;
    world.promise();
    world.devices.domain_attached(1, world.other);
    world.devices.engine_started(world.other, 0, {buffer_iova, 1000, 0, 4, true});
    world.ticks(1);
    const auto trailer = EngineWorld::trailer_of(77);
    world.machine.ram.write_bytes(Pfn{memory_pfn}.phys() + EngineWorld::offset_of(0), trailer);
    world.devices.engine_tick(world.other, 0, 0, 0, buffer_iova + EngineWorld::offset_of(0), trailer, BusStatus::ok);
    world.end();
    REQUIRE(world.ids() == "");
}

TEST_CASE("the engines of a device are judged each by itself") {
    EngineWorld world;
    world.devices.engine_started(world.nic, 1, {buffer_iova, 500, 7, 4, true});
    world.promise();
    const auto trailer = EngineWorld::trailer_of(7);
    SECTION("one that goes on does not stand for the other") {
        for (unsigned i = 0; i < 3; ++i) world.tick();
        world.end();
        REQUIRE_THAT(world.message("dma.continuous"), Contains("tick 7 of engine 1 of nic0 was due at"));
        REQUIRE(world.devices.engine("nic0", 1).lost > 0);
        REQUIRE(world.devices.engine("nic0", 0).lost == 0);
        REQUIRE(world.devices.engine("nic0").lost == world.devices.engine("nic0", 1).lost);
        REQUIRE(world.devices.engine("nic0").completions == 3);
    }
    SECTION("a dry one does not stop the time of the other") {
        world.devices.engine_dry(world.nic, 1, true);
        world.ticks(2);
        world.end();
        REQUIRE(world.ids() == "");
        REQUIRE(world.devices.engine("nic0", 1).dry_ns == 2000);
        REQUIRE(world.devices.engine("nic0").dry_ns == 2000);
        REQUIRE(world.devices.engine("nic0", 0).dry_ns == 0);
    }
    SECTION("a trailer of engine 1 that is not in RAM is found") {
        world.machine.clock.advance(500);
        world.devices.engine_tick(world.nic, 1, 7, 0, buffer_iova + 8 * page_bytes, trailer, BusStatus::ok);
        world.devices.engine_stopped(world.nic, 1);
        world.end();
        REQUIRE_THAT(world.message("dma.continuous"), Contains("engine 1 of nic0 completed tick 7"));
    }
    SECTION("a reset is the end of both") {
        world.devices.function_reset(world.nic, ResetKind::power_on);
        world.machine.clock.advance(10'000);
        world.end();
        REQUIRE(world.ids() == "");
    }
}

TEST_CASE("what a preserved engine writes to a peer is not looked for in RAM, and must be meant to go there") {
    EngineWorld world;
    static constexpr u64 peer_iova = 0x8000'0000;
    world.devices.domain_mapped_peer(1, peer_iova, 16 * page_bytes, world.gpu);
    world.devices.engine_started(world.nic, 1, {buffer_iova, 500, 0, 4, true});
    world.promise();
    const u64 to = GENERATE(peer_iova, buffer_iova);
    for (u64 number = 0; number < 4; ++number) {
        world.machine.clock.advance(500);
        if (number % 2) world.tell(world.sequence++);
        world.devices.dma_written_to_peer(world.nic, to, world.gpu);
        world.devices.engine_tick(world.nic, 1, number, static_cast<u32>(number), peer_iova + number * 64,
                                  EngineWorld::trailer_of(number), BusStatus::ok);
    }
    for (u64 number = 0; number < world.sequence; ++number)
        world.machine.ram.write_bytes(Pfn{memory_pfn}.phys() + EngineWorld::offset_of(number),
                                      EngineWorld::trailer_of(number));
    world.end();
    REQUIRE(world.of("dma.continuous").empty());
    REQUIRE(world.of("dma.contained").empty() == (to == peer_iova));
}

TEST_CASE("a million ticks and writes take nothing from the arena") {
    EngineWorld world;
    world.promise();
    world.ticks(8);
    const u64 used = world.machine.arena->bytes_used();
    for (unsigned i = 0; i < 1'000'000; ++i) {
        world.write(buffer_iova + EngineWorld::offset_of(i), Pfn{memory_pfn}.phys().raw + EngineWorld::offset_of(i));
        world.tell(world.sequence + i);  // late and early do not matter here
    }
    REQUIRE(world.machine.arena->bytes_used() <= used + 64 * KiB);
}
