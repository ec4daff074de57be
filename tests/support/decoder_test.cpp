#include "tests/support/decoder.hpp"

#include <catch2/catch.hpp>

#include "tests/golden/worked_examples.hpp"
#include "tests/support/encoder.hpp"
#include "tests/support/golden.hpp"

namespace {

using encoder::Bytes;
namespace we = worked_examples;

template <typename Blob> Bytes to_bytes(const Blob& blob) { return Bytes(blob.begin(), blob.end()); }

bool mentions(const std::vector<decoder::Problem>& problems, std::uint64_t phys, std::string_view words) {
    for (const auto& problem : problems)
        if (problem.phys == phys && problem.what.find(words) != std::string::npos) return true;
    return false;
}

// All worked examples at the addresses that they name: they refer to each other.
encoder::Ram worked_ram() {
    encoder::Ram ram(2ULL << 30);
    ram.write(0x105b6000, we::root_tree);
    ram.write(we::first_chunk_addr, we::first_chunk);
    ram.write(we::second_chunk_addr, we::second_chunk);
    ram.write(we::first_bitmap_addr, we::bitmap_512_order_0);
    ram.write(we::second_bitmap_addr, we::bitmap_512_order_9);
    ram.write(0x105b7000, we::luo_tree);
    ram.write(0x10616000, we::file_tree);
    ram.write(0x10620000, we::memfd_tree);
    ram.write(0x10640000, we::memfd_tree);
    const auto area = [&](std::uint64_t at, std::uint64_t addr, std::uint64_t size) {
        ram.write(at, encoder::host64(addr));
        ram.write(at + 8, encoder::host64(size));
    };
    area(0x7f0000, 0x1000000, 0x1000000);
    area(0x7f0010, 0x2000000, 0x800000);
    area(0x7f0020, 0x2800000, 0x800000);
    return ram;
}

const decoder::HandoverParams worked_params{
    .fdt_addr = 0x105b6000, .fdt_size = 4096, .scratch_addr = 0x7f0000, .scratch_size = 48};

}  // namespace

TEST_CASE("the worked examples decode to what the specification says of them") {
    const auto ram = worked_ram();
    const auto result = decoder::decode(ram.source(), worked_params);
    CHECK(result.problems.empty());
    CHECK(result.compatible == "kho-v1");
    CHECK(result.root->total_size == 180);
    CHECK(result.map == 0x105a2000);
    CHECK(decoder::blocks(result) == std::vector<decoder::Block>{{0x12345, 0}, {0x40000, 9}});
    REQUIRE(result.chunks.size() == 2);
    CHECK(result.chunks[0].next == 0x105a3000);
    CHECK(result.chunks[0].elements[0].phys_start == we::bitmap_512_order_0_start);
    REQUIRE(result.luo);
    CHECK(result.luo->subsystems ==
          std::vector<decoder::Subsystem>{{"ksft_luo.0", 0x12345000}, {"file-descriptors", 0x10616000}});
    REQUIRE(result.luo->files.size() == 2);
    CHECK(result.luo->files[0].token == 0);
    CHECK(result.luo->files[1].token == 42);
    REQUIRE(result.luo->files[1].memfd);
    CHECK(result.luo->files[1].memfd->pos == 4096);
    CHECK(result.luo->files[1].memfd->size == 8192);
    CHECK(result.luo->files[1].memfd->folios == std::vector<decoder::MemfdFolio>{{0x12345, 3, 0}, {0x12346, 1, 1}});
    CHECK(result.scratch.size() == 3);
    const auto golden = golden::compare("support/worked_handover.txt", decoder::to_text(result));
    INFO(golden.message);
    CHECK(golden.same);
}

TEST_CASE("the boot parameter of the worked example names tree and scratch array") {
    decoder::HandoverParams params;
    Bytes payload = to_bytes(we::setup_data_payload);
    const auto u64 = [&](std::size_t at) {
        std::uint64_t value = 0;
        for (std::size_t i = 0; i < 8; ++i) value |= std::uint64_t{payload[at + i]} << (8 * i);
        return value;
    };
    CHECK(u64(0) == worked_params.fdt_addr);
    CHECK(u64(8) == worked_params.fdt_size);
    CHECK(u64(16) == worked_params.scratch_addr);
    CHECK(u64(24) == worked_params.scratch_size);
    CHECK(std::equal(payload.begin(), payload.end(), we::setup_data_entry.begin() + 16));
}

