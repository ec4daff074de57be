// A second pair of eyes on what one kernel leaves for the next.
//
// Problem. The simulator writes the handed-over blobs and the simulator reads them: a shared misreading of the ABI
// would never show. This decoder knows the ABI "kho-v1" from its description only. It includes nothing of the
// simulator, not even libfdt, and sees memory through one function that copies bytes from a physical address.
//
// Terms. *Tree*: a flattened device tree (FDT) whose container is big-endian and whose u64 values are raw host-order
// bytes. *Map*: a chain of chunk pages, each naming bitmaps; a set bit is one preserved block of 2^order frames.
// *Problem*: something could not be decoded. *Finding*: it was decoded, but two facts contradict each other.
//
//   boot parameters                     chunk (one page)            bitmap (512 or 4096 bytes)
//   fdt_addr ----> root tree "kho-v1"   next order num_elms         bit b of index i, order o:
//   scratch_addr     preserved-memory-map ---> {phys_start, bitmap} ---> pfn = (i * bits + b) << o
//        |           LUO/fdt ------> "luo-v1": subsystems --> file-descriptors tree --> memfd trees
//        v           memblock/fdt -> "memblock-v1": reserve_mem entries
//   {addr, size}...  kho_test/fdt -> "kho-test-v1": folios_info (6.18: a vmalloc descriptor)
//
// Happy path. 1 scratch array; 2 root tree; 3 chunk chain and bitmaps, turned into runs of blocks; 4 each consumer's
// tree, those with a known name further down to their leaves; 5 cross-checks between map, trees and scratch.
//
// Unhappy paths. U1 an address outside RAM; U2 a container whose offsets, lengths or tokens do not fit; U3 another
// `compatible`; U4 a property missing or of another length; U5 a chain that comes back to itself; U6 order or element
// count out of range; U7 more work than `Limits` grants. Each leaves a problem with the physical address at which it
// was met; what does not depend on it is decoded all the same. Decoding always ends: every chain has a set of visited
// addresses, every tree a depth, and all reads together share one budget of bytes.
//
// Simplified: trees of version 17 only; the reserve map of a tree is skipped; contents of preserved pages are not read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <expected>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace decoder {

inline constexpr std::uint64_t page_bytes = 4096;
inline constexpr std::uint32_t order_max = 51;            // 2^51 frames: larger ones leave the 64-bit address space
inline constexpr std::uint32_t elements_per_chunk = 255;  // (4096 - 16) / 16

// Copies `bytes` from physical address `phys`; false if any byte of them lies outside RAM.
using ByteSource = std::function<bool(std::uint64_t phys, void* out, std::size_t bytes)>;

// The payload of the boot parameter of type 10, field by field.
struct HandoverParams {
    std::uint64_t fdt_addr = 0;
    std::uint64_t fdt_size = 0;
    std::uint64_t scratch_addr = 0;
    std::uint64_t scratch_size = 0;
};

// What one decoding may cost. The defaults hold a full map of 4 TiB and are far above every honest handover.
struct Limits {
    std::uint64_t read_bytes_max = 512ULL << 20;
    std::uint64_t tree_bytes_max = 16ULL << 20;
    std::size_t runs_max = 8U << 20;
    std::size_t tree_depth_max = 32;
};

struct Options {
    std::uint32_t bitmap_bytes = 512;  // 512 (6.16, LUO series) or 4096 (6.18)
    Limits limits;
};

struct Problem {
    std::uint64_t phys = 0;  // where it was met
    std::string what;
    bool operator==(const Problem&) const = default;
};

// --- Trees -----------------------------------------------------------------------------------------------------------

struct Property {
    std::string name;
    std::uint64_t phys = 0;  // address of the first byte of the value
    std::vector<std::uint8_t> value;
};

struct Node {
    std::string name;
    std::uint64_t phys = 0;  // address of the BEGIN token
    std::vector<Property> properties;
    std::vector<Node> children;

    const Property* property(std::string_view wanted) const;  // nullptr: absent
    const Node* child(std::string_view wanted) const;         // the first of that name, as the kernel does
};

struct Tree {
    std::uint64_t phys = 0;
    std::uint32_t total_size = 0;
    Node root;
};

// --- What the map says -----------------------------------------------------------------------------------------------

// A block: 2^order frames from `pfn`, aligned to their count.
struct Block {
    std::uint64_t pfn = 0;
    std::uint32_t order = 0;
    auto operator<=>(const Block&) const = default;
};

// `count` neighbouring blocks of one order.
struct Run {
    std::uint32_t order = 0;
    std::uint64_t pfn = 0;
    std::uint64_t count = 0;
    auto operator<=>(const Run&) const = default;

    std::uint64_t pfn_end() const { return pfn + (count << order); }
};

