#include "kho/deserialize.hpp"

#include <fmt/format.h>

#include "kernel-model/handed_over.hpp"

namespace kexec_sim::kho {

namespace {

/// Chunks that a map of all of RAM needs: in order 0, as many again in all higher orders, and one begun in each.
u64 chunks_max(const PhysicalMemory& ram) {
    constexpr u64 bitmap_covers = 512 * 8 * page_bytes;
    return ram.bytes_max() / bitmap_covers / abi::chunk_elements * 2 + 2 * (abi::map_order_max + 1);
}

std::optional<MapDamage> check_place(const PhysicalMemory& ram, PhysAddr chunk, u64 number) {
    if (!chunk.page_aligned()) return MapDamage{"misaligned chunk", chunk};
    if (!ram.contains(chunk, page_bytes)) return MapDamage{"chunk outside of memory", chunk};
    if (number >= chunks_max(ram)) return MapDamage{"chain too long", chunk};
    return std::nullopt;
}

std::optional<MapDamage> check_header(const abi::khoser_mem_chunk_hdr& header, PhysAddr chunk, u32 order_min) {
    if (header.order > abi::map_order_max)
        return MapDamage{fmt::format("order {} in the chunk", header.order), chunk};
    if (header.order < order_min)
        return MapDamage{fmt::format("order {} after order {} in the chunk", header.order, order_min), chunk};
    if (header.num_elms > abi::chunk_elements)
        return MapDamage{fmt::format("{} elements in the chunk", header.num_elms), chunk};
    return std::nullopt;
}

}  // namespace

MapDirectory read_map_directory(const PhysicalMemory& ram, const Edition& edition, PhysAddr first, Machine* reads) {
    MapDirectory directory;
    u32 order_min = 0;
    for (PhysAddr chunk = first; chunk.raw != 0;) {
        directory.damage = check_place(ram, chunk, directory.chunks.size());
        if (directory.damage) return directory;
        const auto content = reads ? read_handed_over<abi::khoser_mem_chunk>(*reads, chunk, "map")
                                   : ram.read<abi::khoser_mem_chunk>(chunk);
        directory.damage = check_header(content.hdr, chunk, order_min);
        if (directory.damage) return directory;
        directory.chunks.push_back(chunk);
        order_min = content.hdr.order;
        const u64 block_mask = (page_bytes << content.hdr.order) - 1;
        for (u32 i = 0; i < content.hdr.num_elms; ++i) {
            const auto& entry = content.bitmaps[i];
            const PhysAddr at = chunk + offsetof(abi::khoser_mem_chunk, bitmaps) + i * sizeof entry;
            if (!ram.contains(PhysAddr{entry.bitmap}, edition.bitmap_bytes)) {
                directory.damage = MapDamage{fmt::format("bitmap {:#x} outside of memory, named", entry.bitmap), at};
                return directory;
            }
            if (entry.phys_start & block_mask) {
                directory.damage = MapDamage{fmt::format("misaligned start {:#x}", entry.phys_start), at};
                return directory;
            }
            directory.elements.push_back(
                {Order{content.hdr.order}, PhysAddr{entry.phys_start}, PhysAddr{entry.bitmap}, at});
        }
        chunk = PhysAddr{content.hdr.next};
    }
    return directory;
}

const u64* MapDecoder::load(PhysAddr bitmap) {
    const bool visited = reads_ && reads_->faults.watches(FaultPoint::handover_read);
    // Inside one frame and aligned for words: read where it lies.
    if (!visited && bitmap.raw % sizeof(u64) == 0 && bitmap.offset_in_page() + edition_.bitmap_bytes <= page_bytes)
        return reinterpret_cast<const u64*>(ram_.readable(bitmap.pfn()) + bitmap.offset_in_page());
    copy_.resize(edition_.bitmap_bytes / sizeof(u64));
    ram_.read_bytes(bitmap, std::as_writable_bytes(std::span(copy_)));
    if (visited) visit_read(*reads_, "bitmap", std::as_writable_bytes(std::span(copy_)));
    return copy_.data();
}

MapDamage MapDecoder::outside(const MapElement& element, u64 bit) const {
    return {fmt::format("block of order {} outside of memory, bit {} of the bitmap", element.order.raw, bit),
            element.bitmap};
}

}  // namespace kexec_sim::kho
