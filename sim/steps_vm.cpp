// vm.*: virtual machines, as their VMM runs them, saves them before a kexec and brings them back after it.
#include <fmt/format.h>

#include "sim/steps.hpp"
#include "sim/vmm.hpp"

namespace kexec_sim::sim {
namespace {

Result<VirtualMachine*> vm_of(KernelInstance& instance, const Step& step, std::string_view field = "vm") {
    const auto at = instance.vms.find(step.get_name(field));
    if (at == instance.vms.end()) return fail(Errno::ebadf);
    return at->second.get();
}

/// run and verify are the instruments' and may be asked by anybody; all else is the VMM's own.
bool may_ask(KernelInstance& instance, const Step& step, const VirtualMachine& vm) {
    return step.id == StepId::vm_verify || &vm.agent() == instance.agent();
}

StepResult create(KernelInstance& instance, const Step& step) {
    const std::string& name = step.get_name("name");
    if (instance.vms.contains(name)) return Errno::eexist;
    auto vm = std::make_unique<VirtualMachine>(instance.kernel, *instance.agent(), name);
    VirtualMachine::Config config;
    config.memory_bytes = step.get_u64("memory");
    config.vcpus = static_cast<unsigned>(step.get_u64("vcpus"));
    config.confidential = step.get_bool("snp");
    if (const auto created = vm->create(config); !created) {
        vm->close();
        return created;
    }
    instance.vms[name] = std::move(vm);
    instance.state.guests_run = true;
    return {};
}

StepResult attach(KernelInstance& instance, VirtualMachine& vm, const Step& step) {
    const auto file = instance.agent()->get(instance.fd(step.get_name("device")));
    if (!file) return file.error();
    const auto device = std::dynamic_pointer_cast<VfioFile>(*file);
    if (!device) return Errno::einval;
    return vm.attach(device);
}

StepResult run(KernelInstance& instance, const Step& step) {
    const u64 ns = step.get_u64("for");
    std::vector<VirtualMachine*> held;
    if (step.has("vm")) {
        const auto one = vm_of(instance, step);
        if (!one) return one.error();
        for (const auto& [name, vm] : instance.vms)
            if (vm.get() != *one && vm->has_vm() && vm->vm().running()) held.push_back(vm.get());
    }
    for (VirtualMachine* vm : held) vm->vm().pause();
    run_guests(instance, ns);
    for (VirtualMachine* vm : held) vm->vm().resume();
    return {};
}

StepResult verify(KernelInstance& instance, VirtualMachine& vm) {
    if (vm.vm().broken()) return StepResult::mismatch("the guest cannot go on: it touched memory that is not there");
    const std::string wrong = instance.machine.device_referee.guest_complaint(vm.name(), vm.memory()->extents());
    return wrong.empty() ? StepResult() : StepResult::mismatch(wrong);
}

StepResult restore(KernelInstance& instance, const Step& step) {
    const std::string& name = step.get_name("vm");
    if (instance.vms.contains(name)) return Errno::eexist;
    const auto client = ensure_luo_open(instance);
    if (!client) return client.error();
    auto vm = std::make_unique<VirtualMachine>(instance.kernel, *instance.agent(), name);
    VirtualMachine::RestoreOptions options;
    options.spurious = step.get_bool("spurious");
    options.hotswap = step.get_bool("hotswap");
    const auto restored = vm->restore(**client, step.get_u64("tokens"), options);
    if (!restored && !vm->has_files()) return restored;
    if (!restored) {
        // What it has got stays open in it, as with a VMM that hangs; the descriptors go with the agent.
        instance.vms[name] = std::move(vm);
        instance.vms[name]->give_up();
        return restored;
    }
    instance.vms[name] = std::move(vm);
    instance.state.guests_run = true;
    // The blackout is over for a guest when it runs again.
    instance.machine.device_referee.guest_goes_on();
    const MachineEntry entry;
    RunState& state = instance.state;
    if (!state.blackouts_ns.empty())
        state.blackouts_ns.back() = instance.machine.clock.now_ns() - state.blackout_start_ns;
    return {};
}

}  // namespace

void run_guests(KernelInstance& instance, u64 ns) {
    std::map<std::string_view, u64> before;
    for (const auto& [name, vm] : instance.vms)
        if (vm->has_vm()) before[name] = vm->vm().steps_retired();
    instance.kernel.kvm.run(ns);
    for (const auto& [name, steps_before] : before)
        if (const u64 steps = instance.vms.at(std::string(name))->vm().steps_retired() - steps_before)
            instance.machine.trace.emit(Layer::sim, "vm.run", {{"vm", name}, {"steps", steps}});
}

void reap_vms(KernelInstance& instance) {
    std::erase_if(instance.vms, [](const auto& one) { return !one.second->agent().alive(); });
}

Result<> do_vmm_duties(KernelInstance& instance, VmmDuties duties) {
    if (duties == VmmDuties::none) return {};
    for (const auto& [name, vm] : instance.vms) {
        if (!vm->preserved()) continue;
        instance.kernel.blackout_begins();
        TRY(vm->do_duties(duties));
    }
    return {};
}

void undo_vmm_duties(KernelInstance& instance) {
    for (const auto& [name, vm] : instance.vms) static_cast<void>(vm->undo_duties());
}

StepResult run_vm_step(KernelInstance& instance, const Step& step) {
    if (step.id == StepId::vm_create) return create(instance, step);
    if (step.id == StepId::vm_run) return run(instance, step);
    if (step.id == StepId::vm_restore) return restore(instance, step);
    const auto found = vm_of(instance, step);
    if (!found) return found.error();
    VirtualMachine& vm = **found;
    if (!may_ask(instance, step, vm)) return Errno::ebadf;
    if (!vm.has_vm() && step.id != StepId::vm_close) return Errno::ebadf;
    switch (step.id) {
    case StepId::vm_attach: return attach(instance, vm, step);
    case StepId::vm_pause:
        vm.vm().pause();
        instance.machine.trace.emit(Layer::sim, "vm.pause", {{"vm", vm.name()}, {"by", "step"}});
        return {};
    case StepId::vm_resume:
        vm.vm().resume();
        instance.machine.trace.emit(Layer::sim, "vm.resume", {{"vm", vm.name()}, {"by", "step"}});
        return {};
    case StepId::vm_verify: return verify(instance, vm);
    case StepId::vm_preserve: {
        const auto client = ensure_luo_open(instance);
        if (!client) return client.error();
        return vm.preserve(**client, step.get_u64("tokens"), {step.get_text("order") == "vfio-first"});
    }
    default: break;
    }
    INVARIANT(step.id == StepId::vm_close);
    vm.close();
    instance.vms.erase(step.get_name("vm"));
    return {};
}

}  // namespace kexec_sim::sim
