// The trees of the consumers: reserve_mem, LUO with its files, memfd, vmalloc, and the test module of KHO.
//
//   memblock   / compatible "memblock-v1"   /<name> compatible "reserve-mem-v1", start u64, size u64
//   LUO        / compatible "luo-v1"        /subsystems compatible "subsystems-v1", <name> u64 each
//   files      /file-descriptors (the root's own name) compatible "file-descriptors-v1"
//                  /<token as 0x..> compatible of the handler, data u64
//   memfd      / pos u64, size u64, folios {pfn << 12 | flags u64, index u64} x n
//   vmalloc    descriptor: first chunk u64, total_pages u32, flags u16, order u16
//              chunk page: next u64, then up to 511 addresses of blocks, ended by 0 or by the page
#include <algorithm>
#include <bit>
#include <charconv>

#include "tests/support/decoder_reader.hpp"

namespace decoder {

namespace {

using Failure = std::unexpected<Problem>;

void note(Result& result, Problem problem, const std::string& context) {
    problem.what = context + ": " + problem.what;
    result.problems.push_back(std::move(problem));
}

}  // namespace

// --- reserve_mem -----------------------------------------------------------------------------------------------------

namespace {

std::expected<Reservation, Problem> reservation(const Node& node) {
    if (auto version = require_compatible(node, "reserve-mem-v1"); !version) return Failure{version.error()};
    const auto start = u64_property(node, "start");
    if (!start) return Failure{start.error()};
    const auto size = u64_property(node, "size");
    if (!size) return Failure{size.error()};
    return Reservation{.name = node.name, .start = *start, .size = *size};
}

}  // namespace

void walk_reserve_mem(Result& result, const Tree& tree) {
    if (auto version = require_compatible(tree.root, "memblock-v1"); !version)
        return note(result, version.error(), "memblock");
    for (const Node& child : tree.root.children) {
        if (auto entry = reservation(child))
            result.reserve_mem.push_back(std::move(*entry));
        else
            note(result, entry.error(), "memblock entry '" + child.name + "'");
    }
}

// --- memfd -----------------------------------------------------------------------------------------------------------

std::expected<Memfd, Problem> read_memfd(Reader& reader, std::uint64_t phys) {
    const auto tree = read_tree(reader, phys, reader.limits().tree_bytes_max);
    if (!tree) return Failure{tree.error()};
    const auto pos = u64_property(tree->root, "pos");
    if (!pos) return Failure{pos.error()};
    const auto size = u64_property(tree->root, "size");
    if (!size) return Failure{size.error()};
    const Property* folios = tree->root.property("folios");
    if (folios == nullptr) return Failure{Problem{tree->root.phys, "memfd tree has no property 'folios'"}};
    if (folios->value.size() % 16 != 0)
        return Failure{Problem{folios->phys, "property 'folios' has length " + std::to_string(folios->value.size()) +
                                                 ", no multiple of 16"}};
    Memfd memfd{.phys = phys, .pos = *pos, .size = *size, .folios = {}};
    for (std::size_t offset = 0; offset < folios->value.size(); offset += 16) {
        const std::uint64_t descriptor = load_host64(folios->value, offset);
        memfd.folios.push_back({.pfn = descriptor >> 12,
                                .flags = static_cast<std::uint32_t>(descriptor & 0xfff),
                                .index = load_host64(folios->value, offset + 8)});
    }
    return memfd;
}

// --- LUO -------------------------------------------------------------------------------------------------------------

namespace {

// As the kernel parses it back: base from the prefix, the whole name, within 64 bits.
std::optional<std::uint64_t> parse_token(std::string_view name) {
    int base = 10;
    if (name.starts_with("0x") || name.starts_with("0X")) {
        base = 16;
        name.remove_prefix(2);
    } else if (name.size() > 1 && name.starts_with('0')) {
        base = 8;
    }
    std::uint64_t token = 0;
    const char* end = name.data() + name.size();
    const auto parsed = std::from_chars(name.data(), end, token, base);
    if (name.empty() || parsed.ec != std::errc{} || parsed.ptr != end) return std::nullopt;
    return token;
}

std::expected<PreservedFile, Problem> preserved_file(const Node& node) {
    const auto token = parse_token(node.name);
    if (!token) return Failure{Problem{node.phys, "'" + node.name + "' is no token"}};
    const auto compatible = string_property(node, "compatible");
    if (!compatible) return Failure{compatible.error()};
    const auto data = u64_property(node, "data");
    if (!data) return Failure{data.error()};
    return PreservedFile{.token = *token, .compatible = *compatible, .data = *data, .memfd = std::nullopt};
}

void walk_files(Reader& reader, Result& result, Luo& luo) {
    const auto tree = read_tree(reader, *luo.file_tree, reader.limits().tree_bytes_max);
    if (!tree) return note(result, tree.error(), "file-descriptors");
    luo.file_tree_bytes = tree->total_size;
    if (auto version = require_compatible(tree->root, "file-descriptors-v1"); !version)
        return note(result, version.error(), "file-descriptors");
    if (tree->root.name != "file-descriptors")
        result.findings.push_back(
            {tree->root.phys, "root of the file-descriptors tree is named '" + tree->root.name + "'"});
    std::set<std::uint64_t> tokens;
    for (const Node& child : tree->root.children) {
        auto file = preserved_file(child);
        if (!file) {
            note(result, file.error(), "file-descriptors");
            continue;
        }
        if (!tokens.empty() && file->token < *tokens.rbegin())
            result.findings.push_back({child.phys, "token " + hex(file->token) + " does not ascend"});
        if (!tokens.insert(file->token).second) {
            note(result, {child.phys, "token " + hex(file->token) + " occurs twice"}, "file-descriptors");
            continue;
        }
        // Data 0 is what the tree holds between its creation and the commit.
        if (file->compatible == "memfd-v1" && file->data != 0) {
            if (auto memfd = read_memfd(reader, file->data))
                file->memfd = std::move(*memfd);
            else
                note(result, memfd.error(), "memfd " + hex(file->token));
        }
        luo.files.push_back(std::move(*file));
    }
}

}  // namespace

void walk_luo(Reader& reader, Result& result, const Tree& tree) {
    if (auto version = require_compatible(tree.root, "luo-v1"); !version) return note(result, version.error(), "LUO");
    const Node* subsystems = tree.root.child("subsystems");
    if (subsystems == nullptr) return note(result, {tree.root.phys, "no node 'subsystems'"}, "LUO");
    if (auto version = require_compatible(*subsystems, "subsystems-v1"); !version)
        return note(result, version.error(), "LUO");
    Luo luo;
    for (const Property& property : subsystems->properties) {
        if (property.name == "compatible") continue;
        if (property.value.size() != 8) {
            note(result, {property.phys, "length is " + std::to_string(property.value.size()) + ", not 8"},
                 "LUO subsystem '" + property.name + "'");
            continue;
        }
        luo.subsystems.push_back({property.name, load_host64(property.value, 0)});
    }
    const auto files = std::ranges::find(luo.subsystems, "file-descriptors", &Subsystem::name);
    if (files != luo.subsystems.end()) luo.file_tree = files->data;
    if (luo.file_tree.value_or(0) != 0) walk_files(reader, result, luo);
    result.luo = std::move(luo);
}

// --- vmalloc ---------------------------------------------------------------------------------------------------------

namespace {

constexpr std::size_t vmalloc_blocks_per_chunk = 511;

// Walks the chunk chain. `blocks_max` follows from the page count, so an endless chain of full chunks ends too.
std::expected<void, Problem> read_vmalloc_chunks(Reader& reader, Vmalloc& area, std::uint64_t blocks_max) {
    std::set<std::uint64_t> seen;
    for (std::uint64_t phys = area.first_chunk; phys != 0;) {
        if (phys % page_bytes != 0) return Failure{Problem{phys, "vmalloc chunk is not page aligned"}};
        if (!seen.insert(phys).second) return Failure{Problem{phys, "vmalloc chunk chain comes back to this chunk"}};
        std::array<std::uint8_t, page_bytes> page{};
        if (auto done = reader.read_into(phys, page, "vmalloc chunk"); !done) return Failure{done.error()};
        area.chunks.push_back(phys);
        for (std::size_t i = 0; i < vmalloc_blocks_per_chunk; ++i) {
            const std::uint64_t block = load_host64(page, 8 + 8 * i);
            if (block == 0) break;
            if (block % page_bytes != 0)
                return Failure{Problem{phys + 8 + 8 * i, "vmalloc block is not page aligned"}};
            if (area.blocks.size() == blocks_max)
                return Failure{Problem{phys + 8 + 8 * i, "vmalloc chunks hold more blocks than the area has"}};
            area.blocks.push_back(block);
        }
        phys = load_host64(page, 0);
    }
    return {};
}

}  // namespace

std::expected<Vmalloc, Problem> read_vmalloc(Reader& reader, std::uint64_t phys) {
    const auto descriptor = reader.read(phys, 16, "vmalloc descriptor");
    if (!descriptor) return Failure{descriptor.error()};
    Vmalloc area{.first_chunk = load_host64(*descriptor, 0),
                 .total_pages = load_host32(*descriptor, 8),
                 .flags = load_host16(*descriptor, 12),
                 .order = load_host16(*descriptor, 14),
                 .chunks = {},
                 .blocks = {}};
    if ((area.flags & ~3U) != 0) return Failure{Problem{phys + 12, "vmalloc flags are " + hex(area.flags)}};
    if (area.order > order_max || area.total_pages % (1ULL << area.order) != 0)
        return Failure{Problem{phys + 14, "vmalloc order " + std::to_string(area.order) + " does not divide " +
                                              std::to_string(area.total_pages) + " pages"}};
    const std::uint64_t blocks_wanted = std::uint64_t{area.total_pages} >> area.order;
    if (auto done = read_vmalloc_chunks(reader, area, blocks_wanted); !done) return Failure{done.error()};
    if (area.blocks.size() != blocks_wanted)
        return Failure{Problem{phys + 8, "vmalloc chunks hold " + std::to_string(area.blocks.size()) +
                                             " blocks, not " + std::to_string(blocks_wanted)}};
    return area;
}

// --- The test module of KHO ------------------------------------------------------------------------------------------

namespace {

// The bytes behind a vmalloc area, in virtual order, up to `bytes`.
std::expected<Bytes, Problem> vmalloc_contents(Reader& reader, const Vmalloc& area, std::uint64_t bytes) {
    Bytes contents;
    for (const std::uint64_t block : area.blocks) {
        if (contents.size() >= bytes) break;
        const std::uint64_t count = std::min(page_bytes << area.order, bytes - contents.size());
        const auto part = reader.read(block, count, "vmalloc block");
        if (!part) return Failure{part.error()};
        contents.insert(contents.end(), part->begin(), part->end());
    }
    return contents;
}

std::expected<TestKho, Problem> test_kho(Reader& reader, const Node& root, bool by_vmalloc) {
    if (auto version = require_compatible(root, "kho-test-v1"); !version) return Failure{version.error()};
    const Node* data = root.child("data");
    if (data == nullptr) return Failure{Problem{root.phys, "no node 'data'"}};
    const auto magic = u32_property(root, "magic");
    if (!magic) return Failure{magic.error()};
    const auto nr_folios = u32_property(*data, "nr_folios");
    if (!nr_folios) return Failure{nr_folios.error()};
    const auto checksum = u32_property(*data, "csum");
    if (!checksum) return Failure{checksum.error()};
    const Property* info = data->property("folios_info");
    if (info == nullptr) return Failure{Problem{data->phys, "no property 'folios_info'"}};

    TestKho test{
        .magic = *magic, .nr_folios = *nr_folios, .checksum = *checksum, .vmalloc = std::nullopt, .folios = {}};
    Bytes array = info->value;
    const std::uint64_t array_bytes = std::uint64_t{*nr_folios} * 8;
    if (by_vmalloc) {
        auto area = read_vmalloc(reader, info->phys);
        if (!area) return Failure{area.error()};
        auto contents = vmalloc_contents(reader, *area, array_bytes);
        if (!contents) return Failure{contents.error()};
        array = std::move(*contents);
        test.vmalloc = std::move(*area);
    }
    if (array.size() != array_bytes)
        return Failure{Problem{info->phys, "'folios_info' describes " + std::to_string(array.size()) +
                                               " bytes, not " + std::to_string(array_bytes)}};
    for (std::size_t offset = 0; offset < array.size(); offset += 8) {
        const std::uint64_t entry = load_host64(array, offset);
        test.folios.push_back({entry >> 12, static_cast<std::uint32_t>(entry & 0xfff)});
    }
    return test;
}

}  // namespace

void walk_test_kho(Reader& reader, Result& result, const Tree& tree) {
    // 6.18, the only version with bitmaps of a page, replaced the inline array by a descriptor.
    auto test = test_kho(reader, tree.root, result.bitmap_bytes == page_bytes);
    if (!test) return note(result, test.error(), "kho_test");
    result.test_kho = std::move(*test);
}

}  // namespace decoder
