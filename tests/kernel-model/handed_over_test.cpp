// A word of the handover that is misread: what the kernel makes of it, and that RAM stays as it was.
#include <catch2/catch.hpp>

#include "kernel-model/handed_over.hpp"
#include "tests/kernel-model/memory_fixture.hpp"

using namespace kexec_sim;

TEST_CASE("a word of the handover that is misread differs for the reader alone", "[handed_over]") {
    MachineConfig config;
    config.node_bytes = {64 * MiB};
    const MachineHandle machine = make_machine(config);
    const PhysAddr at{0x100000};
    machine->ram.write<u64>(at, 0x1122334455667788);
    const auto planned = [&](const char* text) {
        const PlannedFault fault = parse_fault(text).value();
        machine->faults.set_plan(std::span(&fault, 1));
    };
    const auto read = [&] { return read_handed_over<u64>(*machine, at, "map"); };

    planned("handover.read[map]#2=flip(0x7,4)");
    CHECK(read() == 0x1122334455667788);
    CHECK(read() == 0x0122334455667788);
    CHECK(read() == 0x1122334455667788);
    CHECK(machine->ram.read<u64>(at) == 0x1122334455667788);

    planned("handover.read[map]#1=zero(0x4,0x100)");
    CHECK(read() == 0x55667788);
    planned("handover.read[scratch]#1=zero(0x0,0x8)");
    CHECK(read() == 0x1122334455667788);

    // Aimed past the word: nothing to corrupt, so the fault was not reached.
    planned("handover.read[map]#1=flip(0x8,0)");
    CHECK(read() == 0x1122334455667788);
    CHECK_FALSE(machine->faults.any_fired());
}