TEST_CASE("the independent encoder produces the worked examples byte for byte") {
    CHECK(encoder::root_tree(0x105a2000, {{"LUO", 0x105b7000}}) == to_bytes(we::root_tree));
    const encoder::Reservation trace{"trace", 0x40000000, 16 << 20};
    CHECK(encoder::memblock_tree({&trace, 1}) == to_bytes(we::memblock_tree));
    const std::vector<std::pair<std::string, std::uint64_t>> subsystems{{"file-descriptors", 0x10616000},
                                                                        {"ksft_luo.0", 0x12345000}};
    CHECK(encoder::luo_tree(subsystems) == to_bytes(we::luo_tree));
    CHECK(encoder::file_tree({{0, {"memfd-v1", 0x10620000}}, {42, {"memfd-v1", 0x10640000}}}) ==
          to_bytes(we::file_tree));
    CHECK(encoder::memfd_tree({"memfd-v1", 4096, 8192, {{0x12345, 3, 0}, {0x12346, 1, 1}}}) ==
          to_bytes(we::memfd_tree));
    CHECK(encoder::vmalloc_descriptor(0x10700000, 3, 1, 0) == to_bytes(we::vmalloc_descriptor));
    const std::vector<std::uint64_t> pages{0x20001000, 0x20005000, 0x20002000};
    CHECK(encoder::vmalloc_chunks(0x10700000, pages) == to_bytes(we::vmalloc_chunk));
}

TEST_CASE("the independent encoder lays out map and bitmaps as the worked examples have them") {
    encoder::Ram ram(2ULL << 30);
    const std::set<encoder::Block> folios{{0, 0x12345}, {9, 0x40000}};
    std::uint64_t at = we::first_bitmap_addr;
    const std::uint64_t first = encoder::write_map(ram, folios, 512, at);
    const auto page_at = [&](std::uint64_t phys, std::size_t bytes) {
        Bytes out(bytes);
        REQUIRE(ram.read(phys, out.data(), bytes));
        return out;
    };
    CHECK(page_at(we::first_bitmap_addr, 512) == to_bytes(we::bitmap_512_order_0));
    CHECK(page_at(we::second_bitmap_addr, 512) == to_bytes(we::bitmap_512_order_9));
    // Chunks lie elsewhere here; but for `next` they are the same.
    CHECK(Bytes(page_at(first, 4096)).at(8) == 0);
    CHECK(page_at(first + 4096, 4096) == to_bytes(we::second_chunk));
    const auto split = encoder::split(3, 12);
    REQUIRE(split.size() == we::split_3_to_12.size());
    for (std::size_t i = 0; i < split.size(); ++i) {
        CHECK(split[i].pfn == we::split_3_to_12[i].pfn);
        CHECK(split[i].order == we::split_3_to_12[i].order);
    }
}

TEST_CASE("a bitmap of a page covers eight times as much, so the same folio has another index and bit") {
    encoder::Ram ram(2ULL << 30);
    std::uint64_t at = 0x100000;
    const std::uint64_t first = encoder::write_map(ram, {{0, 0x12345}}, 4096, at);
    Bytes bitmap(4096);
    REQUIRE(ram.read(0x100000, bitmap.data(), bitmap.size()));
    CHECK(bitmap == to_bytes(we::bitmap_4096_order_0));
    ram.write(0x200000, encoder::root_tree(first, {}));
    const decoder::HandoverParams params{0x200000, 4096, 0x300000, 16};
    const auto read_as = [&](std::uint32_t bitmap_bytes) {
        return decoder::decode(ram.source(), params, {.bitmap_bytes = bitmap_bytes, .limits = {}});
    };
    CHECK(read_as(4096).chunks[0].elements[0].phys_start == we::bitmap_4096_order_0_start);
    CHECK(decoder::blocks(read_as(4096)) == std::vector<decoder::Block>{{0x12345, 0}});
    // Read with the other size nothing detects the mistake: the bit lies outside the first 512 bytes.
    CHECK(decoder::blocks(read_as(512)).empty());
    CHECK(mentions(read_as(1024).problems, 0, "1024"));
}

