// kexec and the end of a kernel.
#include <csignal>
#include <unistd.h>

#include "sim/steps.hpp"

namespace kexec_sim::sim {
namespace {

u32 default_next(const KernelInstance& instance) {
    const u32 last = static_cast<u32>(instance.scenario.kernels.size() - 1);
    return std::min(instance.kernel_index + 1, last);
}

Result<> load(KernelInstance& instance, u32 index, const std::string* cmdline) {
    KexecRequest request = kexec_request(instance.scenario, index);
    if (cmdline) request.cmdline = *cmdline;
    return instance.kernel.kexec.load(request);
}

void note_counters(KernelInstance& instance) {
    RunState& state = instance.state;
    const Referee::Counters counters = instance.machine.referee.counters();
    state.map_pages = instance.kho.map_pages();
    state.preserved_folios = instance.kho.preserved_folios();
    state.preserved_bytes = instance.kho.preserved_bytes();
    state.overhead_pages = counters.overhead_pages;
    state.luo_files = counters.luo_files;
    const MachineEntry entry;
    state.subsystems.clear();
    for (const auto& [name, subsystem] : instance.subsystems) state.subsystems.emplace_back(name);
}

}  // namespace

Result<> run_kexec(KernelInstance& instance) {
    Kernel& kernel = instance.kernel;
    Machine& machine = instance.machine;
    RunState& state = instance.state;
    const PhysRange boot_params = TRY(kernel.kexec_reboot());
    note_counters(instance);
    bool passed = false;
    for (const SetupData& entry : kernel.kexec.image()->setup_data) passed |= entry.type == SETUP_KEXEC_KHO;
    state.boot_params_begin = boot_params.begin.raw;
    state.boot_params_bytes = boot_params.bytes();
    state.next_kernel_index = kernel.kexec.image()->request.kernel_index;
    state.handover_passed = passed;
    state.blackout_running = true;
    state.blackout_start_ns = kernel.blackout_start_ns().value_or(machine.clock.now_ns());
    if (passed) {
        instance.kho.corrupt_handover(read_boot_params(machine.ram, boot_params));
        if (instance.luo) instance.luo->corrupt_handover();
    }
    static_cast<void>(machine.faults.visit(FaultPoint::kexec_jump));
    machine.trace.emit(Layer::machine, "kexec.jump", {{"handover", u64{passed}}, {"entry", boot_params.begin}});
    machine.referee.jump(passed);
    return {};
}

namespace {

/// VMMs do their last duties first, and go on if the reboot fails.
VmmDuties duties_of(const Step& step) {
    const std::string& wanted = step.get_text("vmm");
    if (wanted == "none") return VmmDuties::none;
    return wanted == "disable" ? VmmDuties::disable : VmmDuties::mask;
}

}  // namespace

Result<> kexec_with_vmms(KernelInstance& instance, VmmDuties duties) {
    const bool blackout_before = instance.kernel.blackout_start_ns().has_value();
    auto result = do_vmm_duties(instance, duties);
    if (result)
        result = run_kexec(instance);
    else if (!blackout_before)
        instance.kernel.blackout_called_off();
    if (!result) undo_vmm_duties(instance);
    return result;
}

StepResult run_reboot_step(KernelInstance& instance, const Step& step) {
    switch (step.id) {
    case StepId::advance: run_guests(instance, step.get_u64(step.spec->fields.front().name)); return {};
    case StepId::kexec_load: {
        const FieldValue* cmdline = step.find("cmdline");
        const u64 index = step.find_u64("kernel").value_or(default_next(instance));
        if (index >= instance.scenario.kernels.size()) return Errno::einval;
        return load(instance, static_cast<u32>(index), cmdline && cmdline->given ? &cmdline->text : nullptr);
    }
    case StepId::kexec:
        if (!instance.kernel.kexec.image())
            if (const auto loaded = load(instance, default_next(instance), nullptr); !loaded) return loaded;
        return kexec_with_vmms(instance, duties_of(step));
    case StepId::kexec_exec: return kexec_with_vmms(instance, duties_of(step));
    case StepId::panic: throw KernelPanic("sysrq triggered crash");
    default: break;
    }
    INVARIANT(step.id == StepId::kernel_kill);
    if (instance.state.own_process) kill(getpid(), SIGKILL);
    throw KernelPanic("the kernel's code was killed by SIGKILL");
}

}  // namespace kexec_sim::sim
