// Preserved vmalloc areas (6.18): contiguous to its user, scattered in RAM.
//
// The blocks are preserved one by one, and a chain of pages lists them (layout in kho/abi/kho_v1.hpp). The consumer
// keeps the 16-byte descriptor in its own tree.
//
//   descriptor ──► chunk: next ──► chunk: next = 0
//                  | block 0 … 510 | block 511 …
//
// Preserve: 1. a chunk page is allocated and preserved. 2. Each block is preserved and listed. 3. A chunk that is
// exactly full gets a successor, perhaps an empty one. A failure takes everything back and frees the chunks. Restore:
// blocks in order, then the chunk, which is freed, then the next. Any contradiction (flags, counts, a block without
// marker, no memory) ends it with nothing; blocks restored until then stay with the caller's class, as in the kernel.
// The chain comes from another kernel, so it is walked with a limit and never left RAM. Source: Linux 6.18,
// kernel/kexec_handover.c: kho_preserve_vmalloc, kho_restore_vmalloc.
#include <cstring>

#include "kernel-model/abi_write.hpp"
#include "kernel-model/bounded_view.hpp"
#include "kho/state.hpp"

namespace kexec_sim::kho {

namespace {

constexpr std::string_view chunk_site_vmalloc = "kho.vmalloc_chunk";
constexpr std::string_view block_site = "kho.vmalloc";
constexpr u16 known_flags = abi::KHO_VMALLOC_ALLOC | abi::KHO_VMALLOC_HUGE_VMAP;

}  // namespace

std::array<std::byte, 16> VmallocDescriptor::bytes() const {
    const abi::kho_vmalloc raw{first_chunk.raw, total_pages, flags, order};
    std::array<std::byte, sizeof raw> out;
    std::memcpy(out.data(), &raw, sizeof raw);
    return out;
}
VmallocDescriptor VmallocDescriptor::from_bytes(std::span<const std::byte, 16> bytes) {
    abi::kho_vmalloc raw;
    std::memcpy(&raw, bytes.data(), sizeof raw);
    return {PhysAddr{raw.first}, raw.total_pages, raw.flags, raw.order};
}

namespace {

/// One preserved page at a time, linked to the one before.
class ChunkList {
public:
    ChunkList(Kho::State& state, std::vector<Pfn>& chunks) : state_(state), chunks_(chunks) {}

