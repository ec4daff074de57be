#include "sim/update_story.hpp"

#include <algorithm>
#include <utility>

namespace kexec_sim::sim {
namespace {

template <typename Story> Story& named(std::vector<Story>& stories, const std::string& name) {
    const auto at = std::ranges::find(stories, name, &Story::name);
    if (at != stories.end()) return *at;
    stories.emplace_back().name = name;
    return stories.back();
}

}  // namespace

std::string_view update_phase_name(UpdatePhase phase) {
    constexpr std::string_view names[] = {"", "pause", "freeze", "shutdown", "relocation", "boot", "resume"};
    return names[static_cast<std::size_t>(phase)];
}

std::vector<Blackout::Part> Blackout::parts() const {
    if (!shutdown_ns || !relocation_ns) return {};
    std::vector<Part> parts;
    if (paused) parts.push_back({UpdatePhase::pause, begin_ns, freeze_ns});
    parts.push_back({UpdatePhase::freeze, freeze_ns, shutdown_ns});
    parts.push_back({UpdatePhase::shutdown, shutdown_ns, relocation_ns});
    parts.push_back({UpdatePhase::relocation, relocation_ns, jump_ns});
    parts.push_back({UpdatePhase::boot, jump_ns, user_space_ns});
    if (end_ns > user_space_ns) parts.push_back({UpdatePhase::resume, user_space_ns, end_ns});
    return parts;
}

u64 UpdateStory::waiting_guests() const {
    return static_cast<u64>(std::ranges::count_if(guests_, &GuestStory::waits));
}

const GuestStory* UpdateStory::guest(std::string_view name) const {
    const auto at = std::ranges::find(guests_, name, &GuestStory::name);
    return at == guests_.end() ? nullptr : &*at;
}

DeviceStory& UpdateStory::device(const std::string& name) { return named(devices_, name); }

void UpdateStory::event(const TraceEvent& event) {
    const std::string& name = event.name;
    if (name.starts_with("dma."))
        dma(event);
    else if (name == "irq.lost")
        ++device(event.text("device")).interrupts_lost;
    else if (name.starts_with("vm."))
        guest_event(event);
    else if (name == "luo.state")
        frozen_ = event.text("to") == "frozen";
    else if (name == "kernel.end")
        kernel_ended(event);
    else if (name.starts_with("kernel.") || name == "kexec.jump")
        reboot(event);
}

// --- the blackout --------------------------------------------------------------------------------------------------

void UpdateStory::reboot(const TraceEvent& event) {
    const std::string& name = event.name;
    if (name == "kernel.blackout") return begin_blackout(event.time_ns);
    if (!open_) return;
    if (name == "kernel.blackout_off") {
        call_off();
    } else if (name == "kernel.reboot") {
        if (phase_ != UpdatePhase::pause) return;
        phase_ = UpdatePhase::freeze;
        open_->freeze_ns = event.time_ns;
    } else if (name == "kernel.shutdown") {
        phase_ = UpdatePhase::shutdown;
        open_->shutdown_ns = event.time_ns;
    } else if (name == "kernel.relocation") {
        phase_ = UpdatePhase::relocation;
        open_->relocation_ns = event.time_ns;
    } else if (name == "kexec.jump") {
        phase_ = UpdatePhase::boot;
        open_->jump_ns = event.time_ns;
    } else if (name == "kernel.user_space" && open_->jump_ns) {
        user_space(event.time_ns);
    }
}

void UpdateStory::begin_blackout(u64 time_ns) {
    open_ = Blackout{.begin_ns = time_ns, .freeze_ns = time_ns};
    phase_ = UpdatePhase::freeze;
    devices_before_ = devices_;
    for (DeviceStory& device : devices_) {
        device.before = device.completions();
        device.in_blackout = device.after = 0;
    }
}

/// Counts again as if the blackout had not begun.
void UpdateStory::call_off() {
    open_.reset();
    phase_ = UpdatePhase::outside;
    for (DeviceStory& device : devices_) {
        const DeviceStory& then = named(devices_before_, device.name);
        const u64 since = device.completions() - then.completions();
        device.before = then.before + (blackout_ ? 0 : since);
        device.in_blackout = then.in_blackout;
        device.after = then.after + (blackout_ ? since : 0);
    }
}

void UpdateStory::user_space(u64 time_ns) {
    open_->user_space_ns = open_->end_ns = time_ns;
    blackout_ = *open_;
    open_.reset();
    phase_ = waiting_guests() ? UpdatePhase::resume : UpdatePhase::outside;
}

void UpdateStory::kernel_ended(const TraceEvent& event) {
    const bool jumped = event.text("how") == "kexec";
    if (event.text("how") == "scenario") return;
    // The reboot stops the guests that nobody paused.
    const u64 stopped_ns = jumped && open_ && open_->shutdown_ns ? open_->shutdown_ns : event.time_ns;
    for (GuestStory& guest : guests_) {
        if (!jumped) guest.waits = false;
        guest.gone = !guest.waits;
        if (!guest.paused_since_ns) guest.paused_since_ns = stopped_ns;
    }
    frozen_ = false;
    if (jumped) return;
    phase_ = UpdatePhase::outside;
    if (open_) call_off();
}

// --- devices and guests ----------------------------------------------------------------------------------------------

std::string engine_name(const TraceEvent& event) {
    const u64 engine = event.number("engine");
    return event.text("device") + (engine ? " engine " + std::to_string(engine) : "");
}

void UpdateStory::dma(const TraceEvent& event) {
    DeviceStory& story = device(engine_name(event));
    const std::string_view what = std::string_view(event.name).substr(4);
    if (what == "completions") {
        const u64 count = event.number("count");
        (open_ ? story.in_blackout : blackout_ ? story.after : story.before) += count;
        story.next_sequence = event.number("first_sequence") + count;
    } else if (what == "lost") {
        story.lost += event.number("count");
        story.next_sequence = event.number("first_sequence") + event.number("count");
    } else if (what == "start") {
        story.dma_on = true;
        story.interval_ns = event.number("interval_ns");
        story.next_sequence = event.number("first_sequence");
    } else if (what == "stop") {
        story.dma_on = story.dry = false;
    } else if (what == "dry") {
        story.dry = true;
    } else if (what == "resume") {
        story.dry = false;
        story.dry_ns += event.number("dry_ns");
    }
}

void UpdateStory::guest_event(const TraceEvent& event) {
    GuestStory& guest = named(guests_, event.text("vm"));
    const bool for_kexec = event.text("by") == "kexec";
    if (event.name == "vm.run") {
        guest.steps += event.number("steps");
        guest.gone = false;
        guest.paused_since_ns.reset();
    } else if (event.name == "vm.pause") {
        if (!guest.paused_since_ns) guest.paused_since_ns = event.time_ns;
        if (!for_kexec) return;
        guest.waits = true;
        if (!open_ || frozen_ || phase_ != UpdatePhase::freeze) return;
        open_->paused = true;
        phase_ = UpdatePhase::pause;
    } else if (event.name == "vm.resume") {
        if (guest.paused_since_ns) {
            ++guest.pauses;
            guest.longest_pause_ns = std::max(guest.longest_pause_ns, event.time_ns - *guest.paused_since_ns);
        }
        guest.paused_since_ns.reset();
        guest.waits = guest.gone = false;
        if (event.text("by") != "restore" || !blackout_ || open_) return;
        // What was done since user space ran was done while this guest waited.
        blackout_->end_ns = event.time_ns;
        for (DeviceStory& device : devices_) device.in_blackout += std::exchange(device.after, 0);
        if (!waiting_guests()) phase_ = UpdatePhase::outside;
    }
}

}  // namespace kexec_sim::sim
