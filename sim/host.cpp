#include "sim/host.hpp"

#include <csetjmp>
#include <csignal>
#include <cstring>
#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "luo/c_api.hpp"
#include "sim/epilogue.hpp"

namespace kexec_sim::sim {
namespace {

/// In an order to a kernel process: a part of the epilogue, not a step.
constexpr u32 epilogue_bit = 0x8000'0000;

void answer(RunState& state, OutcomeKind kind, std::string_view text, std::string_view detail = {}) {
    const MachineEntry entry;
    state.mailbox.kind = kind;
    state.mailbox.text.assign(text);
    state.mailbox.detail.assign(detail);
}

/// Runs `body` and turns what it throws into an outcome.
template <typename Body> void guarded(RunState& state, Body&& body) {
    try {
        body();
    } catch (const KernelPanic& panic) {
        answer(state, OutcomeKind::panic, "panic", panic.what());
    } catch (const PowerLoss&) {
        answer(state, OutcomeKind::power_loss, "panic", "power loss");
    } catch (const UserError& error) {
        answer(state, OutcomeKind::user_error, "error", error.what());
    } catch (const std::exception& error) {
        answer(state, OutcomeKind::bug, "error", error.what());
    }
}

// --- Fatal signals ------------------------------------------------------------------------------------------

RunState* signal_state = nullptr;
PhysicalMemory* signal_ram = nullptr;
sigjmp_buf* signal_return = nullptr;  // inline isolation: where to go on

constexpr int fatal_signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT};

void on_fatal_signal(int number, siginfo_t* info, void*) {
    if (number == SIGBUS && signal_ram && signal_ram->host_address_is_ram(reinterpret_cast<u64>(info->si_addr))) {
        constexpr char text[] = "kexec-sim: error: the host has no room left for the machine's memory\n";
        static_cast<void>(!write(STDERR_FILENO, text, sizeof text - 1));
        _exit(2);
    }
    if (signal_state) {
        signal_state->fault_signal = number;
        signal_state->fault_address = number == SIGABRT ? 0 : reinterpret_cast<u64>(info->si_addr);
    }
    if (signal_return) siglongjmp(*signal_return, number);
    signal(number, SIG_DFL);
    raise(number);
}

void install_signal_handlers() {
    static std::byte* stack = static_cast<std::byte*>(std::malloc(64 * KiB));
    stack_t alternate{};
    alternate.ss_sp = stack;
    alternate.ss_size = 64 * KiB;
    sigaltstack(&alternate, nullptr);
    struct sigaction action {};
    action.sa_sigaction = on_fatal_signal;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    for (const int number : fatal_signals) sigaction(number, &action, nullptr);
}

std::string signal_text(const RunState& state, int number) {
    const char* name = sigabbrev_np(number);
    std::string text = fmt::format("the kernel's code was killed by SIG{}", name ? name : "?");
    if (state.fault_signal == number && number == SIGSEGV)
        text += fmt::format(" at address {:#x}", state.fault_address);
    return text;
}

/// A kernel died by a signal: the last words in the trace, and the referee's.
void report_signal(Machine& machine, RunState& state, int number) {
    machine.trace.emit(Layer::kernel, "kernel.signal",
                       {{"signal", std::string_view(sigabbrev_np(number) ? sigabbrev_np(number) : "?")}});
    if (state.fault_signal == number && (number == SIGSEGV || number == SIGBUS)) {
        // With a handover at hand it may have been followed blindly; without one it is a plain bug of that code.
        if (state.handover_passed)
            machine.referee.wild_access(state.fault_address,
                                        "the kernel's code touched an address that is not mapped");
        else
            machine.referee.kernel_insane(
                fmt::format("its code touched {:#x}, which is not mapped", state.fault_address), {});
    }
    state.fault_signal = 0;
}

// --- Inline ----------------------------------------------------------------------------------------------------

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
        signal_state = &state_;
        signal_ram = &machine_.ram;
        install_signal_handlers();
        sigjmp_buf back;
        // Nothing between sigsetjmp and the handler's jump has an object that must be destroyed here.
        const int number = sigsetjmp(back, 1);
        if (number == 0) {
            signal_return = &back;
            guarded(state_, body);
            signal_return = nullptr;
            return;
        }
        signal_return = nullptr;
        if (MachineEntry::inside()) {
            MachineEntry::reset();
            answer(state_, OutcomeKind::bug, "error", signal_text(state_, number) + " inside the machine");
            ended_by_signal_ = true;
            return;
        }
        const std::string text = signal_text(state_, number);
        report_signal(machine_, state_, number);
        ended_by_signal_ = true;
        answer(state_, OutcomeKind::panic, "panic", text);
    }

    Machine& machine_;
    RunState& state_;
    const Scenario& scenario_;
    std::unique_ptr<KernelInstance> instance_;
    bool ended_by_signal_ = false;
};