struct BitmapElement {
    std::uint64_t phys_start = 0;
    std::uint64_t bitmap = 0;
    std::uint32_t bits_set = 0;
};

struct Chunk {
    std::uint64_t phys = 0;
    std::uint64_t next = 0;
    std::uint32_t order = 0;
    std::uint32_t num_elms = 0;
    std::vector<BitmapElement> elements;
};

struct FrameRange {
    std::uint64_t begin = 0;
    std::uint64_t end = 0;
    auto operator<=>(const FrameRange&) const = default;
};

struct ScratchArea {
    std::uint64_t addr = 0;
    std::uint64_t size = 0;
    bool operator==(const ScratchArea&) const = default;
};

// --- What the consumers left -----------------------------------------------------------------------------------------

struct Subtree {
    std::string name;
    std::uint64_t phys = 0;
    std::optional<Tree> tree;
};

struct Reservation {
    std::string name;
    std::uint64_t start = 0;
    std::uint64_t size = 0;
    bool operator==(const Reservation&) const = default;
};

struct Subsystem {
    std::string name;
    std::uint64_t data = 0;
    bool operator==(const Subsystem&) const = default;
};

struct MemfdFolio {
    std::uint64_t pfn = 0;
    std::uint32_t flags = 0;  // bit 0: dirty, bit 1: up to date; the low 12 bits of the descriptor
    std::uint64_t index = 0;
    bool operator==(const MemfdFolio&) const = default;
};

struct Memfd {
    std::uint64_t phys = 0;
    std::uint64_t pos = 0;
    std::uint64_t size = 0;
    std::vector<MemfdFolio> folios;
};

struct PreservedFile {
    std::uint64_t token = 0;
    std::string compatible;
    std::uint64_t data = 0;
    std::optional<Memfd> memfd;  // present where compatible is memfd-v1 and its tree could be read
};

struct Luo {
    std::vector<Subsystem> subsystems;       // in the order stored
    std::optional<std::uint64_t> file_tree;  // data of the subsystem file-descriptors; 0: nothing prepared
    std::uint32_t file_tree_bytes = 0;       // 0: not read
    std::vector<PreservedFile> files;        // in the order stored
};

// 6.18: memory that is contiguous only virtually.
struct Vmalloc {
    std::uint64_t first_chunk = 0;
    std::uint32_t total_pages = 0;
    std::uint16_t flags = 0;
    std::uint16_t order = 0;
    std::vector<std::uint64_t> chunks;
    std::vector<std::uint64_t> blocks;  // physical addresses, 2^order pages each
};

struct TestKho {
    std::uint32_t magic = 0;
    std::uint32_t nr_folios = 0;
    std::uint32_t checksum = 0;
    std::optional<Vmalloc> vmalloc;
    std::vector<Block> folios;
};

// --- The whole -------------------------------------------------------------------------------------------------------

struct Result {
    HandoverParams params;
    std::uint32_t bitmap_bytes = 512;
    std::vector<ScratchArea> scratch;
    std::optional<Tree> root;
    std::string compatible;
    std::optional<std::uint64_t> map;  // value of preserved-memory-map, 0 allowed
    std::vector<Chunk> chunks;         // in chain order
    std::vector<Run> runs;             // ascending by order, then pfn; no two touch
    std::vector<Subtree> subtrees;     // in the order stored
    std::vector<Reservation> reserve_mem;
    std::optional<Luo> luo;
    std::optional<TestKho> test_kho;
    std::vector<Problem> problems;
    std::vector<Problem> findings;
};

Result decode(const ByteSource& source, const HandoverParams& params, const Options& options = {});

// One fact a line, the same text for the same memory.
std::string to_text(const Result& result);

// The pieces, for blobs that were dumped one by one. A tree on its own may be `bytes_max` long.
std::expected<Tree, Problem> decode_tree(const ByteSource& source, std::uint64_t phys, const Limits& limits = {});
std::expected<Memfd, Problem> decode_memfd(const ByteSource& source, std::uint64_t phys, const Limits& limits = {});
// `phys` is where the 16-byte descriptor lies.
std::expected<Vmalloc, Problem> decode_vmalloc(const ByteSource& source, std::uint64_t phys,
                                               const Limits& limits = {});

// Every block, one by one. Meant for small maps: one entry a block.
std::vector<Block> blocks(const Result& result);
// The frames of all blocks as ascending ranges that neither overlap nor touch.
std::vector<FrameRange> coverage(const Result& result);
// Exactly this block, head and order.
bool preserves(const Result& result, Block block);
// The order of the block whose head is `pfn` (the smallest, were there several).
std::optional<std::uint32_t> order_at(const Result& result, std::uint64_t pfn);

// RAM that is one array, address 0 first: for tests and dumped blobs.
ByteSource source_over(std::vector<std::uint8_t> bytes, std::uint64_t phys = 0);

}  // namespace decoder
