// One step in the running kernel: dispatch, and what is common to all of them.
#include <fmt/format.h>

#include "luo/c_api.hpp"
#include "sim/host.hpp"
#include "sim/host_outcome.hpp"
#include "sim/steps.hpp"

namespace kexec_sim::sim {
namespace {

enum class Group : u8 { reboot, kho, memfd, luo, subsystem, device, vm };

Group group_of(StepId id) {
    if (id <= StepId::kernel_kill) return Group::reboot;
    if (id <= StepId::reserve_mem_verify) return Group::kho;
    if (id <= StepId::memfd_close) return Group::memfd;
    if (id <= StepId::agent_switch) return Group::subsystem;
    if (id <= StepId::luoctl) return Group::luo;
    if (id <= StepId::module_unload) return Group::subsystem;
    if (id <= StepId::p2p_stop) return Group::device;
    return Group::vm;
}

/// Steps that the current agent makes itself; a dead one makes none.
bool made_by_agent(Group group, StepId id) {
    switch (group) {
    case Group::reboot:
    case Group::kho:
    case Group::subsystem: return false;
    case Group::memfd: return true;
    case Group::luo: return id != StepId::luo_state && id != StepId::luoctl;
    // The bench looks at devices, and reaches into the machine, by itself.
    case Group::device:
        return id != StepId::pci_expect && id != StepId::pci_swap && id != StepId::pci_remove &&
               id != StepId::nic_expect;
    // Virtual CPUs run, and are looked at, whichever agent the steps are of.
    case Group::vm: return id != StepId::vm_run && id != StepId::vm_verify;
    }
    return false;
}

StepResult dispatch(KernelInstance& instance, const Step& step) {
    const Group group = group_of(step.id);
    if (made_by_agent(group, step.id) && !instance.agent())
        return StepResult::word("dead", fmt::format("agent '{}' is dead", std::string_view(instance.state.agent)));
    switch (group) {
    case Group::reboot: return run_reboot_step(instance, step);
    case Group::kho: return run_kho_step(instance, step);
    case Group::memfd: return run_memfd_step(instance, step);
    case Group::luo: return run_luo_step(instance, step);
    case Group::subsystem: return run_subsystem_step(instance, step);
    case Group::device: return run_device_step(instance, step);
    case Group::vm: return run_vm_step(instance, step);
    }
    return {};
}

/// Notes the serialized map for the time when this kernel is dead.
void note_map(KernelInstance& instance) {
    const auto map = instance.kho.map_statistics();
    if (!map) return;
    RunState& state = instance.state;
    state.map_known = true;
    state.map_folios = map->folios;
    state.map_bytes = map->bytes;
    state.map_orders.fill(0);
    for (const auto& [order, count] : map->orders) state.map_orders.at(order) = count;
}

}  // namespace

void execute_step(KernelInstance& instance, const Step& step) {
    luo::enter_kernel(&instance.kernel, &instance.kho, instance.luo.get());
    StepResult result;
    try {
        result = dispatch(instance, step);
    } catch (const TaskDeadlock& deadlock) {
        result = StepResult::word("deadlock", deadlock.what());
    } catch (const TaskBlocked& blocked) {
        result = StepResult::word("blocked", blocked.what());
    }
    // A module writes through pointers into the direct map.
    if (instance.modules.any()) instance.machine.ram.note_host_stores();
    const bool jumped = result.text == "ok" && (step.id == StepId::kexec || step.id == StepId::kexec_exec);
    // A planned kill-agent: the agent dies on its way back to user space, whatever its call returned. A reboot has no
    // way back: the jump comes first, and takes every agent along.
    if (jumped)
        static_cast<void>(instance.machine.faults.take_agent_kill());
    else if (Agent* agent = instance.agent(); agent && instance.kernel.settle_agent_kill(*agent))
        result = StepResult::word("dead", fmt::format("agent '{}' was killed in its call", agent->name()));
    if (!jumped) {
        reap_vms(instance);
        instance.kernel.check_sane();
    }
    if (step.id == StepId::kho_finalize || step.id == StepId::luo_prepare || step.id == StepId::luo_event)
        note_map(instance);
    answer(instance.state, jumped ? OutcomeKind::jump : OutcomeKind::result, result.text, result.detail);
}

}  // namespace kexec_sim::sim
