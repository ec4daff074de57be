// vmalloc: memory that is contiguous in addresses only.
//
//   address   | block 0 | block 1 | block 2 |guard|         blocks: anywhere in RAM
//
// The window of a generation lies in the slot of its direct map, above where RAM can be.
#include <algorithm>

#include "kernel-model/page_alloc.hpp"

namespace kexec_sim {
namespace {

constexpr u64 window_offset = 5 * TiB;
static_assert(window_offset >= ram_bytes_max + GiB && window_offset < direct_map_slot_bytes);
constexpr Order huge_order{9};

}  // namespace

Vmalloc::Vmalloc(Machine& machine, PageAllocator& pages)
    : machine_(machine),
      pages_(pages),
      next_address_(direct_map_address(direct_map_slot(machine.seed, machine.generation)) + window_offset) {}

Result<const VmallocArea*> Vmalloc::alloc(u64 bytes, std::string_view site, FrameClass frame_class, bool allow_huge) {
    if (bytes == 0) return fail(Errno::einval);
    TRY(machine_.faults.check(FaultPoint::mm_vmalloc, site));
    if (bytes > machine_.ram.bytes_max()) return fail(Errno::enomem);
    AllocRequest request;
    request.site = site;
    request.frame_class = frame_class;
    std::vector<Pfn> blocks;
    if (allow_huge && bytes >= huge_order.bytes()) {
        request.order = huge_order;
        for (u64 i = 0; i < align_up(bytes, huge_order.bytes()) / huge_order.bytes(); ++i) {
            const auto block = pages_.alloc_folio(request);
            if (!block) {
                // As in the kernel: where huge pages run out, all of the area is made of small ones.
                while (!blocks.empty()) {
                    pages_.free_folio({blocks.back(), huge_order});
                    blocks.pop_back();
                }
                request.order = Order{0};
                break;
            }
            blocks.push_back(block->pfn);
        }
    }
    if (request.order.raw == 0)
        for (const PfnRange& run : TRY(pages_.alloc_pages(request, align_up(bytes, page_bytes) / page_bytes)))
            for (Pfn pfn = run.begin; pfn < run.end; pfn = pfn + 1) blocks.push_back(pfn);
    return map(std::move(blocks), request.order, bytes, site, allow_huge);
}

Result<const VmallocArea*> Vmalloc::map(std::vector<Pfn> blocks, Order order, u64 bytes, std::string_view site,
                                        bool allow_huge) {
    if (blocks.empty() || bytes == 0 || bytes > blocks.size() * order.bytes()) return fail(Errno::einval);
    VmallocArea area;
    area.address = align_up(next_address_, order.bytes());
    area.bytes = bytes;
    area.order = order;
    area.allow_huge = allow_huge;
    area.blocks = std::move(blocks);
    // An unmapped page after each area, so that running over its end faults.
    next_address_ = area.address + area.blocks.size() * order.bytes() + page_bytes;
    machine_.trace.emit(Layer::kernel, "mm.vmap",
                        {hex_field("address", area.address), {"bytes", bytes}, {"order", order}, {"site", site}});
    const u64 address = area.address;
    return &areas_.emplace(address, std::move(area)).first->second;
}

const VmallocArea* Vmalloc::find(u64 address) const {
    auto area = areas_.upper_bound(address);
    if (area == areas_.begin()) return nullptr;
    --area;
    const VmallocArea& found = area->second;
    return address - found.address < found.blocks.size() * found.order.bytes() ? &found : nullptr;
}

void Vmalloc::free(u64 address) {
    const auto entry = areas_.find(address);
    if (entry == areas_.end())
        return pages_.log().warn_on(fmt::format("Trying to vfree() nonexistent vm area ({:#x})", address), false);
    const VmallocArea area = std::move(entry->second);
    areas_.erase(entry);
    for (std::size_t i = 0; i < area.blocks.size();) {
        std::size_t next = i + 1;
        if (area.order.raw == 0) {
            while (next < area.blocks.size() && area.blocks[next] == area.blocks[next - 1] + 1) ++next;
            pages_.free_pages({area.blocks[i], area.blocks[next - 1] + 1});
        } else {
            pages_.free_folio({area.blocks[i], area.order});
        }
        i = next;
    }
}

}  // namespace kexec_sim
