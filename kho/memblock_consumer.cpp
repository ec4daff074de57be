// reserve_mem over a kexec: the first consumer of KHO.
//
// An entry of reserve_mem=SIZE:ALIGN:NAME keeps its address and content if the next kernel's command line names it
// again, with the same size and an alignment that its address has. Layout of the tree in kho/abi/root_tree.hpp.
//
//   old kernel: late init builds a tree of one page, if there are entries
//               6.16, 6.18: on FINALIZE each range and the page are preserved and the sub-tree is added
//               luo-*: that is done at late init at once
//   new kernel: as an entry is parsed, its range is looked up in the sub-tree "memblock", checked and taken over
//
// Checks of a revival, each of which ends with a fresh allocation: 1. The sub-tree is there (no message if not). 2. It
// is compatible. 3. It has a child of that name. 4. The child is compatible. 5. Both values have 8 bytes (no message).
// 6. The alignment fits. 7. The size is the same.
// The page of the old tree stays reserved in the new kernel.
// Source: Linux 6.16, mm/memblock.c: reserve_mem_kho_finalize, reserve_mem_kho_revive; Linux 6.18 for pages instead of
// phys ranges.
#include <libfdt.h>

#include "kho/abi/root_tree.hpp"
#include "kho/state.hpp"
#include "machine/reached.hpp"

