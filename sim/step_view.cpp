#include "sim/step_view.hpp"

#include <algorithm>
#include <cerrno>
#include <fmt/format.h>
#include <unistd.h>

#include "sim/terminal_text.hpp"

namespace kexec_sim::sim {
namespace {

constexpr std::size_t bar_cells = terminal_columns - 4;
constexpr std::size_t callbacks_shown = 5;

/// Takes [begin, end) out of `ranges`.
template <typename Range> void cut_out(std::vector<Range>& ranges, Range hole) {
    std::vector<Range> kept;
    for (const Range& range : ranges) {
        if (range.begin < std::min(range.end, hole.begin))
            kept.push_back({range.begin, std::min(range.end, hole.begin)});
        if (std::max(range.begin, hole.end) < range.end) kept.push_back({std::max(range.begin, hole.end), range.end});
    }
    ranges = std::move(kept);
}

template <typename Range> bool any_in(const std::vector<Range>& ranges, u64 begin, u64 end) {
    return std::any_of(ranges.begin(), ranges.end(),
                       [&](const Range& range) { return range.begin < end && begin < range.end; });
}

}  // namespace

void StepView::event(const TraceEvent& event) {
    update_.event(event);
    const std::string& name = event.name;
    const u64 phys = event.number("phys");
    const u64 bytes = event.field("bytes")
                          ? event.number("bytes")
                          : event.number("count", 1) << std::min<u64>(event.number("order") + page_shift, 40);
    const Range range{phys, phys + bytes};
    if (name == "kho.preserve") {
        cut_out(preserved_, range);
        preserved_.push_back(range);
    } else if (name == "kho.unpreserve" || name == "kho.restore") {
        cut_out(preserved_, range);
    } else if (name == "kho.scratch") {
        scratch_.push_back(range);
    } else if (name == "kexec.segment") {
        image_.push_back(range);
    } else if (name == "kernel.boot") {
        image_.clear();
        luo_state_.clear();
    } else if (name == "generation") {
        forgets_on_abort_ = event.text("profile").starts_with("linux-");
    } else if (name == "machine.reset" || (name == "kho.populate" && result_text(event) != "ok") ||
               (name == "kexec.jump" && event.number("handover") == 0)) {
        // Nothing that was kept is kept any more.
        preserved_.clear();
        scratch_.clear();
    } else if (name == "kho.abort" && event.phase == Phase::end && result_text(event) == "ok" && forgets_on_abort_) {
        preserved_.clear();
    } else if (name == "luo.state") {
        luo_state_ = event.text("to");
    } else if (event.phase == Phase::end && (name.starts_with("luo.subsystem.") || name.starts_with("luo.file."))) {
        std::string words = span_words(event);
        words.replace(words.find("  "), 2, " ");
        callbacks_.push_back(fmt::format("{} → {}", words, result_text(event)));
        if (callbacks_.size() > callbacks_shown) callbacks_.pop_front();
    }
}

std::string StepView::bar(const Machine& machine) const {
    const u64 cell_bytes = align_up((machine.ram.bytes_max() + bar_cells - 1) / bar_cells, page_bytes);
    std::string cells;
    for (std::size_t i = 0; i < bar_cells; ++i) {
        const u64 begin = i * cell_bytes, end = std::min(begin + cell_bytes, machine.ram.bytes_max());
        const PfnRange frames{PhysAddr{begin}.pfn(), PhysAddr{end}.pfn()};
        const bool written = begin < end && machine.ram.next_written(frames.begin, frames.end) < frames.end;
        if (any_in(preserved_, begin, end))
            cells += styled("P", Style::good, color_);
        else if (any_in(image_, begin, end))
            cells += styled("I", Style::warn, color_);
        else if (any_in(scratch_, begin, end))
            cells += styled("S", Style::accent, color_);
        else
            cells += written ? "#" : "·";
    }
    return cells;
}

std::string StepView::text(const Machine& machine) const {
    std::string out =
        fmt::format("\n  memory, {} a cell: P preserved  I next image  S scratch  # written\n",
                    bytes_text(align_up((machine.ram.bytes_max() + bar_cells - 1) / bar_cells, page_bytes)));
    out += " ▕" + bar(machine) + "▏\n";
    if (!luo_state_.empty()) out += fmt::format("  LUO: {}\n", luo_state_);
    if (!callbacks_.empty()) out += "  last callbacks:\n";
    for (const std::string& callback : callbacks_) out += "    " + shortened(callback, terminal_columns - 4) + "\n";
    return out + devices_text() + guests_text();
}

std::string StepView::devices_text() const {
    std::string out;
    for (const DeviceStory& device : update_.devices()) {
        if (!device.dma_on && device.completions() + device.lost == 0) continue;
        std::string text = fmt::format("{}: DMA {}, {}", printable(device.name),
                                       !device.dma_on ? "off"
                                       : device.dry   ? "waits for descriptors"
                                                      : "every " + interval_text(device.interval_ns),
                                       count_text(device.completions(), "completion"));
        if (device.in_blackout) text += fmt::format(" ({} in the blackout)", device.in_blackout);
        if (device.lost) text += fmt::format(", {} lost", device.lost);
        out += "    " + shortened(text, terminal_columns - 4) + "\n";
    }
    return out.empty() ? out : "  devices:\n" + out;
}

std::string StepView::guests_text() const {
    std::string out;
    for (const GuestStory& guest : update_.guests()) {
        std::string text = fmt::format("{}: {}", printable(guest.name), count_text(guest.steps, "step"));
        if (guest.gone)
            text += ", gone with its kernel";
        else if (guest.paused_since_ns)
            text += ", paused since " + milliseconds_text(*guest.paused_since_ns);
        else if (guest.pauses)
            text += ", paused for at most " + milliseconds_text(guest.longest_pause_ns);
        out += "    " + shortened(text, terminal_columns - 4) + "\n";
    }
    return out.empty() ? out : "  guests:\n" + out;
}

StepAnswer StepPrompt::ask() {
    if (input_ended_) return StepAnswer::next;
    std::string line;
    for (;;) {
        char c = 0;
        const ssize_t got = read(STDIN_FILENO, &c, 1);
        if (got < 0 && errno == EINTR) return StepAnswer::quit;  // the signal's flag says the rest
        if (got <= 0) {
            input_ended_ = true;
            return line.starts_with('q') ? StepAnswer::quit : StepAnswer::next;
        }
        if (c == '\n') return line.starts_with('q') ? StepAnswer::quit : StepAnswer::next;
        line += c;
    }
}

}  // namespace kexec_sim::sim