// --- Process ---------------------------------------------------------------------------------------------------

class ProcessHost final : public KernelHost {
public:
    ProcessHost(Machine& machine, RunState& state, const Scenario& scenario)
        : machine_(machine),
          state_(state),
          scenario_(scenario) {}
    ~ProcessHost() override { destroy(); }

    void boot(const BootRequest& request) override {
        int ends[2];
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
            throw UserError(fmt::format("kexec-sim: error: cannot make a socket pair: {}", std::strerror(errno)));
        const pid_t supervisor = getpid();
        pid_ = fork();
        if (pid_ < 0) throw UserError(fmt::format("kexec-sim: error: cannot fork: {}", std::strerror(errno)));
        if (pid_ == 0) {
            close(ends[0]);
            be_kernel(ends[1], request, supervisor);
        }
        close(ends[1]);
        channel_ = ends[0];
        wait_for_answer();
    }
    void run_step(const Step& step) override { order(step.index); }
    void run_epilogue_op(u32 op) override { order(op | epilogue_bit); }
    void order(u32 index) {
        if (send(channel_, &index, sizeof index, MSG_NOSIGNAL) != ssize_t{sizeof index}) {
            reap();
            return;
        }
        wait_for_answer();
    }
    void destroy() override {
        if (pid_ == 0) return;
        kill(pid_, SIGKILL);
        while (waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {}
        forget();
    }
    bool alive() override {
        if (pid_ == 0) return false;
        int status = 0;
        if (waitpid(pid_, &status, WNOHANG) == pid_) {
            note_death(status);
            return false;
        }
        return true;
    }
    int pid() const override { return pid_; }

private:
    [[noreturn]] void be_kernel(int channel, const BootRequest& request, pid_t supervisor) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        state_.own_process = true;
        if (getppid() != supervisor) _exit(0);
        signal(SIGINT, SIG_IGN);  // the supervisor decides
        signal(SIGTERM, SIG_DFL);
        signal_state = &state_;
        signal_ram = &machine_.ram;
        install_signal_handlers();
        std::unique_ptr<KernelInstance> instance;
        guarded(state_, [&] {
            instance = std::make_unique<KernelInstance>(machine_, state_, scenario_, request.kernel_index,
                                                        request.crash_kernel, request.params);
            instance->boot();
            answer(state_, OutcomeKind::result, "ok");
        });
        for (;;) {
            const char done = 1;
            if (send(channel, &done, 1, MSG_NOSIGNAL) != 1) _exit(0);
            u32 index = 0;
            if (recv(channel, &index, sizeof index, MSG_WAITALL) != ssize_t{sizeof index}) _exit(0);
            guarded(state_, [&] {
                if (index & epilogue_bit)
                    execute_epilogue_op(*instance, static_cast<EpilogueOp>(index & ~epilogue_bit));
                else
                    execute_step(*instance, scenario_.steps.at(index));
            });
        }
    }
    void wait_for_answer() {
        char done = 0;
        ssize_t got = 0;
        do got = recv(channel_, &done, 1, 0);
        while (got < 0 && errno == EINTR);
        if (got != 1) reap();
    }
    void reap() {
        int status = 0;
        while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {}
        note_death(status);
    }
    /// The process is gone although nobody ended it.
    void note_death(int status) {
        forget();
        if (WIFEXITED(status) && WEXITSTATUS(status) == 2) {
            answer(state_, OutcomeKind::user_error, "error",
                   "kexec-sim: error: the host has no room left for the machine's memory");
            return;
        }
        const int number = WIFSIGNALED(status) ? WTERMSIG(status) : SIGKILL;
        const bool inside = machine_.entry_depth != 0;
        MachineEntry::reset();
        const std::string text =
            WIFEXITED(status) ? fmt::format("the kernel's code ended its process with status {}", WEXITSTATUS(status))
                              : signal_text(state_, number);
        if (inside) {
            answer(state_, OutcomeKind::bug, "error", text + " inside the machine");
            return;
        }
        if (WIFSIGNALED(status)) report_signal(machine_, state_, number);
        answer(state_, OutcomeKind::panic, "panic", text);
    }
    void forget() {
        if (channel_ >= 0) close(channel_);
        channel_ = -1;
        pid_ = 0;
    }

    Machine& machine_;
    RunState& state_;
    const Scenario& scenario_;
    pid_t pid_ = 0;
    int channel_ = -1;
};

}  // namespace

std::unique_ptr<KernelHost> make_host(Isolation isolation, Machine& machine, RunState& state,
                                      const Scenario& scenario) {
    if (isolation == Isolation::process) return std::make_unique<ProcessHost>(machine, state, scenario);
    return std::make_unique<InlineHost>(machine, state, scenario);
}

}  // namespace kexec_sim::sim
