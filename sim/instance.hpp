// One kernel as it runs: the kernel model with KHO and the orchestrator attached, and what user space holds in it.
//
// Made at boot, destroyed at the jump or with its process. Nothing in here survives: what the next generation may know
// is in RAM, or in the bench's notes (run_state.hpp).
#pragma once

#include <map>
#include <memory>
#include <string>

#include "kernel-model/kernel.hpp"
#include "kernel-model/module.hpp"
#include "kho/kho.hpp"
#include "luo/client.hpp"
#include "luo/devices/participants.hpp"
#include "luo/memfd_handler.hpp"
#include "luo/orchestrator.hpp"
#include "luo/scripted_subsystem.hpp"
#include "sim/file_copy.hpp"
#include "sim/run_state.hpp"
#include "sim/scenario.hpp"
#include "sim/vmm.hpp"

namespace kexec_sim::sim {

KernelConfig kernel_config(const Scenario& scenario, u32 kernel_index, bool crash_kernel);
KexecRequest kexec_request(const Scenario& scenario, u32 kernel_index);

class KernelInstance {
public:
    KernelInstance(Machine& machine, RunState& state, const Scenario& scenario, u32 kernel_index, bool crash_kernel,
                   BootParams params);
    ~KernelInstance();

    /// Boots to user space and loads the scenario's modules. Throws KernelPanic, PowerLoss.
    void boot();

    Kernel kernel;
    kho::Kho kho;
    std::unique_ptr<luo::Orchestrator> luo;  // none in editions without
    std::unique_ptr<luo::MemfdHandler> memfd_handler;
    std::unique_ptr<luo::DeviceParticipants> devices;
    std::map<std::string, std::unique_ptr<luo::FileHandler>> file_handlers;  // of file_handler.register
    ModuleLoader modules;

    /// The agent that makes the calls; nullptr: it is dead.
    Agent* agent();
    /// The number of a descriptor name of the current agent; -1: not bound or gone.
    i32 fd(std::string_view name);
    void bind_fd(std::string_view name, i32 fd);
    void forget_fd(std::string_view name);
    luo::LuoClient* client();  // of the current agent; nullptr: no orchestrator
    bool luo_closed_by_hand(std::string_view agent) const;

    std::map<u64, FileCopy> file_copies;  // by file id: the memfds that agents of this kernel made
    std::map<std::string, std::map<std::string, i32>> descriptors;  // agent -> name -> fd
    std::map<std::string, std::unique_ptr<luo::LuoClient>> clients;
    std::map<std::string, bool> closed_by_hand;
    std::map<std::string, std::unique_ptr<VirtualMachine>> vms;  // what VMM agents run
    std::map<std::string, std::unique_ptr<luo::ScriptedSubsystem>> subsystems;
    /// Scripted subsystems that were unregistered; their call lists can still be asked for.
    std::map<std::string, std::unique_ptr<luo::ScriptedSubsystem>> gone_subsystems;
    /// Sub-trees that the bench's notifier preserves and adds at finalize (editions with a notifier chain).
    struct BenchTree {
        std::string name;
        Folio folio;
    };
    std::vector<BenchTree> bench_subtrees;
    /// The script is left: what it planned to go wrong does so no more.
    bool in_epilogue = false;

    Machine& machine;
    RunState& state;
    const Scenario& scenario;
    u32 kernel_index;

private:
    kho::NotifyResult bench_notified(kho::NotifierAction action);
};

}  // namespace kexec_sim::sim