    Result<> add_chunk() {
        Kernel& kernel = state_.kernel;
        const Folio page = TRY(kernel.pages.alloc_folio(
            {.order = Order{0}, .site = chunk_site_vmalloc, .frame_class = FrameClass::kho}));
        if (const auto kept = state_.preserve_range(page.frames()); !kept) {
            kernel.pages.free_folio(page);
            return kept;
        }
        if (!chunks_.empty())
            abi_write(kernel.machine.ram, chunks_.back().phys(), page.pfn.phys().raw, "kho.vmalloc.next");
        chunks_.push_back(page.pfn);
        used_ = 0;
        return {};
    }
    Result<> add_block(Pfn block) {
        const PhysAddr slot = chunks_.back().phys() + offsetof(abi::kho_vmalloc_chunk, phys) + used_ * sizeof(u64);
        abi_write(state_.kernel.machine.ram, slot, block.phys().raw, "kho.vmalloc.phys");
        if (++used_ == abi::vmalloc_chunk_entries) return add_chunk();
        return {};
    }

private:
    Kho::State& state_;
    std::vector<Pfn>& chunks_;
    u32 used_ = 0;
};

}  // namespace

Result<VmallocDescriptor> Kho::State::describe_vmalloc(const VmallocArea& area, std::vector<Pfn>& chunks) {
    ChunkList list(*this, chunks);
    std::size_t preserved = 0;
    const auto list_all = [&]() -> Result<> {
        TRY(list.add_chunk());
        for (const Pfn block : area.blocks) {
            // kho_preserve_pages(), which can fail for each block.
            TRY(machine.faults.check(FaultPoint::kho_preserve, block_site));
            TRY(preserve_range(pfn_range(block, area.order.pages())));
            ++preserved;
            TRY(list.add_block(block));
        }
        return {};
    };
    if (const auto listed = list_all(); !listed) {
        VmallocArea done = area;
        done.blocks.resize(preserved);
        forget_vmalloc(done, chunks);
        // KB-11: the error was never put into what is returned.
        if (kernel.config.mutant(Mutant::kb11)) {
            chunks.clear();
            return VmallocDescriptor{};
        }
        return fail(listed.error());
    }
    VmallocDescriptor descriptor;
    descriptor.first_chunk = chunks.front().phys();
    descriptor.total_pages = static_cast<u32>(area.blocks.size() * area.order.pages());
    descriptor.flags = abi::KHO_VMALLOC_ALLOC | (area.allow_huge ? abi::KHO_VMALLOC_HUGE_VMAP : 0);
    descriptor.order = area.order.raw;
    return descriptor;
}

void Kho::State::forget_vmalloc(const VmallocArea& area, std::span<const Pfn> chunks) {
    // KB-06: one page each, whatever the order of the blocks.
    const u64 pages = kernel.config.mutant(Mutant::kb06) ? 1 : area.order.pages();
    for (const Pfn block : area.blocks) tracking.clear_range(pfn_range(block, pages));
    for (const Pfn chunk : chunks) {
        tracking.clear_range(pfn_range(chunk, 1));
        kernel.pages.free_folio({chunk, Order{0}});
    }
}

void Kho::State::tell_lost_vmalloc(const VmallocDescriptor& descriptor, std::string_view who) {
    const PhysicalMemory& ram = machine.ram;
    u64 pages = 0;
    for (PhysAddr chunk = descriptor.first_chunk; chunk.raw != 0 && pages <= descriptor.total_pages;) {
        if (!chunk.page_aligned() || !ram.contains(chunk, page_bytes)) return;
        machine.referee.kho_restore_failed(chunk.pfn(), who);
        const auto content = ram.read<abi::kho_vmalloc_chunk>(chunk);
        for (const u64 phys : content.phys) {
            if (phys == 0 || !ram.contains(PhysAddr{phys}, page_bytes)) break;
            machine.referee.kho_restore_failed(PhysAddr{phys}.pfn(), who);
            ++pages;
        }
        if (content.phys[0] == 0) return;
        chunk = PhysAddr{content.next};
    }
}

Result<const VmallocArea*> Kho::State::rebuild_vmalloc(const VmallocDescriptor& descriptor, std::string_view who,
                                                       FrameClass frame_class) {
    const PhysicalMemory& ram = kernel.machine.ram;
    if (descriptor.flags & ~known_flags) return fail(Errno::enoent);
    if (descriptor.order > max_page_order) return fail(Errno::enoent);
    const Order order{descriptor.order};
    std::vector<Pfn> blocks;
    for (PhysAddr chunk = descriptor.first_chunk; chunk.raw != 0;) {
        if (!chunk.page_aligned() || !ram.contains(chunk, page_bytes)) return fail(Errno::enoent);
        const BoundedView content(machine, phys_range(chunk, page_bytes), "a chunk of a vmalloc area", "vmalloc");
        // KB-05: only a zero ends the list, and a full chunk has none.
        const u64 entries = kernel.config.mutant(Mutant::kb05) ? ~u64{0} : abi::vmalloc_chunk_entries;
        for (u64 i = 0; i < entries; ++i) {
            const u64 phys = content.read<u64>(offsetof(abi::kho_vmalloc_chunk, phys) + i * sizeof(u64));
            if (phys == 0) break;
            if ((blocks.size() + 1) * order.pages() > descriptor.total_pages) return fail(Errno::enoent);
            if (!ram.contains(PhysAddr{phys}, order.bytes())) return fail(Errno::enoent);
            const Pfn block = PhysAddr{phys}.pfn();
            if (order.raw == 0) {
                TRY(restore_range(pfn_range(block, 1), who, frame_class));
            } else {
                // The area frees its blocks as a whole, so they stay whole.
                const Folio folio = TRY(restore_block(block, who, frame_class));
                if (folio.order != order) return fail(Errno::enoent);
            }
            blocks.push_back(block);
        }
        const PhysAddr next{content.read<u64>(offsetof(abi::kho_vmalloc_chunk, next))};
        // A chunk that was restored has lost its marker, so a chain in a circle ends here at the latest.
        TRY(restore_range(pfn_range(chunk.pfn(), 1), who, FrameClass::kho));
        kernel.pages.free_pages(pfn_range(chunk.pfn(), 1));
        chunk = next;
    }
    if (blocks.empty() || blocks.size() * order.pages() != descriptor.total_pages) return fail(Errno::enoent);
    Order mapped = order;
    if (kernel.config.mutant(Mutant::kb10) && order.raw > 0) {
        // KB-10: the pages of a block are entered one by one, without their number in it.
        std::vector<Pfn> pages;
        for (const Pfn block : blocks) pages.insert(pages.end(), order.pages(), block);
        blocks = std::move(pages);
        mapped = Order{0};
    }
    const auto area = kernel.vmalloc.map(std::move(blocks), mapped, descriptor.total_pages * page_bytes, who,
                                         descriptor.flags & abi::KHO_VMALLOC_HUGE_VMAP);
    if (!area) return fail(Errno::enoent);
    return *area;
}

}  // namespace kexec_sim::kho
