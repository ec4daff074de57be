// How kernel code ends, for both kinds of host: what it throws, and the fatal signals that it dies of.
#pragma once

#include <csetjmp>
#include <new>
#include <string>
#include <string_view>

#include "luo/lock.hpp"
#include "sim/instance.hpp"

namespace kexec_sim::sim {

inline constexpr std::string_view no_memory_text = "kexec-sim: error: the host has no memory left";

/// Puts an outcome into the mailbox.
void answer(RunState& state, OutcomeKind kind, std::string_view text, std::string_view detail = {});

/// Runs `body`, which answers for itself, and turns what it throws into an answer. Lets nothing out.
template <typename Body> void guarded(RunState& state, Body&& body) noexcept {
    try {
        body();
    } catch (const TaskDeadlock& deadlock) {
        answer(state, OutcomeKind::result, "deadlock", deadlock.what());
    } catch (const TaskBlocked& blocked) {
        answer(state, OutcomeKind::result, "blocked", blocked.what());
    } catch (const KernelPanic& panic) {
        answer(state, OutcomeKind::panic, "panic", panic.what());
    } catch (const PowerLoss&) {
        answer(state, OutcomeKind::power_loss, "panic", "power loss");
    } catch (const UserError& error) {
        answer(state, OutcomeKind::user_error, "error", error.what());
    } catch (const std::bad_alloc&) {
        answer(state, OutcomeKind::user_error, "error", no_memory_text);
    } catch (const std::exception& error) {
        answer(state, OutcomeKind::bug, "error", error.what());
    }
}

/// While one lives, fatal signals of this process are those of a kernel's code. Where the host has no room for RAM
/// (SIGBUS in it), the process ends with `no_room_status`, and RunState::no_room says so.
class FatalSignals {
public:
    /// `back`: inline isolation, where to go on (with the signal's number); null: the process dies.
    FatalSignals(RunState& state, const PhysicalMemory& ram, sigjmp_buf* back);
    ~FatalSignals();
    FatalSignals(const FatalSignals&) = delete;
    FatalSignals& operator=(const FatalSignals&) = delete;

    static constexpr int no_room_status = 2;
};

/// "the kernel's code was killed by SIGSEGV at address 0x…"
std::string signal_text(const RunState& state, int number);
/// A kernel died by a signal: the last words in the trace, and the referee's.
void report_signal(Machine& machine, RunState& state, int number);

}  // namespace kexec_sim::sim
