// The soft-lockup watchdog, for loops that a wrong kernel would not leave.
//
// Who knows how often a loop can turn at most counts its turns here. One turn more is a task that never gives up the
// processor: a real kernel says so after 20 seconds and hangs, or panics with softlockup_panic=1, as it does here.
#pragma once

#include "kernel-model/log.hpp"

namespace kexec_sim {

class LoopGuard {
public:
    LoopGuard(KernelLog& log, std::string_view where, u64 turns_max) : log_(log), where_(where), left_(turns_max) {}
    void turn() {
        if (left_-- != 0) [[likely]]
            return;
        log_.warn_on(fmt::format("BUG: soft lockup - CPU#0 stuck for 26s in {}", where_), false);
        throw KernelPanic("softlockup: hung tasks");
    }

private:
    KernelLog& log_;
    std::string_view where_;
    u64 left_;
};

}  // namespace kexec_sim
