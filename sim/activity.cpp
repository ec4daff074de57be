#include "sim/activity.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <utility>

namespace kexec_sim::sim {
namespace {

template <typename Item> Item& named(std::vector<Item>& items, const std::string& name) {
    const auto at = std::ranges::find(items, name, &Item::name);
    if (at != items.end()) return *at;
    items.emplace_back().name = name;
    return items.back();
}

/// The device of the event, and of an IOMMU's fault that the narration knows.
std::string name_of(const TraceEvent& event) { return printable(engine_name(event)); }

/// Why a tick was lost.
std::string lost_words(std::string_view status) {
    return status == "lost" ? "dropped on its way" : printable(status);
}

std::string fault_words(const TraceEvent& event) {
    const std::string device = event.text("device"), source = printable(event.text("source"));
    return fmt::format("IOMMU {} refuses {} a {}: {}", event.number("unit"),
                       device.empty() ? source : printable(device), event.number("write") ? "write" : "read",
                       printable(event.text("text")));
}

std::string dma_words(const TraceEvent& event) {
    const std::string device = name_of(event);
    const std::string_view what = std::string_view(event.name).substr(4);
    const u64 first = event.number("first_sequence"), count = event.number("count");
    const auto sequence = [&] { return sequence_text(first, first + count - 1); };
    if (what == "start")
        return fmt::format("{}: DMA starts, ring of {} at {:#x}{}, every {}", device, event.number("entries"),
                           event.number("ring_base"), event.number("circular") ? ", circular" : "",
                           interval_text(event.number("interval_ns")));
    if (what == "stop")
        return fmt::format("{}: DMA stops before sequence {}{}", device, event.number("sequence"),
                           event.text("by") == "reset" ? ", by a reset" : "");
    if (what == "completions") return fmt::format("{}: {}, {}", device, count_text(count, "completion"), sequence());
    if (what == "lost")
        return fmt::format("{}: {} lost, {}: {}", device, count_text(count, "tick"), sequence(),
                           lost_words(event.text("status")));
    if (what == "dry") return fmt::format("{}: ring empty at sequence {}", device, event.number("sequence"));
    if (what == "resume")
        return fmt::format("{}: ring filled again after {}, sequence {}", device,
                           milliseconds_text(event.number("dry_ns")), event.number("sequence"));
    return {};
}

std::string config_words(const TraceEvent& event) {
    if (const u64 writes = event.number("writes"); writes > 1)
        return fmt::format("{}: {} config writes", name_of(event), writes);
    return fmt::format("{}: config write at {:#x}: {:#x} → {:#x}", name_of(event), event.number("offset"),
                       event.number("old"), event.number("new"));
}

std::string guest_words(const TraceEvent& event) {
    const std::string guest = "guest " + printable(event.text("vm"));
    if (event.name == "vm.run") return fmt::format("{}: {}", guest, count_text(event.number("steps"), "step"));
    if (event.name == "vm.pause") return guest + " pauses";
    if (event.name == "vm.resume") return guest + " goes on";
    return {};
}

}  // namespace

std::string interval_text(u64 ns) {
    if (ns && ns % 1'000'000 == 0) return fmt::format("{} ms", ns / 1'000'000);
    if (ns && ns % 1000 == 0) return fmt::format("{} µs", ns / 1000);
    return fmt::format("{} ns", ns);
}

std::string sequence_text(u64 first, u64 last, bool word) {
    const std::string_view before = word ? "sequence " : "";
    return first == last ? fmt::format("{}{}", before, first) : fmt::format("{}{}–{}", before, first, last);
}

std::string device_words(const TraceEvent& event) {
    const std::string& name = event.name;
    if (name.starts_with("dma.")) return dma_words(event);
    if (name.starts_with("vm.")) return guest_words(event);
    if (name == "pci.config_write") return config_words(event);
    if (name == "pci.reset") return fmt::format("{}: reset, {}", name_of(event), printable(event.text("kind")));
    if (name == "iommu.command")
        return event.field("root")
                   ? fmt::format("IOMMU {}: root table at {:#x}", event.number("unit"), event.number("root"))
                   : fmt::format("IOMMU {}: {}", event.number("unit"), printable(event.text("command")));
    if (name == "iommu.fault") return fault_words(event) + fmt::format(", address {:#x}", event.number("address"));
    if (name == "irq.lost")
        return fmt::format("{}: interrupt lost: {}", name_of(event), printable(event.text("why")));
    if (name == "irq.spurious")
        return fmt::format("an interrupt that nobody waits for, vector {}", event.number("vector"));
    return {};
}

Style device_style(const TraceEvent& event) {
    const std::string& name = event.name;
    if (name == "dma.lost" || name == "iommu.fault") return Style::bad;
    if (name == "irq.lost" || name == "irq.spurious" || name == "dma.dry") return Style::warn;
    if (name == "dma.stop" && event.text("by") == "reset") return Style::warn;
    if (name == "iommu.command" && event.text("command") == "translation off") return Style::warn;
    return name == "pci.config_write" ? Style::dim : Style::plain;
}

// --- adding up -------------------------------------------------------------------------------------------------------

void Activity::Run::add(const TraceEvent& event) {
    const u64 first = event.number("first_sequence"), more = event.number("count");
    if (count == 0) {
        first_sequence = first;
        first_ns = event.number("first_ns");
    }
    count += more;
    last_sequence = first + more - 1;
    last_ns = event.number("last_ns");
}

bool Activity::add(const TraceEvent& event) {
    const std::string& name = event.name;
    if (name.starts_with("dma.")) return add_dma(event);
    if (name == "pci.config_write" && !each_config_write_) {
        ++named(devices_, event.text("device")).config_writes;
    } else if (name == "iommu.fault" || name == "irq.lost" || name == "irq.spurious") {
        Alike& alike = named(alike_, name == "iommu.fault" ? fault_words(event) : device_words(event));
        ++alike.count;
        alike.style = device_style(event);
    } else if (name == "vm.run") {
        named(guests_, event.text("vm")).steps += event.number("steps");
    } else {
        return false;
    }
    return true;
}

bool Activity::add_dma(const TraceEvent& event) {
    const std::string device = engine_name(event);
    const std::string_view what = std::string_view(event.name).substr(4);
    if (what == "start") {
        named(intervals_, device).ns = event.number("interval_ns");
        return false;
    }
    if (what == "completions") {
        named(devices_, device).completed.add(event);
    } else if (what == "lost") {
        named(named(devices_, device).lost, event.text("status")).run.add(event);
    } else if (what == "dry") {
        Device& dry = named(devices_, device);
        if (!dry.dry++) dry.dry_sequence = event.number("sequence");
        dry.still_dry = true;
    } else if (what == "resume") {
        Device& dry = named(devices_, device);
        dry.dry_ns += event.number("dry_ns");
        dry.still_dry = false;
        if (!dry.dry) dry.dry_sequence = event.number("sequence");
    } else {
        return false;
    }
    return true;
}

bool Activity::empty() const { return devices_.empty() && alike_.empty() && guests_.empty(); }

void Activity::take_dma(const Device& device, std::string_view phase, std::vector<Line>& lines) const {
    const std::string head = fmt::format("{}{}{}: ", printable(device.name), phase.empty() ? "" : " in ", phase);
    if (const Run& run = device.completed; run.count) {
        const auto interval = std::ranges::find(intervals_, device.name, &Interval::name);
        const u64 ticks = run.last_sequence - run.first_sequence;
        const bool in_time =
            interval != intervals_.end() && ticks && run.last_ns - run.first_ns == ticks * interval->ns;
        lines.push_back({fmt::format("{}{}, {}{}", head, count_text(run.count, "completion"),
                                     sequence_text(run.first_sequence, run.last_sequence, phase.empty()),
                                     in_time ? ", every " + interval_text(interval->ns) : "")});
    }
    for (const Device::Lost& lost : device.lost)
        lines.push_back({fmt::format("{}{} lost, {}: {}", head, count_text(lost.run.count, "tick"),
                                     sequence_text(lost.run.first_sequence, lost.run.last_sequence, phase.empty()),
                                     lost_words(lost.name)),
                         Style::bad});
    if (device.dry == 0 && device.dry_ns == 0) return;
    std::string text = device.dry > 1 ? fmt::format("ring empty {} times from", device.dry)
                                      : std::string(device.dry ? "ring empty" : "ring filled again");
    text += fmt::format("{} sequence {}", device.dry > 1 ? "" : " at", device.dry_sequence);
    if (device.dry_ns) text += fmt::format(", {} without work", milliseconds_text(device.dry_ns));
    if (device.still_dry && device.dry_ns) text += " so far";
    lines.push_back({head + text, Style::warn});
}

std::vector<Activity::Line> Activity::take(UpdatePhase phase) {
    std::vector<Line> lines;
    std::string writes;
    for (const Device& device : devices_) {
        if (device.config_writes)
            writes +=
                fmt::format("{}{} {}", writes.empty() ? "" : ", ", printable(device.name), device.config_writes);
    }
    if (!writes.empty()) lines.push_back({"config writes: " + writes, Style::dim});
    for (const Device& device : devices_) take_dma(device, update_phase_name(phase), lines);
    for (const Alike& alike : alike_)
        lines.push_back(
            {alike.count > 1 ? fmt::format("{} (× {})", alike.name, alike.count) : alike.name, alike.style});
    std::string steps;
    for (const Guest& guest : guests_)
        steps += fmt::format("{}{}{} {}", steps.empty() ? "" : ", ", printable(guest.name),
                             guests_.size() > 1 ? "" : ":", count_text(guest.steps, "step"));
    if (!steps.empty()) lines.push_back({(guests_.size() > 1 ? "guests: " : "guest ") + steps, Style::plain});
    devices_.clear();
    alike_.clear();
    guests_.clear();
    return lines;
}

}  // namespace kexec_sim::sim
