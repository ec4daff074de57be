// Bytes: the worked examples of kho-v1, and what tracking becomes as it is serialized and read again.
#include <catch2/catch.hpp>

#include <cstring>
#include <set>

#include "kho/abi/root_tree.hpp"
#include "kho/deserialize.hpp"
#include "tests/golden/worked_examples.hpp"
#include "tests/kho/kho_world.hpp"

namespace kexec_sim::kho {

namespace {

template <std::size_t count>
void write_example(PhysicalMemory& ram, u64 phys, const std::array<std::uint8_t, count>& bytes) {
    ram.write_bytes(PhysAddr{phys}, std::as_bytes(std::span(bytes)));
}
template <std::size_t count>
bool is_example(PhysicalMemory& ram, u64 phys, const std::array<std::uint8_t, count>& bytes) {
    const auto content = ram.read_vector(PhysAddr{phys}, count);
    return std::memcmp(content.data(), bytes.data(), count) == 0;
}

struct Bare {
    explicit Bare(const std::string& profile, u64 bytes = 256 * MiB)
        : world(profile, "kho=on kho_scratch=8M,8M,8M", {bytes}),
          edition(edition_for_profile(profile)),
          tracking(world.kernel(), edition, no_scratch) {}
    /// Everything that a successor would reserve, as (pfn, order).
    std::set<std::pair<u64, unsigned>> decoded(const SerializedMap& map) {
        std::set<std::pair<u64, unsigned>> blocks;
        const MapDirectory directory = read_map_directory(world.ram(), edition, map.first());
        const auto damage = MapDecoder(world.ram(), edition).decode(directory, [&](const BlockRun& run) {
            for (u64 i = 0; i < run.count; ++i) blocks.emplace(run.begin.raw + (i << run.order.raw), run.order.raw);
        });
        CHECK_FALSE(damage.has_value());
        return blocks;
    }
    std::vector<PhysRange> no_scratch;
    KhoWorld world;
    const Edition& edition;
    Tracking tracking;
};

}  // namespace

TEST_CASE("a folio sets the bit that the specification says") {
    struct Case {
        std::string profile;
        u64 phys;
        unsigned order;
        u64 index, bit;
    };
    const Case c = GENERATE(Case{"linux-6.16", 0x12345000, 0, 18, 837}, Case{"linux-6.18", 0x12345000, 0, 2, 9029},
                            Case{"linux-6.16", 0x40000000, 9, 0, 512}, Case{"linux-6.18", 0x40000000, 9, 0, 512});
    Bare bare(c.profile);
    REQUIRE(bare.tracking.set(PhysAddr{c.phys}.pfn(), Order{c.order}));
    u64 bitmaps = 0;
    bare.tracking.for_each([&](Order order, u64 index, const Tracking::Bitmap& bitmap) {
        CHECK(order == Order{c.order});
        CHECK(index == c.index);
        for (u64 byte = 0; byte < bare.edition.bitmap_bytes; ++byte) {
            const u8 expected = byte == c.bit / 8 ? static_cast<u8>(1u << (c.bit % 8)) : u8{0};
            if (bare.world.ram().read<u8>(bitmap.phys() + byte) != expected) FAIL("byte " << byte);
        }
        ++bitmaps;
        return true;
    });
    CHECK(bitmaps == 1);
    CHECK(bare.tracking.test(PhysAddr{c.phys}.pfn(), Order{c.order}));
}

TEST_CASE("the worked example of the chunk chain comes out byte for byte but for its own addresses") {
    Bare bare("linux-6.16");
    REQUIRE(bare.tracking.set(PhysAddr{0x12345000}.pfn(), Order{0}));
    REQUIRE(bare.tracking.set(PhysAddr{0x40000000}.pfn(), Order{9}));
    auto map = serialize_map(bare.world.kernel(), bare.edition, bare.tracking, bare.no_scratch);
    REQUIRE(map);
    REQUIRE(map->chunks.size() == 2);
    PhysicalMemory& ram = bare.world.ram();
    std::vector<PhysAddr> bitmaps;
    bare.tracking.for_each([&](Order, u64, const Tracking::Bitmap& bitmap) {
        bitmaps.push_back(bitmap.phys());
        return true;
    });
    CHECK(is_example(ram, bitmaps[0].raw, worked_examples::bitmap_512_order_0));
    CHECK(is_example(ram, bitmaps[1].raw, worked_examples::bitmap_512_order_9));
    // The example's addresses in place of those that the allocator chose.
    ram.write(map->chunks[0].phys(), worked_examples::second_chunk_addr);
    ram.write(map->chunks[0].phys() + 24, worked_examples::first_bitmap_addr);
    ram.write(map->chunks[1].phys() + 24, worked_examples::second_bitmap_addr);
    CHECK(is_example(ram, map->chunks[0].phys().raw, worked_examples::first_chunk));
    CHECK(is_example(ram, map->chunks[1].phys().raw, worked_examples::second_chunk));
}

TEST_CASE("the worked example of the chunk chain is understood") {
    // RAM up to 3 GiB, so that the example's addresses exist.
    Bare bare("linux-6.16", 2 * GiB);
    PhysicalMemory& ram = bare.world.ram();
    write_example(ram, worked_examples::first_chunk_addr, worked_examples::first_chunk);
    write_example(ram, worked_examples::second_chunk_addr, worked_examples::second_chunk);
    write_example(ram, worked_examples::first_bitmap_addr, worked_examples::bitmap_512_order_0);
    write_example(ram, worked_examples::second_bitmap_addr, worked_examples::bitmap_512_order_9);
    SerializedMap map;
    map.chunks.push_back(PhysAddr{worked_examples::first_chunk_addr}.pfn());
    CHECK(bare.decoded(map) == std::set<std::pair<u64, unsigned>>{{0x12345, 0}, {0x40000, 9}});
}

TEST_CASE("ranges are split into the largest aligned blocks") {
    Bare bare("linux-6.16");
    REQUIRE(bare.tracking.set_range({Pfn{3}, Pfn{12}}));
    auto map = serialize_map(bare.world.kernel(), bare.edition, bare.tracking, bare.no_scratch);
    std::set<std::pair<u64, unsigned>> expected;
    for (const auto& block : worked_examples::split_3_to_12) expected.emplace(block.pfn, block.order);
    CHECK(bare.decoded(*map) == expected);
    bare.tracking.clear_range({Pfn{3}, Pfn{12}});
    CHECK(bare.tracking.count().blocks == 0);
    CHECK(bare.tracking.count().bytes == 0);
}

TEST_CASE("every split covers its range with aligned blocks, all small ranges") {
    for (u64 begin = 0; begin < 40; ++begin)
        for (u64 end = begin + 1; end < 80; ++end) {
            u64 at = begin;
            while (at < end) {
                const Order order = Tracking::split_order(Pfn{at}, Pfn{end});
                REQUIRE(at % order.pages() == 0);
                // Twice the size would not be aligned or would not fit.
                REQUIRE((at % (2 * order.pages()) != 0 || at + 2 * order.pages() > end));
                at += order.pages();
            }
            REQUIRE(at == end);
        }
}

TEST_CASE("neighbouring folios share bitmaps, and 256 bitmaps of an order take two chunks") {
    Bare bare("linux-6.16", 5 * GiB);
    // One folio in each 16 MiB: as many bitmaps as there can be; all folios of a bitmap: no more of them.
    for (u64 i = 0; i < 256; ++i) {
        REQUIRE(bare.tracking.set(Pfn{i * 4096}, Order{0}));
        REQUIRE(bare.tracking.set(Pfn{i * 4096 + 4095}, Order{0}));
    }
    auto map = serialize_map(bare.world.kernel(), bare.edition, bare.tracking, bare.no_scratch);
    REQUIRE(map);
    REQUIRE(map->chunks.size() == 2);
    const auto first = bare.world.ram().read<abi::khoser_mem_chunk_hdr>(map->chunks[0].phys());
    const auto second = bare.world.ram().read<abi::khoser_mem_chunk_hdr>(map->chunks[1].phys());
    CHECK(first.num_elms == 255);
    CHECK(first.next == map->chunks[1].phys().raw);
    CHECK(second.num_elms == 1);
    CHECK(second.next == 0);
    CHECK(second.order == first.order);
    CHECK(bare.tracking.bitmap_pages() == 256 / 8);
    free_map(bare.world.kernel(), *map);
}

TEST_CASE("bits that are set in jumps are all there for whoever looks, and only those") {
    for (const char* profile : {"linux-6.16", "linux-6.18"}) {
        Bare bare(profile, 512 * MiB);
        const u64 far = 65536;  // pages: always another bitmap
        const auto set = [&](u64 pfn) {
            if (!bare.tracking.set_again(Pfn{pfn}, Order{0})) REQUIRE(bare.tracking.set(Pfn{pfn}, Order{0}));
        };
        set(1);
        set(far);
        for (u64 i = 2; i < 40; ++i) {
            set(i);
            set(far + i);
            // Whether it is found, taken back or counted: at once.
            if (i % 3 == 0) CHECK(bare.tracking.test(Pfn{far + i}, Order{0}));
            if (i % 3 == 1) bare.tracking.clear(Pfn{far + i}, Order{0});
            if (i % 3 == 2) CHECK(bare.tracking.count().blocks == 2 + 2 * (i - 1) - (i - 2) / 3);
        }
        CHECK_FALSE(bare.tracking.test(Pfn{far + 4}, Order{0}));
        CHECK_FALSE(bare.tracking.test(Pfn{far + 37}, Order{0}));
        set(3 * 4096);
        set(far + 1);
        auto map = serialize_map(bare.world.kernel(), bare.edition, bare.tracking, bare.no_scratch);
        CHECK(bare.decoded(*map).contains({far + 1, 0}));
        CHECK(bare.decoded(*map).size() == 2 + 2 * 38 - 12 + 2);
    }
}

TEST_CASE("the map of exactly 255 bitmaps is one chunk") {
    Bare bare("linux-6.16", 5 * GiB);
    for (u64 i = 0; i < 255; ++i) REQUIRE(bare.tracking.set(Pfn{i * 4096}, Order{0}));
    CHECK(serialize_map(bare.world.kernel(), bare.edition, bare.tracking, bare.no_scratch)->chunks.size() == 1);
}

TEST_CASE("nothing tracked gives address 0; a cleared bitmap is still listed") {
    Bare bare("linux-6.18");
    CHECK(serialize_map(bare.world.kernel(), bare.edition, bare.tracking, bare.no_scratch)->first() == PhysAddr{0});
    REQUIRE(bare.tracking.set(Pfn{77}, Order{0}));
    bare.tracking.clear(Pfn{77}, Order{0});
    auto map = serialize_map(bare.world.kernel(), bare.edition, bare.tracking, bare.no_scratch);
    REQUIRE(map->chunks.size() == 1);
    CHECK(bare.world.ram().read<abi::khoser_mem_chunk_hdr>(map->chunks[0].phys()).num_elms == 1);
    CHECK(bare.decoded(*map).empty());
}

TEST_CASE("a failed serialization gives every chunk back") {
    Bare bare("linux-6.16");
    for (unsigned order = 0; order < 4; ++order) REQUIRE(bare.tracking.set(Pfn{1024}, Order{order}));
    const u64 free_frames = bare.world.kernel().pages.free_frames();
    bare.world.plan("mm.folio_alloc[kho.chunk]#3=fail(ENOMEM)");
    CHECK(serialize_map(bare.world.kernel(), bare.edition, bare.tracking, bare.no_scratch).error() == Errno::enomem);
    CHECK(bare.world.kernel().pages.free_frames() == free_frames);
}

TEST_CASE("a range that cannot be tracked to its end leaves nothing set") {
    Bare bare("linux-6.16");
    bare.world.plan("kho.track[bitmap]#2=fail(ENOMEM)");
    CHECK(bare.tracking.set_range({Pfn{3}, Pfn{12}}).error() == Errno::enomem);
    CHECK(bare.tracking.count().blocks == 0);
    CHECK_FALSE(bare.tracking.test(Pfn{3}, Order{0}));
}

TEST_CASE("a run of pages sets the same bits as page by page") {
    const std::string profile = GENERATE("linux-6.16", "linux-6.18");
    Bare bulk(profile);
    const PfnRange run =
        GENERATE(PfnRange{Pfn{4090}, Pfn{4097}}, PfnRange{Pfn{1}, Pfn{2}}, PfnRange{Pfn{63}, Pfn{64}},
                 PfnRange{Pfn{64}, Pfn{128}}, PfnRange{Pfn{5}, Pfn{33000}});
    REQUIRE(bulk.tracking.set(run.begin, Order{0}));  // once set, counted once
    CHECK(bulk.tracking.set_pages(run).done == run.pages());
    CHECK(bulk.tracking.count().blocks == run.pages());
    CHECK(bulk.tracking.count().bytes == run.pages() * page_bytes);
    CHECK_FALSE(bulk.tracking.test(Pfn{run.begin.raw - 1}, Order{0}));
    CHECK_FALSE(bulk.tracking.test(run.end, Order{0}));
    u64 set = 0;
    for (Pfn pfn = run.begin; pfn < run.end; pfn = pfn + 1) set += bulk.tracking.test(pfn, Order{0});
    CHECK(set == run.pages());
}

TEST_CASE("random preserve and unpreserve: what is decoded is what a plain set holds") {
    const std::string profile = GENERATE("linux-6.16", "linux-6.18");
    const unsigned seed = GENERATE(range(1u, 9u));
    Bare bare(profile, 2 * GiB);
    std::set<std::pair<u64, unsigned>> model;
    u64 random = seed;
    const auto next = [&random](u64 below) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        return (random >> 33) % below;
    };
    for (int i = 0; i < 3000; ++i) {
        const unsigned order = static_cast<unsigned>(next(11));
        const u64 pfn = next((2 * GiB / page_bytes) >> order) << order;
        if (next(3) == 0 && !model.empty()) {
            auto victim = model.lower_bound({pfn, 0});
            if (victim == model.end()) victim = model.begin();
            bare.tracking.clear(Pfn{victim->first}, Order{victim->second});
            model.erase(victim);
        } else {
            REQUIRE(bare.tracking.set(Pfn{pfn}, Order{order}));
            model.emplace(pfn, order);
        }
    }
    INFO("seed " << seed);
    CHECK(bare.tracking.count().blocks == model.size());
    auto map = serialize_map(bare.world.kernel(), bare.edition, bare.tracking, bare.no_scratch);
    CHECK(bare.decoded(*map) == model);
}

