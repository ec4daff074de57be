// The root tree and the scratch array of a hostile predecessor: whatever they hold, the next kernel's boot ends.
//
//   byte 0         edition (bit 0) and reserve_mem= on the command line (bit 1)
//   bytes 1 … 64   the scratch array, four areas
//   the rest       the root tree's page, then what follows it (sub-trees)
//
// See kho_map_fuzz.cpp for what ends well.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kho/abi/kho_v1.hpp"
#include "kho/abi/root_tree.hpp"
#include "tests/fuzz/hostile_boot.hpp"
#include "tests/golden/worked_examples.hpp"

namespace {

using namespace kexec_sim;
using namespace kexec_sim::kho;

constexpr std::size_t array_bytes = 64;
constexpr u64 trees_bytes_max = 4 * page_bytes;

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size < 1 + array_bytes) return 0;
    HostileBoot boot(data[0] & 1 ? "linux-6.18" : "linux-6.16", data[0] & 2 ? " reserve_mem=64K:4K:trace" : "");
    boot.ram().write_bytes(hostile_scratch, std::as_bytes(std::span(data + 1, array_bytes)));
    const std::uint8_t* trees = data + 1 + array_bytes;
    const u64 bytes = std::min<u64>(size - 1 - array_bytes, trees_bytes_max);
    boot.ram().write_bytes(hostile_root, std::as_bytes(std::span(trees, bytes)));
    boot.run();
    return 0;
}

/// The worked example of a root tree; its consumer is `memblock`, whose tree follows.
extern "C" std::size_t fuzz_seed(std::size_t index, std::uint8_t* data, std::size_t bytes_max) {
    constexpr std::size_t bytes = 1 + array_bytes + 2 * page_bytes;
    if (index > 3 || bytes_max < bytes) return 0;
    std::memset(data, 0, bytes);
    data[0] = static_cast<std::uint8_t>(index);
    const auto put = [data](u64 offset, const auto& value) { std::memcpy(data + offset, &value, sizeof value); };
    put(1, HostileBoot::good_scratch());
    const auto tree = HostileBoot::root_with_memblock();
    std::memcpy(data + 1 + array_bytes, tree.data(), tree.size());
    std::memcpy(data + 1 + array_bytes + page_bytes, worked_examples::memblock_tree.data(),
                worked_examples::memblock_tree.size());
    return bytes;
}
