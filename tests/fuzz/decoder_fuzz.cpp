// Whatever bytes lie in RAM and in the boot parameter, the decoder ends and touches nothing outside them.
//
// An input describes sparse memory, so that a mutation hits a byte that matters and not one of a thousand zeros:
//
//   byte 0         bit 0: bitmaps of 4096 instead of 512 bytes
//   bytes 1..32    the boot parameter: fdt_addr, fdt_size, scratch_addr, scratch_size
//   records        page u32 | offset u16 | length u16 | bytes     (little-endian; a page that no record names is zero)
//
// RAM ends at 1 GiB. Beside ending, two facts are checked: every block lies inside the address space and is aligned,
// and the same memory gives the same text.
#include <algorithm>
#include <cstdlib>

#include "tests/golden/worked_examples.hpp"
#include "tests/support/decoder.hpp"
#include "tests/support/encoder.hpp"

namespace {

using Bytes = encoder::Bytes;

constexpr std::uint64_t ram_bytes = 1ULL << 30;

class Cursor {
public:
    Cursor(const std::uint8_t* data, std::size_t size) : left_(data, size) {}

    std::uint64_t number(std::size_t bytes) {
        std::uint64_t value = 0;
        const auto taken = take(bytes);
        for (std::size_t i = 0; i < taken.size(); ++i) value |= std::uint64_t{taken[i]} << (8 * i);
        return value;
    }
    // Fewer than asked for at the end of the input.
    std::span<const std::uint8_t> take(std::size_t bytes) {
        const auto taken = left_.first(std::min(bytes, left_.size()));
        left_ = left_.subspan(taken.size());
        return taken;
    }
    bool empty() const { return left_.empty(); }

private:
    std::span<const std::uint8_t> left_;
};

// Collects what an encoder writes as records; equal to the format above, read backwards.
class Seed {
public:
    Seed(std::uint32_t bitmap_bytes, const encoder::Handover& handover) {
        bytes_.push_back(bitmap_bytes == 4096 ? 1 : 0);
        for (const std::uint64_t value :
             {handover.fdt_addr, handover.fdt_size, handover.scratch_addr, handover.scratch_size})
            append(encoder::host64(value));
    }

    // What of these pages is not zero.
    void add(const encoder::Ram& ram, std::uint64_t begin, std::uint64_t end) {
        for (std::uint64_t phys = begin; phys < end; phys += 4096) {
            Bytes page(4096);
            if (!ram.read(phys, page.data(), page.size())) continue;
            const auto used = [](std::uint8_t byte) { return byte != 0; };
            const auto first = std::find_if(page.begin(), page.end(), used);
            const auto last = std::find_if(page.rbegin(), page.rend(), used).base();
            if (first >= last) continue;
            append(encoder::host32(static_cast<std::uint32_t>(phys / 4096)));
            append16(static_cast<std::uint16_t>(first - page.begin()));
            append16(static_cast<std::uint16_t>(last - first));
            append(Bytes(first, last));
        }
    }

    Bytes take() { return std::move(bytes_); }

private:
    void append(const Bytes& bytes) { bytes_.insert(bytes_.end(), bytes.begin(), bytes.end()); }
    void append16(std::uint16_t value) {
        bytes_.push_back(static_cast<std::uint8_t>(value));
        bytes_.push_back(static_cast<std::uint8_t>(value >> 8));
    }