namespace kexec_sim::kho {

namespace {

constexpr std::string_view tree_site = "memblock.tree", tree_who = "memblock";

int write_tree(FdtWriter& writer, const std::vector<ReserveMem::Entry>& entries) {
    int code = writer.create();
    code |= writer.begin_node("");
    code |= writer.property_text("compatible", abi::MEMBLOCK_KHO_NODE_COMPATIBLE);
    for (const ReserveMem::Entry& entry : entries) {
        code |= writer.begin_node(entry.name);
        code |= writer.property_text("compatible", abi::RESERVE_MEM_KHO_NODE_COMPATIBLE);
        code |= writer.property_u64("start", entry.range.begin.raw);
        code |= writer.property_u64("size", entry.bytes);
        code |= writer.end_node();
    }
    code |= writer.end_node();
    return code | writer.finish();
}

std::string who_of(const ReserveMem::Entry& entry) { return "reserve_mem:" + entry.name; }

}  // namespace

void Kho::State::attach_memblock_consumer() {
    kernel.reserve_mem.revive = [this](const ReserveMem::Entry& entry) { return revive(entry); };
}

void Kho::State::memblock_late_init() {
    if (kernel.reserve_mem.entries().empty()) return;
    Result<> built = build_memblock_tree();
    if (built && edition.exported_control) built = preserve_memblock_tree();
    if (!built) {
        REACHED("kho.reserve_mem.not_prepared");
        kernel.log.err("failed to prepare memblock FDT for KHO: {}", -static_cast<int>(built.error()));
        machine.referee.reserve_mem_not_prepared();
        if (memblock_tree.raw) kernel.pages.free_folio({memblock_tree.pfn(), Order{0}});
        memblock_tree = {};
        return;
    }
    if (!edition.notifier_chain) return;
    static_cast<void>(kho.register_notifier(0, [this](NotifierAction action) {
        return action == NotifierAction::finalize ? NotifyResult::from(preserve_memblock_tree())
                                                  : NotifyResult::done();
    }));
}

Result<> Kho::State::build_memblock_tree() {
    const Folio page =
        TRY(kernel.pages.alloc_folio({.order = Order{0}, .site = tree_site, .frame_class = FrameClass::overhead}));
    memblock_tree = page.pfn.phys();
    FdtWriter tree(kernel.machine.ram, page.phys(), "memblock");
    if (const int code = write_tree(tree, kernel.reserve_mem.entries())) return fail(fdt_errno(code));
    return {};
}

Result<> Kho::State::preserve_memblock_tree() {
    const auto& entries = kernel.reserve_mem.entries();
    std::size_t done = 0;
    const auto preserve_all = [&]() -> Result<> {
        for (const ReserveMem::Entry& entry : entries) {
            const u64 pages = entry.range.bytes() >> page_shift;
            if (edition.preserve_pages)
                TRY(kho.preserve_pages(entry.range.begin.pfn(), pages, who_of(entry), false));
            else
                TRY(kho.preserve_phys(entry.range.begin, entry.range.bytes(), who_of(entry), false));
            ++done;
        }
        TRY(kho.preserve_folio({memblock_tree.pfn(), Order{0}}, tree_who));
        if (const auto added = kho.add_subtree(abi::MEMBLOCK_KHO_FDT, memblock_tree); !added) {
            if (edition.unpreserve)
                static_cast<void>(kho.unpreserve_folio({memblock_tree.pfn(), Order{0}}, tree_who));
            return added;
        }
        return {};
    };
    const auto result = preserve_all();
    // Where a finalize was under way, its abort forgets everything anyway.
    if (!result && edition.unpreserve)
        for (std::size_t i = 0; i < done; ++i)
            static_cast<void>(
                kho.unpreserve_phys(entries[i].range.begin, entries[i].range.bytes(), who_of(entries[i])));
    return result;
}

// --- revival
// --------------------------------------------------------------------------------------------------------------

namespace {

struct Revival {
    std::optional<PhysRange> range;
    std::string refusal;  // a log line; empty: none is written
};

Revival check_entry(const FdtReader& tree, const ReserveMem::Entry& entry) {
    const int node = tree.subnode(FdtReader::root, entry.name);
    if (node < 0) return {{}, fmt::format("FDT '{}' has no child '{}': {}", abi::MEMBLOCK_KHO_FDT, entry.name, node)};
    if (const int code = tree.check_compatible(node, abi::RESERVE_MEM_KHO_NODE_COMPATIBLE))
        return {{},
                fmt::format("Node '{}' is incompatible with '{}': {}", entry.name,
                            abi::RESERVE_MEM_KHO_NODE_COMPATIBLE, code)};
    const auto start = tree.property_u64(node, "start"), bytes = tree.property_u64(node, "size");
    if (!start || !bytes) return {};
    if (entry.align && *start & (entry.align - 1))
        return {
            {},
            fmt::format("KHO reserve-mem '{}' has wrong alignment ({:#x}, {:#x})", entry.name, entry.align, *start)};
    if (*bytes != entry.bytes)
        return {{},
                fmt::format("KHO reserve-mem '{}' has wrong size ({:#x} != {:#x})", entry.name, *bytes, entry.bytes)};
    return {phys_range(PhysAddr{*start}, *bytes), {}};
}

}  // namespace

std::optional<PhysRange> Kho::State::revive(const ReserveMem::Entry& entry) {
    const auto refuse = [&](const std::string& line) -> std::optional<PhysRange> {
        REACHED("kho.reserve_mem.refused");
        kernel.log.warn("{}", line);
        machine.referee.reserve_mem_refused(entry.name, line);
        return std::nullopt;
    };
    const auto phys = kho.retrieve_subtree(abi::MEMBLOCK_KHO_FDT);
    if (!phys) {
        if (phys.error() == Errno::enoent) return std::nullopt;
        return refuse(fmt::format("failed to retrieve FDT '{}' from KHO: {}", abi::MEMBLOCK_KHO_FDT,
                                  -static_cast<int>(phys.error())));
    }
    const auto tree = FdtReader::open(machine, *phys);
    const int code = tree ? tree->check_compatible(FdtReader::root, abi::MEMBLOCK_KHO_NODE_COMPATIBLE) : tree.error();
    if (code)
        return refuse(fmt::format("FDT '{}' is incompatible with '{}': {}", abi::MEMBLOCK_KHO_FDT,
                                  abi::MEMBLOCK_KHO_NODE_COMPATIBLE, code));
    const Revival revival = check_entry(*tree, entry);
    if (!revival.range) return revival.refusal.empty() ? std::nullopt : refuse(revival.refusal);
    // Beyond the kernel, which believes the address.
    if (revival.range->end < revival.range->begin || !machine.ram.contains(*revival.range))
        return refuse(
            fmt::format("KHO reserve-mem '{}' lies outside of memory ({:#x})", entry.name, revival.range->begin.raw));
    kernel.log.info("Revived memory reservation '{}' from KHO", entry.name);
    machine.referee.reserve_mem_revived(entry.name, *revival.range);
    return revival.range;
}

}  // namespace kexec_sim::kho
