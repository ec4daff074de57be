// A thousand random sets of preserved memory, written by KHO's encoder and read by the independent decoder.
//
// One kernel of each edition preserves blocks and ranges at random places of a large machine, finalizes and aborts,
// over and over. What it handed over is compared, block by block, with a set kept beside it. In linux-6.16 and 6.18 an
// abort forgets what was preserved; in the LUO series it stays, and each round takes some of it back.
#include <catch2/catch.hpp>

#include <memory>
#include <random>
#include <set>

#include "kernel-model/kernel.hpp"
#include "kho/kho.hpp"
#include "tests/support/decoder.hpp"
#include "tests/support/encoder.hpp"
#include "tests/system/handover.hpp"

using namespace kexec_sim;

namespace {

constexpr u64 memory = 64 * GiB;
constexpr u64 rounds_per_edition = 334;

/// A kernel in user space with KHO on, and where its scratch array can be read.
struct Bench {
    explicit Bench(const char* profile) {
        MachineConfig config;
        config.node_bytes = {memory};
        machine = make_machine(config);
        machine->referee.attached = false;
        machine->referee.kernel_boots(0, {.edition = profile});
        KexecRequest request;
        request.cmdline = "kho=on kho_scratch=16M,16M,16M";
        KernelConfig kernel_config;
        kernel_config.profile = profile;
        kernel = std::make_unique<Kernel>(*machine, kernel_config, firmware_boot(*machine, request));
        kho = std::make_unique<kho::Kho>(*kernel, kho::edition_for_profile(profile));
        kernel->boot();
        scratch = kernel->pages.alloc_folio({Order{0}, "test.scratch", FrameClass::bench}).value().phys();
        u64 offset = 0;
        for (const PhysRange& area : kho->scratch_areas()) {
            machine->ram.write<u64>(scratch.begin + offset, area.begin.raw);
            machine->ram.write<u64>(scratch.begin + offset + 8, area.bytes());
            offset += 16;
        }
        scratch_bytes = offset;
    }

    decoder::Result decode() const {
        const auto source = [this](std::uint64_t phys, void* out, std::size_t bytes) {
            if (!machine->ram.contains(PhysAddr{phys}, bytes)) return false;
            machine->ram.read_bytes(PhysAddr{phys}, {static_cast<std::byte*>(out), bytes});
            return true;
        };
        const decoder::HandoverParams params{kho->root_tree().raw, page_bytes, scratch.begin.raw, scratch_bytes};
        return decoder::decode(source, params,
                               {.bitmap_bytes = static_cast<u32>(kho->edition().bitmap_bytes), .limits = {}});
    }

    MachineHandle machine;
    std::unique_ptr<Kernel> kernel;
    std::unique_ptr<kho::Kho> kho;
    PhysRange scratch{};
    u64 scratch_bytes = 0;
};

/// What should be in the map. Blocks of different order may cover the same frames: the format has a bit for each.
class Model {
public:
    Model(Bench& bench, u64 seed) : bench_(bench), random_(seed) {}

    void preserve_some() {
        for (u64 i = below(40); i != 0; --i) {
            if (below(2))
                preserve_folio();
            else
                preserve_range();
        }
    }
    void unpreserve_some() {
        for (u64 i = below(20); i != 0 && !blocks_.empty(); --i) {
            auto at = blocks_.lower_bound({static_cast<u32>(below(11)), below(memory / page_bytes)});
            if (at == blocks_.end()) at = blocks_.begin();
            REQUIRE(bench_.kho->unpreserve_folio({Pfn{at->pfn}, Order{at->order}}, "test"));
            blocks_.erase(at);
        }
    }
    void forget() { blocks_.clear(); }
    const std::set<encoder::Block>& blocks() const { return blocks_; }

private:
    u64 below(u64 end) { return end == 0 ? 0 : random_() % end; }

    /// Clustered, so that bitmaps fill and neighbours occur.
    u64 some_pfn() {
        constexpr u64 clusters[] = {0x10000, 0x3f000, 0x100000, 0x100ff0, 0x800000, 0xf00000};
        return clusters[below(std::size(clusters))] + below(below(2) ? 0x40 : 0x9000);
    }
    void preserve_folio() {
        const u32 order = static_cast<u32>(below(below(4) ? 4 : 11));
        const u64 pfn = some_pfn() >> order << order;
        if (bench_.kho->preserve_folio({Pfn{pfn}, Order{order}}, "test")) blocks_.insert({order, pfn});
    }
    void preserve_range() {
        const u64 pfn = some_pfn(), pages = 1 + below(below(3) ? 20 : 3000);
        const auto split = encoder::split(pfn, pfn + pages);
        // A failed call takes back what it had marked, with what others had marked there before: no overlaps here.
        for (const auto& block : split)
            if (blocks_.contains(block)) return;
        const auto done = bench_.kho->edition().preserve_pages
                              ? bench_.kho->preserve_pages(Pfn{pfn}, pages, "test")
                              : bench_.kho->preserve_phys(PhysAddr{pfn * page_bytes}, pages * page_bytes, "test");
        if (done) blocks_.insert(split.begin(), split.end());
    }

    Bench& bench_;
    std::mt19937_64 random_;
    std::set<encoder::Block> blocks_;
};

void check_edition(const char* profile) {
    Bench bench(profile);
    REQUIRE(bench.kho->enabled());
    const bool forgets = bench.kho->edition().notifier_chain;
    Model model(bench, 7);
    u64 blocks_seen = 0;
    for (u64 round = 0; round < rounds_per_edition; ++round) {
        INFO(profile << ", round " << round);
        if (forgets)
            model.forget();
        else
            model.unpreserve_some();
        model.preserve_some();
        REQUIRE(bench.kho->finalize());
        const auto decoded = bench.decode();
        std::string problems;
        for (const auto& problem : decoded.problems) problems += problem.what + "\n";
        REQUIRE(problems == "");
        std::set<encoder::Block> found;
        for (const auto& block : decoder::blocks(decoded)) found.insert({block.order, block.pfn});
        std::set<encoder::Block> expected = model.blocks();
        expected.insert({0, bench.kho->root_tree().raw / page_bytes});
        REQUIRE(found == expected);
        blocks_seen += found.size();
        REQUIRE(bench.kho->abort());
    }
    CHECK(blocks_seen > rounds_per_edition * 10);
}

}  // namespace

TEST_CASE("what linux-6.16 hands over is what was preserved", "[random_contents]") { check_edition("linux-6.16"); }
TEST_CASE("what linux-6.18 hands over is what was preserved", "[random_contents]") { check_edition("linux-6.18"); }
TEST_CASE("what the LUO series hands over is what was preserved and not taken back", "[random_contents]") {
    check_edition("luo-v3");
}
