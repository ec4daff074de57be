// Process isolation: the supervisor forks a process for each kernel and talks to it over a socket pair.
//
//   supervisor                         kernel process
//     fork ─────────────────────────►  boots, puts its outcome into the mailbox (shared memory)
//     ◄────────────────────── 1 byte   done
//     u32: a step's index ──────────►  runs it …
//
// Unhappy paths: 1. the process dies: the supervisor reads an end of file, reaps it and answers in its place; 2. the
// supervisor dies: the kernel gets SIGKILL (PR_SET_PDEATHSIG), or finds itself an orphan at once; 3. fork fails: exit
// 2, nothing was started.
//
// The kernel's process leads a process group of its own: a signal to the group of the program (from a terminal,
// timeout(1), a service manager) is the supervisor's to answer, and no end of the kernel.
#include <cerrno>
#include <csignal>
#include <cstring>
#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sim/epilogue.hpp"
#include "sim/host_kinds.hpp"
#include "sim/host_outcome.hpp"

namespace kexec_sim::sim {
namespace {

/// In an order to a kernel process: a part of the epilogue, not a step.
constexpr u32 epilogue_bit = 0x8000'0000;

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
        const pid_t child = fork();
        if (child == 0) {
            close(ends[0]);
            be_kernel(ends[1], request, supervisor);
        }
        const int why = errno;
        close(ends[1]);
        if (child < 0) {
            close(ends[0]);
            throw UserError(fmt::format("kexec-sim: error: cannot fork: {}", std::strerror(why)));
        }
        pid_ = child;
        channel_ = ends[0];
        wait_for_answer();
    }
    void run_step(const Step& step) override { order(step.index); }
    void run_epilogue_op(u32 op) override { order(op | epilogue_bit); }
    void destroy() override {
        if (pid_ <= 0) return;
        kill(pid_, SIGKILL);
        while (waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {}
        forget();
    }
    bool alive() override {
        if (pid_ <= 0) return false;
        int status = 0;
        if (waitpid(pid_, &status, WNOHANG) == pid_) {
            note_death(status);
            return false;
        }
        return true;
    }
    int pid() const override { return pid_; }

private:
    /// noexcept: an exception must not unwind into a second supervisor.
    [[noreturn]] void be_kernel(int channel, const BootRequest& request, pid_t supervisor) noexcept {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != supervisor) _exit(0);
        setpgid(0, 0);
        state_.own_process = true;
        signal(SIGINT, SIG_DFL);
        signal(SIGTERM, SIG_DFL);
        const FatalSignals watch(state_, machine_.ram, nullptr);
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
            ssize_t got = 0;
            do got = recv(channel, &index, sizeof index, MSG_WAITALL);
            while (got < 0 && errno == EINTR);
            if (got != ssize_t{sizeof index}) _exit(0);
            guarded(state_, [&] {
                if (index & epilogue_bit)
                    execute_epilogue_op(*instance, static_cast<EpilogueOp>(index & ~epilogue_bit));
                else
                    execute_step(*instance, scenario_.steps.at(index));
            });
        }
    }

    void order(u32 index) {
        if (send(channel_, &index, sizeof index, MSG_NOSIGNAL) != ssize_t{sizeof index})
            reap();
        else
            wait_for_answer();
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
        if (state_.no_room) {
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

std::unique_ptr<KernelHost> make_process_host(Machine& machine, RunState& state, const Scenario& scenario) {
    return std::make_unique<ProcessHost>(machine, state, scenario);
}

std::unique_ptr<KernelHost> make_host(Isolation isolation, Machine& machine, RunState& state,
                                      const Scenario& scenario) {
    return isolation == Isolation::process ? make_process_host(machine, state, scenario)
                                           : make_inline_host(machine, state, scenario);
}

}  // namespace kexec_sim::sim
