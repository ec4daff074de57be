// Writes what one kernel leaves for the next, from the description of the ABI alone.
//
// Problem. A decoder that is only shown what the simulator wrote is tested against one author. This encoder is the
// other half of the pair in tests/support: it includes nothing of the simulator and nothing of the decoder, so that
// encode -> decode -> same content is a statement about the description, and not about a shared helper.
//
//   Content (plain values) --write_handover--> Ram (sparse pages) + Handover (the boot parameter)
//
// Layout: trees, scratch array, chunks and bitmaps are placed one after the other from `metadata_base` on. The pages of
// trees are preserved, as their owners must do; chunks and bitmaps are not, as the ABI has it.
//
// Happy path. 1 leaves first: memfd trees, then the tree that holds their addresses, up to the root; 2 their pages join
// the set of blocks; 3 bitmaps and chunks; 4 root tree with the address of the first chunk; 5 scratch array.
//
// There is no unhappy path: content that cannot be expressed (a block that is not aligned) throws std::logic_error.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace encoder {

using Bytes = std::vector<std::uint8_t>;

// Memory whose absent pages read as zeros. Outside [0, size) nothing can be read.
class Ram {
public:
    explicit Ram(std::uint64_t size) : size_(size) {}

    void write(std::uint64_t phys, std::span<const std::uint8_t> bytes);
    bool read(std::uint64_t phys, void* out, std::size_t bytes) const;
    std::uint64_t size() const { return size_; }

    // Stays valid as long as this object does, and sees later writes.
    std::function<bool(std::uint64_t, void*, std::size_t)> source() const;

private:
    std::uint64_t size_;
    std::map<std::uint64_t, std::array<std::uint8_t, 4096>> pages_;  // by page frame number
};

Bytes host64(std::uint64_t value);
Bytes host32(std::uint32_t value);
Bytes text(std::string_view string);  // with its NUL

// A flattened device tree, in the two shapes that occur.
enum class TreeShape {
    sequential,  // written once from front to back: exact size, strings in reverse order of first use
    in_place,    // edited in a buffer: the size is the buffer's, strings in order of first use
};

class TreeWriter {
public:
    explicit TreeWriter(TreeShape shape = TreeShape::sequential) : shape_(shape) {}

    // Gives a name its place among the strings before its first property is written. An edited tree stores a node's
    // latest property first, so there the order of strings is not that of properties.
    void use_string(std::string_view name) { (void)string_offset(name); }

    void begin_node(std::string_view name);
    void property(std::string_view name, std::span<const std::uint8_t> value);
    void end_node();

    // `buffer_bytes` is the size of an in_place tree's buffer; a sequential tree ignores it.
    Bytes finish(std::size_t buffer_bytes = 4096);

private:
    // For a sequential tree the distance of the string's start from the end of all strings.
    std::uint32_t string_offset(std::string_view name);

    TreeShape shape_;
    Bytes structure_;
    std::string strings_;
    std::vector<std::size_t> name_fields_;  // where in structure_ a string offset waits for its final value
};

struct Block {
    std::uint32_t order = 0;
    std::uint64_t pfn = 0;
    auto operator<=>(const Block&) const = default;
};

struct Area {
    std::uint64_t addr = 0;
    std::uint64_t size = 0;
};

struct Reservation {
    std::string name;
    std::uint64_t start = 0;
    std::uint64_t size = 0;
};

struct Folio {
    std::uint64_t pfn = 0;
    std::uint32_t flags = 0;
    std::uint64_t index = 0;
};

struct File {
    std::string compatible;
    std::uint64_t pos = 0;
    std::uint64_t size = 0;
    std::vector<Folio> folios;
};

struct Content {
    std::uint32_t bitmap_bytes = 512;
    std::vector<Area> scratch;
    std::set<Block> blocks;
    std::vector<Reservation> reserve_mem;
    bool luo = false;
    std::vector<std::pair<std::string, std::uint64_t>> subsystems;  // in order of registration
    std::map<std::uint64_t, File> files;                            // by token
    std::map<std::string, Bytes> other_subtrees;
};

struct Handover {
    std::uint64_t fdt_addr = 0;
    std::uint64_t fdt_size = 0;
    std::uint64_t scratch_addr = 0;
    std::uint64_t scratch_size = 0;
    std::set<Block> blocks;          // those of the content and the pages of all trees
    std::uint64_t metadata_end = 0;  // first byte not used
};

Handover write_handover(Ram& ram, const Content& content, std::uint64_t metadata_base);

// The pieces, for the worked examples and for hostile variations.

// A range of frames as aligned blocks: the largest that fits at each step.
std::vector<Block> split(std::uint64_t pfn_begin, std::uint64_t pfn_end);

struct ChunkElement {
    std::uint64_t phys_start = 0;
    std::uint64_t bitmap = 0;
};
Bytes chunk_page(std::uint64_t next, std::uint32_t order, std::span<const ChunkElement> elements);

// Writes bitmaps and chunks from `at` on; returns the address of the first chunk (0: no blocks) and moves `at`.
std::uint64_t write_map(Ram& ram, const std::set<Block>& blocks, std::uint32_t bitmap_bytes, std::uint64_t& at);

Bytes root_tree(std::uint64_t map, const std::vector<std::pair<std::string, std::uint64_t>>& subtrees);
Bytes memblock_tree(std::span<const Reservation> entries);
Bytes luo_tree(std::span<const std::pair<std::string, std::uint64_t>> subsystems);
struct FileEntry {
    std::string compatible;
    std::uint64_t data = 0;
};
Bytes file_tree(const std::map<std::uint64_t, FileEntry>& files);
Bytes memfd_tree(const File& file);
Bytes vmalloc_descriptor(std::uint64_t chunk, std::uint32_t total_pages, std::uint16_t flags, std::uint16_t order);
// Pages for a chain at `phys`, `phys` + 4096, ...; a chunk that is exactly full is followed by another.
Bytes vmalloc_chunks(std::uint64_t phys, std::span<const std::uint64_t> blocks);

}  // namespace encoder
