// Hostile chunk chains, and random content that must survive encoder and decoder unchanged.
#include <catch2/catch.hpp>

#include "tests/support/decoder.hpp"
#include "tests/support/encoder.hpp"

namespace {

using encoder::Bytes;
using Elements = std::vector<encoder::ChunkElement>;

bool mentions(const std::vector<decoder::Problem>& problems, std::uint64_t phys, std::string_view words) {
    for (const auto& problem : problems)
        if (problem.phys == phys && problem.what.find(words) != std::string::npos) return true;
    return false;
}

// A root tree at 0x2000 whose map starts at 0x10000, and one scratch area out of the way.
struct MapFixture {
    encoder::Ram ram{64 << 20};

    MapFixture() {
        ram.write(0x2000, encoder::root_tree(0x10000, {}));
        ram.write(0x4000, encoder::host64(0x3000000));
        ram.write(0x4008, encoder::host64(0x200000));
    }

    void chunk(std::uint64_t at, std::uint64_t next, std::uint32_t order, const Elements& elements = {}) {
        ram.write(at, encoder::chunk_page(next, order, elements));
    }
    void bitmap(std::uint64_t at, std::size_t byte, std::uint8_t value) {
        Bytes bytes(512);
        bytes[byte] = value;
        ram.write(at, bytes);
    }
    decoder::Result decode(const decoder::Limits& limits = {}) const {
        return decoder::decode(ram.source(), {0x2000, 4096, 0x4000, 16}, {.bitmap_bytes = 512, .limits = limits});
    }
};

// splitmix64: small, and the same everywhere.
class Random {
public:
    explicit Random(std::uint64_t seed) : state_(seed) {}
    std::uint64_t below(std::uint64_t bound) { return next() % bound; }
    bool one_in(std::uint64_t count) { return below(count) == 0; }

private:
    std::uint64_t next() {
        state_ += 0x9e3779b97f4a7c15;
        std::uint64_t value = state_;
        value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9;
        value = (value ^ (value >> 27)) * 0x94d049bb133111eb;
        return value ^ (value >> 31);
    }
    std::uint64_t state_;
};

}  // namespace

TEST_CASE("a chunk chain that comes back to itself ends at the chunk seen before") {
    MapFixture memory;
    memory.chunk(0x10000, 0x10000, 0);
    auto result = memory.decode();
    CHECK(result.chunks.size() == 1);
    CHECK(mentions(result.problems, 0x10000, "comes back"));
    memory.chunk(0x10000, 0x11000, 0);
    memory.chunk(0x11000, 0x12000, 1);
    memory.chunk(0x12000, 0x11000, 2);
    result = memory.decode();
    CHECK(result.chunks.size() == 3);
    CHECK(mentions(result.problems, 0x11000, "comes back"));
}

TEST_CASE("a chunk outside RAM or across a page is a problem at its address") {
    MapFixture memory;
    for (const std::uint64_t next : {64ULL << 20, 1ULL << 63, ~0ULL - 4095}) {
        memory.chunk(0x10000, next, 0);
        CHECK(mentions(memory.decode().problems, next, "chunk lies outside RAM"));
    }
    memory.chunk(0x10000, 0x11008, 0);
    CHECK(mentions(memory.decode().problems, 0x11008, "not page aligned"));
}

TEST_CASE("a bitmap outside RAM costs its own blocks only") {
    MapFixture memory;
    memory.chunk(0x10000, 0, 0, {{0, 0x20000}, {0x1000000, 64 << 20}, {0x2000000, 0x20200}});
    memory.bitmap(0x20000, 0, 1);
    memory.bitmap(0x20200, 0, 1);
    const auto result = memory.decode();
    CHECK(mentions(result.problems, 64 << 20, "bitmap lies outside RAM"));
    CHECK(decoder::blocks(result) == std::vector<decoder::Block>{{0, 0}, {0x2000, 0}});
}

