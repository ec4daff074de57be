// One kernel instance, from startup to the jump.
//
// An instance is an object tree that is destroyed at kexec. It gets the machine and boot parameters, nothing else. It
// knows neither KHO nor LUO; those attach through the named hooks before boot() runs:
//
//   early_param        a word of the command line            (kho=, kho_scratch=, liveupdate=)
//   early_memory       handover data known, memblock empty   (KHO populates: scratch areas into memblock)
//   before_free_all    just before memblock frees memory     (KHO: scratch areas, walk of the map)
//   initcall(level)    levels 1 (core) to 7 (late); early is 0
//   late_init          after all initcalls
//   segment_policy     where segments of an image may go, and extra segments
//   reboot_prepare     reboot(KEXEC), before anything else; an errno stops the reboot
//   debugfs            pseudo files (Kernel::vfs)
//
// Boot, in order: command line -> handover data -> memblock (memory map, image, fixed reservations) -> memmap and hash
// tables -> page allocator -> initcalls by level (4: the PCI scan, 5: IOMMU, 6: drivers) -> late init -> user space
// (agent "main"). Costs of the phases are charged to virtual time as they pass.
//
// A panic is a KernelPanic exception that leaves through run() of whoever entered the kernel.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernel-model/boot_params.hpp"
#include "kernel-model/early_map.hpp"
#include "kernel-model/iommu/driver.hpp"
#include "kernel-model/irq.hpp"
#include "kernel-model/kexec.hpp"
#include "kernel-model/kvm/kvm.hpp"
#include "kernel-model/log.hpp"
#include "kernel-model/memblock.hpp"
#include "kernel-model/mutants.hpp"
#include "kernel-model/page_alloc.hpp"
#include "kernel-model/pci/pci.hpp"
#include "kernel-model/reserve_mem.hpp"
#include "kernel-model/shmem.hpp"
#include "kernel-model/vfio/vfio.hpp"
#include "kernel-model/vfs.hpp"

namespace kexec_sim {

struct KernelConfig {
    std::string profile = "luo-v3", release = "6.16.0";
    bool strict_defects = false;
    bool debug = false;  // KEXEC_HANDOVER_DEBUG, poisoning on free, lock checks
    bool numa = true;
    CostModel cost;
    std::vector<std::string> without;
    MutantSet mutants;                 // historical defects that it has
    std::vector<std::string> modules;  // shared objects loaded after boot
    u64 kernel_bytes = 16 * MiB, initrd_bytes = 8 * MiB;
    bool crash_kernel = false;  // boots in the reserved range with KHO off
    /// Devices that are preserved run on over a kexec; false: all are torn down on the way into it, and at boot.
    bool preserve_devices = false;

    /// Whether the kernel was built with a component ("memfd", "luo", "iommu", …).
    bool built_with(std::string_view component) const;
    bool mutant(Mutant which) const { return mutants.has(which); }
};

/// Parses "key=value" and "key" words; the last early_param handler of a key wins. Quotes protect spaces.
struct CmdlineWord {
    std::string key, value;
};
std::vector<CmdlineWord> parse_cmdline(std::string_view cmdline);
/// kstrtobool: 1 y t on / 0 n f off, first letters, any case. EINVAL otherwise.
Result<bool> parse_bool_param(std::string_view value);
/// memparse: a number with K, M, G, T; `rest` gets what follows.
Result<u64> parse_size_param(std::string_view value, std::string_view* rest = nullptr);

struct ExtraSegments {
    std::vector<KexecSegment> segments;
    /// Called once destinations are known; appends setup_data.
    std::function<void(const std::vector<KexecSegment>& placed, std::vector<SetupData>& setup_data)> finish;
};

struct Hooks {
    struct EarlyParam {
        std::string key;
        std::function<Result<>(std::string_view value)> handler;
    };
    std::vector<EarlyParam> early_param;
    std::vector<std::function<void()>> early_memory;
    std::vector<std::function<void()>> before_free_all;
    std::array<std::vector<std::function<void()>>, 8> initcall;
    std::vector<std::function<void()>> late_init;
    struct SegmentPolicy {
        /// Areas that every segment must fit into; nullopt: the usual search.
        std::function<std::optional<std::vector<PhysRange>>(bool crash)> areas;
        std::function<ExtraSegments(bool crash)> extra;
    };
    std::vector<SegmentPolicy> segment_policy;
    std::vector<std::function<Result<>()>> reboot_prepare;
};

class Kernel {
public:
    Kernel(Machine& machine, KernelConfig config, BootParams params);
    ~Kernel();
    Kernel(const Kernel&) = delete;
    Kernel& operator=(const Kernel&) = delete;

    /// Runs everything up to user space. Throws KernelPanic.
    void boot();
    bool in_user_space() const { return user_space_; }
    /// Shutdown leaves this function alone.
    bool keeps_running(const PciDevice& device) const { return config.preserve_devices && device.keep_running != 0; }

    /// reboot(2) with the KEXEC command, without the jump: reboot_prepare hooks, image check (EINVAL), shutdown,
    /// relocation. Yields where the next kernel finds its boot parameters. On success nothing of this kernel may run
    /// any more; the caller destroys it and boots the next.
    Result<PhysRange> kexec_reboot();

    /// alloc_folio and friends name their caller by site; see page_alloc.hpp.
    Machine& machine;
    const KernelConfig config;
    const BootParams params;
    Hooks hooks;
    KernelLog log;
    Memblock memblock;
    EarlyMaps early_maps;
    PageAllocator pages;
    Vmalloc vmalloc;
    Vfs vfs;
    KexecLoader kexec;
    ReserveMem reserve_mem;
    PciCore pci;
    IommuDriver iommu;
    Irq irq;
    Vfio vfio;
    Kvm kvm;
    /// transparent_hugepage_shmem=: memfds use folios of 2 MiB where they can.
    bool large_shmem_folios = false;

    /// Direct map of this generation.
    u64 phys_to_virt(PhysAddr phys) const;
    PhysAddr virt_to_phys(u64 address) const;

    /// After each system call: agents that were killed on the way die now. True if `agent` did.
    bool settle_agent_kill(Agent& agent);
    /// What the kernel keeps consistent (pages.check_sane), told to the referee.
    void check_sane() { pages.check_sane(); }

    const PhysRange& crash_range() const { return crash_range_; }
    /// Blackout starts (freeze, or the reboot where nothing freezes); later calls before the jump do nothing.
    void blackout_begins();
    /// A freeze failed or was cancelled: the workload runs on.
    void blackout_called_off();
    std::optional<u64> blackout_start_ns() const { return blackout_start_ns_; }

private:
    void parse_early_params();
    void setup_memblock();
    void setup_crash_range();
    void setup_page_allocator();
    void run_initcalls();
    void shut_down_devices();
    Result<> set_shmem_policy(std::string_view policy);

    bool user_space_ = false;
    PhysRange crash_range_{};
    std::optional<u64> blackout_start_ns_;
};

}  // namespace kexec_sim
