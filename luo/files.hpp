// Files that user space wants to have carried over: the built-in subsystem `file-descriptors`.
//
// An agent names a file by a token of its own choice. A file handler, one for each kind of file, knows how to carry
// it. Every file has a state of its own beside the machine's, and can be moved ahead of it by per-file events.
//
//   outgoing set   token -> { handler, file, data, state }    PRESERVE adds, UNPRESERVE and the device's last close take away
//   incoming set   token -> { handler, file, data, state }    rebuilt from the tree on the first restore, or at FINISH
//
//   normal ──prepare──► prepared ──freeze──► frozen  ══ kexec ══►  updated ──finish──► normal
//     ▲                    │                   │
//     └──────cancel────────┴───────cancel──────┘
//
// Happy path: 1. PRESERVE(fd, token): the first handler that accepts the file keeps a reference to it. 2. The
// subsystem's prepare makes the tree (one node a file), calls every handler's prepare, ascending tokens, and writes
// their handles. 3. freeze likewise. 4. The next kernel is given the tree at boot. 5. RESTORE(token) asks the handler
// to retrieve the file. 6. finish lets every handler clean up; files that nobody restored are discarded.
//
// Unhappy paths: 1. EBUSY in the wrong state, ENOENT without a handler or token, EEXIST for a token that is taken. 2.
// No memory for the tree, KHO refuses it, it does not fit: prepare fails. 3. A handler's prepare fails: files before
// it are cancelled. 4. A handle cannot be written: ENOSPC, all are cancelled. 5. A handler's freeze fails: files
// before it are cancelled, the others never are (LUO-D4), the tree is freed.
// 6. A retrieve fails: it cannot be tried again. 7. An incoming tree that cannot be read, or names a handler that this
//    kernel does not have: panic.
//
// Invariants: F1: a file is prepared or frozen exactly if its handler's prepare succeeded and no cancel followed. F2:
// an incoming file is retrieved at most once. Source: the LUO series, kernel/liveupdate/luo_files.c.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "kernel-model/kernel.hpp"
#include "kho/kho.hpp"
#include "luo/file_tree.hpp"
#include "luo/lock.hpp"
#include "luo/subsystem.hpp"

namespace kexec_sim::luo {

class Orchestrator;

class FileHandler {
public:
    /// `in_module`: its code is a module's, on which registering takes a reference.
    explicit FileHandler(std::string compatible_, bool in_module_ = false)
        : compatible(std::move(compatible_)),
          in_module(in_module_) {}
    virtual ~FileHandler() = default;
    const std::string compatible;
    const bool in_module;

    virtual bool can_preserve(File& file) = 0;
    /// The data handle is 0 before; what prepare leaves in it is handed over.
    virtual Result<> prepare(File&, u64& /*data*/) { return {}; }
    virtual Result<> freeze(File&, u64& /*data*/) { return {}; }
    virtual void cancel(File&, u64 /*data*/) {}
    /// Whether nothing uses what came with the handover any more. Where FINISH cannot be refused (the editions of the
    /// state machine) nobody asks but the handler itself, whose finish() keeps what is in use until it is not.
    virtual bool can_finish(const File* /*file*/, u64 /*data*/) { return true; }
    /// `file` is null if nobody restored it; `reclaimed`: somebody tried to.
    virtual void finish(File* /*file*/, u64 /*data*/, bool /*reclaimed*/) {}
    virtual Result<FileRef> retrieve(u64 data) = 0;
    /// False for an operation that this handler does not have: nobody misses it.
    virtual bool provides(LuoCallback) const { return true; }
};

class Files {
public:
    Files(Kernel& kernel, kho::Kho& kho, Orchestrator& orchestrator);
    ~Files();

    // --- handlers (luo/files.cpp) ---
    Result<> register_handler(FileHandler* handler);    // EBUSY, EEXIST
    Result<> unregister_handler(FileHandler* handler);  // EBUSY, ENOENT

    // --- what the device offers (luo/files.cpp, luo/files_incoming.cpp) ---
    Result<> preserve(Agent& caller, i32 fd, u64 token);    // EBADF, EBUSY, ENOENT, ENOMEM, EEXIST
    Result<> unpreserve(u64 token);                         // EBUSY, ENOENT
    Result<FileRef> retrieve(u64 token);                    // EBUSY, ENOENT, EINVAL, the handler's errno
    Result<LuoState> file_state(u64 token, bool incoming);  // ENOENT
    Result<> file_event(u64 token, u32 event);              // ENOENT, EBUSY, EINVAL, the handler's errno
    /// The device's last close: every outgoing file goes, whatever its state.
    void drop_outgoing();

    // --- boot ---
    /// Late initcall: registers the subsystem, or says why it could not.
    void start();

    u64 outgoing_count() const { return outgoing_.size(); }

private:
    struct Record {
        FileHandler* handler = nullptr;
        FileRef file;
        u64 data = 0;
        bool reclaimed = false;
        LuoState state = LuoState::normal;
        std::unique_ptr<TaskLock> lock;  // the per-file mutex
    };
    using Records = std::map<u64, Record>;

    // The subsystem's callbacks (luo/files_events.cpp).
    int prepare_all(u64* data);
    int freeze_all();
    void cancel_all();
    void boot(u64 data);
    void finish_all();

    // One file, with its mutex (luo/files_events.cpp).
    Result<> prepare_one(u64 token, Record& record);
    Result<> freeze_one(u64 token, Record& record);
    void cancel_one(u64 token, Record& record);
    void finish_one(u64 token, Record& record);
    void cancel_before(u64 token);
    Result<> commit();
    /// `asked`: the token that whoever wants it gone has named.
    void remove(Records::iterator at, u64 asked);

    // luo/files_incoming.cpp
    void rebuild();
    FileHandler* find_handler(std::string_view compatible) const;
    FileHandler* choose_handler(File& file);
    void add_incoming(const FileTree::Node& node);
    Result<FileRef> call_retrieve(u64 token, Record& record);

    /// One callback: instruments, fault point, handler.
    template <typename Body> Result<> call(LuoCallback callback, u64 token, const Record& record, Body&& body);
    void log(LogLevel level, std::string_view text);

    Kernel& kernel_;
    kho::Kho& kho_;
    Orchestrator& orchestrator_;
    Subsystem subsystem_;
    std::vector<FileHandler*> handlers_;  // in order of registration
    TaskLock handlers_lock_;
    Records outgoing_, incoming_;
    bool rebuilt_ = false;
    bool warned_freeze_ = false;
    FileTree tree_;
};

}  // namespace kexec_sim::luo
