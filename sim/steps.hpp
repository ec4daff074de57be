// What each step does: system calls and exported functions, sent as they are to the running kernel.
//
// A handler runs in the kernel's process. Its result is a word: `ok`, the name of an errno, or for what the bench
// itself checks `mismatch` with a detail that says what was there and what was expected. A kernel function that
// returns NULL shows as ENOENT.
#pragma once

#include <string>

#include "sim/instance.hpp"

namespace kexec_sim::sim {

struct StepResult {
    std::string text = "ok";
    std::string detail;

    StepResult() = default;
    StepResult(const Result<>& result)
        : text(result ? "ok" : errno_name(result.error())) {}  // NOLINT: a result is one
    StepResult(Errno error) : text(errno_name(error)) {}       // NOLINT
    static StepResult mismatch(std::string detail) {
        StepResult result;
        result.text = "mismatch";
        result.detail = std::move(detail);
        return result;
    }
    static StepResult word(std::string text, std::string detail = {}) {
        StepResult result;
        result.text = std::move(text);
        result.detail = std::move(detail);
        return result;
    }
};

/// The groups of steps; each answers for its own ids only.
StepResult run_reboot_step(KernelInstance& instance, const Step& step);     // kexec.load, panic, kernel.kill
StepResult run_kho_step(KernelInstance& instance, const Step& step);        // kho.*, reserve_mem.*
StepResult run_memfd_step(KernelInstance& instance, const Step& step);      // memfd.*
StepResult run_luo_step(KernelInstance& instance, const Step& step);        // luo.*, luoctl
StepResult run_subsystem_step(KernelInstance& instance, const Step& step);  // subsystem.*, module.*, agent.*
StepResult run_device_step(KernelInstance& instance, const Step& step);     // pci.*, vfio.*, iommufd.*, nic.*, p2p.*
StepResult run_vm_step(KernelInstance& instance, const Step& step);         // vm.*
/// expect.* and mark need no kernel: the supervisor runs them, also on a dead machine. `log`: lines by generation.
using LogLines = std::vector<std::pair<Generation, std::string>>;
StepResult run_check_step(Machine& machine, RunState& state, const LogLines& log, const Step& step);
/// kho.expect_map on a dead machine: the map as it was last serialized.
StepResult check_last_map(const RunState& state, const Step& step);
/// Compares a map's statistics with what the step expects.
StepResult compare_map(const kho::MapStatistics& map, const Step& step);

/// The client of the calling agent; opens the device on the first use.
Result<luo::LuoClient*> ensure_luo_open(KernelInstance& instance);

/// What VMMs of preserved VMs do just before a reboot, and how they take it back if the reboot fails.
Result<> do_vmm_duties(KernelInstance& instance, VmmDuties duties);
void undo_vmm_duties(KernelInstance& instance);
/// The reboot as a VMM's user makes it: their duties, then run_kexec(); taken back if it fails.
Result<> kexec_with_vmms(KernelInstance& instance, VmmDuties duties);
/// VMMs whose agent has died go, with all that they hold.
void reap_vms(KernelInstance& instance);

/// Lets virtual time pass, in which the guests run, and says how far each came.
void run_guests(KernelInstance& instance, u64 ns);

/// kexec.exec: the reboot path up to the jump. On success RunState says where the next kernel starts.
Result<> run_kexec(KernelInstance& instance);

/// Fills RAM or compares it with a fill, a MiB at a time. `compare` yields the offset of the first difference.
void fill_ram(PhysicalMemory& ram, PhysRange range, const Fill& fill);
std::optional<u64> compare_ram(const PhysicalMemory& ram, PhysRange range, const Fill& fill, u64 object_offset = 0);
/// "byte 0x1000: 0x5a, expected 0x00".
std::string difference_text(u64 offset, u8 found, u8 expected);

/// The content of the bench's own sub-trees: an empty devicetree that names itself.
void write_bench_tree(PhysicalMemory& ram, PhysRange where);
/// A pseudo file as text: a devicetree as source, anything else with its unprintable bytes as \xNN.
std::string printable_blob(const std::string& content);

}  // namespace kexec_sim::sim