TEST_CASE("a memblock tree names every reservation, and a bad entry does not hide the others") {
    encoder::Ram ram(2ULL << 30);
    ram.write(0x3000, we::memblock_tree);
    ram.write(0x2000, encoder::root_tree(0, {{"memblock", 0x3000}}));
    ram.write(0x4000, encoder::host64(0));
    const decoder::HandoverParams params{0x2000, 4096, 0x4000, 16};
    auto result = decoder::decode(ram.source(), params);
    CHECK(result.problems.empty());
    CHECK(result.reserve_mem == std::vector<decoder::Reservation>{{"trace", 0x40000000, 0x1000000}});
    // "memblock-v1" becomes "memblock-v2".
    const Bytes two{'2'};
    ram.write(0x3000 + 0x38 + 8 + 12 + 10, two);
    result = decoder::decode(ram.source(), params);
    CHECK(result.reserve_mem.empty());
    CHECK(mentions(result.problems, 0x3000 + 0x38 + 8 + 12, "memblock-v2"));
}

TEST_CASE("a tree that is cut off anywhere is refused") {
    const std::vector<Bytes> trees{to_bytes(we::root_tree), to_bytes(we::memblock_tree), to_bytes(we::file_tree),
                                   to_bytes(we::memfd_tree), to_bytes(we::luo_tree)};
    for (const Bytes& tree : trees) {
        REQUIRE(decoder::decode_tree(decoder::source_over(tree), 0));
        for (std::size_t kept = 0; kept < tree.size(); ++kept) {
            // RAM ends inside the tree.
            const Bytes head(tree.begin(), tree.begin() + static_cast<std::ptrdiff_t>(kept));
            const auto outside = decoder::decode_tree(decoder::source_over(head), 0);
            REQUIRE_FALSE(outside);
            REQUIRE(outside.error().phys == 0);
        }
        // The stated size ends inside the tree: for an edited tree the rest of its page is slack, so only up to there.
        const std::size_t used = tree.size() == 4096 ? 227 : tree.size();
        for (std::uint32_t stated = 0; stated < used; ++stated) {
            Bytes shorter = tree;
            for (int i = 0; i < 4; ++i) shorter[4 + i] = static_cast<std::uint8_t>(stated >> (24 - 8 * i));
            REQUIRE_FALSE(decoder::decode_tree(decoder::source_over(shorter), 0));
        }
    }
}

TEST_CASE("a tree with any one byte changed is either read or refused with an address inside it") {
    const Bytes tree = to_bytes(we::file_tree);
    for (std::size_t at = 0; at < tree.size(); ++at)
        for (const int flip : {0x01, 0x80, 0xff}) {
            Bytes changed = tree;
            changed[at] ^= static_cast<std::uint8_t>(flip);
            const auto result = decoder::decode_tree(decoder::source_over(changed, 0x7000), 0x7000);
            if (!result) REQUIRE(result.error().phys - 0x7000 <= tree.size());
        }
}

TEST_CASE("a tree that nests without end is refused") {
    encoder::TreeWriter tree;
    for (int depth = 0; depth < 33; ++depth) tree.begin_node("n");
    for (int depth = 0; depth < 33; ++depth) tree.end_node();
    const auto result = decoder::decode_tree(decoder::source_over(tree.finish()), 0);
    REQUIRE_FALSE(result);
    CHECK(result.error().what == "tree is too deep");
}

TEST_CASE("another compatible ends the decoding, a bad map property does not") {
    encoder::Ram ram(1 << 20);
    ram.write(0x4000, encoder::host64(0));
    const decoder::HandoverParams params{0x2000, 4096, 0x4000, 16};
    const auto root_with = [&](std::string_view version, const Bytes& map) {
        encoder::TreeWriter tree;
        tree.begin_node("");
        tree.property("compatible", encoder::text(version));
        tree.property("preserved-memory-map", map);
        tree.begin_node("memblock");
        tree.property("fdt", encoder::host64(0x3000));
        tree.end_node();
        tree.end_node();
        ram.write(0x2000, tree.finish());
        return decoder::decode(ram.source(), params);
    };
    ram.write(0x3000, we::memblock_tree);
    const auto other = root_with("kho-v2", encoder::host64(0));
    CHECK(mentions(other.problems, 0x2000 + 0x38 + 8 + 12, "kho-v2"));
    CHECK(other.subtrees.empty());
    const auto short_map = root_with("kho-v1", encoder::host32(0x5000));
    CHECK_FALSE(short_map.map);
    CHECK(mentions(short_map.problems, 0x2000 + 0x38 + 8 + 20 + 12, "length 4, not 8"));
    CHECK(short_map.reserve_mem.size() == 1);
    const auto empty_map = root_with("kho-v1", encoder::host64(0));
    CHECK(empty_map.problems.empty());
    CHECK(empty_map.map == 0);
}

