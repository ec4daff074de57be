// Where a run with an unplanned fault leaves the script.
//
// An unmet `expect` is no failure under such a fault. The first step whose result differs from the fault-free run ends
// the script; the epilogue (Supervisor::run_epilogue) runs in place of the rest.
#pragma once

#include "sim/runner.hpp"

namespace kexec_sim::sim {

class EpilogueGate {
public:
    /// nullptr: nothing to differ from.
    explicit EpilogueGate(const Baseline* baseline) : baseline_(baseline) {}
    /// `visit`: how many steps ran before this one.
    bool diverges(std::size_t visit, const StepRecord& record) const {
        return baseline_ && (visit >= baseline_->executed.size() || baseline_->executed[visit] != record.result);
    }

private:
    const Baseline* baseline_;
};

/// The parts of the epilogue, run in the kernel's process.
enum class EpilogueOp : u32 {
    roll_back,      // cancel or abort; the state is normal, every living agent's files can be written and truncated
    prepare_again,  // luo.prepare, or kho.finalize
    kexec_again,
    claim_all,  // retrieve what is left of the scenario's tokens, then finish
};
std::string_view epilogue_op_name(EpilogueOp op);
void execute_epilogue_op(KernelInstance& instance, EpilogueOp op);

}  // namespace kexec_sim::sim
