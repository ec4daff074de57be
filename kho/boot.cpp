// KHO as a kernel boots: what the predecessor left is looked at, kept, and the next round prepared.
//
//   populate      before memblock knows any memory   tree and scratch array checked, scratch areas into memblock
//   memory_init   just before memblock frees memory  preserved blocks reserved and marked, or scratch areas set aside
//   late init     after all initcalls                page of the next root tree, debugfs, scratch areas become CMA
//
// populate checks in this order, and the first that fails ends with "disabling KHO revival" and its errno:
// 1. boot data of 32 bytes inside RAM. 2. The tree can be mapped (EFAULT). 3. Its header is valid (EINVAL). 4. It is
//    compatible with "kho-v1" (EINVAL). 5. The scratch array can be mapped (EFAULT). 6. Every area is memory (EINVAL;
//    the areas before it stay flagged). A kernel that refuses boots as after a plain kexec, and preserved memory is
//    free memory to it.
//
// populate does not ask whether KHO is on: with kho=off on the command line preserved memory is kept all the same,
// only nothing new is handed over.
//
// Source: Linux 6.16 and 6.18, kernel/kexec_handover.c: kho_populate, kho_memory_init, kho_init;
// arch/x86/kernel/setup.c.
#include <algorithm>
#include <cstring>

#include <libfdt.h>

#include "kernel-model/handed_over.hpp"
#include "kho/abi/kho_v1.hpp"
#include "kho/abi/root_tree.hpp"
#include "kho/deserialize.hpp"
#include "kho/state.hpp"
#include "machine/reached.hpp"

