// The supervisor of one run: which kernel runs, how each one ended, what the steps gave.
//
//   power_on ──► boot ──► run_step … ──► (jump ──► boot ──► …) ──► finish
//
// How a kernel ends, and what comes then:
//   1. kexec: its host is destroyed, the next kernel boots from the boot parameters in RAM (or the run stops there)
//   2. panic (its own, a planned one, its process died): nobody answers; `reset` or `crash-kernel` may follow
//   3. power loss: as a panic, and RAM is empty
//   4. a signal in inline isolation: a panic, and the run ends
//   5. an error of the user or the host, a bug of ours: thrown, the run ends
//   6. SIGINT or SIGTERM to the program: the run ends after the step, and nothing is judged
//
// Everything it says goes through the trace, in order; drain() passes events on after every step.
#pragma once

#include <deque>

#include "sim/boot_params_file.hpp"
#include "sim/epilogue.hpp"
#include "sim/runner.hpp"

namespace kexec_sim::sim {

class Supervisor {
public:
    Supervisor(Machine& machine, const Scenario& scenario, const RunOptions& options);
    ~Supervisor();

    void begin();
    /// Ends the run before its first kernel: what it would be compared with is no good.
    void refuse(const std::string& why);
    void power_on();                                 // cold boot of the first kernel
    void power_on_from(const BootParamsFile& file);  // the first kernel finds a handover
    const StepRecord& run_step(const Step& step);
    void note_left() { result_.left = {true, alive_, machine_.referee.update_under_way(), machine_.generation}; }
    /// What comes in place of the rest of the script after an unplanned fault.
    void run_epilogue(const Baseline& baseline);
    /// The scenario's own epilogue begins: from here on an unmet `expect` is a failure again.
    void own_epilogue_begins() { own_epilogue_ = true; }
    /// No further step runs: a failure, the requested jump, an interruption.
    bool ended() const { return ended_; }
    RunResult finish(const Baseline* baseline);

private:
    struct Outcome {
        std::string text, detail;
    };
    void first_kernel_ended(const Outcome& outcome);
    /// Looks whether the user wants to stop; then nothing that this step did is judged.
    bool poll_interrupt();
    std::optional<Outcome> time_passes(u64 ns);
    Outcome dispatch(const Step& step);
    Outcome in_supervisor(const Step& step);
    Outcome in_kernel(const Step& step);
    Outcome jump();
    Outcome reset(bool cold);
    Outcome crash_kernel();
    Outcome boot(const BootRequest& request);
    Outcome take_outcome();
    Outcome run_epilogue_op(EpilogueOp op);
    void kernel_dies(KernelEnd end, const std::string& reason);
    void end_kernel(KernelEnd end);
    void notice_silent_death();
    void stop_here();
    void fail(std::string text);
    void drain();
    void judge(RunResult& result);

    Machine& machine_;
    const Scenario& scenario_;
    const RunOptions& options_;
    RunState* state_;
    std::unique_ptr<KernelHost> host_;
    RunResult result_;
    StepRecord last_;
    bool alive_ = false;
    bool booted_once_ = false;
    bool ended_ = false;
    bool failed_step_ = false;
    u32 kernel_index_ = 0;
    bool in_epilogue_ = false;
    bool own_epilogue_ = false;
    bool refused_ = false;
};

}  // namespace kexec_sim::sim