TEST_CASE("a chunk holds at most 255 elements") {
    MapFixture memory;
    Elements elements;
    for (std::uint64_t i = 0; i < 255; ++i) elements.push_back({i << 24, 0x20000});
    memory.chunk(0x10000, 0, 0, elements);
    memory.bitmap(0x20000, 511, 0x80);
    auto result = memory.decode();
    CHECK(result.problems.empty());
    CHECK(decoder::blocks(result).size() == 255);
    CHECK(decoder::preserves(result, {(254 << 12) + 4095, 0}));
    for (const std::uint32_t count : {256U, 0x80000000U, 0xffffffffU}) {
        memory.ram.write(0x1000c, encoder::host32(count));
        result = memory.decode();
        CHECK(mentions(result.problems, 0x1000c, std::to_string(count) + " elements"));
        CHECK(result.runs.empty());
    }
}

TEST_CASE("orders up to 51 are read, larger ones and blocks beyond the address space are not") {
    MapFixture memory;
    memory.bitmap(0x20000, 0, 3);
    memory.chunk(0x10000, 0, 51, {{0, 0x20000}});
    auto result = memory.decode();
    CHECK(result.problems.empty());
    CHECK(decoder::blocks(result) == std::vector<decoder::Block>{{0, 51}, {1ULL << 51, 51}});
    memory.bitmap(0x20000, 0, 7);
    CHECK(mentions(memory.decode().problems, 0x20000, "beyond the physical address space"));
    memory.chunk(0x10000, 0, 51, {{1ULL << 63, 0x20000}});
    CHECK(mentions(memory.decode().problems, 0x10010, "no multiple"));
    for (const std::uint32_t order : {52U, 64U, 0xffffffffU}) {
        memory.chunk(0x10000, 0, order, {{0, 0x20000}});
        result = memory.decode();
        CHECK(mentions(result.problems, 0x10008, "order " + std::to_string(order)));
        CHECK(result.chunks.empty());
    }
}

TEST_CASE("a bitmap start between two bitmaps is refused") {
    MapFixture memory;
    memory.bitmap(0x20000, 0, 1);
    memory.chunk(0x10000, 0, 0, {{0x1001000, 0x20000}});
    CHECK(mentions(memory.decode().problems, 0x10010, "no multiple"));
}

TEST_CASE("a map out of order, or with a half-filled chunk inside an order, is read and reported") {
    MapFixture memory;
    memory.bitmap(0x20000, 0, 1);
    memory.chunk(0x10000, 0x11000, 1, {{0x4000000, 0x20000}, {0x2000000, 0x20000}});
    memory.chunk(0x11000, 0x12000, 1, {{0, 0x20000}});
    memory.chunk(0x12000, 0, 0);
    const auto result = memory.decode();
    CHECK(result.problems.empty());
    CHECK(mentions(result.findings, 0x10020, "not after the one before"));
    CHECK(mentions(result.findings, 0x11008, "not full"));
    CHECK(mentions(result.findings, 0x12008, "below"));
    CHECK(decoder::blocks(result).size() == 3);
}

TEST_CASE("preserved blocks in scratch or outside RAM, and trees that nobody preserved, are findings") {
    MapFixture memory;
    memory.chunk(0x10000, 0, 0, {{0x3000000, 0x20000}, {0x8000000, 0x20000}});
    memory.bitmap(0x20000, 0, 1);
    const auto result = memory.decode();
    CHECK(result.problems.empty());
    CHECK(mentions(result.findings, 0x3000000, "lie in scratch"));
    CHECK(mentions(result.findings, 0x8000000, "lie outside RAM"));
    CHECK(mentions(result.findings, 0x2000, "root tree is not preserved"));
}

TEST_CASE("decoding stops where its limits are used up") {
    MapFixture memory;
    Elements elements;
    for (std::uint64_t i = 0; i < 255; ++i) elements.push_back({i << 24, 0x20000});
    memory.chunk(0x10000, 0, 0, elements);
    Bytes stripes(512, 0x55);
    memory.ram.write(0x20000, stripes);
    CHECK(memory.decode().problems.empty());
    CHECK(mentions(memory.decode({.runs_max = 5000}).problems, 0x10030, "too many runs"));
    CHECK(mentions(memory.decode({.read_bytes_max = 10000}).problems, 0x20000, "budget"));
}