namespace kexec_sim::kho {

namespace {

/// early_memremap() and, when it goes, early_memunmap().
class EarlyMapping {
public:
    EarlyMapping(Kernel& kernel, u64 phys, u64 bytes)
        : maps_(kernel.early_maps),
          mapped_(kernel.machine.ram.contains(PhysAddr{phys}, bytes) && maps_.map(bytes)) {}
    ~EarlyMapping() {
        if (mapped_) maps_.unmap();
    }
    EarlyMapping(const EarlyMapping&) = delete;
    EarlyMapping& operator=(const EarlyMapping&) = delete;
    explicit operator bool() const { return mapped_; }
    /// Nobody will take it down.
    void forget() { mapped_ = false; }

private:
    EarlyMaps& maps_;
    bool mapped_;
};

/// Why a handover was refused: the line that says so, without prefix, and the errno of the line after it.
struct Refusal {
    std::string line;
    Errno error;
};

Refusal unmappable_tree(u64 fdt) {
    REACHED("kho.populate.tree_unmappable");
    return {fmt::format("setup: failed to memremap FDT ({:#x})", fdt), Errno::efault};
}
Refusal invalid_tree(u64 fdt, int code) {
    REACHED("kho.populate.tree_invalid");
    return {fmt::format("setup: handover FDT ({:#x}) is invalid: {}", fdt, code), Errno::einval};
}

std::optional<Refusal> check_tree(Machine& machine, const abi::kho_data& data, bool mapped) {
    if (const auto fault = machine.faults.check(FaultPoint::boot_populate); !fault)
        return fault.error() == Errno::efault ? unmappable_tree(data.fdt_addr)
                                              : invalid_tree(data.fdt_addr, -static_cast<int>(fault.error()));
    if (!mapped) return unmappable_tree(data.fdt_addr);
    const auto tree = FdtReader::open(machine, PhysAddr{data.fdt_addr}, data.fdt_size);
    if (!tree) return invalid_tree(data.fdt_addr, tree.error());
    if (const int code = tree->check_compatible(FdtReader::root, abi::KHO_FDT_COMPATIBLE)) {
        REACHED("kho.populate.tree_incompatible");
        return Refusal{fmt::format("setup: handover FDT ({:#x}) is incompatible with '{}': {}", data.fdt_addr,
                                   abi::KHO_FDT_COMPATIBLE, code),
                       Errno::einval};
    }
    return std::nullopt;
}

/// memblock_add() and the scratch flag, node by node.
Result<> add_scratch(Kernel& kernel, PhysRange area) {
    if (area.empty()) return {};
    if (!kernel.machine.ram.contains(area)) return fail(Errno::einval);
    for (const NodeRange& node : kernel.machine.nodes) {
        const PhysRange part{std::max(area.begin, node.range.begin), std::min(area.end, node.range.end)};
        if (!part.empty()) kernel.memblock.add(part, node.nid);
    }
    return kernel.memblock.mark_scratch(area);
}

PfnRange whole_pageblocks(PhysRange area) {
    return {Pfn{align_down(area.begin.pfn().raw, pageblock_pages)},
            Pfn{align_up(align_up(area.end.raw, page_bytes) >> page_shift, pageblock_pages)}};
}

}  // namespace

void Kho::State::attach_boot() {
    Hooks& hooks = kernel.hooks;
    if (!configured) {
        hooks.early_memory.push_back([this] { ignore_handover(); });
        return;
    }
    hooks.early_param.push_back({"kho", [this](std::string_view value) -> Result<> {
                                     enabled = TRY(parse_bool_param(value));
                                     return {};
                                 }});
    hooks.early_param.push_back({"kho_scratch", [this](std::string_view value) {
                                     return parse_scratch(value, edition, scratch_params, kernel.log);
                                 }});
    hooks.early_memory.push_back([this] { populate(); });
    hooks.before_free_all.push_back([this] { memory_init(); });
    hooks.late_init.push_back([this] { late_init(); });
}

// --- populate
// -------------------------------------------------------------------------------------------------------------

namespace {

/// The scratch array into memblock; `areas` gets what was flagged, also where a later area is refused.
std::optional<Refusal> adopt_scratch(Kernel& kernel, const abi::kho_data& data, std::vector<PhysRange>& areas) {
    const EarlyMapping array(kernel, data.scratch_addr, data.scratch_size);
    if (!array) {
        REACHED("kho.populate.scratch_unmappable");
        return Refusal{fmt::format("setup: failed to memremap scratch (phys={:#x}, len={})", data.scratch_addr,
                                   static_cast<i64>(data.scratch_size)),
                       Errno::efault};
    }
    const u64 count = data.scratch_size / sizeof(abi::kho_scratch);
    for (u64 i = 0; i < count; ++i) {
        const auto entry = read_handed_over<abi::kho_scratch>(
            kernel.machine, PhysAddr{data.scratch_addr + i * sizeof(abi::kho_scratch)}, "scratch");
        const bool wraps = entry.addr + entry.size < entry.addr;
        const PhysRange area = phys_range(PhysAddr{entry.addr}, entry.size);
        const Result<> added = wraps ? fail(Errno::einval) : add_scratch(kernel, area);
        if (!added) {
            REACHED("kho.populate.scratch_refused");
            const std::string line = fmt::format("failed to mark the scratch region {:#018x}+{:#018x}: {}",
                                                 entry.addr, entry.size, -static_cast<int>(added.error()));
            kernel.log.warn_on("KHO: " + line, true);
            return Refusal{line, added.error()};
        }
        areas.push_back(area);
    }
    return std::nullopt;
}

}  // namespace

const SetupData* Kho::State::passed_data() const {
    const auto& list = kernel.params.setup_data;
    const auto passed =
        std::ranges::find_if(list, [](const SetupData& entry) { return entry.type == SETUP_KEXEC_KHO; });
    return passed == list.end() ? nullptr : &*passed;
}

void Kho::State::ignore_handover() {
    if (!passed_data()) return;
    REACHED("kho.not_built");
    const std::string line = "Passed KHO data, but CONFIG_KEXEC_HANDOVER not set. Ignoring.";
    kernel.log.warn("{}", line);
    machine.referee.handover_refused(line);
}

void Kho::State::populate() {
    if (kernel.config.crash_kernel) enabled = false;
    const SetupData* passed = passed_data();
    if (!passed || kernel.config.crash_kernel) return;

    abi::kho_data data{};
    if (passed->payload.size() < sizeof data) {
        const std::string line =
            fmt::format("setup: failed to memremap kho data ({:#x}, {:#x})", passed->at.raw + setup_data_header_bytes,
                        std::max<u64>(passed->payload.size(), passed->unmappable_bytes));
        REACHED("kho.populate.data_unmappable");
        kernel.log.warn("{}", line);
        machine.referee.handover_refused(line);
        return;
    }
    std::memcpy(&data, passed->payload.data(), sizeof data);
    visit_read(machine, "kho_data", std::as_writable_bytes(std::span(&data, 1)));

    std::vector<PhysRange> areas;
    EarlyMapping tree(kernel, data.fdt_addr, data.fdt_size);
    std::optional<Refusal> refusal = check_tree(machine, data, static_cast<bool>(tree));
    if (!refusal) refusal = adopt_scratch(kernel, data, areas);
    if (refusal) {
        REACHED("kho.populate.refused");
        kernel.log.warn("KHO: {}", refusal->line);
        kernel.log.warn("KHO: disabling KHO revival: {}", -static_cast<int>(refusal->error));
        machine.trace.emit(Layer::kho, "kho.populate",
                           {{"phys", PhysAddr{data.fdt_addr}}, {"result", -static_cast<i32>(refusal->error)}});
        machine.referee.handover_refused(refusal->line);
        // As posted, devices that were kept running send into memory that this kernel takes for free.
        if (kernel.config.strict_defects)
            if (const unsigned stopped = kernel.pci.quiesce_early()) {
                REACHED("kho.populate.quiesced");
                kernel.log.warn("pci: {} functions were kept running for a handover that is refused; stopped",
                                stopped);
            }
        // Guests own memory that nobody tells this kernel of; the first touch would be its end anyway.
        if (machine.snp.enabled() && kernel.config.strict_defects)
            throw KernelPanic("SEV-SNP is on, and the handover that tells whose memory is whose is refused");
        return;
    }
    if (kernel.config.mutant(Mutant::kb_earlymap)) tree.forget();  // KB-earlymap
    scratch = std::move(areas);
    scratch_array = phys_range(PhysAddr{data.scratch_addr}, data.scratch_size);
    kernel.memblock.reserve(scratch_array, nid_none, scratch_array_site);
    kernel.memblock.set_scratch_only(true);
    in = Incoming{PhysAddr{data.fdt_addr}, data.fdt_size};
    kernel.log.info("KHO: found kexec handover data. Will skip init for some devices");
    machine.trace.emit(Layer::kho, "kho.populate",
                       {{"phys", in->fdt}, {"areas", u64{scratch.size()}}, {"result", i32{0}}});
    machine.referee.scratch_areas(scratch);
    machine.referee.handover_accepted();
}

// --- memory_init
// ----------------------------------------------------------------------------------------------------------

namespace {

/// Step 8 of a boot with a handover: everything in the map becomes reserved memory with a marker.
class MapAdopter {
public:
    MapAdopter(Kernel& kernel, const Edition& edition) : kernel_(kernel), edition_(edition) {}

