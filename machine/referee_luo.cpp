// The referee's own table of the state machine: which edges, callbacks and orders the edition as written allows.
//
//   undefined --boot--> normal | updated       normal   --PREPARE--> prepared
//   prepared --FREEZE--> frozen                prepared --CANCEL, failed FREEZE--> normal
//   frozen   --CANCEL--> normal                updated  --FINISH--> normal        frozen --kexec--> the next kernel
//
// Callbacks of a pass come in registration order, those of files by ascending token. When subsystem k refuses, 0..k-1
// are cancelled in the same order, and k and later ones are not: odd, but written so. A failed freeze leaves those
// prepared and KHO finalized, and a failed prepare may leave the state prepared: legal, and yet no rollback.
#include "machine/arena.hpp"
#include "machine/referee_books.hpp"

namespace kexec_sim {
namespace {

struct Edge {
    LuoState from, to;
};
constexpr Edge legal_edges[] = {
    {LuoState::undefined, LuoState::normal}, {LuoState::undefined, LuoState::updated},
    {LuoState::normal, LuoState::prepared},  {LuoState::prepared, LuoState::normal},
    {LuoState::prepared, LuoState::frozen},  {LuoState::frozen, LuoState::normal},
    {LuoState::updated, LuoState::normal},
};

bool legal(LuoState from, LuoState to) {
    for (const Edge& edge : legal_edges)
        if (edge.from == from && edge.to == to) return true;
    return false;
}

std::string_view event_name(LuoEvent event) {
    switch (event) {
    case LuoEvent::prepare: return "prepare";
    case LuoEvent::freeze: return "freeze";
    case LuoEvent::finish: return "finish";
    case LuoEvent::cancel: return "cancel";
    }
    return "?";
}

/// Where an event is accepted, and where it leads.
bool starts_from(LuoEvent event, LuoState state) {
    switch (event) {
    case LuoEvent::prepare: return state == LuoState::normal;
    case LuoEvent::freeze: return state == LuoState::prepared;
    case LuoEvent::finish: return state == LuoState::updated;
    case LuoEvent::cancel: return state == LuoState::prepared || state == LuoState::frozen;
    }
    return false;
}
LuoState leads_to(LuoEvent event) {
    switch (event) {
    case LuoEvent::prepare: return LuoState::prepared;
    case LuoEvent::freeze: return LuoState::frozen;
    case LuoEvent::finish:
    case LuoEvent::cancel: break;
    }
    return LuoState::normal;
}

}  // namespace

void RefereeBooks::end_pass() {
    LuoBook& luo = kernel->luo;
    luo.pass.reset();
    luo.file_pass.reset();
    luo.failed_index.reset();
    luo.next_index = 0;
    luo.next_token = 0;
    luo.rolling_back_allowed = false;
    luo.finalized_in_request = false;
    for (LuoBook::Subsystem& subsystem : luo.subsystems) subsystem.called = 0;
}

void Referee::luo_state(LuoState from, LuoState to) {
    if (!attached) return;
    const MachineEntry entry;
    RefereeBooks& books = *books_;
    LuoBook& luo = books.kernel->luo;
    if (from != luo.state)
        books.report(InvariantId::luo_legal, "LUO", {}, "the state was {}; LUO says that it switched from {}",
                     luo_state_name(luo.state), luo_state_name(from));
    if (from != to && !legal(from, to))
        books.report(InvariantId::luo_legal, "LUO", {},
                     "LUO switched from {} to {}; the edition has no such transition", luo_state_name(from),
                     luo_state_name(to));
    if (from == LuoState::undefined) luo.before = to;  // boot, not a request
    const bool was_frozen = luo.state == LuoState::frozen;
    luo.state = to;
    if (!books.devices || was_frozen == (to == LuoState::frozen)) return;
    if (was_frozen)
        books.devices->thawed();
    else
        books.devices->frozen();
}

// --- Requests ----------------------------------------------------------------------------------------------------

void RefereeBooks::request_ended(LuoEvent event, const Result<>& result) {
    LuoBook& luo = kernel->luo;
    const LuoState was = luo.before, is = luo.state;
    const bool finalized_here = luo.finalized_in_request;
    luo.before = is;
    if (result && starts_from(event, was)) judge_completeness(event);
    end_pass();
    if (!starts_from(event, was)) {
        // Refused, or the reboot hook that has nothing to do: nothing may change.
        if (is != was)
            report(InvariantId::luo_legal, "LUO", {}, "{} was asked for in state {}; the state is now {}",
                   event_name(event), luo_state_name(was), luo_state_name(is));
        if (result && event != LuoEvent::freeze)
            report(InvariantId::luo_legal, "LUO", {},
                   "{} was asked for in state {}; the caller was told that it succeeded", event_name(event),
                   luo_state_name(was));
        return;
    }
    if (result && is != leads_to(event))
        report(InvariantId::luo_legal, "LUO", {}, "the caller was told that {} succeeded; the state is {}",
               event_name(event), luo_state_name(is));
    switch (event) {
    case LuoEvent::prepare:
        if (result)
            promise(false);
        else
            judge_rollback(event, result, finalized_here);
        break;
    case LuoEvent::freeze:
        if (!result) judge_rollback(event, result, finalized_here);
        break;
    case LuoEvent::cancel:
        if (result) judge_rollback(event, result, finalized_here);
        break;
    case LuoEvent::finish:
        if (!result) break;
        judge_finish();
        judge_accounts("finish");
        if (devices) devices->finished();
        break;
    }
}

/// A pass that succeeded has called everybody who has such a callback. (Who was not cancelled: judge_rollback.)
void RefereeBooks::judge_completeness(LuoEvent event) {
    if (event == LuoEvent::cancel) return;
    LuoCallback callback = LuoCallback::prepare;
    if (event == LuoEvent::freeze) callback = LuoCallback::freeze;
    if (event == LuoEvent::finish) callback = LuoCallback::finish;
    for (const LuoBook::Subsystem& subsystem : kernel->luo.subsystems) {
        if ((subsystem.called >> static_cast<unsigned>(callback)) & 1 || lacks(subsystem.name, callback)) continue;
        report(InvariantId::luo_legal, text("subsystem {}", names.text(subsystem.name)), {},
               "{} succeeded; the {} callback of subsystem {} never ran", event_name(event),
               luo_callback_name(callback), names.text(subsystem.name));
    }
    if (event == LuoEvent::finish) return;  // files: judge_finish
    for (const auto& [token, file] : kernel->files) {
        // A file that its own event cancelled is not frozen with the others.
        if (event == LuoEvent::freeze && !file.prepared && !file.frozen) continue;
        const bool called = event == LuoEvent::prepare ? file.prepared : file.frozen;
        if (called || lacks(file.compatible, callback)) continue;
        report(InvariantId::luo_legal, text("file {:#x}", token), {}, "{} succeeded; the {} callback of {} never ran",
               event_name(event), luo_callback_name(callback), described(token, file.compatible));
    }
}

/// After a failed prepare, a failed freeze and a cancel everything must be as before the update.
void RefereeBooks::judge_rollback(LuoEvent event, const Result<>& result, bool finalized_in_request) {
    LuoBook& luo = kernel->luo;
    const std::pmr::string moment =
        result ? text("{}", event_name(event))
               : text("a {} that failed with {}", event_name(event), errno_name(result.error()));
    if (event != LuoEvent::prepare) end_promises(false);
    if (luo.state != LuoState::normal) {
        report(InvariantId::luo_rollback, "LUO", {}, "after {} the state is {}, not normal", moment,
               luo_state_name(luo.state));
        return;
    }
    const bool finalized = kernel->kho_finalized && (event != LuoEvent::prepare || finalized_in_request);
    if (finalized)
        report(
            InvariantId::luo_rollback, "KHO", {},
            "after {} the state is normal, but KHO is still finalized: nothing can be preserved for another prepare",
            moment);
    for (LuoBook::Subsystem& subsystem : luo.subsystems) {
        if (subsystem.prepared && !lacks(subsystem.name, LuoCallback::cancel))
            report(InvariantId::luo_rollback, text("subsystem {}", names.text(subsystem.name)), {},
                   "after {} the state is normal, but subsystem {}, which had prepared, was never told to cancel",
                   moment, names.text(subsystem.name));
        subsystem.prepared = false;
    }
    for (const auto& [token, file] : kernel->files)
        if (file.prepared && !file.by_event && !lacks(file.compatible, LuoCallback::cancel))
            report(InvariantId::luo_rollback, text("file {:#x}", token), {},
                   "after {} the state is normal, but {}, which had prepared, was never told to cancel", moment,
                   described(token, file.compatible));
    if (event != LuoEvent::freeze)
        judge_accounts(moment);
    else if (!kernel->strict)
        become_overhead_after_failed_freeze();
}

void Referee::luo_request_begins() {
    if (!attached) return;
    const MachineEntry entry;
    books_->kernel->luo.finalized_in_request = false;
}

void Referee::luo_request(LuoEvent event, Result<> result) {
    if (!attached) return;
    const MachineEntry entry;
    books_->request_ended(event, result);
}

// --- Subsystems --------------------------------------------------------------------------------------------------

void Referee::subsystem_registered(std::string_view name) {
    if (!attached) return;
    const MachineEntry entry;
    LuoBook& luo = books_->kernel->luo;
    const NameId id = books_->names.id(name);
    luo.left.erase(id);
    for (const LuoBook::Subsystem& subsystem : luo.subsystems)
        if (subsystem.name == id) return;
    luo.subsystems.push_back({id, false, 0});
}

void Referee::subsystem_unregistered(std::string_view name) {
    if (!attached) return;
    const MachineEntry entry;
    LuoBook& luo = books_->kernel->luo;
    const NameId id = books_->names.id(name);
    std::erase_if(luo.subsystems, [&](const LuoBook::Subsystem& subsystem) { return subsystem.name == id; });
    luo.left.insert(id);
}

void Referee::callback_absent(std::string_view name, LuoCallback callback) {
    if (!attached) return;
    const MachineEntry entry;
    books_->kernel->luo.absent.emplace(books_->names.id(name), callback);
}

void RefereeBooks::check_phase(std::string_view what, LuoCallback callback) {
    const LuoBook& luo = kernel->luo;
    bool allowed = true;
    switch (callback) {
    case LuoCallback::prepare: allowed = luo.state == LuoState::normal; break;
    case LuoCallback::freeze: allowed = luo.state == LuoState::prepared; break;
    case LuoCallback::boot:
    case LuoCallback::finish: allowed = luo.state == LuoState::updated; break;
    case LuoCallback::cancel:
        allowed = luo.state == LuoState::prepared || luo.state == LuoState::frozen || luo.rolling_back_allowed;
        break;
    }
    if (!allowed)
        report(InvariantId::luo_legal, what, {}, "the {} callback of {} runs; the state is {}",
               luo_callback_name(callback), what, luo_state_name(luo.state));
}

void RefereeBooks::check_order(NameId name, LuoCallback callback) {
    LuoBook& luo = kernel->luo;
    if (callback == LuoCallback::boot) return;  // runs inside registration, whenever that is
    if (luo.pass != callback) {
        luo.pass = callback;
        luo.next_index = 0;
        if (callback == LuoCallback::prepare || callback == LuoCallback::freeze) {
            luo.failed_index.reset();
            luo.rolling_back_allowed = true;
        }
    }
    std::size_t index = 0;
    while (index < luo.subsystems.size() && luo.subsystems[index].name != name) ++index;
    if (index == luo.subsystems.size()) return;
    if (index < luo.next_index)
        report(InvariantId::luo_legal, text("subsystem {}", names.text(name)), {},
               "the {} callback of subsystem {} runs after that of {}; it was registered before it",
               luo_callback_name(callback), names.text(name), names.text(luo.last_called));
    luo.next_index = index + 1;
    luo.last_called = name;
    const bool repaired = kernel->strict && luo.failed_in == LuoCallback::freeze;
    if (callback == LuoCallback::cancel && luo.failed_index && index >= *luo.failed_index && !repaired)
        report(InvariantId::luo_legal, text("subsystem {}", names.text(name)), {},
               "subsystem {} is cancelled; {} failed in {} and only those before it are", names.text(name),
               names.text(luo.failed_name), luo_callback_name(luo.failed_in));
}

void RefereeBooks::subsystem_begins(NameId name, LuoCallback callback) {
    LuoBook& luo = kernel->luo;
    const std::pmr::string what = text("subsystem {}", names.text(name));
    if (luo.running != no_name)
        report(InvariantId::luo_legal, what, {}, "the {} callback of {} runs inside one of {}",
               luo_callback_name(callback), what, names.text(luo.running));
    luo.running = name;
    luo.running_in = callback;
    luo.file_pass.reset();
    luo.next_token = 0;
    if (luo.left.contains(name))
        report(InvariantId::luo_legal, what, {}, "the {} callback of {} runs; it was unregistered",
               luo_callback_name(callback), what);
    check_phase(what, callback);
    check_order(name, callback);
    if (callback == LuoCallback::cancel) suspend(name, false, 0);
}

void RefereeBooks::subsystem_ends(NameId name, LuoCallback callback, const Result<>& result) {
    LuoBook& luo = kernel->luo;
    luo.running = no_name;
    for (std::size_t index = 0; index < luo.subsystems.size(); ++index) {
        LuoBook::Subsystem& subsystem = luo.subsystems[index];
        if (subsystem.name != name) continue;
        if (!result && (callback == LuoCallback::prepare || callback == LuoCallback::freeze)) {
            luo.failed_index = index;
            luo.failed_name = name;
            luo.failed_in = callback;
        }
        subsystem.called |= static_cast<u8>(1U << static_cast<unsigned>(callback));
        if (callback == LuoCallback::prepare) subsystem.prepared = result.has_value();
        if (callback == LuoCallback::cancel) subsystem.prepared = false;
    }
}

void Referee::subsystem_callback(std::string_view name, LuoCallback callback, std::optional<Result<>> result) {
    if (!attached) return;
    const MachineEntry entry;
    const NameId id = books_->names.id(name);
    books_->flush_run();
    if (!result)
        books_->subsystem_begins(id, callback);
    else
        books_->subsystem_ends(id, callback, *result);
}

void Referee::lock_violation(std::string_view what) {
    if (!attached) return;
    const MachineEntry entry;
    books_->report(InvariantId::luo_legal, "locks", {}, "{}", what);
    // The task never returns from the callback that it is in.
    books_->kernel->luo.running = no_name;
    books_->kernel->luo.file_running = false;
}

}  // namespace kexec_sim
