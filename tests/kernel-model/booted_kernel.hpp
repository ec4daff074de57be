// A machine with a kernel in user space: what most tests of this folder start from.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "kernel-model/kernel.hpp"

namespace kexec_sim {

struct BootedKernel {
    using Prepare = std::function<void(Kernel&)>;

    explicit BootedKernel(u64 bytes = 128 * MiB, const std::string& cmdline = "", const Prepare& before_boot = {}) {
        MachineConfig machine_config;
        machine_config.node_bytes = {bytes};
        machine = make_machine(machine_config);
        machine->referee.kernel_boots(0, {.edition = "linux-6.16"});
        KexecRequest request;
        request.cmdline = cmdline;
        request.kernel_bytes = 4 * MiB;
        request.initrd_bytes = MiB;
        const BootParams params = firmware_boot(*machine, request);
        kernel = std::make_unique<Kernel>(*machine, KernelConfig{}, params);
        if (before_boot) before_boot(*kernel);
        kernel->boot();
    }

    Agent& main() { return *kernel->vfs.find_agent("main"); }
    void plan(const std::string& text) {
        const PlannedFault fault = parse_fault(text).value();
        machine->faults.set_plan({&fault, 1});
    }
    /// How often an event of that name was emitted; what was recorded so far is consumed.
    unsigned count_events(std::string_view name) {
        unsigned count = 0;
        machine->trace.drain([&](TraceEvent&& event) { count += event.name == name; });
        return count;
    }

    MachineHandle machine;
    std::unique_ptr<Kernel> kernel;  // goes before the machine
};

}  // namespace kexec_sim
