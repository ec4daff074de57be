// What happens to files when the state changes, of one of them or of the machine.
#include "luo/abi/trees.hpp"
#include "luo/orchestrator.hpp"
#include "machine/reached.hpp"

namespace kexec_sim::luo {
namespace {

FaultPoint fault_point_of(LuoCallback callback) {
    switch (callback) {
    case LuoCallback::prepare: return FaultPoint::luo_file_prepare;
    case LuoCallback::freeze: return FaultPoint::luo_file_freeze;
    case LuoCallback::cancel: return FaultPoint::luo_file_cancel;
    case LuoCallback::finish: return FaultPoint::luo_file_finish;
    case LuoCallback::boot: break;  // files have none
    }
    std::unreachable();
}

int returned(const Result<>& result) { return result ? 0 : -static_cast<int>(result.error()); }

}  // namespace

// --- one callback of one file
// --------------------------------------------------------------------------------------------

template <typename Body> Result<> Files::call(LuoCallback callback, u64 token, const Record& record, Body&& body) {
    FileHandler& handler = *record.handler;
    if (!handler.provides(callback)) return {};
    Machine& machine = kernel_.machine;
    const std::string span = fmt::format("luo.file.{}", luo_callback_name(callback));
    machine.trace.emit(Layer::luo, span, {hex_field("token", token), {"handler", handler.compatible}}, Phase::begin);
    const auto fault = machine.faults.visit(fault_point_of(callback), handler.compatible);
    // A skipped callback did not run: the referee does not hear of it.
    const bool runs = !fault || fault->kind != FaultKind::skip;
    if (runs) machine.referee.file_callback(token, handler.compatible, callback, std::nullopt);
    const bool may_fail = callback == LuoCallback::prepare || callback == LuoCallback::freeze;
    Result<> result;
    if (may_fail && fault && fault->kind == FaultKind::fail)
        result = fail(fault->error);
    else if (runs)
        result = body(handler);
    if (may_fail && fault && fault->kind == FaultKind::lie) result = fail(fault->error);
    machine.trace.emit(Layer::luo, span,
                       {hex_field("token", token), {"handler", handler.compatible}, result_field(result)},
                       Phase::end);
    if (runs) machine.referee.file_callback(token, handler.compatible, callback, result);
    return result;
}

Result<> Files::prepare_one(u64 token, Record& record) {
    const WriteGuard guard(*record.lock);
    if (record.state != LuoState::normal) return {};  // by its own event, earlier
    TRY(call(LuoCallback::prepare, token, record,
             [&](FileHandler& handler) { return handler.prepare(*record.file, record.data); }));
    record.state = LuoState::prepared;
    return {};
}

Result<> Files::freeze_one(u64 token, Record& record) {
    const WriteGuard guard(*record.lock);
    if (record.state != LuoState::prepared) return {};
    TRY(call(LuoCallback::freeze, token, record,
             [&](FileHandler& handler) { return handler.freeze(*record.file, record.data); }));
    record.state = LuoState::frozen;
    return {};
}

void Files::cancel_one(u64 token, Record& record) {
    const WriteGuard guard(*record.lock);
    if (record.state == LuoState::normal) return;
    static_cast<void>(call(LuoCallback::cancel, token, record, [&](FileHandler& handler) -> Result<> {
        handler.cancel(*record.file, record.data);
        return {};
    }));
    record.data = 0;
    record.state = LuoState::normal;
}

void Files::finish_one(u64 token, Record& record) {
    const WriteGuard guard(*record.lock);
    if (record.state != LuoState::updated) return;  // by its own event, earlier
    static_cast<void>(call(LuoCallback::finish, token, record, [&](FileHandler& handler) -> Result<> {
        handler.finish(record.file.get(), record.data, record.reclaimed);
        return {};
    }));
    record.state = LuoState::normal;
}

// --- the subsystem's callbacks
// -------------------------------------------------------------------------------------------

int Files::prepare_all(u64* data) {
    std::map<u64, std::string> names;
    for (const auto& [token, record] : outgoing_) names.emplace(token, record.handler->compatible);
    std::string text;
    if (const auto built = tree_.build(names, text); !built) {
        REACHED("luo.files.tree_not_built");
        log(LogLevel::err, text);
        return returned(built);
    }
    for (auto& [token, record] : outgoing_) {
        const auto prepared = prepare_one(token, record);
        if (prepared) continue;
        REACHED("luo.files.prepare_failed");
        log(LogLevel::err, fmt::format("Prepare failed for file token {:#x} handler '{}' [{}]", token,
                                       record.handler->compatible, returned(prepared)));
        cancel_before(token);
        tree_.destroy();
        return returned(prepared);
    }
    if (const auto committed = commit(); !committed) {
        cancel_all();
        return returned(committed);
    }
    *data = tree_.phys().raw;
    return 0;
}

int Files::freeze_all() {
    for (auto& [token, record] : outgoing_) {
        const auto frozen = freeze_one(token, record);
        if (frozen) continue;
        REACHED("luo.files.freeze_failed");
        log(LogLevel::err, fmt::format("Freeze callback failed for file token {:#x} handler '{}' [{}]", token,
                                       record.handler->compatible, returned(frozen)));
        // Repaired (LUO-D4), whoever called cancels the whole subsystem once KHO is aborted.
        if (!orchestrator_.strict()) {
            cancel_before(token);
            tree_.destroy();
        }
        return returned(frozen);
    }
    const auto committed = commit();
    if (!committed && !orchestrator_.strict()) cancel_all();
    return returned(committed);
}

void Files::cancel_before(u64 token) {
    for (auto at = outgoing_.begin(); at->first != token; ++at) cancel_one(at->first, at->second);
}

void Files::cancel_all() {
    for (auto& [token, record] : outgoing_) cancel_one(token, record);
    tree_.destroy();
}

Result<> Files::commit() {
    for (const auto& [token, record] : outgoing_) {
        const int code = tree_.write_data(token, record.data);
        if (code == 0) continue;
        REACHED("luo.files.commit_failed");
        log(LogLevel::err,
            fmt::format("Failed to set data property for token {}: {}", token, kho::fdt_error_text(code)));
        return fail(Errno::enospc);
    }
    return {};
}

void Files::finish_all() {
    rebuild();
    for (auto& [token, record] : incoming_) finish_one(token, record);
    for (auto at = incoming_.begin(); at != incoming_.end(); at = incoming_.erase(at))
        kernel_.vfs.put(std::move(at->second.file));
    tree_.release_incoming(orchestrator_.strict());
    rebuilt_ = false;
}

// --- events of one file
// --------------------------------------------------------------------------------------------------

Result<> Files::file_event(u64 token, u32 event) {
    const ReadGuard state_guard(orchestrator_.state_lock());
    const auto out = outgoing_.find(token);
    const auto in = incoming_.find(token);
    if (out == outgoing_.end() && in == incoming_.end()) return fail(Errno::enoent);
    if (event == static_cast<u32>(LuoEvent::finish)) {
        if (orchestrator_.state() != LuoState::updated) {
            REACHED("luo.file.finish_too_early");
            log(LogLevel::warn, "finish can only be done in UPDATED state");
            return fail(Errno::ebusy);
        }
        if (in == incoming_.end()) return fail(Errno::enoent);
        finish_one(token, in->second);
        return {};
    }
    if (event > static_cast<u32>(LuoEvent::cancel)) return fail(Errno::einval);
    if (out == outgoing_.end()) return fail(Errno::enoent);
    Record& record = out->second;
    switch (static_cast<LuoEvent>(event)) {
    case LuoEvent::prepare: return prepare_one(token, record);
    case LuoEvent::freeze:
        if (record.state == LuoState::normal && !std::exchange(warned_freeze_, true))
            kernel_.log.warn_on(fmt::format("{}freeze of file token {:#x}, which is not prepared",
                                            orchestrator_.edition().prefix.files, token),
                                true);
        return freeze_one(token, record);
    case LuoEvent::cancel: cancel_one(token, record); return {};
    case LuoEvent::finish: break;
    }
    return fail(Errno::einval);
}

}  // namespace kexec_sim::luo