// --- Random content --------------------------------------------------------------------------------------------------

namespace {

constexpr std::uint64_t ram_bytes = 1ULL << 40;
constexpr std::uint64_t metadata_base = 256ULL << 20;
constexpr std::uint64_t payload_begin = 1ULL << 30;  // blocks of up to order 18 lie above this, aligned

std::uint64_t random_pfn(Random& random, std::uint32_t order) {
    // Half of them close together, so that runs, full bytes and neighbours occur; half anywhere, for many bitmaps.
    const std::uint64_t span = random.one_in(2) ? payload_begin : ram_bytes - payload_begin;
    const std::uint64_t pfn = (payload_begin + random.below(span)) / 4096;
    return pfn >> order << order;
}

encoder::File random_file(Random& random, encoder::Content& content) {
    encoder::File file{random.one_in(4) ? "other-v1" : "memfd-v1", random.below(1 << 20), 0, {}};
    const std::uint64_t count = random.below(40);
    std::uint64_t index = 0;
    for (std::uint64_t i = 0; i < count; ++i) {
        const auto order = static_cast<std::uint32_t>(random.one_in(8) ? random.below(10) : 0);
        const std::uint64_t pfn = random_pfn(random, order);
        content.blocks.insert({order, pfn});
        file.folios.push_back({pfn, static_cast<std::uint32_t>(random.below(4)), index});
        index += (1ULL << order) + random.below(3);
    }
    file.size = index * 4096;
    return file;
}

encoder::Content random_content(Random& random) {
    encoder::Content content;
    content.bitmap_bytes = random.one_in(2) ? 512 : 4096;
    const std::uint64_t areas = 1 + random.below(5);
    for (std::uint64_t i = 0; i < areas; ++i) content.scratch.push_back({(i + 1) << 24, random.below(8) << 21});
    const std::uint64_t block_count = random.one_in(20) ? 600 : random.below(60);
    for (std::uint64_t i = 0; i < block_count; ++i) {
        const auto order = static_cast<std::uint32_t>(random.one_in(2) ? 0 : random.below(19));
        content.blocks.insert({order, random_pfn(random, order)});
    }
    for (std::uint64_t i = random.below(9); i != 0; --i)
        content.reserve_mem.push_back(
            {"entry" + std::to_string(i), random_pfn(random, 0) * 4096, random.below(5000) * 4096});
    content.luo = !random.one_in(4);
    for (std::uint64_t i = random.below(20); i != 0; --i)
        content.subsystems.emplace_back("subsystem." + std::to_string(i), random.below(~0ULL));
    for (std::uint64_t i = random.below(30); i != 0; --i)
        content.files[random.below(~0ULL) >> random.below(64)] = random_file(random, content);
    return content;
}

void check_blocks(const decoder::Result& result, const encoder::Handover& handover) {
    std::set<encoder::Block> decoded;
    for (const auto& block : decoder::blocks(result)) decoded.insert({block.order, block.pfn});
    REQUIRE(decoded == handover.blocks);
    for (const auto& block : handover.blocks) REQUIRE(decoder::preserves(result, {block.pfn, block.order}));
}

void check_luo(const decoder::Result& result, const encoder::Content& content) {
    REQUIRE(result.luo.has_value() == content.luo);
    if (!content.luo) return;
    REQUIRE(result.luo->subsystems.size() == content.subsystems.size() + 1);
    for (std::size_t i = 0; i < content.subsystems.size(); ++i) {
        const auto& [name, data] = content.subsystems[content.subsystems.size() - 1 - i];
        REQUIRE(result.luo->subsystems[i] == decoder::Subsystem{name, data});
    }
    REQUIRE(result.luo->files.size() == content.files.size());
    std::size_t at = 0;
    for (const auto& [token, file] : content.files) {
        const decoder::PreservedFile& decoded = result.luo->files[at++];
        REQUIRE(decoded.token == token);
        REQUIRE(decoded.compatible == file.compatible);
        REQUIRE(decoded.memfd.has_value() == (file.compatible == "memfd-v1"));
        if (!decoded.memfd) continue;
        REQUIRE(decoded.memfd->pos == file.pos);
        REQUIRE(decoded.memfd->size == file.size);
        REQUIRE(decoded.memfd->folios.size() == file.folios.size());
        for (std::size_t i = 0; i < file.folios.size(); ++i) {
            const auto& folio = file.folios[i];
            REQUIRE(decoded.memfd->folios[i] == decoder::MemfdFolio{folio.pfn, folio.flags, folio.index});
        }
    }
}

}  // namespace

