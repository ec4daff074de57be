#include "machine/clock.hpp"

#include <algorithm>

#include "machine/arena.hpp"
#include "machine/result.hpp"

namespace kexec_sim {

void VirtualClock::advance(u64 ns) {
    if (ns > time_max_ns - std::min(now_ns_, time_max_ns))
        throw UserError("kexec-sim: error: virtual time has run out: a run lasts a hundred years at most");
    const MachineEntry entry;
    if (running_) {
        postponed_ns_ += ns;
        return;
    }
    // An event may throw (a planned panic).
    struct Running {
        explicit Running(VirtualClock& clock_) : clock(clock_) { clock.running_ = true; }
        ~Running() {
            clock.running_ = false;
            clock.target_ns_ = clock.postponed_ns_ = 0;
        }
        VirtualClock& clock;
    } const running(*this);
    for (bool making_up = false;; making_up = true) {
        target_ns_ = now_ns_ + ns;
        while (!queue_.empty() && queue_.begin()->first.first <= target_ns_) {
            const auto [when, due] = *queue_.begin();
            queue_.erase(queue_.begin());
            now_ns_ = std::max(now_ns_, when.first);
            due.handler->event_due(now_ns_, due.argument);
        }
        now_ns_ = std::max(now_ns_, target_ns_);
        ns = postponed_ns_;
        if (making_up || ns == 0) return;
    }
}

VirtualClock::Ticket VirtualClock::schedule(u64 at_ns, EventHandler* handler, u64 argument) {
    const MachineEntry entry;
    const Ticket ticket{std::max(at_ns, now_ns_), next_sequence_++};
    queue_.emplace(std::pair{ticket.at_ns, ticket.sequence}, Due{handler, argument});
    return ticket;
}

bool VirtualClock::cancel(Ticket ticket) {
    const MachineEntry entry;
    return queue_.erase({ticket.at_ns, ticket.sequence}) != 0;
}

}  // namespace kexec_sim
