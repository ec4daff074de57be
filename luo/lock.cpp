#include "luo/lock.hpp"

#include <fmt/format.h>

#include "machine/reached.hpp"
#include "machine/result.hpp"

namespace kexec_sim::luo {

void TaskLock::acquire(bool write) {
    // Readers share: a callback that runs under a read lock may take it once more.
    if (writer_ || (write && readers_ != 0)) wait_for_ever(write ? "writing" : "reading");
    if (holder_is_gone_ && write) wait_for_ever("writing");
    if (write)
        writer_ = true;
    else
        ++readers_;
}

void TaskLock::release(bool write) {
    if (write) {
        INVARIANT(writer_);
        writer_ = false;
    } else {
        INVARIANT(readers_ != 0);
        --readers_;
    }
}

void TaskLock::wait_for_ever(std::string_view how) {
    if (holder_is_gone_) {
        REACHED("luo.lock.blocked");
        throw TaskBlocked(fmt::format("{} waits for {}, which a hung task holds", how, name_));
    }
    REACHED("luo.lock.deadlock");
    const std::string text = fmt::format("{} is taken for {} by the task that holds it", name_, how);
    machine_.referee.lock_violation(text);
    throw TaskDeadlock(text);
}

}  // namespace kexec_sim::luo