    void adopt(PhysAddr first) {
        const PhysicalMemory& ram = kernel_.machine.ram;
        const MapDirectory directory = read_map_directory(ram, edition_, first, &kernel_.machine);
        const auto damage =
            MapDecoder(ram, edition_, &kernel_.machine).decode(directory, [this](const BlockRun& run) { take(run); });
        if (damage) ignore(fmt::format("{} at {:#x}; rest ignored", damage->what, damage->at.raw));
    }

private:
    void take(const BlockRun& run) {
        if (run.order.raw > abi::reservable_order_max) {
            // The kernel computes the size in an int, which such an order overflows.
            ignore(fmt::format("size of a block of order {} overflows at {:#x}; not reserved", run.order.raw,
                               run.begin.phys().raw));
            return;
        }
        // Blocks of the running image are left out one by one, what lies between them is reserved whole.
        for (u64 i = 0; i < run.count;) {
            const u64 end = next_in_image(run, i);
            if (end > i) reserve(part_of(run, i, end));
            if (end == run.count) return;
            ignore(fmt::format("block of the running image at {:#x}; not reserved",
                               part_of(run, end, end + 1).begin.phys().raw));
            i = end + 1;
        }
    }
    static BlockRun part_of(const BlockRun& run, u64 begin, u64 end) {
        BlockRun part = run;
        part.begin = run.begin + (begin << run.order.raw);
        part.count = end - begin;
        return part;
    }
    /// The first block from `from` on that overlaps the running image; `run.count` if none does.
    u64 next_in_image(const BlockRun& run, u64 from) const {
        u64 next = run.count;
        const u64 base = run.begin.phys().raw, block = run.order.bytes();
        const BootParams& params = kernel_.params;
        for (const PhysRange& range : {params.kernel_image, params.initrd, params.boot_data}) {
            if (range.empty() || range.end.raw <= base) continue;
            const u64 first = range.begin.raw <= base ? 0 : (range.begin.raw - base) / block;
            const u64 last = (range.end.raw - 1 - base) / block;  // inclusive
            if (last >= from) next = std::min(next, std::max(first, from));
        }
        return next;
    }
    void reserve(const BlockRun& run) {
        kernel_.memblock.reserve_noinit(run.frames().phys(), run.order);
        kernel_.pages.mark_preserved(run.begin, run.count, run.order, edition_.marker(run.order));
        kernel_.machine.referee.frames_inherited(run.frames());
        kernel_.machine.trace.range(Layer::kho, "kho.reserve", run.begin, run.order, run.count, "map");
    }
    void ignore(const std::string& what) {
        REACHED("kho.map.damaged");
        const std::string line = "KHO: handover map: " + what;
        if (lines_++ < lines_max) kernel_.log.warn("{}", line);
        kernel_.machine.referee.handover_damaged(line);
    }

