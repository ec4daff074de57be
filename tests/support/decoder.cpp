// The way from the boot parameter to all that hangs on it, and the cross-checks at the end.
#include "tests/support/decoder.hpp"

#include <algorithm>
#include <cstring>
#include <memory>

#include "tests/support/decoder_reader.hpp"

namespace decoder {

// --- Bytes -----------------------------------------------------------------------------------------------------------

namespace {

std::uint64_t load_little(std::span<const std::uint8_t> bytes, std::size_t offset, std::size_t count) {
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < count; ++i) value |= std::uint64_t{bytes[offset + i]} << (8 * i);
    return value;
}

}  // namespace

// Host order is little-endian on every machine that the ABI is modelled for.
std::uint64_t load_host64(std::span<const std::uint8_t> bytes, std::size_t offset) {
    return load_little(bytes, offset, 8);
}
std::uint32_t load_host32(std::span<const std::uint8_t> bytes, std::size_t offset) {
    return static_cast<std::uint32_t>(load_little(bytes, offset, 4));
}
std::uint16_t load_host16(std::span<const std::uint8_t> bytes, std::size_t offset) {
    return static_cast<std::uint16_t>(load_little(bytes, offset, 2));
}
std::uint32_t load_big32(std::span<const std::uint8_t> bytes, std::size_t offset) {
    std::uint32_t value = 0;
    for (std::size_t i = 0; i < 4; ++i) value = value << 8 | bytes[offset + i];
    return value;
}
std::uint64_t load_big64(std::span<const std::uint8_t> bytes, std::size_t offset) {
    return std::uint64_t{load_big32(bytes, offset)} << 32 | load_big32(bytes, offset + 4);
}

std::string hex(std::uint64_t value) {
    static constexpr std::string_view digits = "0123456789abcdef";
    std::string text;
    do {
        text.insert(text.begin(), digits[value & 15]);
        value >>= 4;
    } while (value != 0);
    return "0x" + text;
}

std::expected<void, Problem> Reader::read_into(std::uint64_t phys, std::span<std::uint8_t> out,
                                               std::string_view what) {
    if (out.size() > limits_.read_bytes_max - read_bytes_)
        return std::unexpected(Problem{phys, std::string(what) + " is not read: budget of bytes is used up"});
    read_bytes_ += out.size();
    if (phys + out.size() < phys || !source_(phys, out.data(), out.size()))
        return std::unexpected(Problem{phys, std::string(what) + " lies outside RAM"});
    return {};
}

std::expected<Bytes, Problem> Reader::read(std::uint64_t phys, std::uint64_t bytes, std::string_view what) {
    // Checked before the buffer exists, so that a hostile length cannot exhaust the host.
    if (bytes > limits_.read_bytes_max - read_bytes_)
        return std::unexpected(Problem{phys, std::string(what) + " is not read: budget of bytes is used up"});
    Bytes out(bytes);
    if (auto done = read_into(phys, out, what); !done) return std::unexpected(done.error());
    return out;
}

bool Reader::in_ram(std::uint64_t phys) {
    std::array<std::uint8_t, 1> byte{};
    return read_into(phys, byte, "").has_value();
}

ByteSource source_over(std::vector<std::uint8_t> bytes, std::uint64_t phys) {
    auto ram = std::make_shared<const std::vector<std::uint8_t>>(std::move(bytes));
    return [ram, phys](std::uint64_t at, void* out, std::size_t count) {
        if (at < phys || at - phys > ram->size() || count > ram->size() - (at - phys)) return false;
        if (count != 0) std::memcpy(out, ram->data() + (at - phys), count);
        return true;
    };
}

// --- Root and scratch ------------------------------------------------------------------------------------------------

