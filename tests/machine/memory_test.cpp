// Physical memory, and images of it in files.
#include <catch2/catch.hpp>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>
#include <zstd.h>

#include "machine/machine.hpp"
#include "machine/memory_image.hpp"
#include "tests/support/temp_dir.hpp"

using namespace kexec_sim;
namespace fs = std::filesystem;

namespace {

MachineHandle machine_of(std::vector<u64> node_bytes) {
    MachineConfig config;
    config.node_bytes = std::move(node_bytes);
    return make_machine(config);
}

std::string packed(const std::string& bytes) {
    std::string out(ZSTD_compressBound(bytes.size()), '\0');
    out.resize(ZSTD_compress(out.data(), out.size(), bytes.data(), bytes.size(), 1));
    return out;
}

void put(const std::string& path, const std::string& bytes) { std::ofstream(path, std::ios::binary) << bytes; }

std::string text_of(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
}

}  // namespace

TEST_CASE("an access outside RAM is an error with its address and generation, of every kind of access") {
    const auto machine = machine_of({4 * GiB});
    machine->set_generation(3);
    PhysicalMemory& ram = machine->ram;
    std::vector<std::byte> bytes(16);
    // The hole below 4 GiB, the end, a range that wraps around.
    for (const u64 phys : {3 * GiB, 4 * GiB - 1, 5 * GiB, 5 * GiB - 8, ~u64{0} - 7}) {
        INFO(phys);
        if (phys == 5 * GiB - 8) {
            CHECK_NOTHROW(ram.read<u64>(PhysAddr{phys}));
            CHECK_THROWS_AS(ram.read_bytes(PhysAddr{phys}, bytes), BadPhysAccess);
            continue;
        }
        CHECK_THROWS_AS(ram.read<u64>(PhysAddr{phys}), BadPhysAccess);
        CHECK_THROWS_AS(ram.write(PhysAddr{phys}, u64{1}), BadPhysAccess);
        CHECK_THROWS_AS(ram.read_bytes(PhysAddr{phys}, bytes), BadPhysAccess);
        CHECK_THROWS_AS(ram.write_bytes(PhysAddr{phys}, bytes), BadPhysAccess);
        try {
            static_cast<void>(ram.read<u64>(PhysAddr{phys}));
        } catch (const BadPhysAccess& bad) {
            CHECK(bad.phys == phys);
            CHECK(bad.generation == 3);
        }
    }
}

TEST_CASE("memory that was never written reads as zeros and takes no place in a hash") {
    const auto machine = machine_of({256 * MiB});
    PhysicalMemory& ram = machine->ram;
    const RamHash empty = ram.hash();
    CHECK(ram.read<u64>(PhysAddr{64 * MiB}) == 0);
    CHECK_FALSE(ram.written(PhysAddr{64 * MiB}.pfn()));
    ram.write(PhysAddr{64 * MiB + 4092}, u64{0x1122334455667788});  // across two frames
    CHECK(ram.written(PhysAddr{64 * MiB}.pfn()));
    CHECK(ram.written(PhysAddr{64 * MiB}.pfn() + 1));
    CHECK(ram.read<u64>(PhysAddr{64 * MiB + 4092}) == 0x1122334455667788);
    CHECK_FALSE(ram.hash() == empty);
    ram.write(PhysAddr{64 * MiB + 4092}, u64{0});
    CHECK(ram.hash() == empty);  // written, and zero all the same
    ram.write(PhysAddr{64 * MiB}, u64{7});
    const RamHash seven = ram.hash();
    ram.lose_content();
    CHECK(ram.hash() == empty);
    CHECK(ram.read<u64>(PhysAddr{64 * MiB}) == 0);
    ram.write(PhysAddr{65 * MiB}, u64{7});
    CHECK_FALSE(ram.hash() == seven);  // the same content elsewhere
}

TEST_CASE("the direct map lies elsewhere in the next generation, and the old one is gone") {
    const auto machine = machine_of({256 * MiB});
    PhysicalMemory& ram = machine->ram;
    const u64 first = ram.map_direct(0);
    ram.write(PhysAddr{32 * MiB}, u64{5});
    CHECK(*reinterpret_cast<const u64*>(first + 32 * MiB) == 5);
    CHECK(ram.host_address_is_ram(first + 32 * MiB));
    const u64 second = ram.map_direct(1);
    CHECK(second != first);
    CHECK(*reinterpret_cast<const u64*>(second + 32 * MiB) == 5);
    CHECK_FALSE(ram.host_address_is_ram(first + 32 * MiB));
}

TEST_CASE("a machine may have 64 MiB to 4 TiB and costs what is written") {
    for (const u64 bytes : {64 * MiB, 4096 * GiB}) {
        const auto machine = machine_of({bytes});
        u64 total = 0;
        for (const PhysRange& range : machine->ram.ranges()) total += range.bytes();
        CHECK(total <= bytes);
        CHECK(total > bytes - MiB);
        machine->ram.write(machine->ram.ranges().back().end + (~u64{0} - 7), u64{1});  // the last word
        CHECK(machine->ram.frames_written() == 1);
    }
}

TEST_CASE("an image is read back as it was saved, raw or compressed") {
    const test_support::TempDir folder;
    auto source = machine_of({64 * MiB});
    source->ram.write(PhysAddr{0x1000}, u64{1});
    source->ram.fill_byte(phys_range(PhysAddr{8 * MiB}, 3 * MiB), std::byte{0xa5});
    source->ram.write(source->ram.ranges().back().end + (~u64{0} - 7), u64{2});
    source->ram.save_image(folder.file("ram"));
    const RamHash hash = source->ram.hash();
    source.reset();  // one machine at a time
    const std::string raw = text_of(folder.file("ram"));
    put(folder.file("one.zst"), packed(raw));
    // Several frames in a row are one image, as `cat a.zst b.zst` makes it.
    put(folder.file("two.zst"), packed(raw.substr(0, 5 * MiB + 77)) + packed(raw.substr(5 * MiB + 77)));
    for (const char* name : {"ram", "one.zst", "two.zst"}) CHECK(image_file_bytes(folder.file(name)) == raw.size());
    for (const char* name : {"ram", "one.zst", "two.zst"}) {
        INFO(name);
        const auto copy = machine_of({64 * MiB});
        copy->ram.load_image(folder.file(name));
        CHECK(copy->ram.hash() == hash);
    }
}

TEST_CASE("an image that is damaged, too large or none is an error of the user") {
    const test_support::TempDir folder;
    const std::string image(2 * MiB, 'x'), good = packed(image);
    put(folder.file("cut.zst"), good.substr(0, good.size() - 3));
    put(folder.file("noise.zst"), "this is no compressed file at all, but it is long enough");
    put(folder.file("large"), std::string(65 * MiB, 'x'));
    put(folder.file("large.zst"), packed(std::string(65 * MiB, 'x')));
    std::string flipped = good;
    flipped[flipped.size() / 2] = static_cast<char>(flipped[flipped.size() / 2] ^ 0x40);
    fs::create_directory(folder.path() / "folder.zst");
    fs::create_directory(folder.path() / "folder");
    for (const char* name :
         {"cut.zst", "noise.zst", "large", "large.zst", "folder.zst", "folder", "missing", "missing.zst"}) {
        INFO(name);
        const auto machine = machine_of({64 * MiB});
        CHECK_THROWS_AS(machine->ram.load_image(folder.file(name)), UserError);
    }
}