TEST_CASE("the worked example of the root tree comes out byte for byte") {
    KhoWorld world;
    const Folio page = world.alloc();
    FdtWriter writer(world.ram(), page.phys(), "kho.root");
    PhysAddr map_at;
    int code = writer.create() | writer.begin_node("");
    code |= writer.property_text("compatible", abi::KHO_FDT_COMPATIBLE);
    code |= writer.placeholder(abi::PROP_PRESERVED_MEMORY_MAP, 8, map_at);
    world.ram().write(map_at, worked_examples::first_chunk_addr);
    code |= writer.begin_node("LUO") | writer.property_u64(abi::PROP_SUB_FDT, 0x105b7000) | writer.end_node();
    code |= writer.end_node() | writer.finish();
    CHECK(code == 0);
    CHECK(is_example(world.ram(), page.phys().begin.raw, worked_examples::root_tree));
}

TEST_CASE("the root tree of a finalize has the example's bytes where addresses are put in") {
    KhoWorld world("luo-v3");
    const Folio tree = world.alloc();
    REQUIRE(world.kho().preserve_folio(tree, "luo"));
    REQUIRE(world.kho().add_subtree("LUO", tree.pfn.phys()));
    REQUIRE(world.kho().finalize());
    const PhysAddr root = world.kho().root_tree();
    CHECK(world.ram().read<u64>(root + 0x60) == world.state().map.first().raw);
    CHECK(world.ram().read<u64>(root + 0x7c) == tree.pfn.phys().raw);
    world.ram().write(root + 0x60, worked_examples::first_chunk_addr);
    world.ram().write(root + 0x7c, u64{0x105b7000});
    CHECK(is_example(world.ram(), root.raw, worked_examples::root_tree));
}

