// The narration: a run as a student follows it on a terminal of 80 columns.
//
// A view of the event stream and of nothing else: `run` feeds it as the run goes on, `show` from a trace file, and
// both print the same bytes.
//
//   memfd-survives                                   what is run, on which machine
//   ══ generation 0 · luo-v3 6.16.0 ══════════       a kernel's life, visually apart
//      27.001 ms  luo.prepare                  ✓     a step: when it began, what it is, its result
//                   prepare  memfd-v1 0x1001   ✓     what happened in it: callbacks, ranges, states, log lines
//                   state  normal ──► prepared
//                   nic0: 200 completions, …         what devices and guests did in it, added up (sim/activity.hpp)
//   ── memfd-survives: passed ────────────────       the summary, or what was violated and how to repeat it
//
// A step's line is written when the step has ended, because its result stands on it; what happened in it is held
// back until then. A step in which a kernel ends (kexec, reset) is written in two parts, one in each generation.
//
// Quiet (-q): nothing but failures. Verbose (-v): every kernel log line, range and config write, and events that have
// no words of their own. Runs of preserved or restored ranges are otherwise folded after the third.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "machine/trace.hpp"
#include "sim/activity.hpp"
#include "sim/event_history.hpp"
#include "sim/terminal_text.hpp"
#include "sim/update_story.hpp"

namespace kexec_sim::sim {

using TextSink = std::function<void(std::string_view)>;

struct NarrationOptions {
    bool color = false, quiet = false, verbose = false;
};

/// What a summary says, gathered while the events pass.
struct RunStory {
    std::string scenario, summary;
    u64 seed = 1, memory = 0, nodes = 1;
    u64 steps = 0;
    struct Life {
        Generation index;
        std::string profile, release, end;
    };
    std::vector<Life> generations;
    UpdateStory update;
    struct FindingSeen {
        std::string invariant, message, resource;
        u64 frames = 0, first_frame = 0;
        Generation generation = 0;
    };
    std::vector<FindingSeen> findings;
    std::vector<std::string> faults_fired, failures;
    std::string last_step_text;
    bool ended = false, passed = false, interrupted = false, stopped = false;
    bool under_faults = false;  // judged by the rules for faults that the scenario did not plan
    u64 folios = 0, bytes = 0, map_pages = 0, end_ns = 0;

    void event(const TraceEvent& event);
};

class Narrator {
public:
    /// `command` repeats the run; it ends the text of a failure.
    Narrator(TextSink sink, NarrationOptions options, std::string command);

    void event(const TraceEvent& event);
    /// Writes what is still held back; for a run that was cut short.
    void finish();
    const RunStory& story() const { return story_; }

private:
    struct Line {
        unsigned indent = 0;
        std::string text, result;
        Style style = Style::plain, result_style = Style::good;
    };
    struct OpenStep {
        u64 time_ns = 0;
        std::string text, expected, note;
        bool written = false;
    };
    struct OpenSpan {
        std::string name, subject;
        std::optional<std::size_t> line;
        u64 time_ns = 0;
    };
    struct Fold {
        std::string name, who;
        u64 shown = 0, more = 0, folios = 0, bytes = 0;
    };

    void header();
    void begin_step(const TraceEvent& event);
    void end_step(const TraceEvent& event);
    void begin_generation(const TraceEvent& event);
    void span(const TraceEvent& event);
    void instant(const TraceEvent& event);
    bool life(const TraceEvent& event);
    bool protocol(const TraceEvent& event);
    bool devices(const TraceEvent& event);
    void user_space(const TraceEvent& event);
    void guest_resumes(const TraceEvent& event);
    /// Writes what devices and guests have done in the phase that ends.
    void end_activity();
    void log_line(const TraceEvent& event);
    void range(const TraceEvent& event);
    void end_fold();
    void output_lines(std::string_view label, std::string_view text);

    /// A line below the step; it ends a run of folded ranges. push() does not.
    void add(std::string text, Style style = Style::plain, std::string result = {}, Style result_style = Style::good);
    void push(std::string text, Style style = Style::plain, std::string result = {},
              Style result_style = Style::good);
    void write_lines();
    void write_line(const Line& line);
    void write_timed(u64 time_ns, std::string_view text, std::string_view result, Style result_style);
    void write_rule(std::string_view text, char kind, Style style);

    TextSink sink_;
    NarrationOptions options_;
    std::string command_;
    RunStory story_;
    EventHistory history_;
    std::optional<OpenStep> step_;
    std::vector<Line> lines_;
    std::vector<OpenSpan> spans_;
    std::optional<Fold> fold_;
    RequesterNames requesters_;
    Activity activity_;
    UpdatePhase activity_phase_ = UpdatePhase::outside;
    std::optional<u64> pause_ns_;  // of the guest that the event lets go on
};

/// The words for a callback or other span; empty: it has none. (`luo.subsystem.prepare`, name iommu -> "prepare
/// iommu")
std::string span_words(const TraceEvent& begin);
/// What the end of a span adds to its words: how much KHO wrote into the map.
std::string span_result_words(const TraceEvent& end);
/// "[    0.012345] ": what stands before the text of a log line.
std::string log_stamp(const TraceEvent& event);
/// Whether a kernel log line matters to somebody who follows the update: a warning, or KHO's or LUO's.
bool log_line_matters(const TraceEvent& event);
/// "0x1f400000–0x1f600000  512 × 4 KiB  memfd-v1".
std::string range_words(const TraceEvent& event);

/// The end of a narration: the summary and, of a failed run, what was violated.
std::string summary_text(const RunStory& story, bool color);
std::string failure_text(const RunStory& story, const EventHistory& history, std::string_view command, bool color);
/// A rule of 80 columns that begins with `text`: "══ text ═════".
std::string rule_text(std::string_view text, bool heavy);

/// Narrations one after another, and the count at the end: what `run` and `show` print.
class NarrationSeries {
public:
    NarrationSeries(TextSink sink, NarrationOptions options) : sink_(std::move(sink)), options_(options) {}
    void begin(std::string command);
    void event(const TraceEvent& event) { narrator_->event(event); }
    /// Ends the narration of one run.
    void end();
    /// Ends the series: "3 scenarios: 2 passed, 1 failed".
    void total();

private:
    TextSink sink_;
    NarrationOptions options_;
    std::unique_ptr<Narrator> narrator_;
    u64 runs_ = 0, passed_ = 0, cut_short_ = 0;  // cut short: an error or an interruption ended the run
};

}  // namespace kexec_sim::sim
