#include "luo/files.hpp"

#include <algorithm>

#include "luo/abi/trees.hpp"
#include "luo/orchestrator.hpp"
#include "machine/reached.hpp"

namespace kexec_sim::luo {

Files::Files(Kernel& kernel, kho::Kho& kho, Orchestrator& orchestrator)
    : kernel_(kernel),
      kho_(kho),
      orchestrator_(orchestrator),
      handlers_lock_(kernel.machine, "the file handler list lock"),
      tree_(kernel, kho) {
    subsystem_.name = abi::LUO_FILES_NODE_NAME;
    subsystem_.prepare = [this](u64* data) { return prepare_all(data); };
    subsystem_.freeze = [this](u64*) { return freeze_all(); };
    subsystem_.cancel = [this](u64) { cancel_all(); };
    subsystem_.finish = [this](u64) { finish_all(); };
    if (orchestrator.edition().boot_callback) subsystem_.boot = [this](u64 data) { boot(data); };
}

Files::~Files() = default;

void Files::log(LogLevel level, std::string_view text) {
    kernel_.log.print(level, fmt::format("{}{}", orchestrator_.edition().prefix.files, text));
}

void Files::start() {
    if (!orchestrator_.enabled()) return;
    // Nothing is in its way this early; the kernel's own code would only warn.
    INVARIANT(orchestrator_.register_subsystem(&subsystem_));
    // Without a boot callback the incoming tree is fetched here. Without its property there is nothing to fetch; FINISH
    // will panic over it.
    if (orchestrator_.edition().boot_callback || orchestrator_.state() != LuoState::updated) return;
    if (const auto data = orchestrator_.get_subsystem_data(&subsystem_)) boot(*data);
}

// --- handlers
// ------------------------------------------------------------------------------------------------------------

FileHandler* Files::find_handler(std::string_view compatible) const {
    for (FileHandler* handler : handlers_)
        if (handler->compatible == compatible) return handler;
    return nullptr;
}

Result<> Files::register_handler(FileHandler* handler) {
    const ReadGuard state_guard(orchestrator_.state_lock());
    if (!orchestrator_.normal_or_updated()) return fail(Errno::ebusy);
    const WriteGuard list_guard(handlers_lock_);
    if (find_handler(handler->compatible)) {
        REACHED("luo.handler.twice");
        log(LogLevel::err, fmt::format("File handler registration failed: Compatible string '{}' already registered.",
                                       handler->compatible));
        return fail(Errno::eexist);
    }
    if (orchestrator_.edition().module_references && handler->in_module &&
        !kernel_.machine.faults.check(FaultPoint::luo_module_get, handler->compatible))
        return fail(Errno::eagain);
    handlers_.push_back(handler);
    Referee& referee = kernel_.machine.referee;
    referee.claimer_present(handler->compatible);
    for (const LuoCallback callback :
         {LuoCallback::prepare, LuoCallback::freeze, LuoCallback::cancel, LuoCallback::finish})
        if (!handler->provides(callback)) referee.callback_absent(handler->compatible, callback);
    return {};
}

Result<> Files::unregister_handler(FileHandler* handler) {
    const ReadGuard state_guard(orchestrator_.state_lock());
    if (!orchestrator_.normal_or_updated()) return fail(Errno::ebusy);
    const WriteGuard list_guard(handlers_lock_);
    for (const auto& [token, record] : outgoing_)
        if (record.handler == handler) return fail(Errno::ebusy);
    if (std::erase(handlers_, handler) == 0) return fail(Errno::enoent);
    return {};
}

FileHandler* Files::choose_handler(File& file) {
    const ReadGuard list_guard(handlers_lock_);
    for (FileHandler* handler : handlers_) {
        // Its answer is yes or no: a planned errno, before or after it was asked, is a no.
        const auto asked = [&] { return handler->can_preserve(file) ? Result<>() : Result<>(fail(Errno::enoent)); };
        if (under_fault(kernel_.machine.faults, FaultPoint::luo_file_can_preserve, handler->compatible, asked))
            return handler;
    }
    return nullptr;
}

// --- the outgoing set
// ----------------------------------------------------------------------------------------------------

Result<> Files::preserve(Agent& caller, i32 fd, u64 token) {
    auto file = caller.get(fd);
    if (!file) {
        REACHED("luo.preserve.bad_descriptor");
        log(LogLevel::err, "Bad file descriptor");
        return fail(file.error());
    }
    const ReadGuard state_guard(orchestrator_.state_lock());
    if (!orchestrator_.normal_or_updated()) {
        REACHED("luo.preserve.wrong_state");
        log(LogLevel::warn, "File can be registered only in normal or updated state");
        return fail(Errno::ebusy);
    }
    FileHandler* handler = choose_handler(**file);
    if (!handler) return fail(Errno::enoent);
    TRY(kernel_.machine.faults.check(FaultPoint::mm_slab_alloc, "luo.file"));
    if (outgoing_.contains(token)) {
        REACHED("luo.preserve.token_taken");
        log(LogLevel::warn, fmt::format("Token {} is already taken", token));
        return fail(Errno::eexist);
    }
    Record& record = outgoing_[token];
    record.handler = handler;
    record.file = std::move(*file);
    record.lock = std::make_unique<TaskLock>(kernel_.machine, "the lock of file " + token_name(token));
    kernel_.machine.referee.file_preserved(token, handler->compatible, record.file->id());
    return {};
}

Result<> Files::unpreserve(u64 token) {
    const ReadGuard state_guard(orchestrator_.state_lock());
    if (!orchestrator_.normal_or_updated()) return fail(Errno::ebusy);
    auto at = outgoing_.find(token);
    // KB-iterator: the search has ended, and what it looked at last is taken for what was found.
    if (at == outgoing_.end() && kernel_.config.mutant(Mutant::kb_iterator) && !outgoing_.empty())
        at = std::prev(outgoing_.end());
    if (at == outgoing_.end()) {
        REACHED("luo.unpreserve.unknown_token");
        log(LogLevel::warn, fmt::format("Failed to unregister: token {} not found.", token));
        return fail(Errno::enoent);
    }
    remove(at, token);
    return {};
}

void Files::remove(Records::iterator at, u64 asked) {
    const u64 token = at->first;
    Record& record = at->second;
    if (record.state != LuoState::normal) {
        cancel_one(token, record);
        tree_.remove_node(token);
    }
    FileRef file = std::move(record.file);
    outgoing_.erase(at);
    kernel_.machine.referee.file_unpreserved(asked);
    kernel_.vfs.put(std::move(file));
}

void Files::drop_outgoing() {
    while (!outgoing_.empty()) remove(outgoing_.begin(), outgoing_.begin()->first);
}

Result<LuoState> Files::file_state(u64 token, bool incoming) {
    const ReadGuard state_guard(orchestrator_.state_lock());
    const Records& records = incoming ? incoming_ : outgoing_;
    const auto at = records.find(token);
    if (at == records.end()) return fail(Errno::enoent);
    return at->second.state;
}

}  // namespace kexec_sim::luo
