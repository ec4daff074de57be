// The words of the narration: one event, one line.
#include <algorithm>
#include <fmt/format.h>

#include "sim/narration.hpp"

namespace kexec_sim::sim {
namespace {

std::string field_words(const TraceEvent& event, std::string_view key) {
    const TraceEvent::Field* field = event.field(key);
    if (!field) return {};
    if (field->type == TraceField::Type::text) return printable(field->text);
    return key == "token" ? fmt::format("{:#x}", field->number) : fmt::format("{}", field->number);
}

/// The first of `keys` that the event has.
std::string first_of(const TraceEvent& event, std::initializer_list<std::string_view> keys) {
    for (std::string_view key : keys)
        if (std::string words = field_words(event, key); !words.empty()) return words;
    return {};
}

bool contains_any(std::string_view text, std::initializer_list<std::string_view> pieces) {
    return std::any_of(pieces.begin(), pieces.end(),
                       [&](std::string_view piece) { return text.find(piece) != text.npos; });
}

}  // namespace

std::string span_words(const TraceEvent& begin) {
    const std::string verb = begin.name.substr(begin.name.rfind('.') + 1);
    if (begin.name.starts_with("luo.subsystem."))
        return fmt::format("{}  subsystem {}", verb, first_of(begin, {"name", "subsystem"}));
    if (begin.name.starts_with("luo.file.")) {
        const std::string token = field_words(begin, "token");
        return fmt::format("{}  file{}{}  {}", verb, token.empty() ? "" : " ", token,
                           first_of(begin, {"compatible", "handler", "name"}));
    }
    if (begin.name == "kho.finalize") return "KHO finalizes";
    if (begin.name == "kho.abort") return "KHO aborts";
    return {};
}

std::string span_result_words(const TraceEvent& end) {
    if (end.name != "kho.finalize" || result_text(end) != "ok") return {};
    return fmt::format(": {}, {}; the map takes {}", count_text(end.number("folios"), "folio"),
                       bytes_text(end.number("bytes")), count_text(end.number("map_pages"), "page"));
}

std::string log_stamp(const TraceEvent& event) {
    return fmt::format("[{:>5}.{:06}] ", event.time_ns / 1'000'000'000, event.time_ns / 1000 % 1'000'000);
}

bool log_line_matters(const TraceEvent& event) {
    if (event.number("level", 6) <= 4) return true;
    // Said already: by the rule above a generation's life, and by the line of the state.
    if (contains_any(event.text("text"), {"Linux version", "Switched from"})) return false;
    return contains_any(event.text("text"), {"KHO", "kho", "luo", "LUO", "Live Update", "liveupdate", "Command line",
                                             "Can't switch", "reserve_mem", "Subsystem '"});
}

std::string range_words(const TraceEvent& event) {
    const u64 phys = event.number("phys");
    std::string size, who = field_words(event, "who");
    u64 bytes = event.number("bytes");
    if (event.field("order") && event.field("count")) {
        const u64 count = event.number("count");
        const u64 folio_bytes = page_bytes << std::min<u64>(event.number("order"), 40);
        bytes = count * folio_bytes;
        size = count == 1 ? bytes_text(folio_bytes) : fmt::format("{} × {}", count, bytes_text(folio_bytes));
    } else {
        size = bytes_text(bytes);
    }
    return fmt::format("{:#x}–{:#x}  {}{}{}", phys, phys + bytes, size, who.empty() ? "" : "  ", who);
}

void RunStory::event(const TraceEvent& event) {
    end_ns = std::max(end_ns, event.time_ns);
    update.event(event);
    const std::string& name = event.name;
    if (name == "run.begin") {
        scenario = event.text("scenario");
        summary = event.text("summary");
        seed = event.number("seed");
        memory = event.number("memory");
        nodes = event.number("nodes", 1);
    } else if (name == "generation") {
        generations.push_back(
            {static_cast<Generation>(event.number("index")), event.text("profile"), event.text("release"), {}});
    } else if (name == "kernel.end") {
        if (!generations.empty()) generations.back().end = event.text("how");
    } else if (name == "step") {
        if (event.phase == Phase::begin) {
            ++steps;
            last_step_text = event.text("text");
        }
    } else if (name == "referee.finding") {
        findings.push_back({event.text("invariant"), event.text("message"), event.text("resource"),
                            event.number("frames"), event.number("first_frame"), event.generation});
    } else if (name == "fault.fired") {
        faults_fired.push_back(event.text("plan"));
    } else if (name == "fault.missed") {
        std::erase(faults_fired, event.text("plan"));
    } else if (name == "run.failure") {
        failures.push_back(event.text("text"));
    } else if (name == "run.end") {
        ended = true;
        passed = event.text("outcome") == "pass";
        under_faults = event.number("under_faults") != 0;
        interrupted = event.text("outcome") == "interrupted";
        stopped = event.number("stopped") != 0;
        folios = event.number("folios");
        bytes = event.number("bytes");
        map_pages = event.number("map_pages");
    }
}

}  // namespace kexec_sim::sim
