// The map of preserved memory: chunk chain, bitmaps, runs.
//
//   chunk page   0 next u64 | 8 order u32 | 12 num_elms u32 | 16 {phys_start u64, bitmap u64} x 255
//   bitmap       bit b -> byte b / 8, mask 1 << (b % 8)
//
// The kernel follows the chain blindly; here a chunk with an impossible order or count ends the walk, because its
// `next` deserves no more trust than the rest of it. Set bits become runs at once, so that a full bitmap of 32768 bits
// costs one entry; at the end runs are sorted and joined, so that a bitmap listed twice changes nothing.
#include <algorithm>
#include <bit>

#include "tests/support/decoder_reader.hpp"

namespace decoder {

namespace {

constexpr std::uint64_t pfn_limit = 1ULL << 52;  // 64-bit physical addresses

class MapWalk {
public:
    MapWalk(Reader& reader, Result& result) : reader_(reader), result_(result) {}

    void run(std::uint64_t first_chunk) {
        std::set<std::uint64_t> seen;
        for (std::uint64_t phys = first_chunk; phys != 0;) {
            if (phys % page_bytes != 0) return problem(phys, "chunk is not page aligned");
            if (!seen.insert(phys).second) return problem(phys, "chunk chain comes back to this chunk");
            std::array<std::uint8_t, page_bytes> page{};
            if (auto done = reader_.read_into(phys, page, "chunk"); !done) return problem(done.error());
            Chunk chunk{.phys = phys,
                        .next = load_host64(page, 0),
                        .order = load_host32(page, 8),
                        .num_elms = load_host32(page, 12),
                        .elements = {}};
            if (chunk.order > order_max)
                return problem(phys + 8, "chunk has order " + std::to_string(chunk.order) + ", more than 51");
            if (chunk.num_elms > elements_per_chunk)
                return problem(phys + 12, "chunk has " + std::to_string(chunk.num_elms) + " elements, more than 255");
            check_chain(chunk);
            const bool go_on = read_elements(page, chunk);
            phys = chunk.next;
            result_.chunks.push_back(std::move(chunk));
            if (!go_on) return;
        }
    }

private:
    void problem(std::uint64_t phys, std::string what) { result_.problems.push_back({phys, std::move(what)}); }
    void problem(Problem met) { result_.problems.push_back(std::move(met)); }
    void finding(std::uint64_t phys, std::string what) { result_.findings.push_back({phys, std::move(what)}); }

    // Orders ascend along the chain; one order takes a second chunk only after it filled the first.
    void check_chain(const Chunk& chunk) {
        if (result_.chunks.empty()) return;
        const Chunk& before = result_.chunks.back();
        if (chunk.order < before.order) finding(chunk.phys + 8, "chunk order is below that of the chunk before");
        if (chunk.order == before.order && before.num_elms < elements_per_chunk)
            finding(chunk.phys + 8, "chunk continues an order whose last chunk was not full");
    }

    // False: the budget is gone, nothing more can be learnt.
    bool read_elements(std::span<const std::uint8_t> page, Chunk& chunk) {
        for (std::uint32_t i = 0; i < chunk.num_elms; ++i) {
            const std::size_t offset = 16 + std::size_t{16} * i;
            BitmapElement element{
                .phys_start = load_host64(page, offset), .bitmap = load_host64(page, offset + 8), .bits_set = 0};
            check_sequence(chunk, element, chunk.phys + offset);
            if (start_is_possible(chunk.order, element.phys_start, chunk.phys + offset)) read_bitmap(chunk, element);
            chunk.elements.push_back(element);
            if (result_.runs.size() > reader_.limits().runs_max) {
                problem(chunk.phys + offset, "map has too many runs of blocks");
                return false;
            }
        }
        return true;
    }

    void check_sequence(const Chunk& chunk, const BitmapElement& element, std::uint64_t where) {
        if (has_last_ && last_order_ == chunk.order && element.phys_start <= last_start_)
            finding(where, "bitmap starts at " + hex(element.phys_start) + ", not after the one before");
        has_last_ = true;
        last_order_ = chunk.order;
        last_start_ = element.phys_start;
    }

