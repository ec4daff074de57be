// Inline isolation: a kernel is an object in the supervisor's process.
#include "luo/c_api.hpp"
#include "sim/epilogue.hpp"
#include "sim/host_kinds.hpp"
#include "sim/host_outcome.hpp"

namespace kexec_sim::sim {
namespace {

class InlineHost final : public KernelHost {
public:
    InlineHost(Machine& machine, RunState& state, const Scenario& scenario)
        : machine_(machine),
          state_(state),
          scenario_(scenario) {}
    ~InlineHost() override { destroy(); }

    void boot(const BootRequest& request) override {
        run([&] {
            instance_ = std::make_unique<KernelInstance>(machine_, state_, scenario_, request.kernel_index,
                                                         request.crash_kernel, request.params);
            instance_->boot();
            answer(state_, OutcomeKind::result, "ok");
        });
    }
    void run_step(const Step& step) override {
        run([&] { execute_step(*instance_, step); });
    }
    void run_epilogue_op(u32 op) override {
        run([&] { execute_epilogue_op(*instance_, static_cast<EpilogueOp>(op)); });
    }
    void destroy() override {
        if (ended_by_signal_) {
            static_cast<void>(instance_.release());  // nothing in it can be trusted any more
        } else {
            instance_.reset();
        }
        luo::leave_kernel();
        machine_.ram.unmap_direct();
    }
    bool alive() override { return instance_ != nullptr; }
    bool ended_by_signal() const override { return ended_by_signal_; }

private:
    template <typename Body> void run(Body&& body) {
        sigjmp_buf back;
        // Nothing between sigsetjmp and the handler's jump has an object that must be destroyed but this one.
        const FatalSignals watch(state_, machine_.ram, &back);
        const int number = sigsetjmp(back, 1);
        if (number == 0)
            guarded(state_, body);
        else
            died(number);
    }
    void died(int number) {
        ended_by_signal_ = true;
        const std::string text = signal_text(state_, number);
        if (MachineEntry::inside()) {
            MachineEntry::reset();
            answer(state_, OutcomeKind::bug, "error", text + " inside the machine");
            return;
        }
        report_signal(machine_, state_, number);
        answer(state_, OutcomeKind::panic, "panic", text);
    }

    Machine& machine_;
    RunState& state_;
    const Scenario& scenario_;
    std::unique_ptr<KernelInstance> instance_;
    bool ended_by_signal_ = false;
};

}  // namespace

std::unique_ptr<KernelHost> make_inline_host(Machine& machine, RunState& state, const Scenario& scenario) {
    return std::make_unique<InlineHost>(machine, state, scenario);
}

}  // namespace kexec_sim::sim
