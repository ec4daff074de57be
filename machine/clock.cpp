#include "machine/clock.hpp"

#include <algorithm>

#include "machine/arena.hpp"
#include "machine/result.hpp"

namespace kexec_sim {

void VirtualClock::advance(u64 ns) {
    if (ns > time_max_ns - std::min(now_ns_, time_max_ns))
        throw UserError("kexec-sim: error: virtual time has run out: a run lasts a hundred years at most");
    const MachineEntry entry;
    const u64 target = now_ns_ + ns;
    // An event may throw (a planned panic), and may advance time itself (a planned delay).
    struct Target {
        Target(u64& slot_, u64 target_ns) : slot(slot_), outer(std::exchange(slot_, target_ns)) {}
        ~Target() { slot = outer; }
        u64& slot;
        u64 outer;
    } const running(target_ns_, target);
    while (!queue_.empty() && queue_.begin()->first.first <= target) {
        const auto [when, due] = *queue_.begin();
        queue_.erase(queue_.begin());
        now_ns_ = std::max(now_ns_, when.first);
        due.handler->event_due(now_ns_, due.argument);
    }
    now_ns_ = std::max(now_ns_, target);
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
