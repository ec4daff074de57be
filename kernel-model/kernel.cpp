#include "kernel-model/kernel.hpp"
#include "machine/reached.hpp"

#include <algorithm>
#include <fmt/format.h>

namespace kexec_sim {
namespace {

constexpr u64 low_limit = 4 * GiB;
constexpr u64 fixed_bytes = 6 * MiB;       // text mappings, per-cpu areas, tables, below 4 GiB
constexpr u64 trampoline_bytes = 8 * KiB;  // real mode, below 1 MiB
constexpr u64 page_struct_bytes = 64;
constexpr u64 early_section_pages = 128 * MiB / page_bytes;
constexpr u64 hash_divisor = 512, hash_bytes_max = 256 * MiB;

std::optional<FileView> show_file(void* context, u64 file_id) {
    auto& kernel = *static_cast<Kernel*>(context);
    const auto file = std::dynamic_pointer_cast<ShmemFile>(kernel.vfs.find_file(file_id));
    if (!file) return std::nullopt;
    return file->view();
}

}  // namespace

Kernel::Kernel(Machine& machine_, KernelConfig config_, BootParams params_)
    : machine(machine_),
      config(std::move(config_)),
      params(std::move(params_)),
      log(machine_),
      memblock(machine_),
      pages(machine_, log),
      vmalloc(machine_, pages),
      vfs(*this),
      kexec(*this),
      reserve_mem(*this),
      pci(*this),
      iommu(*this),
      irq(*this),
      vfio(*this),
      kvm(*this) {
    memblock.numa = config.numa;
    pages.poison_on_free = config.debug;
    hooks.early_param.push_back({"reserve_mem", [this](std::string_view value) { return reserve_mem.parse(value); }});
    hooks.early_param.push_back(
        {"transparent_hugepage_shmem", [this](std::string_view value) { return set_shmem_policy(value); }});
    hooks.initcall[4].push_back([this] { pci.scan(); });
    hooks.initcall[5].push_back([this] { iommu.init(); });
    hooks.initcall[6].push_back([this] { pci.bind_drivers(); });
    machine.referee.set_file_source(show_file, this);
}

bool KernelConfig::built_with(std::string_view component) const {
    return std::ranges::find(without, component) == without.end();
}

Kernel::~Kernel() {
    machine.referee.set_file_source(nullptr, nullptr);
    vfs.destroy_all();
}

u64 Kernel::phys_to_virt(PhysAddr phys) const { return machine.ram.direct_base() + phys.raw; }
PhysAddr Kernel::virt_to_phys(u64 address) const { return PhysAddr{address - machine.ram.direct_base()}; }

void Kernel::boot() {
    machine.faults.set_stage("boot");
    machine.ram.map_direct(direct_map_slot(machine.seed, machine.generation));
    machine.trace.emit(Layer::kernel, "kernel.boot", {{"profile", config.profile}, {"release", config.release}});
    log.info("Linux version {} ({})", config.release, config.profile);
    log.info("Command line: {}", params.cmdline);
    parse_early_params();
    for (const auto& hook : hooks.early_memory) hook();
    setup_memblock();
    machine.clock.advance(config.cost.early_boot);
    setup_page_allocator();
    machine.apic.enable();
    run_initcalls();
    machine.clock.advance(config.cost.user_space);
    user_space_ = true;
    machine.faults.set_stage("");
    vfs.start_agent("main");
    log.info("Run /init as init process");
    machine.trace.emit(Layer::kernel, "kernel.user_space", {{"release", config.release}});
}

void Kernel::parse_early_params() {
    for (const CmdlineWord& word : parse_cmdline(params.cmdline))
        for (const Hooks::EarlyParam& param : hooks.early_param)
            if (param.key == word.key && !param.handler(word.value)) {
                REACHED("kernel.early_option");
                log.warn("Malformed early option '{}'", word.key);
            }
}

/// `always` would let a folio reach beyond the size of a file: here it is `within_size`. Nobody advises: `advise`, and
/// the rest, are `never`.
Result<> Kernel::set_shmem_policy(std::string_view policy) {
    constexpr std::string_view known[] = {"never", "advise", "deny", "within_size", "always", "force"};
    const auto at = std::ranges::find(known, policy);
    if (at == std::end(known)) return fail(Errno::einval);
    large_shmem_folios = at - std::begin(known) >= 3;
    return {};
}

void Kernel::setup_memblock() {
    // KB-08: with EFI the list of memory is built anew from the firmware's map, and flags that were set before are gone.
    if (config.mutant(Mutant::kb08)) memblock.forget_memory();
    for (const MemoryMapEntry& entry : params.memory_map) {
        if (entry.type != MemoryType::ram) continue;
        // Whole frames only, split where a node ends.
        const PhysRange usable{PhysAddr{align_up(entry.range.begin.raw, page_bytes)},
                               PhysAddr{align_down(entry.range.end.raw, page_bytes)}};
        for (const NodeRange& node : machine.nodes) {
            const PhysRange part{std::max(usable.begin, node.range.begin), std::min(usable.end, node.range.end)};
            if (!part.empty()) memblock.add(part, node.nid);
        }
    }
    memblock.reserve(phys_range(PhysAddr{0}, page_bytes), nid_none, "kernel.page0");
    memblock.reserve(params.boot_data, nid_none, "kernel.boot_data");
    memblock.reserve(params.kernel_image, nid_none, "kernel.image", true);
    if (!params.initrd.empty()) memblock.reserve(params.initrd, nid_none, "kernel.initrd", true);

    const auto must = [&](Result<PhysRange> range, std::string_view what) {
        if (!range) {
            REACHED("kernel.boot.no_memory");
            throw KernelPanic(fmt::format("Failed to allocate memory for {}", what));
        }
    };
    // x86: the trampoline must lie below 1 MiB, which counts as scratch just for it. Nothing else ever lies there: the
    // next kernel will write to it before it knows what is preserved.
    const PhysRange real_mode{PhysAddr{page_bytes}, PhysAddr{0x9f000}};
    const bool lend = memblock.scratch_only() && memblock.mark_scratch(real_mode).has_value();
    must(
        memblock.alloc({.bytes = trampoline_bytes, .max = PhysAddr{MiB}, .kern = false, .site = "kernel.trampoline"}),
        "the real mode trampoline");
    if (lend) static_cast<void>(memblock.clear_scratch(real_mode));
    if (!machine.faults.skips(FaultPoint::boot_reserve_low)) memblock.reserve(real_mode, nid_none, "kernel.low");

    setup_crash_range();
    must(memblock.alloc({.bytes = fixed_bytes, .align = 2 * MiB, .max = PhysAddr{low_limit}, .site = "kernel.fixed"}),
         "the kernel's fixed tables");
    reserve_mem.allocate_all();
    for (unsigned node = 0; node < machine.node_count; ++node) {
        const Nid nid{static_cast<i32>(node)};
        u64 bytes = 0;
        for (const MemblockRegion& region : memblock.memory())
            if (region.nid == nid) bytes += region.range.bytes();
        if (bytes == 0) continue;
        const u64 memmap = align_up((bytes >> page_shift) * page_struct_bytes, page_bytes);
        const u64 hash = align_up(std::min(bytes / hash_divisor, hash_bytes_max), page_bytes);
        must(memblock.alloc({.bytes = memmap, .nid = nid, .site = "kernel.memmap"}),
             fmt::format("memmap of node {}", node));
        must(memblock.alloc({.bytes = hash, .nid = nid, .site = "kernel.hash"}),
             fmt::format("hash tables of node {}", node));
    }
}

void Kernel::setup_crash_range() {
    if (config.crash_kernel) return;
    std::optional<std::string> asked;  // the last one counts
    for (const CmdlineWord& word : parse_cmdline(params.cmdline))
        if (word.key == "crashkernel") asked = word.value;
    if (!asked) return;
    const auto bytes = parse_size_param(*asked);
    if (!bytes || *bytes == 0) {
        REACHED("kernel.crashkernel.invalid");
        log.warn("crashkernel: invalid size");
        return;
    }
    const bool too_large = *bytes > machine.ram.bytes_max();
    const auto range = too_large ? Result<PhysRange>(fail(Errno::enomem))
                                 : memblock.alloc({.bytes = align_up(*bytes, 2 * MiB),
                                                   .align = 2 * MiB,
                                                   .max = PhysAddr{low_limit},
                                                   .kern = false,
                                                   .site = "kernel.crash"});
    if (!range) {
        REACHED("kernel.crashkernel.no_area");
        log.warn("crashkernel reservation failed - No suitable area found.");
        return;
    }
    crash_range_ = *range;
    log.info("crashkernel reserved: {:#018x} - {:#018x} ({} MB)", range->begin.raw, range->end.raw,
             range->bytes() / MiB);
}

void Kernel::setup_page_allocator() {
    for (const MemblockRegion& region : memblock.memory())
        pages.add_memory({region.range.begin.pfn(), region.range.end.pfn()}, region.nid);
    // KB-03: only the first section has its metadata now; the rest follows when hooks have marked preserved blocks in it.
    if (config.mutant(Mutant::kb03))
        pages.defer_metadata({Pfn{early_section_pages}, Pfn{machine.ram.bytes_max() >> page_shift}});
    for (const auto& hook : hooks.before_free_all) hook();
    pages.init_deferred_metadata();
    memblock.set_scratch_only(false);
    memblock.for_each_free([this](PhysRange range, Nid) {
        const PfnRange frames{Pfn{align_up(range.begin.raw, page_bytes) >> page_shift}, range.end.pfn()};
        if (!frames.empty()) pages.release_from_boot(frames);
    });
    log.info("Memory: {}K/{}K available", pages.free_frames() * 4, pages.managed_frames() * 4);
}

void Kernel::run_initcalls() {
    for (const auto& level : hooks.initcall)
        for (const auto& call : level) call();
    early_maps.check(log);
    for (const auto& hook : hooks.late_init) hook();
}

void Kernel::blackout_begins() {
    if (blackout_start_ns_) return;
    blackout_start_ns_ = machine.clock.now_ns();
    machine.device_referee.blackout_begins();
    machine.trace.emit(Layer::kernel, "kernel.blackout", {});
}

void Kernel::blackout_called_off() {
    if (!blackout_start_ns_) return;
    blackout_start_ns_.reset();
    machine.device_referee.blackout_called_off();
    machine.trace.emit(Layer::kernel, "kernel.blackout_off", {});
}

Result<PhysRange> Kernel::kexec_reboot() {
    machine.trace.emit(Layer::kernel, "kernel.reboot", {});
    for (const auto& hook : hooks.reboot_prepare) TRY(hook());
    const KexecImage* image = kexec.image();
    if (!image) return fail(Errno::einval);
    blackout_begins();
    log.info("kexec_core: Starting new kernel");
    machine.trace.emit(Layer::kernel, "kernel.shutdown", {});
    machine.faults.set_stage("shutdown");
    shut_down_devices();
    machine.clock.advance(config.cost.shutdown);
    const PhysRange where = image->boot_params;
    machine.referee.before_jump(machine.seed);
    machine.trace.emit(Layer::kernel, "kernel.relocation", {});
    machine.faults.set_stage("jump");
    machine.clock.advance(config.cost.relocation);
    kexec.relocate();
    machine.clock.advance(config.cost.checksum);
    return where;
}

/// device_shutdown(), then machine_shutdown(): interrupts off, then the IOMMU.
void Kernel::shut_down_devices() {
    pci.shutdown();
    machine.apic.disable();
    iommu.shutdown();
    bool keeps_confidential = false;
    for (const auto& one : kvm.vms())
        if (const auto vm = one.lock()) keeps_confidential |= vm->preserved && vm->asid() != 0;
    kvm.shutdown(keeps_confidential && !machine.faults.skips(FaultPoint::snp_keep));
}

bool Kernel::settle_agent_kill(Agent& agent) {
    if (!machine.faults.take_agent_kill()) return false;
    agent.kill();
    return true;
}

}  // namespace kexec_sim