TEST_CASE("1,000 random contents come back from the encoder through the decoder unchanged") {
    constexpr std::uint64_t seed = 1;
    std::size_t chunked = 0;
    for (std::uint64_t round = 0; round < 1000; ++round) {
        INFO("seed " << seed + round);
        Random random(seed + round);
        const encoder::Content content = random_content(random);
        encoder::Ram ram(ram_bytes + (2ULL << 30));
        const encoder::Handover handover = encoder::write_handover(ram, content, metadata_base);
        const auto result = decoder::decode(
            ram.source(), {handover.fdt_addr, handover.fdt_size, handover.scratch_addr, handover.scratch_size},
            {.bitmap_bytes = content.bitmap_bytes, .limits = {}});
        if (!result.problems.empty() || !result.findings.empty()) FAIL(decoder::to_text(result));
        check_blocks(result, handover);
        check_luo(result, content);
        REQUIRE(result.scratch.size() == content.scratch.size());
        REQUIRE(result.reserve_mem.size() == content.reserve_mem.size());
        for (std::size_t i = 0; i < content.reserve_mem.size(); ++i) {
            const auto& entry = content.reserve_mem[i];
            REQUIRE(result.reserve_mem[i] == decoder::Reservation{entry.name, entry.start, entry.size});
        }
        for (const auto& chunk : result.chunks) chunked += chunk.num_elms == 255;
    }
    CHECK(chunked > 0);  // the second chunk of an order occurred
}

TEST_CASE("a page-sized array of the KHO test module is read in both of its forms") {
    for (const std::uint32_t bitmap_bytes : {512U, 4096U}) {
        encoder::Ram ram(1ULL << 30);
        const Bytes folios = [] {
            Bytes bytes = encoder::host64(0x20000000 | 3);
            const Bytes second = encoder::host64(0x20010000);
            bytes.insert(bytes.end(), second.begin(), second.end());
            return bytes;
        }();
        const bool by_vmalloc = bitmap_bytes == 4096;
        encoder::TreeWriter tree;
        tree.begin_node("");
        tree.property("compatible", encoder::text("kho-test-v1"));
        tree.property("magic", encoder::host32(0x4b484f21));
        tree.begin_node("data");
        tree.property("nr_folios", encoder::host32(2));
        tree.property("folios_info", by_vmalloc ? encoder::vmalloc_descriptor(0x700000, 1, 1, 0) : folios);
        tree.property("csum", encoder::host32(0xabcd));
        tree.end_node();
        tree.end_node();
        encoder::Content content;
        content.bitmap_bytes = bitmap_bytes;
        content.scratch = {{1 << 24, 1 << 21}};
        content.blocks = {{3, 0x20000}, {0, 0x20010}};
        content.other_subtrees["kho_test"] = tree.finish();
        if (by_vmalloc) {
            const std::uint64_t page = 0x800000;
            ram.write(0x700000, encoder::vmalloc_chunks(0x700000, {&page, 1}));
            ram.write(page, folios);
        }
        const auto handover = encoder::write_handover(ram, content, 0x4000000);
        const auto result = decoder::decode(
            ram.source(), {handover.fdt_addr, handover.fdt_size, handover.scratch_addr, handover.scratch_size},
            {.bitmap_bytes = bitmap_bytes, .limits = {}});
        INFO(decoder::to_text(result));
        CHECK(result.problems.empty());
        REQUIRE(result.test_kho);
        CHECK(result.test_kho->folios == std::vector<decoder::Block>{{0x20000, 3}, {0x20010, 0}});
        CHECK(result.test_kho->checksum == 0xabcd);
        CHECK(result.test_kho->vmalloc.has_value() == by_vmalloc);
    }
}