TEST_CASE("the worked example of setup_data comes out byte for byte") {
    KhoWorld world("linux-6.16");
    REQUIRE(world.kho().finalize());
    REQUIRE(world.load());
    const KexecImage& image = *world.kernel().kexec.image();
    REQUIRE(image.setup_data.size() == 1);
    CHECK(image.setup_data[0].type == 10);
    auto payload = image.setup_data[0].payload;
    REQUIRE(payload.size() == 32);
    const KexecSegment& segment = image.segments.front();
    CHECK(segment.name == "kho-scratch");
    CHECK(segment.destination.begin.raw % (64 * KiB) == 0);
    u64 words[4];
    std::memcpy(words, payload.data(), sizeof words);
    CHECK(words[0] == world.kho().root_tree().raw);
    CHECK(words[2] == segment.destination.begin.raw);
    words[0] = 0x105b6000;
    words[2] = 0x7f0000;
    CHECK(std::memcmp(words, worked_examples::setup_data_payload.data(), sizeof words) == 0);
}

TEST_CASE("the worked example of a vmalloc descriptor and its chunk comes out byte for byte") {
    KhoWorld world("linux-6.18");
    const auto area =
        world.kernel().vmalloc.map({PhysAddr{0x2001000}.pfn(), PhysAddr{0x2005000}.pfn(), PhysAddr{0x2002000}.pfn()},
                                   Order{0}, 3 * page_bytes, "bench");
    REQUIRE(area);
    const auto descriptor = world.kho().preserve_vmalloc(**area, "bench");
    REQUIRE(descriptor);
    VmallocDescriptor example = *descriptor;
    example.first_chunk = PhysAddr{worked_examples::vmalloc_chunk_addr};
    CHECK(std::memcmp(example.bytes().data(), worked_examples::vmalloc_descriptor.data(), 16) == 0);
    CHECK(VmallocDescriptor::from_bytes(descriptor->bytes()).total_pages == 3);
    // The example's pages lie 0x1e000000 higher than this machine's memory reaches.
    for (u64 i = 0; i < 3; ++i) {
        const PhysAddr slot = descriptor->first_chunk + 8 + 8 * i;
        world.ram().write(slot, world.ram().read<u64>(slot) + 0x1e000000);
    }
    CHECK(is_example(world.ram(), descriptor->first_chunk.raw, worked_examples::vmalloc_chunk));
}

