// A lock inside a structure, which whoever makes the structure must initialise.
//
// Zeroed memory looks like a free lock, so a kernel that forgets this works, by luck; lock debugging tells. Nothing is
// ever contended here: one task runs at a time. What is checked is that the lock was made before it is taken.
#pragma once

#include "kernel-model/log.hpp"

namespace kexec_sim {

class InitLock {
public:
    void init() { magic_ = constructed; }
    /// `debug`: a kernel with lock debugging says so itself; the referee is told by all.
    void acquire(Machine& machine, KernelLog& log, bool debug, std::string_view what) const {
        if (magic_ == constructed) [[likely]]
            return;
        if (debug) log.print(LogLevel::err, "INFO: trying to register non-static key.");
        machine.referee.kernel_insane(fmt::format("the lock of {} is taken; nobody has initialised it", what),
                                      std::nullopt);
    }

private:
    static constexpr u32 constructed = 0xdead4ead;  // SPINLOCK_MAGIC
    u32 magic_ = 0;
};

}  // namespace kexec_sim
