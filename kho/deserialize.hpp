// The map as the next kernel reads it: a walk over chunks and bitmaps that always ends.
//
// The kernel trusts every word of the map. A simulator is fed with broken ones on purpose, so each is checked before
// it is used, and the first that cannot be right ends the walk ("rest ignored"):
//
//   chunk     page aligned, inside RAM, order ≤ 51 and not below its predecessor's, num_elms ≤ 255, not too many of them
//   element   phys_start aligned to the order; the bitmap inside RAM
//   block     inside RAM
//
// A chain cannot be longer than the chunks that a full RAM would need in every order, so a circle ends as well.
//
// Set bits come out as runs: consecutive blocks of one order are one call, over word and bitmap borders, so that a run
// costs once and a folio in it next to nothing.
//
//   bits   0 1 1 1 | 1 1 0 0 | 0 1      ──►  (1, 5 blocks) (9, 1 block)
//
// Source: Linux 6.16 and 6.18, kernel/kexec_handover.c: kho_mem_deserialize, deserialize_bitmap.
#pragma once

#include <bit>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "kho/abi/kho_v1.hpp"
#include "kho/edition.hpp"
#include "machine/machine.hpp"

namespace kexec_sim::kho {

struct MapDamage {
    std::string what;
    PhysAddr at;
};

struct MapElement {
    Order order;
    PhysAddr phys_start;
    PhysAddr bitmap;
    PhysAddr element;  // where the two words above are
};

/// What a chain of chunks lists, as far as it can be believed.
struct MapDirectory {
    std::vector<PhysAddr> chunks;
    std::vector<MapElement> elements;
    std::optional<MapDamage> damage;
};
/// `reads`: of the kernel that reads, whose chunks are fault points; nullptr for an instrument.
MapDirectory read_map_directory(const PhysicalMemory& ram, const Edition& edition, PhysAddr first,
                                Machine* reads = nullptr);

/// Consecutive preserved blocks of one order.
struct BlockRun {
    Pfn begin;
    Order order;
    u64 count = 0;
    PhysAddr bitmap;  // where it was read
    PfnRange frames() const { return pfn_range(begin, count << order.raw); }
};

/// Decodes the bitmaps of a directory into runs, in its order: visit(BlockRun). Damage ends it.
class MapDecoder {
public:
    MapDecoder(const PhysicalMemory& ram, const Edition& edition, Machine* reads = nullptr)
        : ram_(ram),
          edition_(edition),
          reads_(reads) {}

    std::optional<MapDamage> decode(const MapDirectory& directory, auto&& visit) {
        std::optional<MapDamage> damage;
        for (const MapElement& element : directory.elements)
            if ((damage = decode_bitmap(element, visit))) break;
        if (pending_.count) visit(pending_);
        pending_.count = 0;
        return damage ? damage : directory.damage;
    }

private:
    std::optional<MapDamage> decode_bitmap(const MapElement& element, auto&& visit) {
        const u64* words = load(element.bitmap);
        const u64 bits = edition_.bits_per_bitmap();
        // Blocks that fit between the bitmap's start and the end of RAM: no sum below can overflow.
        const u64 start = element.phys_start.raw, ram_end = ram_.bytes_max();
        const u64 fitting = start < ram_end ? (ram_end - start) >> (element.order.raw + page_shift) : 0;
        for (u64 bit = next_set(words, 0, bits); bit < bits;) {
            const u64 end = next_clear(words, bit, bits);
            if (end > fitting) return outside(element, bit);
            const BlockRun run{Pfn{(start >> page_shift) + (bit << element.order.raw)}, element.order, end - bit,
                               element.bitmap};
            if (!ram_.contains(run.frames().phys())) return outside(element, bit);
            if (pending_.count && pending_.order == run.order && pending_.frames().end == run.begin) {
                pending_.count += run.count;
            } else {
                if (pending_.count) visit(pending_);
                pending_ = run;
            }
            bit = next_set(words, end, bits);
        }
        return std::nullopt;
    }

    static u64 next_set(const u64* words, u64 bit, u64 bits) { return scan(words, bit, bits, 0); }
    static u64 next_clear(const u64* words, u64 bit, u64 bits) { return scan(words, bit, bits, ~u64{0}); }
    static u64 scan(const u64* words, u64 bit, u64 bits, u64 flip) {
        while (bit < bits) {
            const u64 word = (words[bit >> 6] ^ flip) >> (bit & 63);
            if (word) return bit + static_cast<u64>(std::countr_zero(word));
            bit = (bit | 63) + 1;
        }
        return bits;
    }
    const u64* load(PhysAddr bitmap);
    MapDamage outside(const MapElement& element, u64 bit) const;

    const PhysicalMemory& ram_;
    const Edition& edition_;
    Machine* reads_;
    BlockRun pending_{};
    std::vector<u64> copy_;
};

}  // namespace kexec_sim::kho
