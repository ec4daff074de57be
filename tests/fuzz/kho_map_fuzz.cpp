// The preserved-memory map of a hostile predecessor: whatever chunks and bitmaps hold, the next kernel's boot ends.
//
// A small machine is given boot data that names a valid root tree; the input becomes the pages that the tree's map
// leads to:
//
//   byte 0       edition (bit 0: bitmaps of 4096 bytes)
//   the rest     copied to the first map page on; chunks reach one another and their bitmaps by address, as usual
//
// Ends well: a kernel in user space, or a panic that has a name. A wild read throws BadPhysAccess, which is a panic
// that this target does not accept; a hang is the driver's business.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "kho/abi/kho_v1.hpp"
#include "kho/abi/root_tree.hpp"
#include "kho/fdt.hpp"
#include "tests/fuzz/hostile_boot.hpp"

namespace {

using namespace kexec_sim;
using namespace kexec_sim::kho;

constexpr u64 map_bytes_max = 32 * page_bytes;

void write_root(PhysicalMemory& ram) {
    FdtWriter tree(ram, phys_range(hostile_root, page_bytes), "fuzz");
    const int code = tree.create() | tree.begin_node("") | tree.property_text("compatible", abi::KHO_FDT_COMPATIBLE) |
                     tree.property_u64(abi::PROP_PRESERVED_MEMORY_MAP, hostile_map.raw) | tree.end_node() |
                     tree.finish();
    INVARIANT(code == 0);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) return 0;
    const bool large_bitmaps = data[0] & 1;
    HostileBoot boot(large_bitmaps ? "linux-6.18" : "linux-6.16");
    write_root(boot.ram());
    boot.ram().write_bytes(hostile_map, std::as_bytes(std::span(data + 1, std::min<u64>(size - 1, map_bytes_max))));
    boot.run();
    return 0;
}

/// An honest map: two chunks, bitmaps in the page behind them.
extern "C" std::size_t fuzz_seed(std::size_t index, std::uint8_t* data, std::size_t bytes_max) {
    constexpr std::size_t bytes = 1 + 4 * page_bytes;
    if (index > 1 || bytes_max < bytes) return 0;
    std::memset(data, 0, bytes);
    data[0] = static_cast<std::uint8_t>(index);
    const auto put = [data](u64 offset, const auto& value) { std::memcpy(data + 1 + offset, &value, sizeof value); };
    const u64 map = hostile_map.raw;
    put(0, abi::khoser_mem_chunk_hdr{map + page_bytes, 0, 1});
    put(16, abi::khoser_mem_bitmap_ptr{0, map + 2 * page_bytes});
    put(page_bytes, abi::khoser_mem_chunk_hdr{0, 3, 1});
    put(page_bytes + 16, abi::khoser_mem_bitmap_ptr{0, map + 3 * page_bytes});
    put(2 * page_bytes + 500, std::uint64_t{0x00ff'0000'0180'0001});
    put(3 * page_bytes + 300, std::uint64_t{0x8000'0000'0000'0003});
    return bytes;
}