    // phys_start is a whole number of bitmaps: index * bits << (order + 12).
    bool start_is_possible(std::uint32_t order, std::uint64_t phys_start, std::uint64_t where) {
        const unsigned shift = order + 12 + static_cast<unsigned>(std::countr_zero(bits()));
        const bool possible = shift >= 64 ? phys_start == 0 : (phys_start & ((1ULL << shift) - 1)) == 0;
        if (!possible) problem(where, "bitmap start " + hex(phys_start) + " is no multiple of what a bitmap covers");
        return possible;
    }

    void read_bitmap(const Chunk& chunk, BitmapElement& element) {
        if (element.bitmap % result_.bitmap_bytes != 0) finding(element.bitmap, "bitmap is not aligned to its size");
        std::array<std::uint8_t, page_bytes> largest{};
        const auto bitmap = std::span(largest).first(result_.bitmap_bytes);
        if (auto done = reader_.read_into(element.bitmap, bitmap, "bitmap"); !done) return problem(done.error());
        const std::uint64_t start_pfn = element.phys_start / page_bytes;
        // The number of blocks of this order that exist above start_pfn.
        const std::uint64_t room = (pfn_limit - start_pfn) >> chunk.order;
        for (std::uint32_t bit = 0; bit < bits();) {
            if (bitmap[bit / 8] == 0 && bit % 8 == 0) {
                bit += 8;
                continue;
            }
            const std::uint32_t first = bit;
            while (bit < bits() && (bitmap[bit / 8] >> (bit % 8) & 1) != 0) ++bit;
            if (bit == first) {
                ++bit;
                continue;
            }
            element.bits_set += bit - first;
            if (bit > room)
                return problem(element.bitmap + first / 8, "block lies beyond the physical address space");
            result_.runs.push_back({chunk.order, start_pfn + (std::uint64_t{first} << chunk.order), bit - first});
        }
    }

    std::uint32_t bits() const { return result_.bitmap_bytes * 8; }

    Reader& reader_;
    Result& result_;
    bool has_last_ = false;
    std::uint32_t last_order_ = 0;
    std::uint64_t last_start_ = 0;
};

// Sorted, and neighbours or duplicates of one order joined.
void normalise(std::vector<Run>& runs) {
    std::ranges::sort(runs);
    std::vector<Run> joined;
    for (const Run& run : runs) {
        if (joined.empty() || joined.back().order != run.order || joined.back().pfn_end() < run.pfn) {
            joined.push_back(run);
            continue;
        }
        Run& last = joined.back();
        const std::uint64_t end = std::max(last.pfn_end(), run.pfn_end());
        last.count = (end - last.pfn) >> last.order;
    }
    runs = std::move(joined);
}

}  // namespace

void walk_map(Reader& reader, Result& result, std::uint64_t first_chunk) {
    MapWalk(reader, result).run(first_chunk);
    normalise(result.runs);
}

std::vector<Block> blocks(const Result& result) {
    std::vector<Block> all;
    for (const Run& run : result.runs)
        for (std::uint64_t i = 0; i < run.count; ++i) all.push_back({run.pfn + (i << run.order), run.order});
    return all;
}

std::vector<FrameRange> coverage(const Result& result) {
    std::vector<FrameRange> ranges;
    for (const Run& run : result.runs) ranges.push_back({run.pfn, run.pfn_end()});
    std::ranges::sort(ranges);
    std::vector<FrameRange> joined;
    for (const FrameRange& range : ranges) {
        if (joined.empty() || joined.back().end < range.begin)
            joined.push_back(range);
        else
            joined.back().end = std::max(joined.back().end, range.end);
    }
    return joined;
}

bool preserves(const Result& result, Block block) {
    // The last run of that order that starts at or before the block.
    const auto after = std::ranges::upper_bound(result.runs, Run{block.order, block.pfn, ~0ULL});
    if (after == result.runs.begin()) return false;
    const Run& run = *std::prev(after);
    return run.order == block.order && block.pfn < run.pfn_end() &&
           ((block.pfn - run.pfn) & ((1ULL << run.order) - 1)) == 0;
}

std::optional<std::uint32_t> order_at(const Result& result, std::uint64_t pfn) {
    // From one order that occurs in the map to the next.
    auto at = result.runs.begin();
    while (at != result.runs.end()) {
        const std::uint32_t order = at->order;
        if (preserves(result, {pfn, order})) return order;
        at = std::ranges::lower_bound(at, result.runs.end(), Run{order + 1, 0, 0});
    }
    return std::nullopt;
}

}  // namespace decoder
