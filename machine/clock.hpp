// Virtual time in nanoseconds, and the queue of what is to happen at a later time.
//
// Nothing here looks at the host's clock. Time moves only by advance(): the cost model, a step `advance`, a planned
// delay. Events that fall due on the way are run at their own time, in order of (time, insertion number).
#pragma once

#include <map>
#include <memory_resource>
#include <utility>

#include "machine/types.hpp"

namespace kexec_sim {

/// What happens when an event falls due. Lives in the arena, as the queue does.
class EventHandler {
public:
    virtual void event_due(u64 now_ns, u64 argument) = 0;

protected:
    ~EventHandler() = default;
};

class VirtualClock {
public:
    static constexpr u64 time_max_ns = u64{100} * 365 * 24 * 3600 * 1'000'000'000;
    explicit VirtualClock(std::pmr::memory_resource* memory) : queue_(memory) {}
    u64 now_ns() const { return now_ns_; }
    /// UserError beyond time_max_ns. Moves time by `ns`; runs every event that falls due, each at its time. An event
    /// may schedule others. Called by an event (a planned delay of a device's work), it holds up whoever lets time pass,
    /// not the device: that time is added, once, when the events of this advance are over (what is delayed while it
    /// passes is part of it).
    void advance(u64 ns);
    /// Runs `handler` at `at_ns` (now, if that is past). Returns a ticket for cancel().
    struct Ticket {
        u64 at_ns, sequence;
    };
    Ticket schedule(u64 at_ns, EventHandler* handler, u64 argument);
    /// False if the event has run or was cancelled already.
    bool cancel(Ticket ticket);
    /// For a handler that is running and would schedule itself at `at_ns` as the last thing it does: true if that event
    /// would be the next to run in this advance. Time has moved there then, and the handler goes on as if it had been
    /// called, which saves the way through the queue. False: schedule as usual.
    bool run_on(u64 at_ns) {
        if (at_ns > target_ns_ || (!queue_.empty() && queue_.begin()->first.first <= at_ns)) return false;
        if (at_ns > now_ns_) now_ns_ = at_ns;
        return true;
    }
    std::size_t events_pending() const { return queue_.size(); }
    /// A machine that starts from a handover goes on at that time.
    void start_at(u64 ns) { now_ns_ = ns; }

private:
    struct Due {
        EventHandler* handler;
        u64 argument;
    };
    std::pmr::map<std::pair<u64, u64>, Due> queue_;
    u64 now_ns_ = 0;
    u64 target_ns_ = 0;  // of the advance() that is going on; 0: none
    u64 postponed_ns_ = 0;
    bool running_ = false;
    u64 next_sequence_ = 0;
};

}  // namespace kexec_sim