namespace {

constexpr std::size_t scratch_areas_max = 1026;  // 1024 nodes, lowmem, global

void read_scratch(Reader& reader, Result& result) {
    const HandoverParams& params = result.params;
    if (params.scratch_size == 0 || params.scratch_size % 16 != 0 || params.scratch_size / 16 > scratch_areas_max) {
        result.problems.push_back({params.scratch_addr, "scratch array of " + std::to_string(params.scratch_size) +
                                                            " bytes is impossible"});
        return;
    }
    const auto array = reader.read(params.scratch_addr, params.scratch_size, "scratch array");
    if (!array) {
        result.problems.push_back(array.error());
        return;
    }
    for (std::size_t offset = 0; offset < array->size(); offset += 16)
        result.scratch.push_back({load_host64(*array, offset), load_host64(*array, offset + 8)});
}

// A child of the root whose `fdt` is unusable is skipped, the others are kept: so does the kernel.
void read_subtrees(Reader& reader, Result& result) {
    for (const Node& child : result.root->root.children) {
        const auto phys = u64_property(child, "fdt");
        if (!phys) {
            result.problems.push_back(phys.error());
            continue;
        }
        Subtree subtree{.name = child.name, .phys = *phys, .tree = std::nullopt};
        if (auto tree = read_tree(reader, *phys, reader.limits().tree_bytes_max))
            subtree.tree = std::move(*tree);
        else
            result.problems.push_back({tree.error().phys, "sub-tree '" + child.name + "': " + tree.error().what});
        result.subtrees.push_back(std::move(subtree));
    }
}

// Of two sub-trees with one name only the first can be retrieved.
const Tree* first_tree(const Result& result, std::string_view name) {
    const auto found = std::ranges::find(result.subtrees, name, &Subtree::name);
    return found == result.subtrees.end() || !found->tree ? nullptr : &*found->tree;
}

}  // namespace

Result decode(const ByteSource& source, const HandoverParams& params, const Options& options) {
    Reader reader(source, options.limits);
    Result result;
    result.params = params;
    result.bitmap_bytes = options.bitmap_bytes;
    if (options.bitmap_bytes != 512 && options.bitmap_bytes != 4096) {
        result.problems.push_back({0, "bitmaps of " + std::to_string(options.bitmap_bytes) + " bytes do not exist"});
        return result;
    }
    read_scratch(reader, result);
    auto root = read_tree(reader, params.fdt_addr, std::min(params.fdt_size, options.limits.tree_bytes_max));
    if (!root) {
        result.problems.push_back(root.error());
        return result;
    }
    result.root = std::move(*root);
    const Node& node = result.root->root;
    if (const auto compatible = string_property(node, "compatible")) result.compatible = *compatible;
    // Another version makes the next kernel ignore everything, and nothing here could be trusted to mean the same.
    if (const auto version = require_compatible(node, "kho-v1"); !version) {
        result.problems.push_back(version.error());
        return result;
    }
    if (const auto map = u64_property(node, "preserved-memory-map")) {
        result.map = *map;
        walk_map(reader, result, *map);
    } else {
        result.problems.push_back(map.error());
    }
    read_subtrees(reader, result);
    if (const Tree* tree = first_tree(result, "memblock")) walk_reserve_mem(result, *tree);
    if (const Tree* tree = first_tree(result, "LUO")) walk_luo(reader, result, *tree);
    if (const Tree* tree = first_tree(result, "kho_test")) walk_test_kho(reader, result, *tree);
    cross_check(reader, result);
    return result;
}

// --- Cross-checks ----------------------------------------------------------------------------------------------------

namespace {

constexpr std::size_t findings_max = 1000;

class CrossCheck {
public:
    CrossCheck(Reader& reader, Result& result) : reader_(reader), result_(result), covered_(coverage(result)) {}

    void run() {
        scratch_in_ram();
        map_against_scratch();
        if (!result_.map) return;  // then everything is unpreserved, and the problem says so already
        preserved(result_.params.fdt_addr, page_bytes, "root tree");
        for (const Subtree& subtree : result_.subtrees)
            if (subtree.tree) preserved(subtree.phys, subtree.tree->total_size, "sub-tree '" + subtree.name + "'");
        for (const Reservation& entry : result_.reserve_mem)
            preserved(entry.start, entry.size, "reserve_mem '" + entry.name + "'");
        if (result_.luo && result_.luo->file_tree_bytes != 0)
            preserved(*result_.luo->file_tree, result_.luo->file_tree_bytes, "file-descriptors tree");
        if (result_.luo)
            for (const PreservedFile& file : result_.luo->files) memfd(file);
        if (result_.test_kho)
            for (const Block& folio : result_.test_kho->folios) head(folio.pfn, folio.order, "kho_test folio");
    }

private:
    // A blob that contradicts itself everywhere says nothing new after the first thousand lines.
    void finding(std::uint64_t phys, std::string what) {
        if (result_.findings.size() < findings_max) result_.findings.push_back({phys, std::move(what)});
    }

