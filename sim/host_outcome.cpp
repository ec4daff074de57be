#include "sim/host_outcome.hpp"

#include <array>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fmt/format.h>
#include <unistd.h>

namespace kexec_sim::sim {
namespace {

// A signal handler can reach nothing but globals.
RunState* signal_state = nullptr;
const PhysicalMemory* signal_ram = nullptr;
sigjmp_buf* signal_return = nullptr;

constexpr std::array fatal_signals = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT};

void say(std::string_view text) { static_cast<void>(!write(STDERR_FILENO, text.data(), text.size())); }

void on_fatal_signal(int number, siginfo_t* info, void*) {
    const u64 address = reinterpret_cast<u64>(info->si_addr);
    if (number == SIGBUS && signal_ram && signal_ram->host_address_is_ram(address)) {
        if (signal_state) signal_state->no_room = true;
        say("kexec-sim: error: the host has no room left for the machine's memory\n");
        _exit(FatalSignals::no_room_status);
    }
    if (signal_state) {
        signal_state->fault_signal = number;
        signal_state->fault_address = number == SIGABRT ? 0 : address;
    }
    if (signal_return) siglongjmp(*signal_return, number);
    signal(number, SIG_DFL);
    raise(number);
}

/// A module that calls exit() in inline isolation would end the program as if all were well.
void on_exit_in_kernel() {
    if (!signal_return) return;
    say("kexec-sim: error: the kernel's code ended the program with exit(); process isolation makes that a panic\n");
    _exit(1);
}

}  // namespace

void answer(RunState& state, OutcomeKind kind, std::string_view text, std::string_view detail) {
    const MachineEntry entry;
    state.mailbox.kind = kind;
    state.mailbox.text.assign(text);
    state.mailbox.detail.assign(detail);
}

FatalSignals::FatalSignals(RunState& state, const PhysicalMemory& ram, sigjmp_buf* back) {
    signal_state = &state;
    signal_ram = &ram;
    signal_return = back;
    static const bool watching_exit = std::atexit(on_exit_in_kernel) == 0;
    static_cast<void>(watching_exit);
    static std::array<std::byte, 64 * KiB> stack;
    stack_t alternate{};
    alternate.ss_sp = stack.data();
    alternate.ss_size = stack.size();
    sigaltstack(&alternate, nullptr);
    struct sigaction action {};
    action.sa_sigaction = on_fatal_signal;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    for (const int number : fatal_signals) sigaction(number, &action, nullptr);
}

FatalSignals::~FatalSignals() {
    for (const int number : fatal_signals) signal(number, SIG_DFL);
    signal_return = nullptr;
    signal_ram = nullptr;
    signal_state = nullptr;
}

std::string signal_text(const RunState& state, int number) {
    const char* name = sigabbrev_np(number);
    std::string text = fmt::format("the kernel's code was killed by SIG{}", name ? name : "?");
    if (state.fault_signal == number && number == SIGSEGV)
        text += fmt::format(" at address {:#x}", state.fault_address);
    return text;
}

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

}  // namespace kexec_sim::sim
