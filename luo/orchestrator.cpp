#include "luo/orchestrator.hpp"
#include "machine/reached.hpp"

namespace kexec_sim::luo {

Orchestrator::Orchestrator(Kernel& kernel, kho::Kho& kho, const Edition& edition)
    : kernel_(kernel),
      kho_(kho),
      edition_(edition),
      state_lock_(kernel.machine, "the LUO state lock"),
      list_lock_(kernel.machine, "the subsystem list lock"),
      tree_(kernel, kho, edition),
      files_(kernel, kho, *this) {
    attach();
}

Orchestrator::~Orchestrator() {
    // The references to files go with this object; what they referred to dies with the kernel, not by a release.
    kernel_.vfs.destroy_all();
}

void Orchestrator::log(LogLevel level, std::string_view text) {
    kernel_.log.print(level, fmt::format("{}{}", edition_.prefix.core, text));
}

// --- states
// --------------------------------------------------------------------------------------------------------------

void Orchestrator::set_state(LuoState to, bool quiet) {
    const LuoState from = std::exchange(state_, to);
    kernel_.machine.referee.luo_state(from, to);
    kernel_.machine.faults.set_update_state(luo_state_name(to));
    kernel_.machine.trace.emit(Layer::luo, "luo.state", {{"from", luo_state_name(from)}, {"to", luo_state_name(to)}});
    if (!quiet)
        log(LogLevel::info,
            fmt::format("Switched from [{}] to [{}] state", luo_state_name(from), luo_state_name(to)));
}

bool Orchestrator::switch_allowed(bool allowed, LuoState target) {
    if (!allowed) {
        REACHED("luo.switch_refused");
        log(LogLevel::warn,
            fmt::format("Can't switch to [{}] from [{}] state", luo_state_name(target), luo_state_name(state_)));
    }
    return allowed;
}

Result<> Orchestrator::request(LuoEvent event) {
    const auto run = [&]() -> Result<> {
        switch (event) {
        case LuoEvent::prepare: return prepare();
        case LuoEvent::freeze: return freeze();
        case LuoEvent::cancel: return cancel();
        case LuoEvent::finish: return finish();
        }
        return fail(Errno::einval);
    };
    kernel_.machine.referee.luo_request_begins();
    const Result<> result = [&] {
        constexpr std::string_view names[] = {"prepare", "freeze", "finish", "cancel"};
        const FaultInjector::Doing doing(kernel_.machine.faults, names[static_cast<std::size_t>(event)]);
        return run();
    }();
    kernel_.machine.referee.luo_request(event, result);
    return result;
}

Result<> Orchestrator::reboot() {
    if (state_ != LuoState::prepared) return {};
    return request(LuoEvent::freeze);
}

Result<> Orchestrator::wait_for_state_lock(std::string_view event) {
    if (!state_lock_.write_would_wait() || !kernel_.machine.faults.agent_kill_pending()) return {};
    REACHED("luo.event_canceled");
    log(LogLevel::warn, fmt::format("[{}] event canceled by user", event));
    return fail(Errno::eagain);
}

// --- PREPARE
// -------------------------------------------------------------------------------------------------------------

Result<> Orchestrator::prepare() {
    {
        TRY(wait_for_state_lock("prepare"));
        const WriteGuard guard(state_lock_);
        if (!switch_allowed(state_ == LuoState::normal, LuoState::prepared)) return fail(Errno::einval);
        if (!kho_.finalized()) catch_up_after_abort();
        TRY(prepare_locked());
        set_state(LuoState::prepared);
    }
    // Outside the lock, and too late to fail: the state is prepared already (LUO-D6).
    const Result<> finalized = kho_.finalize();
    if (!finalized && strict()) {
        const WriteGuard guard(state_lock_);
        cancel_all();
        tree_.destroy();
        set_state(LuoState::normal);
    }
    return finalized;
}

Result<> Orchestrator::prepare_locked() {
    TRY(tree_.build(subsystems_));
    if (const auto called = call_all(LuoCallback::prepare); !called) {
        REACHED("luo.prepare.rollback");
        tree_.destroy();
        return called;
    }
    if (const auto committed = commit(); !committed) {
        REACHED("luo.prepare.commit_failed");
        cancel_all();
        tree_.destroy();
        return committed;
    }
    return {};
}

// --- FREEZE
// --------------------------------------------------------------------------------------------------------------

Result<> Orchestrator::freeze() {
    TRY(wait_for_state_lock("freeze"));
    const WriteGuard guard(state_lock_);
    if (!switch_allowed(state_ == LuoState::prepared, LuoState::frozen)) return fail(Errno::einval);
    kernel_.blackout_begins();
    kernel_.machine.clock.advance(kernel_.config.cost.freeze);
    Result<> result = call_all(LuoCallback::freeze);
    if (result) {
        result = commit();
        if (!result && !strict()) cancel_all();
    }
    if (result) {
        set_state(LuoState::frozen);
        return {};
    }
    kernel_.blackout_called_off();
    if (strict()) {
        REACHED("luo.freeze.rollback_strict");
        // KHO first: until it is aborted nothing can be unpreserved.
        static_cast<void>(abort_kho());
        cancel_all();
        tree_.destroy();
    } else {
        REACHED("luo.freeze.rollback");
        tree_.leak();  // LUO-D5
    }
    set_state(LuoState::normal);
    return result;
}

// --- CANCEL
// --------------------------------------------------------------------------------------------------------------

Result<> Orchestrator::abort_kho() {
    TRY(kho_.abort());
    catch_up_after_abort();
    return {};
}

void Orchestrator::catch_up_after_abort() {
    for (const auto& work : std::exchange(after_abort_, {})) work();
}

Result<> Orchestrator::cancel() {
    // KHO first, so that callbacks can unpreserve. If it was somebody else who finalized it, it is aborted all the
    // same.
    TRY(abort_kho());
    TRY(wait_for_state_lock("cancel"));
    const WriteGuard guard(state_lock_);
    const bool allowed = state_ == LuoState::prepared || state_ == LuoState::frozen;
    if (!switch_allowed(allowed, LuoState::normal)) return fail(Errno::einval);
    kernel_.blackout_called_off();
    cancel_all();
    static_cast<void>(commit());  // the zeros; nobody will read them
    tree_.destroy();
    set_state(LuoState::normal);
    return {};
}

// --- FINISH
// --------------------------------------------------------------------------------------------------------------

Result<> Orchestrator::finish() {
    TRY(wait_for_state_lock("finish"));
    const WriteGuard guard(state_lock_);
    if (!switch_allowed(state_ == LuoState::updated, LuoState::normal)) return fail(Errno::einval);
    finish_all();
    tree_.release_incoming(strict());
    set_state(LuoState::normal);
    return {};
}

}  // namespace kexec_sim::luo