TEST_CASE("a token that occurs twice, or is none, is a problem and the other files are kept") {
    encoder::TreeWriter tree;
    tree.begin_node("file-descriptors");
    tree.property("compatible", encoder::text("file-descriptors-v1"));
    for (const char* name : {"0x2a", "42", "0x", "0x1ffffffffffffffff", "0x2b"}) {
        tree.begin_node(name);
        tree.property("compatible", encoder::text("other-v1"));
        tree.property("data", encoder::host64(0));
        tree.end_node();
    }
    tree.end_node();
    auto ram = worked_ram();
    ram.write(0x10616000, tree.finish());
    const auto result = decoder::decode(ram.source(), worked_params);
    REQUIRE(result.luo);
    REQUIRE(result.luo->files.size() == 2);
    CHECK(result.luo->files[0].token == 0x2a);
    CHECK(result.luo->files[1].token == 0x2b);
    CHECK(result.problems.size() == 3);
}

TEST_CASE("three pages of vmalloc memory are found through their descriptor") {
    encoder::Ram ram(1ULL << 30);
    ram.write(0x1008, we::vmalloc_descriptor);
    ram.write(we::vmalloc_chunk_addr, we::vmalloc_chunk);
    const auto area = decoder::decode_vmalloc(ram.source(), 0x1008);
    REQUIRE(area);
    CHECK(area->blocks == std::vector<std::uint64_t>{0x20001000, 0x20005000, 0x20002000});
    CHECK(area->total_pages == 3);
    CHECK(area->flags == 1);
    CHECK(area->order == 0);
}

TEST_CASE("a full vmalloc chunk is followed by another, and a chain that turns back is refused") {
    encoder::Ram ram(1ULL << 30);
    for (const std::size_t count : {1U, 510U, 511U, 512U, 1022U}) {
        std::vector<std::uint64_t> pages;
        for (std::uint64_t i = 0; i < count; ++i) pages.push_back(0x1000000 + i * 4096);
        ram.write(0x100000, encoder::vmalloc_chunks(0x100000, pages));
        ram.write(0, encoder::vmalloc_descriptor(0x100000, static_cast<std::uint32_t>(count), 1, 0));
        const auto area = decoder::decode_vmalloc(ram.source(), 0);
        REQUIRE(area);
        CHECK(area->blocks == pages);
        CHECK(area->chunks.size() == count / 511 + 1);
    }
    ram.write(0x100000, encoder::host64(0x100000));
    CHECK_FALSE(decoder::decode_vmalloc(ram.source(), 0));
    ram.write(0, encoder::vmalloc_descriptor(0x100000, 1021, 1, 0));
    CHECK_FALSE(decoder::decode_vmalloc(ram.source(), 0));
    ram.write(0, encoder::vmalloc_descriptor(1ULL << 40, 1, 1, 0));
    CHECK(decoder::decode_vmalloc(ram.source(), 0).error().phys == 1ULL << 40);
    ram.write(0, encoder::vmalloc_descriptor(0x100000, 0, 1, 0xffff));
    CHECK(decoder::decode_vmalloc(ram.source(), 0).error().phys == 14);
}

TEST_CASE("the first difference to a golden text is named with its line and column") {
    CHECK(golden::difference("a\nb\n", "a\nb\n").empty());
    CHECK(golden::difference("a\nbc\n", "a\nbd\n").find("line 2, column 2") != std::string::npos);
    CHECK(golden::difference("a\n", "a\nb\n").find("(end of text)") != std::string::npos);
}
