#include "kho/serialize.hpp"
#include "machine/reached.hpp"

#include <cstddef>

namespace kexec_sim::kho {

namespace {

class MapWriter {
public:
    MapWriter(Kernel& kernel, const Edition& edition, const std::vector<PhysRange>& scratch)
        : kernel_(kernel),
          edition_(edition),
          scratch_(scratch) {}

    Result<> add(Order order, u64 index, PhysAddr bitmap) {
        if (map_.chunks.empty() || order != order_ || elements_ == abi::chunk_elements) TRY(new_chunk(order));
        PhysicalMemory& ram = kernel_.machine.ram;
        const PhysAddr element =
            field(offsetof(abi::khoser_mem_chunk, bitmaps)) + elements_ * sizeof(abi::khoser_mem_bitmap_ptr);
        const u64 phys_start = (index * edition_.bits_per_bitmap()) << (order.raw + page_shift);
        abi_write(ram, element, phys_start, "kho.chunk.phys_start");
        abi_write(ram, element + offsetof(abi::khoser_mem_bitmap_ptr, bitmap), bitmap.raw, "kho.chunk.bitmap");
        ++elements_;
        abi_write(ram, field(offsetof(abi::khoser_mem_chunk_hdr, num_elms)), elements_, "kho.chunk.num_elms");
        return {};
    }
    SerializedMap& map() { return map_; }

private:
    PhysAddr field(u64 offset) const { return map_.chunks.back().phys() + offset; }

    Result<> new_chunk(Order order) {
        const Folio page =
            TRY(kernel_.pages.alloc_folio({.order = Order{0}, .site = chunk_site, .frame_class = FrameClass::kho}));
        if (edition_.overlap_check && overlaps_scratch(scratch_, page.phys())) {
            REACHED("kho.serialize.chunk_in_scratch");
            kernel_.log.warn_on("KHO: a chunk of the map lies in a scratch area", true);
            kernel_.pages.free_folio(page);
            return fail(Errno::einval);
        }
        PhysicalMemory& ram = kernel_.machine.ram;
        if (!map_.chunks.empty())
            abi_write(ram, field(offsetof(abi::khoser_mem_chunk_hdr, next)), page.pfn.phys().raw, "kho.chunk.next");
        map_.chunks.push_back(page.pfn);
        order_ = order;
        elements_ = 0;
        abi_write(ram, field(offsetof(abi::khoser_mem_chunk_hdr, order)), u32{order.raw}, "kho.chunk.order");
        return {};
    }

    Kernel& kernel_;
    const Edition& edition_;
    const std::vector<PhysRange>& scratch_;
    SerializedMap map_;
    Order order_;
    u32 elements_ = 0;
};

}  // namespace

Result<SerializedMap> serialize_map(Kernel& kernel, const Edition& edition, const Tracking& tracking,
                                    const std::vector<PhysRange>& scratch) {
    MapWriter writer(kernel, edition, scratch);
    Result<> result;
    tracking.for_each([&](Order order, u64 index, const Tracking::Bitmap& bitmap) {
        result = writer.add(order, index, bitmap.phys());
        return result.has_value();
    });
    if (!result) {
        free_map(kernel, writer.map());
        return fail(result.error());
    }
    return std::move(writer.map());
}

void free_map(Kernel& kernel, SerializedMap& map) {
    if (kernel.config.mutant(Mutant::kb12)) {
        // KB-12: chunks once were slab objects, and here they still are.
        SlabCache slab(kernel.pages, kernel.machine, page_bytes, "kmalloc-4k", FrameClass::slab);
        for (const Pfn chunk : map.chunks) slab.free(chunk.phys());
        map.chunks.clear();
        return;
    }
    for (const Pfn chunk : map.chunks) kernel.pages.free_folio({chunk, Order{0}});
    map.chunks.clear();
}

}  // namespace kexec_sim::kho
