// Boot parameters in RAM: the way out and back, and content that nobody should trust.
#include <catch2/catch.hpp>

#include "kernel-model/boot_params.hpp"

using namespace kexec_sim;

namespace {

constexpr PhysRange where{PhysAddr{0x10000}, PhysAddr{0x10000 + boot_params_bytes}};
constexpr u64 setup_data_field = 24, entries_field = 64;

struct Bench {
    Bench() {
        MachineConfig config;
        config.node_bytes = {64 * MiB};
        machine = make_machine(config);
    }
    PhysicalMemory& ram() { return machine->ram; }
    MachineHandle machine;
};

BootParams example() {
    BootParams params;
    params.cmdline = "kho=on liveupdate=on";
    params.memory_map = {{{PhysAddr{0}, PhysAddr{0x9fc00}}, MemoryType::ram},
                         {{PhysAddr{0x9fc00}, PhysAddr{MiB}}, MemoryType::reserved},
                         {{PhysAddr{MiB}, PhysAddr{64 * MiB}}, MemoryType::ram}};
    params.setup_data = {
        {SETUP_KEXEC_KHO, std::vector<std::byte>(32, std::byte{0x5a})}, {7, {}}, {8, {std::byte{1}}}};
    params.kernel_image = phys_range(PhysAddr{16 * MiB}, 4 * MiB);
    params.initrd = phys_range(PhysAddr{32 * MiB}, MiB);
    return params;
}

void check_same(const BootParams& read, const BootParams& written) {
    CHECK(read.cmdline == written.cmdline);
    REQUIRE(read.memory_map.size() == written.memory_map.size());
    for (std::size_t i = 0; i < read.memory_map.size(); ++i) {
        CHECK(read.memory_map[i].range == written.memory_map[i].range);
        CHECK(read.memory_map[i].type == written.memory_map[i].type);
    }
    REQUIRE(read.setup_data.size() == written.setup_data.size());
    for (std::size_t i = 0; i < read.setup_data.size(); ++i) {
        CHECK(read.setup_data[i].type == written.setup_data[i].type);
        CHECK(read.setup_data[i].payload == written.setup_data[i].payload);
    }
    CHECK(read.kernel_image == written.kernel_image);
    CHECK(read.initrd == written.initrd);
    CHECK(read.boot_data == where);
}

}  // namespace

TEST_CASE("boot parameters come out of RAM as they went in") {
    Bench bench;
    REQUIRE(write_boot_params(bench.ram(), where, example()));
    check_same(read_boot_params(bench.ram(), where), example());
    // A second, smaller set leaves nothing of the first.
    BootParams less = example();
    less.cmdline.clear();
    less.setup_data.clear();
    less.initrd = {};
    REQUIRE(write_boot_params(bench.ram(), where, less));
    check_same(read_boot_params(bench.ram(), where), less);
}

TEST_CASE("the boot page lies in RAM as documented") {
    Bench bench;
    REQUIRE(write_boot_params(bench.ram(), where, example()));
    const auto word = [&](u64 offset) { return bench.ram().read<u64>(where.begin + offset); };
    CHECK(word(8) == where.begin.raw + page_bytes);  // the command line follows the page
    CHECK(word(16) == example().cmdline.size());
    CHECK(word(32) == 32 * MiB);
    CHECK(word(40) == 33 * MiB);
    CHECK(word(48) == 16 * MiB);
    CHECK(word(56) == 20 * MiB);
    CHECK(word(entries_field) == 3);
    CHECK(word(72) == 0);
    CHECK(word(80) == 0x9fc00);
    CHECK(word(88) == 1);
    const u64 first = word(setup_data_field);
    CHECK(first % 16 == 0);
    const u64 second = bench.ram().read<u64>(PhysAddr{first});
    CHECK(second == first + 16 + 32);
    CHECK(bench.ram().read<u32>(PhysAddr{first + 8}) == SETUP_KEXEC_KHO);
    CHECK(bench.ram().read<u32>(PhysAddr{first + 12}) == 32);
}

TEST_CASE("boot parameters that do not fit are refused and write nothing") {
    Bench bench;
    const RamHash before = bench.ram().hash();
    BootParams params = example();
    SECTION("a long command line") { params.cmdline.assign(boot_params_bytes, 'x'); }
    SECTION("too many entries of the memory map") { params.memory_map.resize(168, params.memory_map[0]); }
    SECTION("too much setup_data") {
        params.setup_data.assign(3, {SETUP_KEXEC_KHO, std::vector<std::byte>(24 * KiB)});
    }
    SECTION("too many setup_data entries") { params.setup_data.assign(65, {1, {}}); }
    const auto result = write_boot_params(bench.ram(), where, params);
    REQUIRE_FALSE(result.has_value());
    CHECK(result.error() == Errno::enospc);
    CHECK(bench.ram().hash() == before);
}

TEST_CASE("whatever lies where the parameters should be, reading ends") {
    Bench bench;
    REQUIRE(write_boot_params(bench.ram(), where, example()));
    const auto poke = [&](u64 offset, u64 value) { bench.ram().write(where.begin + offset, value); };
    const u64 first = bench.ram().read<u64>(where.begin + setup_data_field);

    SECTION("no magic: no parameters") {
        poke(0, 0);
        const BootParams read = read_boot_params(bench.ram(), where);
        CHECK(read.cmdline.empty());
        CHECK(read.memory_map.empty());
        CHECK(read.setup_data.empty());
    }
    SECTION("a list of setup_data that bites its tail") {
        bench.ram().write(PhysAddr{first}, first);
        CHECK(read_boot_params(bench.ram(), where).setup_data.size() == 64);
    }
    SECTION("an entry outside RAM") {
        bench.ram().write(PhysAddr{first}, u64{1} << 60);
        CHECK(read_boot_params(bench.ram(), where).setup_data.size() == 1);
    }
    SECTION("an entry whose length is absurd keeps its place, without a payload") {
        bench.ram().write(PhysAddr{first + 12}, ~u32{0});
        const auto list = read_boot_params(bench.ram(), where).setup_data;
        REQUIRE(list.size() == example().setup_data.size());
        CHECK(list[0].payload.empty());
        CHECK(list[0].at == PhysAddr{first});
        CHECK(list[0].unmappable_bytes == ~u32{0});
    }
    SECTION("a command line outside RAM") {
        poke(8, ~u64{0} - 4);
        CHECK(read_boot_params(bench.ram(), where).cmdline.empty());
    }
    SECTION("a command line of absurd length") {
        poke(16, ~u64{0});
        CHECK(read_boot_params(bench.ram(), where).cmdline.empty());
    }
    SECTION("an absurd number of entries") {
        poke(entries_field, ~u64{0});
        CHECK(read_boot_params(bench.ram(), where).memory_map.size() == 3);  // the empty ones do not count
    }
    SECTION("ranges that end before they begin") {
        poke(40, 0);
        poke(80, 0);
        const BootParams read = read_boot_params(bench.ram(), where);
        CHECK(read.initrd.empty());
        CHECK(read.memory_map.size() == 2);
    }
    SECTION("a place outside RAM") {
        CHECK(read_boot_params(bench.ram(), phys_range(PhysAddr{64 * MiB}, boot_params_bytes)).memory_map.empty());
        CHECK(read_boot_params(bench.ram(), phys_range(PhysAddr{0}, 64)).memory_map.empty());
    }
}
