// The story of a live update as the event stream tells it: the blackout and its phases, and what devices and guests did
// before, in and after it. The narration, its summary and `--step` show it.
//
//   kernel.blackout  kernel.reboot  kernel.shutdown  kernel.relocation  kexec.jump  kernel.user_space  last vm.resume
//          |─── pause ────|─── freeze ─────|─── shutdown ────|─ relocation ──|──── boot ─────|───── resume ─────|
//
// The phases follow one another and make up the whole blackout. Without guests there is no pause and no resume. A
// blackout may be called off before the jump: then it never was.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "machine/trace.hpp"

namespace kexec_sim::sim {

/// Outside: no blackout runs.
enum class UpdatePhase : u8 { outside, pause, freeze, shutdown, relocation, boot, resume };
std::string_view update_phase_name(UpdatePhase phase);
/// The device of a dma.* event; a second engine of it has a name of its own: "nic0 engine 1".
std::string engine_name(const TraceEvent& event);

struct Blackout {
    u64 begin_ns = 0, freeze_ns = 0, shutdown_ns = 0, relocation_ns = 0, jump_ns = 0, user_space_ns = 0, end_ns = 0;
    bool paused = false;  // guests were, before anything froze
    struct Part {
        UpdatePhase phase;
        u64 begin_ns, end_ns;
    };
    /// In order, without gaps; empty if the trace does not tell them apart.
    std::vector<Part> parts() const;
};

struct DeviceStory {
    std::string name;
    /// Completions before the last blackout, in it and after it; without one all are before.
    u64 before = 0, in_blackout = 0, after = 0;
    u64 lost = 0, interrupts_lost = 0;
    u64 dry_ns = 0;
    u64 next_sequence = 0, interval_ns = 0;
    bool dma_on = false, dry = false;
    u64 completions() const { return before + in_blackout + after; }
};

struct GuestStory {
    std::string name;
    u64 steps = 0, pauses = 0, longest_pause_ns = 0;
    std::optional<u64> paused_since_ns;
    bool waits = false;  // for the next kernel to let it run
    bool gone = false;   // with its kernel
};

class UpdateStory {
public:
    void event(const TraceEvent& event);

    UpdatePhase phase() const { return phase_; }
    /// The last one that ended; that it is over is known only when no guest waits any more.
    const std::optional<Blackout>& blackout() const { return blackout_; }
    /// In the order in which they were first heard of.
    const std::vector<DeviceStory>& devices() const { return devices_; }
    const std::vector<GuestStory>& guests() const { return guests_; }
    u64 waiting_guests() const;
    const GuestStory* guest(std::string_view name) const;

private:
    void reboot(const TraceEvent& event);
    void dma(const TraceEvent& event);
    void guest_event(const TraceEvent& event);
    void begin_blackout(u64 time_ns);
    void call_off();
    void user_space(u64 time_ns);
    void kernel_ended(const TraceEvent& event);
    DeviceStory& device(const std::string& name);

    UpdatePhase phase_ = UpdatePhase::outside;
    std::optional<Blackout> blackout_, open_;
    bool frozen_ = false;
    std::vector<DeviceStory> devices_, devices_before_;
    std::vector<GuestStory> guests_;
};

}  // namespace kexec_sim::sim
