// The end of a narration: what the run came to, and of a failed one everything that is needed to understand and repeat
// it.
#include <algorithm>
#include <fmt/format.h>
#include <set>
#include <utility>

#include "machine/referee.hpp"
#include "sim/narration.hpp"

namespace kexec_sim::sim {
namespace {

constexpr std::size_t label_columns = 15;
constexpr std::size_t events_shown = 8;
/// Told in full; more of them are a line each.
constexpr std::size_t findings_told_max = 4;

/// "  label        text", wrapped below itself.
std::string labelled(std::string_view label, std::string_view text) {
    std::string out;
    for (const std::string& line : wrapped(text, terminal_columns - label_columns)) {
        out += out.empty() ? fmt::format("  {:<{}}{}\n", label, label_columns - 2, line)
                           : std::string(label_columns, ' ') + line + "\n";
    }
    return out;
}

std::string indented(std::string_view text, std::size_t indent, std::size_t hanging) {
    std::string out;
    for (const std::string& line : wrapped(text, terminal_columns - indent, terminal_columns - hanging)) {
        out += std::string(out.empty() ? indent : hanging, ' ') + line + "\n";
    }
    return out;
}

/// Without the unit and without zeros at the end: four of them share a line.
std::string bare_milliseconds(u64 ns) {
    std::string text = fmt::format("{}.{:03}", ns / 1'000'000, ns / 1000 % 1000);
    while (text.ends_with('0')) text.pop_back();
    if (text.ends_with('.')) text.pop_back();
    return text;
}

/// Parts in whole microseconds, so cut that they sum up to the whole as it is shown.
std::string blackout_words(const Blackout& blackout) {
    const auto since_begin = [&](u64 ns) { return (ns - blackout.begin_ns) / 1000 * 1000; };
    std::string text = milliseconds_text(blackout.end_ns - blackout.begin_ns), sign = " = ";
    for (const Blackout::Part& part : blackout.parts()) {
        text += fmt::format("{}{} {}", std::exchange(sign, " + "), update_phase_name(part.phase),
                            bare_milliseconds(since_begin(part.end_ns) - since_begin(part.begin_ns)));
    }
    return text;
}

std::string dma_words(const RunStory& story) {
    std::string text;
    for (const DeviceStory& device : story.update.devices()) {
        if (device.completions() + device.lost == 0 && !device.dma_on) continue;
        text += (text.empty() ? "" : "; ") + printable(device.name) + " ";
        if (story.update.blackout())
            text += fmt::format("{} before, {} in blackout, {} after, ", count_text(device.before, "completion"),
                                device.in_blackout, device.after);
        else
            text += count_text(device.completions(), "completion") + ", ";
        text += device.lost ? fmt::format("{} lost", device.lost) : std::string("no gaps");
        if (device.dry_ns) text += ", without work for " + milliseconds_text(device.dry_ns);
    }
    return text;
}

std::string guests_words(const RunStory& story) {
    std::string text;
    for (const GuestStory& guest : story.update.guests()) {
        text +=
            fmt::format("{}{} {}", text.empty() ? "" : "; ", printable(guest.name), count_text(guest.steps, "step"));
        if (guest.pauses == 1) text += ", paused " + milliseconds_text(guest.longest_pause_ns);
        if (guest.pauses > 1)
            text +=
                fmt::format(", paused {} times, at most {}", guest.pauses, milliseconds_text(guest.longest_pause_ns));
        if (guest.gone)
            text += ", gone with its kernel";
        else if (guest.paused_since_ns)
            text += ", paused since " + milliseconds_text(*guest.paused_since_ns);
    }
    return text;
}

std::string lives_words(const RunStory& story) {
    std::string text;
    for (const RunStory::Life& life : story.generations) {
        const bool ordinary = life.end == "kexec" || life.end == "scenario" || life.end.empty();
        text += fmt::format("{}{} {} {}{}", text.empty() ? "" : ", ", life.index, printable(life.profile),
                            printable(life.release), ordinary ? "" : fmt::format(" (ended by {})", life.end));
    }
    return text;
}

std::string findings_words(const RunStory& story) {
    std::set<std::string> ids;
    for (const auto& finding : story.findings) ids.insert(finding.invariant);
    if (ids.empty()) return "none";
    std::string text;
    for (const std::string& id : ids) text += (text.empty() ? "" : ", ") + id;
    if (!story.passed) return text;
    return text + (story.under_faults ? " (no more than such a fault may cost)" : " (as the scenario expects)");
}

std::string touched_text(const Subject& subject, std::string_view title, const EventHistory& history) {
    const auto events = history.last(subject, events_shown);
    if (events.empty()) return {};
    std::string out = indented(title, 4, 6);
    for (const TraceEvent& event : events) {
        const std::string head = fmt::format("gen {} {:>12}  ", event.generation, milliseconds_text(event.time_ns));
        std::string text = device_words(event);
        if (event.name == "step") {
            const std::string result = event.text("result");
            text = printable(event.text("text")) + (result.empty() ? "" : " → " + printable(result));
        }
        if (text.empty()) text = event_text(event);
        out += indented(head + text, 6, 6 + text_columns(head));
    }
    return out;
}

std::string finding_text(const RunStory::FindingSeen& finding, const EventHistory& history, bool color) {
    const auto id = invariant_by_name(finding.invariant);
    std::string head = finding.invariant;
    if (id) {
        const InvariantInfo& info = invariants()[static_cast<std::size_t>(*id)];
        head += fmt::format(" ({}) is violated in generation {}. It holds when {}.", info.severity,
                            finding.generation, info.description);
    }
    std::string out = styled("  ✗ ", Style::bad, color) + indented(head, 4, 4).substr(4);
    out += indented("But: " + printable(finding.message), 4, 6);
    if (finding.frames > 0) {
        // The narration counts frame numbers, as the JSON result does.
        out += indented(
            fmt::format("{}, the first is {:#x}", count_text(finding.frames, "frame"), finding.first_frame), 4, 6);
    }
    Subject subject;
    subject.add_resource(finding.resource);
    if (finding.frames > 0) subject.frames.push_back(finding.first_frame);
    if (subject.empty()) return out;
    std::string of =
        finding.resource.empty() ? fmt::format("frame {:#x}", finding.first_frame) : printable(finding.resource);
    return out + touched_text(subject, fmt::format("The last events that touched {}:", of), history);
}

}  // namespace

std::string summary_text(const RunStory& story, bool color) {
    const std::string_view verdict = story.interrupted ? "interrupted"
                                     : !story.passed   ? "FAILED"
                                     : story.stopped   ? "stopped at the jump"
                                                       : "passed";
    std::string out = "\n" +
                      styled(rule_text(fmt::format("{}: {}", printable(story.scenario), verdict), false),
                             story.passed ? Style::good : Style::bad, color) +
                      "\n";
    if (story.update.blackout()) out += labelled("blackout", blackout_words(*story.update.blackout()));
    if (const std::string words = dma_words(story); !words.empty()) out += labelled("dma", words);
    if (const std::string words = guests_words(story); !words.empty()) out += labelled("guests", words);
    if (story.folios > 0 || story.map_pages > 0) {
        out += labelled("handed over", fmt::format("{}, {}; the map takes {}", count_text(story.folios, "folio"),
                                                   bytes_text(story.bytes), count_text(story.map_pages, "page")));
    }
    out += labelled("kernels", lives_words(story));
    out += labelled("steps", fmt::format("{} in {} of virtual time", story.steps, milliseconds_text(story.end_ns)));
    for (const std::string& plan : story.faults_fired) out += labelled("fault fired", printable(plan));
    if (!story.stopped) out += labelled("findings", findings_words(story));
    return out;
}

std::string failure_text(const RunStory& story, const EventHistory& history, std::string_view command, bool color) {
    std::string out = "\n" + styled(fmt::format("{} failed:", printable(story.scenario)), Style::bad, color) + "\n";
    std::size_t findings_told = 0;
    bool told_events = false;
    for (const std::string& failure : story.failures) {
        const auto finding = std::find_if(story.findings.begin(), story.findings.end(), [&](const auto& one) {
            return failure == fmt::format("finding {}: {}", one.invariant, one.message);
        });
        if (finding != story.findings.end() && findings_told < findings_told_max) {
            ++findings_told;
            told_events = true;
            out += finding_text(*finding, history, color);
            continue;
        }
        out += styled("  ✗ ", Style::bad, color) + indented(printable(failure), 4, 4).substr(4);
        if (!failure.starts_with("step ") || told_events) continue;
        told_events = true;
        Subject subject;
        subject.add_step(story.last_step_text);
        out += touched_text(
            subject,
            subject.empty() ? "The last steps:" : "The last events that touched what the step names:", history);
    }
    if (!told_events) out += touched_text({}, "The last steps:", history);
    out += styled("  Repeat it:", Style::bold, color) + "\n    " + std::string(command) + "\n";
    return out;
}

}  // namespace kexec_sim::sim