TEST_CASE("the worked example of the memblock tree comes out byte for byte") {
    KhoWorld world("luo-v3", "kho=on reserve_mem=16M:4K:trace");
    const PhysAddr tree = world.state().memblock_tree;
    REQUIRE(tree.raw != 0);
    CHECK(world.ram().read<u64>(tree + 0x8c) == world.kernel().reserve_mem.find("trace")->range.begin.raw);
    world.ram().write(tree + 0x8c, u64{0x40000000});
    CHECK(is_example(world.ram(), tree.raw, worked_examples::memblock_tree));
}

TEST_CASE("a tree that is not there, too short or hostile is an error and never a wild read") {
    KhoWorld world;
    PhysicalMemory& ram = world.ram();
    CHECK(FdtReader::open(ram, PhysAddr{64 * GiB}).error() == -8);
    const Folio page = world.alloc();
    CHECK(FdtReader::open(ram, page.pfn.phys()).error() == -9);
    write_example(ram, page.pfn.phys().raw, worked_examples::root_tree);
    REQUIRE(FdtReader::open(ram, page.pfn.phys()));
    CHECK(FdtReader::open(ram, page.pfn.phys(), 100).error() == -8);
    const auto tree = FdtReader::open(ram, page.pfn.phys());
    const int node = tree->subnode(FdtReader::root, "LUO");
    CHECK(tree->property_u64(node, "fdt") == 0x105b7000);
    CHECK_FALSE(tree->property_u64(node, "missing"));
    CHECK(tree->property_text(FdtReader::root, "compatible") == "kho-v1");
    CHECK(tree->check_compatible(FdtReader::root, "kho-v2") == 1);
    CHECK(tree->properties(FdtReader::root).size() == 2);
    // Every single bit flipped: reading ends.
    for (u64 bit = 0; bit < worked_examples::root_tree.size() * 8; ++bit) {
        apply_corruption(
            ram, page.phys(),
            {.kind = FaultKind::flip, .offset = bit / 8, .bit = bit % 8, .old_text = {}, .new_text = {}});
        if (const auto broken = FdtReader::open(ram, page.pfn.phys()))
            for (int at = broken->first_subnode(FdtReader::root); at >= 0; at = broken->next_subnode(at)) {
                static_cast<void>(broken->node_name(at));
                static_cast<void>(broken->properties(at));
            }
        apply_corruption(
            ram, page.phys(),
            {.kind = FaultKind::flip, .offset = bit / 8, .bit = bit % 8, .old_text = {}, .new_text = {}});
    }
    CHECK(is_example(ram, page.pfn.phys().raw, worked_examples::root_tree));
}

}  // namespace kexec_sim::kho