    Bytes bytes_;
};

Bytes test_kho_tree(std::uint32_t bitmap_bytes) {
    encoder::TreeWriter tree;
    tree.begin_node("");
    tree.property("compatible", encoder::text("kho-test-v1"));
    tree.property("magic", encoder::host32(0x4b484f21));
    tree.begin_node("data");
    tree.property("nr_folios", encoder::host32(bitmap_bytes == 4096 ? 2 : 1));
    tree.property("folios_info", bitmap_bytes == 4096 ? encoder::vmalloc_descriptor(0x3f00000, 1, 1, 0)
                                                      : encoder::host64(0x20000000 | 3));
    tree.property("csum", encoder::host32(1));
    tree.end_node();
    tree.end_node();
    return tree.finish();
}

// One handover that uses every structure the decoder knows.
Bytes rich_seed(std::uint32_t bitmap_bytes) {
    encoder::Ram ram(ram_bytes);
    encoder::Content content;
    content.bitmap_bytes = bitmap_bytes;
    content.scratch = {{0x1000000, 0x400000}, {0x1400000, 0}, {0x1800000, 0x200000}};
    content.blocks = {{3, 0x20000}, {0, 0x12345}, {0, 0x12346}, {9, 0x20200}};
    content.reserve_mem = {{"trace", 0x18000000, 0x3000}, {"oops", 0x19000000, 0x1000}};
    content.luo = true;
    content.subsystems = {{"ksft_luo.0", 0x12345000}, {"ksft_luo.1", 7}};
    content.files[0] = {"memfd-v1", 4096, 8192, {{0x12345, 3, 0}, {0x12346, 1, 1}}};
    content.files[42] = {"memfd-v1", 0, 0x200000, {{0x20200, 3, 0}}};
    content.files[~0ULL] = {"other-v1", 0, 0, {}};
    content.other_subtrees["kho_test"] = test_kho_tree(bitmap_bytes);
    const encoder::Handover handover = encoder::write_handover(ram, content, 0x4000000);
    const std::uint64_t page = 0x3f10000;
    ram.write(0x3f00000, encoder::vmalloc_chunks(0x3f00000, {&page, 1}));
    ram.write(page, encoder::host64(0x20000000 | 3));
    Seed seed(bitmap_bytes, handover);
    seed.add(ram, 0x4000000, handover.metadata_end);
    seed.add(ram, 0x3f00000, 0x3f11000);
    return seed.take();
}

// Many bitmaps of one order: a chain of two chunks for it.
Bytes chain_seed() {
    encoder::Ram ram(ram_bytes);
    encoder::Content content;
    content.scratch = {{0x1000000, 0x400000}};
    for (std::uint64_t i = 0; i < 260; ++i) content.blocks.insert({0, i << 12});
    const encoder::Handover handover = encoder::write_handover(ram, content, 0x4000000);
    Seed seed(512, handover);
    seed.add(ram, 0x4000000, handover.metadata_end);
    return seed.take();
}

void require(bool fact) {
    if (!fact) std::abort();
}

}  // namespace

extern "C" std::size_t fuzz_seed(std::size_t index, std::uint8_t* data, std::size_t bytes_max) {
    if (index > 2) return 0;
    const Bytes seed = index == 0 ? rich_seed(512) : index == 1 ? rich_seed(4096) : chain_seed();
    const std::size_t bytes = std::min(seed.size(), bytes_max);
    std::copy_n(seed.begin(), bytes, data);
    return bytes;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    Cursor input(data, size);
    decoder::Options options;
    options.bitmap_bytes = (input.number(1) & 1) != 0 ? 4096 : 512;
    // What an honest handover needs a thousandth of, so that a run of many inputs stays quick.
    options.limits = {
        .read_bytes_max = 1 << 20, .tree_bytes_max = 1 << 18, .runs_max = 1 << 16, .tree_depth_max = 32};
    decoder::HandoverParams params;
    params.fdt_addr = input.number(8);
    params.fdt_size = input.number(8);
    params.scratch_addr = input.number(8);
    params.scratch_size = input.number(8);
    encoder::Ram ram(ram_bytes);
    while (!input.empty()) {
        const std::uint64_t page = input.number(4);
        const std::uint64_t offset = input.number(2);
        const auto bytes = input.take(input.number(2));
        const std::uint64_t phys = (page * 4096 + offset) % ram_bytes;
        if (bytes.size() <= ram_bytes - phys) ram.write(phys, bytes);
    }
    const decoder::Result result = decoder::decode(ram.source(), params, options);
    for (const decoder::Run& run : result.runs) {
        require(run.order <= decoder::order_max && run.count != 0);
        require(run.pfn % (1ULL << run.order) == 0 && run.pfn_end() <= 1ULL << 52);
        require(decoder::preserves(result, {run.pfn, run.order}));
    }
    // The text of every input, the comparison for one in eight: it costs as much as all the rest.
    const std::string text = decoder::to_text(result);
    if (size % 8 == 0) require(text == decoder::to_text(decoder::decode(ram.source(), params, options)));
    return 0;
}
