// Hosting: where a kernel's code runs.
//
//   process   the supervisor forks a process for each kernel and sends it one step at a time; a process that dies is a
//             panic of that kernel, and the machine, which lies in shared memory, lives on
//   inline    the kernel is an object in the supervisor's own process; a fatal signal in it is reported as its panic and
//             ends the run, because nothing can be trusted after it
//
// Both run the same code and leave the same trace. The outcome of a boot or step is in RunState::mailbox.
#pragma once

#include <memory>

#include "sim/instance.hpp"

namespace kexec_sim::sim {

enum class Isolation : u8 { process, inline_ };

struct BootRequest {
    u32 kernel_index = 0;
    bool crash_kernel = false;
    BootParams params;
};

class KernelHost {
public:
    virtual ~KernelHost() = default;
    /// Boots a kernel; mailbox: result ok, panic, power_loss …
    virtual void boot(const BootRequest& request) = 0;
    virtual void run_step(const Step& step) = 0;
    /// A part of the epilogue (sim/epilogue.hpp).
    virtual void run_epilogue_op(u32 op) = 0;
    /// Ends the kernel without its knowing (jump, reset, panic).
    virtual void destroy() = 0;
    virtual bool alive() = 0;
    /// The run cannot go on (a fatal signal in inline isolation).
    virtual bool ended_by_signal() const { return false; }
    /// Process id of the running kernel, 0 if it has none of its own.
    virtual int pid() const { return 0; }
};

std::unique_ptr<KernelHost> make_host(Isolation isolation, Machine& machine, RunState& state,
                                      const Scenario& scenario);

/// Runs one step in the running kernel and says how it ended; used by both hosts.
void execute_step(KernelInstance& instance, const Step& step);

}  // namespace kexec_sim::sim