    static constexpr u32 lines_max = 16;
    Kernel& kernel_;
    const Edition& edition_;
    u32 lines_ = 0;
};

}  // namespace

void Kho::State::memory_init() {
    if (!in) {
        if (!enabled) return;
        const auto reserved = reserve_scratch(kernel, scratch_params);
        if (!reserved) {
            if (edition.scratch_failure_warns) {
                REACHED("kho.scratch.not_reserved");
                kernel.log.warn("KHO: Failed to reserve scratch area, disabling kexec handover");
            }
            machine.trace.emit(Layer::kho, "kho.scratch_failed", {{"result", -static_cast<i32>(reserved.error())}});
            enabled = false;
            return;
        }
        scratch = reserved->areas;
        scratch_array = reserved->array;
        PhysAddr at = scratch_array.begin;
        for (const PhysRange& area : scratch) {
            machine.ram.write(at, abi::kho_scratch{area.begin.raw, area.bytes()});
            at = at + sizeof(abi::kho_scratch);
            machine.trace.emit(Layer::kho, "kho.scratch", {{"phys", area.begin}, {"bytes", area.bytes()}});
        }
        machine.referee.scratch_areas(scratch);
        return;
    }

    for (const PhysRange& area : scratch)
        if (!area.empty()) kernel.pages.mark_cma(whole_pageblocks(area));
    const auto tree = incoming_tree();
    const auto map_at = tree ? tree->property_u64(FdtReader::root, abi::PROP_PRESERVED_MEMORY_MAP) : std::nullopt;
    if (!map_at) {
        REACHED("kho.map.missing");
        kernel.log.err("KHO: failed to get preserved memory bitmaps");
        machine.referee.handover_damaged("KHO: failed to get preserved memory bitmaps");
    } else if (*map_at) {
        MapAdopter(kernel, edition).adopt(PhysAddr{*map_at});
    }
    if (!restore_block(in->fdt.pfn(), kho_who, FrameClass::overhead)) {
        REACHED("kho.root.not_restored");
        kernel.log.warn("KHO: failed to restore folio for KHO fdt");
    }
    kernel.memblock.set_scratch_only(false);
}

// --- late init
// ------------------------------------------------------------------------------------------------------------

/// The areas go back to the page allocator for good.
void Kho::State::give_up() {
    REACHED("kho.late_init.gives_up");
    for (const PhysRange& area : scratch) {
        if (area.empty()) continue;
        if (in)
            kernel.pages.clear_cma(whole_pageblocks(area));
        else
            kernel.pages.release_from_boot({area.begin.pfn(), area.end.pfn()});
    }
    scratch.clear();
    kernel.machine.referee.scratch_areas({});
    enabled = false;
}

void Kho::State::late_init() {
    if (!enabled) return;
    const AllocRequest request{.order = Order{0}, .site = root_site, .frame_class = FrameClass::kho};
    // An incoming tree that could not be restored lies in free memory. Lowest-first allocation would take just that
    // page and clear it, always; on a real machine the first page is some other one, and the tree stays readable for a
    // while.
    const bool stray = in && kernel.pages.block(in->fdt.pfn()).meta.state == PageState::free;
    if (stray) kernel.pages.adopt_folio({in->fdt.pfn(), Order{0}}, root_site, FrameClass::overhead);
    const auto page = kernel.pages.alloc_folio(request);
    if (stray) {
        const bool poisons = std::exchange(kernel.pages.poison_on_free, false);
        kernel.pages.free_folio({in->fdt.pfn(), Order{0}});
        kernel.pages.poison_on_free = poisons;
    }
    if (!page) return give_up();
    if (!make_debugfs()) {
        kernel.pages.free_folio(*page);
        return give_up();
    }
    root = page->pfn.phys();
    if (!in)
        for (const PhysRange& area : scratch) {
            if (area.empty()) continue;
            kernel.pages.mark_cma(whole_pageblocks(area));
            kernel.pages.release_from_boot({area.begin.pfn(), area.end.pfn()});
        }
    publish_debugfs();
    memblock_late_init();
}

}  // namespace kexec_sim::kho
