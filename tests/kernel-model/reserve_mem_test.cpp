// reserve_mem=: its text, its memory, and its way back from a previous kernel.
#include <catch2/catch.hpp>

#include "tests/kernel-model/booted_kernel.hpp"

using namespace kexec_sim;

namespace {

struct Unbooted {
    Unbooted() {
        MachineConfig config;
        config.node_bytes = {64 * MiB};
        machine = make_machine(config);
        kernel = std::make_unique<Kernel>(*machine, KernelConfig{}, BootParams{});
    }
    ReserveMem& reserve_mem() { return kernel->reserve_mem; }
    MachineHandle machine;
    std::unique_ptr<Kernel> kernel;
};

}  // namespace

TEST_CASE("a reserve_mem option is size, alignment and name") {
    Unbooted bench;
    REQUIRE(bench.reserve_mem().parse("12M:4096:oops"));
    REQUIRE(bench.reserve_mem().parse("0x1000:2M:a:b"));
    REQUIRE(bench.reserve_mem().parse("4K::fifteen bytes x"));
    const auto& entries = bench.reserve_mem().entries();
    REQUIRE(entries.size() == 3);
    CHECK(entries[0].name == "oops");
    CHECK(entries[0].bytes == 12 * MiB);
    CHECK(entries[0].align == 4096);
    CHECK(entries[1].name == "a:b");
    CHECK(entries[1].align == 2 * MiB);
    CHECK(entries[2].align == 64);  // a cache line at least
    CHECK(bench.reserve_mem().find("oops") == &entries[0]);
    CHECK(bench.reserve_mem().find("none") == nullptr);
}

TEST_CASE("a malformed reserve_mem option is EINVAL and takes no entry") {
    Unbooted bench;
    for (const char* text : {"", "oops", "12M", "12M:4096", "12M:4096:", "12M:4096:  ", "0:4096:oops", ":4096:oops",
                             "12M,4096:oops", "12M:4096x:oops", "12M:3K:oops", "12M:4096:sixteen bytes xx"}) {
        INFO(text);
        const auto result = bench.reserve_mem().parse(text);
        REQUIRE_FALSE(result.has_value());
        CHECK(result.error() == Errno::einval);
    }
    CHECK(bench.reserve_mem().entries().empty());
}

TEST_CASE("a ninth entry and a name that is taken are EBUSY") {
    Unbooted bench;
    REQUIRE(bench.reserve_mem().parse("4K:4096:n0"));
    CHECK(bench.reserve_mem().parse("8K:4096:n0").error() == Errno::ebusy);
    for (int i = 1; i < 8; ++i) REQUIRE(bench.reserve_mem().parse("4K:4096:n" + std::to_string(i)));
    CHECK(bench.reserve_mem().parse("4K:4096:n8").error() == Errno::ebusy);
    CHECK(bench.reserve_mem().parse("nonsense").error() == Errno::ebusy);  // full comes first
    CHECK(bench.reserve_mem().entries().size() == 8);
}

TEST_CASE("fresh entries are aligned, apart, zero and reserved") {
    BootedKernel bench(128 * MiB, "reserve_mem=12M:2M:oops reserve_mem=64K:4096:trace reserve_mem=bad");
    const ReserveMem& reserve_mem = bench.kernel->reserve_mem;
    REQUIRE(reserve_mem.entries().size() == 2);
    const ReserveMem::Entry* oops = reserve_mem.find("oops");
    const ReserveMem::Entry* trace = reserve_mem.find("trace");
    REQUIRE(oops);
    REQUIRE(trace);
    CHECK(oops->range.bytes() == 12 * MiB);
    CHECK(oops->range.begin.raw % (2 * MiB) == 0);
    CHECK_FALSE(oops->revived);
    CHECK(trace->range.bytes() == 64 * KiB);
    CHECK_FALSE(oops->range.overlaps(trace->range));
    CHECK(bench.kernel->memblock.is_reserved(oops->range));
    CHECK(bench.kernel->memblock.is_reserved(trace->range));
    CHECK(bench.machine->ram.read<u64>(trace->range.begin) == 0);
    CHECK(bench.kernel->log.contains("Malformed early option 'reserve_mem'"));
}

TEST_CASE("an entry that was in the previous kernel keeps its place and content") {
    constexpr PhysRange before = phys_range(PhysAddr{64 * MiB}, MiB);
    BootedKernel bench(128 * MiB, "reserve_mem=1M:4096:oops reserve_mem=1M:4096:trace", [&](Kernel& kernel) {
        kernel.machine.ram.write(before.begin, u64{42});
        kernel.reserve_mem.revive = [&](const ReserveMem::Entry& entry) -> std::optional<PhysRange> {
            if (entry.name == "oops") return before;
            return std::nullopt;
        };
    });
    const ReserveMem::Entry* oops = bench.kernel->reserve_mem.find("oops");
    const ReserveMem::Entry* trace = bench.kernel->reserve_mem.find("trace");
    REQUIRE(oops);
    CHECK(oops->range == before);
    CHECK(oops->revived);
    CHECK(bench.machine->ram.read<u64>(before.begin) == 42);
    CHECK(bench.kernel->memblock.is_reserved(before));
    REQUIRE(trace);
    CHECK_FALSE(trace->revived);
    CHECK_FALSE(trace->range.overlaps(before));
}

TEST_CASE("an entry without memory is gone, the others stay") {
    BootedKernel bench(128 * MiB, "reserve_mem=1T:4096:huge reserve_mem=1M:4096:small");
    CHECK(bench.kernel->reserve_mem.find("huge") == nullptr);
    CHECK(bench.kernel->reserve_mem.find("small") != nullptr);
    CHECK(bench.kernel->reserve_mem.entries().size() == 1);
    CHECK(bench.count_events("reserve_mem.failed") == 1);
}
