// The list of subsystems, and the loops that call them.
#include <algorithm>

#include "luo/orchestrator.hpp"
#include "machine/reached.hpp"

namespace kexec_sim::luo {
namespace {

FaultPoint fault_point_of(LuoCallback callback) {
    switch (callback) {
    case LuoCallback::prepare: return FaultPoint::luo_subsystem_prepare;
    case LuoCallback::freeze: return FaultPoint::luo_subsystem_freeze;
    case LuoCallback::boot: return FaultPoint::luo_subsystem_boot;
    case LuoCallback::cancel: return FaultPoint::luo_subsystem_cancel;
    case LuoCallback::finish: return FaultPoint::luo_subsystem_finish;
    }
    std::unreachable();
}

std::string span_name(LuoCallback callback) { return "luo.subsystem." + std::string(luo_callback_name(callback)); }

Result<> result_of(int returned) {
    if (returned < 0) return fail(static_cast<Errno>(-returned));
    return {};
}

}  // namespace

// --- registration
// ------------------------------------------------------------------------------------------------------

bool Orchestrator::on_list(const Subsystem* subsystem) const {
    return std::find(subsystems_.begin(), subsystems_.end(), subsystem) != subsystems_.end();
}

Result<> Orchestrator::register_subsystem(Subsystem* subsystem) {
    const ReadGuard state_guard(state_lock_);
    if (!normal_or_updated()) return fail(Errno::ebusy);
    const WriteGuard list_guard(list_lock_);
    const std::string_view prefix = edition_.prefix.subsystems;
    if (on_list(subsystem)) {
        REACHED("luo.subsystem.twice");
        // The kernel prints its pointer, which it hides; an address of the host is nobody's business either.
        kernel_.log.warn("{}Subsystem '{}' (____ptrval____) already registered.", prefix, subsystem->name);
        return fail(Errno::eexist);
    }
    for (const Subsystem* other : subsystems_) {
        if (other->name != subsystem->name) continue;
        REACHED("luo.subsystem.name_taken");
        kernel_.log.err("{}Subsystem with name '{}' already registered.", prefix, subsystem->name);
        return fail(Errno::eexist);
    }
    if (edition_.module_references && subsystem->in_module &&
        !kernel_.machine.faults.check(FaultPoint::luo_module_get, subsystem->name)) {
        REACHED("luo.subsystem.no_reference");
        kernel_.log.warn("{}Subsystem '{}' unable to get reference.", prefix, subsystem->name);
        return fail(Errno::eagain);
    }
    subsystems_.push_back(subsystem);
    kernel_.machine.referee.subsystem_registered(subsystem->name);
    report_absent(*subsystem);
    return boot_new(*subsystem);
}

void Orchestrator::report_absent(const Subsystem& subsystem) {
    Referee& referee = kernel_.machine.referee;
    const auto report = [&](LuoCallback callback, bool present) {
        if (!present) referee.callback_absent(subsystem.name, callback);
    };
    report(LuoCallback::prepare, subsystem.prepare != nullptr);
    report(LuoCallback::freeze, subsystem.freeze != nullptr);
    report(LuoCallback::boot, subsystem.boot != nullptr && edition_.boot_callback);
    report(LuoCallback::cancel, subsystem.cancel != nullptr);
    report(LuoCallback::finish, subsystem.finish != nullptr);
}

Result<> Orchestrator::boot_new(Subsystem& subsystem) {
    if (state_ != LuoState::updated || !edition_.boot_callback || !subsystem.boot) return {};
    const auto data = tree_.incoming_data(subsystem.name);
    if (!data) {
        REACHED("luo.subsystem.no_incoming_data");
        // LUO-D9: the errno says "not registered", the list says otherwise.
        kernel_.log.warn_on(fmt::format("{}no data of subsystem '{}' in the incoming FDT", edition_.prefix.subsystems,
                                        subsystem.name),
                            true);
        return fail(Errno::enoent);
    }
    call_infallible(subsystem, LuoCallback::boot, *data);
    return {};
}

Result<> Orchestrator::unregister_subsystem(Subsystem* subsystem) {
    const ReadGuard state_guard(state_lock_);
    if (!normal_or_updated()) return fail(Errno::ebusy);
    const WriteGuard list_guard(list_lock_);
    if (std::erase(subsystems_, subsystem) == 0) {
        REACHED("luo.subsystem.not_registered");
        kernel_.log.warn("{}Subsystem handler '{}' not found for unregistration.", edition_.prefix.subsystems,
                         subsystem->name);
        return fail(Errno::enoent);
    }
    kernel_.machine.referee.subsystem_unregistered(subsystem->name);
    return {};
}

Result<u64> Orchestrator::get_subsystem_data(Subsystem* subsystem) {
    const ReadGuard state_guard(state_lock_);
    if (state_ != LuoState::updated || !tree_.incoming()) {
        REACHED("luo.subsystem.data_too_early");
        if (!std::exchange(warned_data_, true))
            kernel_.log.warn_on(fmt::format("{}data of subsystem '{}' asked for outside the updated state",
                                            edition_.prefix.subsystems, subsystem->name),
                                true);
        return fail(Errno::enoent);
    }
    const auto data = tree_.incoming_data(subsystem->name);
    if (!data) return fail(Errno::enoent);
    return *data;
}

// --- one callback
// ------------------------------------------------------------------------------------------------------

int Orchestrator::call_fallible(Subsystem& subsystem, LuoCallback callback) {
    Machine& machine = kernel_.machine;
    const auto& body = callback == LuoCallback::prepare ? subsystem.prepare : subsystem.freeze;
    const std::string span = span_name(callback);
    machine.trace.emit(Layer::luo, span, {{"subsystem", subsystem.name}, hex_field("data", subsystem.private_data())},
                       Phase::begin);
    const auto fault = machine.faults.visit(fault_point_of(callback), subsystem.name);
    // A skipped callback did not run, whatever the orchestrator believes: the referee does not hear of it.
    const bool runs = !fault || fault->kind != FaultKind::skip;
    if (runs) machine.referee.subsystem_callback(subsystem.name, callback, std::nullopt);
    int returned = 0;
    if (fault && fault->kind == FaultKind::fail)
        returned = -static_cast<int>(fault->error);
    else if (runs)
        returned = body(&subsystem.private_data());
    if (fault && fault->kind == FaultKind::lie) returned = -static_cast<int>(fault->error);
    const Result<> result = result_of(returned);
    machine.trace.emit(
        Layer::luo, span,
        {{"subsystem", subsystem.name}, hex_field("data", subsystem.private_data()), {"result", i32{returned}}},
        Phase::end);
    if (runs) machine.referee.subsystem_callback(subsystem.name, callback, result);
    return returned;
}

void Orchestrator::call_infallible(Subsystem& subsystem, LuoCallback callback, u64 data) {
    Machine& machine = kernel_.machine;
    const auto& body = callback == LuoCallback::boot     ? subsystem.boot
                       : callback == LuoCallback::cancel ? subsystem.cancel
                                                         : subsystem.finish;
    const std::string span = span_name(callback);
    machine.trace.emit(Layer::luo, span, {{"subsystem", subsystem.name}, hex_field("data", data)}, Phase::begin);
    const auto fault = machine.faults.visit(fault_point_of(callback), subsystem.name);
    const bool runs = !fault || fault->kind != FaultKind::skip;
    if (runs) {
        machine.referee.subsystem_callback(subsystem.name, callback, std::nullopt);
        body(data);
    }
    machine.trace.emit(Layer::luo, span, {{"subsystem", subsystem.name}, hex_field("data", data), {"result", i32{0}}},
                       Phase::end);
    if (runs) machine.referee.subsystem_callback(subsystem.name, callback, Result<>{});
}

// --- all of them
// -------------------------------------------------------------------------------------------------------

Result<> Orchestrator::call_all(LuoCallback callback) {
    const WriteGuard list_guard(list_lock_);
    for (std::size_t k = 0; k < subsystems_.size(); ++k) {
        Subsystem& subsystem = *subsystems_[k];
        const bool present =
            callback == LuoCallback::prepare ? subsystem.prepare != nullptr : subsystem.freeze != nullptr;
        if (!present) continue;
        const int returned = call_fallible(subsystem, callback);
        if (returned >= 0) continue;
        REACHED("luo.subsystem.callback_failed");
        kernel_.log.err("{}Subsystem '{}' {} callback failed [{}]", edition_.prefix.subsystems, subsystem.name,
                        luo_callback_name(callback), returned);
        // Those from k on get no cancel. After a failed prepare that is right: k undoes its own work and the others did
        // none. After a failed freeze they are prepared and stay so (LUO-D4); repaired, the caller cancels all.
        if (callback == LuoCallback::prepare || !strict()) cancel_first(k);
        return result_of(returned);
    }
    return {};
}

void Orchestrator::cancel_first(std::size_t count) {
    for (std::size_t k = 0; k < count; ++k) {
        Subsystem& subsystem = *subsystems_[k];
        if (subsystem.cancel) call_infallible(subsystem, LuoCallback::cancel, subsystem.private_data());
        subsystem.private_data() = 0;
    }
}

void Orchestrator::cancel_all() {
    const WriteGuard list_guard(list_lock_);
    cancel_first(subsystems_.size());
}

Result<> Orchestrator::commit() {
    const WriteGuard list_guard(list_lock_);
    return tree_.commit(subsystems_);
}

void Orchestrator::finish_all() {
    const WriteGuard list_guard(list_lock_);
    for (Subsystem* subsystem : subsystems_) {
        std::string why;
        const auto data = tree_.incoming_data(subsystem->name, &why);
        if (!data) {
            REACHED("luo.subsystem.finish_without_data");
            throw KernelPanic(
                fmt::format("In FDT node '/subsystems' can't find property '{}': {}", subsystem->name, why));
        }
        subsystem->private_data() = *data;
    }
    for (Subsystem* subsystem : subsystems_) {
        if (subsystem->finish) call_infallible(*subsystem, LuoCallback::finish, subsystem->private_data());
        subsystem->private_data() = 0;
    }
}

}  // namespace kexec_sim::luo
