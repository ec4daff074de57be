// Locks of the modelled kernel.
//
// One task runs at a time here, so a lock is never contended, and the only way to wait for one is to hold it already:
// a callback that calls back into the orchestrator. A real kernel would hang there. Here the second acquisition
// throws, and what was held stays held:
//
//   first task     write_lock(state) -> callback -> read_lock(state)     TaskDeadlock, told to the referee
//   anybody else   read_lock(state)                                       TaskBlocked: waits for ever
//
// A guard that goes out of scope because an exception passes leaves its lock held and marks it as held by a dead task.
// A wait that is killable (the state lock, for writing) ends with −EAGAIN if the waiting agent is being killed.
#pragma once

#include <exception>
#include <string>

#include "machine/machine.hpp"

namespace kexec_sim::luo {

class TaskLock {
public:
    TaskLock(Machine& machine, std::string name) : machine_(machine), name_(std::move(name)) {}
    bool held() const { return writer_ || readers_ != 0; }
    /// Whether acquire() for writing would wait. A killable wait asks first, and gives up if its task is being killed.
    bool write_would_wait() const { return held() || holder_is_gone_; }

private:
    friend class ReadGuard;
    friend class WriteGuard;
    void acquire(bool write);
    void release(bool write);
    [[noreturn]] void wait_for_ever(std::string_view how);

    Machine& machine_;
    std::string name_;
    unsigned readers_ = 0;
    bool writer_ = false;
    bool holder_is_gone_ = false;
};

class ReadGuard {
public:
    explicit ReadGuard(TaskLock& lock) : lock_(lock) { lock_.acquire(false); }
    ~ReadGuard() {
        if (std::uncaught_exceptions() > exceptions_)
            lock_.holder_is_gone_ = true;
        else
            lock_.release(false);
    }
    ReadGuard(const ReadGuard&) = delete;
    ReadGuard& operator=(const ReadGuard&) = delete;

private:
    TaskLock& lock_;
    int exceptions_ = std::uncaught_exceptions();
};

/// Also what a mutex is.
class WriteGuard {
public:
    explicit WriteGuard(TaskLock& lock) : lock_(lock) { lock_.acquire(true); }
    ~WriteGuard() {
        if (std::uncaught_exceptions() > exceptions_)
            lock_.holder_is_gone_ = true;
        else
            lock_.release(true);
    }
    WriteGuard(const WriteGuard&) = delete;
    WriteGuard& operator=(const WriteGuard&) = delete;

private:
    TaskLock& lock_;
    int exceptions_ = std::uncaught_exceptions();
};

}  // namespace kexec_sim::luo