    void scratch_in_ram() {
        for (const ScratchArea& area : result_.scratch) {
            if (area.size == 0) continue;
            const std::uint64_t last = area.addr + (area.size - 1);
            if (last < area.addr || !reader_.in_ram(area.addr) || !reader_.in_ram(last))
                finding(area.addr, "scratch area of " + hex(area.size) + " bytes lies outside RAM");
        }
    }

    bool in_scratch(std::uint64_t begin, std::uint64_t last) const {
        return std::ranges::any_of(result_.scratch, [&](const ScratchArea& area) {
            return area.size != 0 && begin <= area.addr + (area.size - 1) && last >= area.addr;
        });
    }

    // The next kernel allocates from scratch before it has read the map: nothing of the map may lie there.
    void map_against_scratch() {
        for (const Chunk& chunk : result_.chunks) {
            if (in_scratch(chunk.phys, chunk.phys + page_bytes - 1)) finding(chunk.phys, "chunk lies in scratch");
            for (const BitmapElement& element : chunk.elements)
                if (in_scratch(element.bitmap, element.bitmap + result_.bitmap_bytes - 1))
                    finding(element.bitmap, "bitmap lies in scratch");
        }
        for (const Run& run : result_.runs) {
            const std::uint64_t begin = run.pfn * page_bytes;
            const std::uint64_t last =
                run.pfn_end() * page_bytes - 1;  // pfn 2^52 wraps to 0, and -1 is the last byte
            if (in_scratch(begin, last)) finding(begin, "preserved blocks lie in scratch");
            if (!reader_.in_ram(begin) || !reader_.in_ram(last)) finding(begin, "preserved blocks lie outside RAM");
        }
    }

    void preserved(std::uint64_t phys, std::uint64_t bytes, const std::string& what) {
        if (bytes == 0) return;
        const std::uint64_t begin = phys / page_bytes;
        const std::uint64_t end = (phys % page_bytes + bytes + page_bytes - 1) / page_bytes + begin;
        const auto after = std::ranges::upper_bound(covered_, begin, {}, &FrameRange::begin);
        if (after == covered_.begin() || std::prev(after)->end < end) finding(phys, what + " is not preserved");
    }

    void memfd(const PreservedFile& file) {
        const std::string name = "file " + hex(file.token);
        if (!file.memfd) return;
        if (!order_at(result_, file.memfd->phys / page_bytes))
            finding(file.memfd->phys, name + ": tree is not preserved");
        for (const MemfdFolio& folio : file.memfd->folios) {
            if (folio.pfn == 0) continue;  // a zero descriptor is skipped on restore
            if (!order_at(result_, folio.pfn)) finding(folio.pfn * page_bytes, name + ": folio is not preserved");
        }
    }

    void head(std::uint64_t pfn, std::uint32_t order, const std::string& what) {
        if (!preserves(result_, {pfn, order}))
            finding(pfn * page_bytes, what + " of order " + std::to_string(order) + " is not preserved");
    }

    Reader& reader_;
    Result& result_;
    std::vector<FrameRange> covered_;
};

}  // namespace

void cross_check(Reader& reader, Result& result) { CrossCheck(reader, result).run(); }

// --- Pieces ----------------------------------------------------------------------------------------------------------

std::expected<Tree, Problem> decode_tree(const ByteSource& source, std::uint64_t phys, const Limits& limits) {
    Reader reader(source, limits);
    return read_tree(reader, phys, limits.tree_bytes_max);
}

std::expected<Memfd, Problem> decode_memfd(const ByteSource& source, std::uint64_t phys, const Limits& limits) {
    Reader reader(source, limits);
    return read_memfd(reader, phys);
}

std::expected<Vmalloc, Problem> decode_vmalloc(const ByteSource& source, std::uint64_t phys, const Limits& limits) {
    Reader reader(source, limits);
    return read_vmalloc(reader, phys);
}

}  // namespace decoder
