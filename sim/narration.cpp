#include "sim/narration.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <utility>

namespace kexec_sim::sim {
namespace {

/// "   27.001 ms  ": what stands before a step, and as blanks before what belongs to it.
constexpr std::size_t time_columns = 14;
constexpr std::size_t nested_indent = time_columns + 2;
constexpr u64 ranges_shown = 3;

std::string repeated(std::string_view piece, std::size_t count) {
    std::string text;
    for (std::size_t i = 0; i < count; ++i) text += piece;
    return text;
}

}  // namespace

std::string rule_text(std::string_view text, bool heavy) {
    const std::string_view stroke = heavy ? "═" : "─";
    const std::string start = repeated(stroke, 2) + " " + shortened(text, terminal_columns - 8) + " ";
    return start + repeated(stroke, terminal_columns - text_columns(start));
}

Narrator::Narrator(TextSink sink, NarrationOptions options, std::string command)
    : sink_(std::move(sink)),
      options_(options),
      command_(std::move(command)),
      activity_(options.verbose) {}

void Narrator::event(const TraceEvent& told) {
    const TraceEvent& event = requesters_.named(told);
    const GuestStory* guest = event.name == "vm.resume" ? story_.update.guest(event.text("vm")) : nullptr;
    pause_ns_.reset();
    if (guest && guest->paused_since_ns) pause_ns_ = event.time_ns - *guest->paused_since_ns;
    story_.event(event);
    history_.add(event);
    if (event.name == "run.end") {
        if (!options_.quiet) {
            write_lines();
            sink_(summary_text(story_, options_.color));
        }
        if (!story_.passed && !story_.interrupted) sink_(failure_text(story_, history_, command_, options_.color));
        return;
    }
    if (options_.quiet) return;
    if (story_.update.phase() != activity_phase_) {
        end_activity();
        activity_phase_ = story_.update.phase();
    }
    if (event.name == "run.begin") return header();
    if (event.name == "generation") return begin_generation(event);
    if (event.name == "step" || event.name == "epilogue")
        return event.phase == Phase::begin ? begin_step(event) : end_step(event);
    const bool folds =
        event.field("phys") && event.field("order") && event.field("count") && event.layer == Layer::kho;
    if (folds) return range(event);
    if (event.phase != Phase::instant) return span(event);
    instant(event);
}

void Narrator::finish() {
    if (story_.ended || options_.quiet) return;
    if (step_ && !step_->written) write_timed(step_->time_ns, step_->text, "…", Style::dim);
    step_.reset();
    write_lines();
}

void Narrator::header() {
    sink_(styled(printable(story_.scenario), Style::bold, options_.color) + "\n");
    if (!story_.summary.empty())
        for (const std::string& line : wrapped(printable(story_.summary), terminal_columns - 2))
            sink_("  " + line + "\n");
    sink_(fmt::format("  machine: {} of memory, {}; seed {}\n\n", bytes_text(story_.memory),
                      count_text(story_.nodes, "node"), story_.seed));
}

// --- Steps and generations ---------------------------------------------------------------------------------------

void Narrator::begin_step(const TraceEvent& event) {
    write_lines();
    // The epilogue stands in for the rest of the script after an unplanned fault.
    std::string text = event.name == "epilogue" ? "epilogue: " + event.text("part") : event.text("text");
    step_ = OpenStep{event.time_ns, printable(text), event.text("expected"), printable(event.text("note")), false};
}

void Narrator::end_step(const TraceEvent& event) {
    if (!step_) return;
    const std::string result = event.text("result");
    const bool failed = event.text("outcome") == "fail";
    std::string shown = "✓";
    Style style = Style::good;
    if (failed) {
        shown = fmt::format("✗ {}, expected {}", result, step_->expected);
        style = Style::bad;
    } else if (result != "ok") {
        shown = fmt::format("→ {}{}", result, result == step_->expected ? " (expected)" : "");
        style = Style::accent;
    }
    if (step_->written) {
        write_lines();
        write_timed(event.time_ns, fmt::format("end of {}", step_->text), shown, style);
    } else {
        write_timed(step_->time_ns, step_->text, shown, style);
    }
    const auto remark = [&](std::string_view text, Style remark_style) {
        for (const std::string& line : wrapped(text, terminal_columns - nested_indent))
            sink_(std::string(nested_indent, ' ') + styled(line, remark_style, options_.color) + "\n");
    };
    if (!step_->note.empty() && result != "ok")
        remark("because " + step_->note, Style::dim);
    else if (!step_->note.empty())
        remark(step_->note, Style::dim);
    if (failed && !event.text("detail").empty()) remark(printable(event.text("detail")), Style::bad);
    write_lines();
    step_.reset();
}

void Narrator::begin_generation(const TraceEvent& event) {
    if (step_ && !step_->written) {
        write_timed(step_->time_ns, step_->text, "…", Style::dim);
        step_->written = true;
    }
    write_lines();
    if (event.number("index") > 0) sink_("\n");
    const std::string text = fmt::format("generation {} · {} {}", event.number("index"),
                                         printable(event.text("profile")), printable(event.text("release")));
    sink_(styled(rule_text(text, true), Style::bold, options_.color) + "\n");
    write_timed(event.time_ns, "boot", "", Style::good);
}

// --- What happens inside -------------------------------------------------------------------------------------------

void Narrator::span(const TraceEvent& event) {
    const std::string subject = event.text("name") + event.text("compatible");
    if (event.phase == Phase::begin) {
        OpenSpan open{event.name, subject, std::nullopt, event.time_ns};
        std::string words = span_words(event);
        if (words.empty() && options_.verbose) words = event_text(event);
        if (!words.empty()) {
            // What happens inside a callback stands below it, further in.
            add(std::move(words), Style::plain, "…", Style::dim);
            open.line = lines_.size() - 1;
        }
        spans_.push_back(std::move(open));
        return;
    }
    end_fold();
    auto open =
        std::find_if(spans_.rbegin(), spans_.rend(), [&](const OpenSpan& one) { return one.name == event.name; });
    if (open == spans_.rend()) return;
    const std::string result = result_text(event);
    const bool good = result.empty() || result == "ok";
    if (open->line && *open->line < lines_.size()) {
        Line& line = lines_[*open->line];
        if (const std::string more = span_result_words(event); !more.empty()) line.text += more;
        line.result = good ? "✓" : "→ " + result;
        line.result_style = good ? Style::good : Style::bad;
    }
    // Spans inside that never ended (a kernel died in them) end with it.
    spans_.erase(std::prev(open.base()), spans_.end());
}

void Narrator::instant(const TraceEvent& event) {
    if (event.name == "kernel.log") return log_line(event);
    if (life(event) || protocol(event) || devices(event)) return;
    if (options_.verbose && !event.name.starts_with("run.")) add(event_text(event), Style::dim);
}

/// The life of the machine and its kernels.
bool Narrator::life(const TraceEvent& event) {
    const std::string& name = event.name;
    if (name == "kernel.panic" || name == "kernel.end" || name == "kernel.user_space") end_activity();
    if (name == "kernel.panic") {
        add(fmt::format("✗ the kernel died: {}", printable(event.text("reason"))), Style::bad);
    } else if (name == "kernel.signal") {
        add(fmt::format("its process was ended by SIG{}", event.text("signal")), Style::bad);
    } else if (name == "kernel.end") {
        spans_.clear();
        const std::string how = event.text("how");
        if (how == "reset" || how == "power-loss")
            add(fmt::format("generation {} ends: {}", event.generation, how), Style::warn);
    } else if (name == "machine.reset") {
        add(event.text("how") == "cold" ? "cold reset: memory loses its content"
                                        : "warm reset: memory keeps its content, nothing is handed over",
            Style::warn);
    } else if (name == "kernel.blackout") {
        add("blackout begins", Style::accent);
    } else if (name == "kernel.blackout_off") {
        add("blackout called off", Style::accent);
    } else if (name == "kernel.user_space") {
        user_space(event);
    } else if (name == "kexec.jump") {
        add(event.number("handover") ? "jump: memory, boot parameters and a handover pass"
                                     : "jump: memory and boot parameters pass, no handover",
            Style::accent);
    } else if (name == "agent.kill") {
        add(fmt::format("agent {} dies; its descriptors are closed", printable(event.text("agent"))), Style::warn);
    } else {
        return false;
    }
    return true;
}

void Narrator::user_space(const TraceEvent& event) {
    const auto& blackout = story_.update.blackout();
    std::string text = "user space runs";
    if (blackout && blackout->user_space_ns == event.time_ns) {
        const std::string so_far = milliseconds_text(event.time_ns - blackout->begin_ns);
        const u64 waiting = story_.update.waiting_guests();
        text += waiting ? fmt::format(" after {}; {} wait{}", so_far, count_text(waiting, "guest"),
                                      waiting == 1 ? "s" : "")
                        : fmt::format("; blackout was {}", so_far);
    }
    add(std::move(text), Style::accent);
}

/// What devices and guests do: some of it at once, most of it added up.
bool Narrator::devices(const TraceEvent& event) {
    if (activity_.add(event)) return true;
    if (event.name == "vm.resume") {
        guest_resumes(event);
        return true;
    }
    // All devices are reset when the machine gets power.
    if (event.name == "pci.reset" && event.text("kind") == "power-on" && !options_.verbose) return true;
    std::string words = device_words(event);
    if (words.empty()) return false;
    if (event.name == "dma.start" || event.name == "dma.stop") end_activity();
    add(std::move(words), device_style(event));
    return true;
}

void Narrator::guest_resumes(const TraceEvent& event) {
    end_activity();
    std::string text = device_words(event);
    if (pause_ns_) text += fmt::format(", paused {}", milliseconds_text(*pause_ns_));
    add(std::move(text), Style::accent);
    const auto& blackout = story_.update.blackout();
    if (event.text("by") != "restore" || !blackout || story_.update.waiting_guests()) return;
    add(fmt::format("all guests run; blackout was {}", milliseconds_text(blackout->end_ns - blackout->begin_ns)),
        Style::accent);
}

void Narrator::end_activity() {
    if (activity_.empty()) return;
    for (Activity::Line& line : activity_.take(activity_phase_)) add(std::move(line.text), line.style);
}

/// Instruments, states and ranges that the protocols report.
bool Narrator::protocol(const TraceEvent& event) {
    const std::string& name = event.name;
    if (name == "luo.state") {
        add(fmt::format("state  {} ──► {}", event.text("from"), event.text("to")), Style::accent);
    } else if (name == "fault.fired") {
        add(fmt::format("fault  {}", printable(event.text("plan"))), Style::warn);
    } else if (name == "fault.missed") {
        add("the fault is aimed at nothing that is there", Style::warn);
    } else if (name == "referee.finding") {
        add(fmt::format("finding  {}: {}", event.text("invariant"), printable(event.text("message"))), Style::bad);
    } else if (name == "kexec.segment") {
        add(fmt::format("load  {}  {}", event.text("segment"), range_words(event)));
    } else if (name == "kho.scratch") {
        if (event.number("bytes") > 0 || options_.verbose) add(fmt::format("scratch  {}", range_words(event)));
    } else if (name == "kho.populate") {
        const bool good = result_text(event) == "ok";
        add(fmt::format("handover at {:#x}", event.number("phys")), Style::plain,
            good ? "✓" : "→ " + result_text(event), good ? Style::good : Style::bad);
    } else if (name == "kho.add_subtree" || name == "kho.remove_subtree" || name == "kho.retrieve_subtree") {
        const std::string result = result_text(event);
        const bool good = result.empty() || result == "ok";
        add(fmt::format("{} sub-tree  {} at {:#x}", name.substr(4, name.find('_') - 4), printable(event.text("name")),
                        event.number("phys")),
            Style::plain, good ? "✓" : "→ " + result, good ? Style::good : Style::bad);
    } else if (name == "kho.preserve_failed") {
        add(fmt::format("preserve  {:#x}  {}", event.number("phys", event.number("address")),
                        printable(event.text("who"))),
            Style::plain, "→ " + result_text(event), Style::bad);
    } else if (name == "reserve_mem.allocate") {
        add(fmt::format("reserve_mem  {}  {}{}", printable(event.text("name")), range_words(event),
                        event.number("revived") ? "  revived" : ""));
    } else if (name == "mm.pages_migrate") {
        add(fmt::format("pages move out of scratch  {}  {}", count_text(event.number("count"), "page"),
                        event.text("site")));
    } else if (name == "luoctl.output") {
        output_lines("luoctl", event.text("text"));
    } else if (name == "debugfs.output") {
        output_lines(event.text("file"), event.text("text"));
    } else {
        return false;
    }
    return true;
}

void Narrator::log_line(const TraceEvent& event) {
    if (!options_.verbose && !log_line_matters(event)) return;
    const u64 level = event.number("level", 6);
    add(log_stamp(event) + printable(event.text("text")), level <= 3   ? Style::bad
                                                          : level == 4 ? Style::warn
                                                                       : Style::dim);
}

void Narrator::range(const TraceEvent& event) {
    const std::string who = event.text("who");
    if (!fold_ || fold_->name != event.name || fold_->who != who) {
        end_fold();
        fold_ = Fold{event.name, who};
    }
    const u64 count = event.number("count", 1);
    if (fold_->shown < ranges_shown || options_.verbose) {
        ++fold_->shown;
        push(fmt::format("{}  {}", event.name.substr(event.name.find('.') + 1), range_words(event)));
        return;
    }
    ++fold_->more;
    fold_->folios += count;
    fold_->bytes += count << std::min<u64>(event.number("order") + page_shift, 63);
}

void Narrator::end_fold() {
    if (!fold_) return;
    const Fold fold = *std::exchange(fold_, std::nullopt);
    if (fold.more == 0) return;
    push(fmt::format("{}  … and {}: {}, {}", fold.name.substr(fold.name.find('.') + 1),
                     count_text(fold.more, "more range"), count_text(fold.folios, "folio"), bytes_text(fold.bytes)),
         Style::dim);
}

void Narrator::output_lines(std::string_view label, std::string_view text) {
    constexpr std::size_t lines_max = 12;
    std::size_t shown = 0;
    while (!text.empty()) {
        const std::size_t end = std::min(text.find('\n'), text.size());
        if (++shown > lines_max && !options_.verbose) {
            add(fmt::format("{}│ …", label), Style::dim);
            return;
        }
        add(fmt::format("{}│ {}", label, printable(text.substr(0, end))));
        text.remove_prefix(std::min(end + 1, text.size()));
    }
}

// --- Writing ---------------------------------------------------------------------------------------------------------

void Narrator::add(std::string text, Style style, std::string result, Style result_style) {
    end_fold();
    push(std::move(text), style, std::move(result), result_style);
}

void Narrator::push(std::string text, Style style, std::string result, Style result_style) {
    std::size_t depth = 0;
    for (const OpenSpan& open : spans_) depth += open.line.has_value();
    const unsigned indent = static_cast<unsigned>(nested_indent + 2 * std::min<std::size_t>(depth, 8));
    lines_.push_back({indent, std::move(text), std::move(result), style, result_style});
}

void Narrator::write_lines() {
    end_activity();
    end_fold();
    for (const Line& line : lines_) write_line(line);
    lines_.clear();
    // An open span's line is written; its end has no place to stand any more.
    for (OpenSpan& open : spans_) open.line.reset();
}

void Narrator::write_line(const Line& line) {
    const std::size_t room = terminal_columns - line.indent;
    const std::size_t result_room = line.result.empty() ? 0 : text_columns(line.result) + 2;
    // Following lines stand two columns further in.
    const std::vector<std::string> parts = wrapped(line.text, room - result_room, room - 2);
    for (std::size_t i = 0; i < parts.size(); ++i) {
        std::string out =
            std::string(line.indent + (i > 0 ? 2 : 0), ' ') + styled(parts[i], line.style, options_.color);
        if (i == 0 && !line.result.empty()) {
            out += std::string(room - text_columns(parts[0]) - text_columns(line.result), ' ');
            out += styled(line.result, line.result_style, options_.color);
        }
        sink_(out + "\n");
    }
}

void Narrator::write_timed(u64 time_ns, std::string_view text, std::string_view result, Style result_style) {
    const std::string time = fmt::format("{:>12}  ", milliseconds_text(time_ns));
    const std::size_t room = terminal_columns - text_columns(time);
    const std::string tail = shortened(result, room - 20);
    const std::string head = shortened(text, room - text_columns(tail) - (tail.empty() ? 0 : 2));
    std::string out = styled(time, Style::dim, options_.color) + styled(head, Style::bold, options_.color);
    if (!tail.empty()) {
        out += std::string(room - text_columns(head) - text_columns(tail), ' ');
        out += styled(tail, result_style, options_.color);
    }
    sink_(out + "\n");
}

// --- Series
// -----------------------------------------------------------------------------------------------------------

void NarrationSeries::begin(std::string command) {
    if (runs_ > 0 && !options_.quiet) sink_("\n\n");
    ++runs_;
    narrator_ = std::make_unique<Narrator>(sink_, options_, std::move(command));
}

void NarrationSeries::end() {
    narrator_->finish();
    const RunStory& story = narrator_->story();
    passed_ += story.ended && story.passed;
    cut_short_ += !story.ended || story.interrupted;
    narrator_.reset();
}

void NarrationSeries::total() {
    const u64 failed = runs_ - passed_ - cut_short_;
    if (runs_ < 2 || (options_.quiet && failed + cut_short_ == 0)) return;
    sink_(fmt::format("\n{} scenarios: {} passed, {} failed", runs_, passed_, failed));
    sink_(cut_short_ ? fmt::format(", {} not finished\n", cut_short_) : std::string("\n"));
}

}  // namespace kexec_sim::sim
