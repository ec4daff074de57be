#include "sim/event_history.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <set>

#include "sim/terminal_text.hpp"
#include "sim/values.hpp"

namespace kexec_sim::sim {
namespace {

constexpr std::size_t events_max = 16384;

/// What is part of a name: letters, digits, and what names of resources hold inside.
bool in_word(char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || c == '_' ||
           c == '.';
}

std::vector<std::string_view> words_of(std::string_view text) {
    std::vector<std::string_view> words;
    for (std::size_t at = 0; at < text.size();) {
        if (!in_word(text[at])) {
            ++at;
            continue;
        }
        std::size_t end = at;
        while (end < text.size() && in_word(text[end])) ++end;
        words.push_back(text.substr(at, end - at));
        at = end;
    }
    return words;
}

template <typename Range, typename Value> bool holds(const Range& range, const Value& value) {
    return std::find(std::begin(range), std::end(range), value) != std::end(range);
}

/// The kind of a resource, which says nothing about which one.
bool is_kind(std::string_view word) {
    constexpr std::string_view kinds[] = {"file",  "subsystem", "bench", "descriptor", "folio",
                                          "pages", "vmalloc",   "token", "guest",      "device"};
    return holds(kinds, word);
}

struct FrameRange {
    u64 begin = 0, end = 0;
};
FrameRange frames_of(const TraceEvent& event) {
    const TraceEvent::Field* phys = event.field("phys");
    if (!phys) return {};
    const u64 begin = phys->number >> page_shift;
    const u64 bytes = event.number("bytes");
    const u64 pages = bytes ? align_up(bytes, page_bytes) >> page_shift
                            : event.number("count", 1) << std::min<u64>(event.number("order"), 63);
    return {begin, begin + std::max<u64>(pages, 1)};
}

}  // namespace

void Subject::add_resource(std::string_view resource) {
    // What is in brackets describes the resource and fits others too.
    const std::vector<std::string_view> parts = words_of(resource.substr(0, resource.find('(')));
    for (std::string_view part : parts) {
        if (is_kind(part) && parts.size() > 1) continue;
        if (const auto number = parse_u64(part))
            numbers.push_back(*number);
        else
            words.emplace_back(part);
    }
}

void Subject::add_step(std::string_view step_text) {
    constexpr std::string_view naming[] = {"fd",      "name",      "as",    "token",  "folio", "pages",
                                           "vmalloc", "subsystem", "agent", "device", "vm"};
    const std::vector<std::string_view> parts = words_of(step_text);
    for (std::size_t i = 0; i + 1 < parts.size(); ++i) {
        if (!holds(naming, parts[i])) continue;
        if (parts[i] != "token")
            words.emplace_back(parts[i + 1]);
        else if (const auto token = parse_u64(parts[i + 1]))
            numbers.push_back(*token);
    }
}

bool Subject::touched_by(const TraceEvent& event) const {
    if (!frames.empty()) {
        const FrameRange range = frames_of(event);
        for (u64 frame : frames)
            if (range.begin <= frame && frame < range.end) return true;
    }
    const bool is_step = event.name == "step";
    for (const TraceEvent::Field& field : event.fields) {
        if (field.type != TraceField::Type::text) {
            if (field.key == "token" && holds(numbers, field.number)) return true;
            continue;
        }
        if (is_step && field.key != "text") continue;
        for (std::string_view part : words_of(field.text)) {
            if (holds(words, part)) return true;
            if (numbers.empty() || part.front() < '0' || part.front() > '9') continue;
            if (const auto number = parse_u64(part); number && holds(numbers, *number)) return true;
        }
    }
    return false;
}

void EventHistory::add(const TraceEvent& event) {
    if (event.name == "step" && event.phase == Phase::end) {
        // A step is remembered once, where it began, with its result.
        const auto begin = std::find_if(events_.rbegin(), events_.rend(), [](const TraceEvent& earlier) {
            return earlier.name == "step" && earlier.phase == Phase::begin;
        });
        if (begin != events_.rend())
            begin->fields.push_back({"result", TraceField::Type::text, 0, event.text("result")});
        return;
    }
    events_.push_back(event);
    if (events_.size() > events_max) events_.pop_front();
}

namespace {

/// Makes one of two events that follow one another, if they are of a kind that comes in numbers.
bool merged(const TraceEvent& earlier, TraceEvent& later) {
    if (earlier.name != later.name || earlier.text("device") != later.text("device")) return false;
    const auto set = [&](std::string_view key, u64 number) {
        const auto at = std::ranges::find(later.fields, key, &TraceEvent::Field::key);
        if (at != later.fields.end())
            at->number = number;
        else
            later.fields.push_back({std::string(key), TraceField::Type::decimal, number, {}});
    };
    if (later.name == "pci.config_write") {
        set("writes", later.number("writes", 1) + 1);
        return true;
    }
    const bool ticks = later.name == "dma.completions" || later.name == "dma.lost";
    const u64 first = earlier.number("first_sequence"), count = earlier.number("count");
    if (!ticks || first + count != later.number("first_sequence") || earlier.text("status") != later.text("status"))
        return false;
    set("first_sequence", first);
    set("count", count + later.number("count"));
    set("first_ns", earlier.number("first_ns"));
    return true;
}

}  // namespace

std::vector<TraceEvent> EventHistory::last(const Subject& subject, std::size_t count) const {
    std::vector<TraceEvent> found;
    std::multiset<std::string_view> ended;  // spans whose end is in the list: it says what their begin would
    for (auto at = events_.rbegin(); at != events_.rend(); ++at) {
        // The verdicts themselves are not what led to them.
        if (at->name.starts_with("run.") || at->name == "referee.finding") continue;
        if (!(subject.empty() ? at->name == "step" : subject.touched_by(*at))) continue;
        if (at->phase == Phase::begin)
            if (const auto end = ended.find(at->name); end != ended.end()) {
                ended.erase(end);
                continue;
            }
        if (!found.empty() && merged(*at, found.back())) continue;
        if (found.size() == count) break;
        if (at->phase == Phase::end) ended.insert(at->name);
        found.push_back(*at);
    }
    std::reverse(found.begin(), found.end());
    return found;
}

const TraceEvent& RequesterNames::named(const TraceEvent& event) {
    if (event.name == "pci.config_write") names_[event.text("address")] = event.text("device");
    if (event.name != "iommu.fault") return event;
    const auto at = names_.find(fmt::format("{:04x}:{}", event.number("unit"), event.text("source")));
    if (at == names_.end()) return event;
    fault_ = event;
    fault_.fields.push_back({"device", TraceField::Type::text, 0, at->second});
    return fault_;
}

std::string result_text(const TraceEvent& event) {
    const TraceEvent::Field* field = event.field("result");
    if (!field) return {};
    if (field->type == TraceField::Type::text) return field->text;
    const i64 value = static_cast<i64>(field->number);
    return value >= 0 ? "ok" : errno_name(static_cast<Errno>(-value));
}

std::string event_text(const TraceEvent& event) {
    std::string text = event.name;
    if (event.phase == Phase::begin) text += " begins";
    for (const TraceEvent::Field& field : event.fields) {
        switch (field.type) {
        case TraceField::Type::text:
            if (!field.text.empty()) text += fmt::format(" {} {}", field.key, field.text);
            break;
        case TraceField::Type::hex: text += fmt::format(" {} {:#x}", field.key, field.number); break;
        case TraceField::Type::decimal: text += fmt::format(" {} {}", field.key, field.number); break;
        case TraceField::Type::signed_decimal:
            text += field.key == "result" ? fmt::format(" → {}", result_text(event))
                                          : fmt::format(" {} {}", field.key, static_cast<i64>(field.number));
            break;
        }
    }
    return printable(text);
}

}  // namespace kexec_sim::sim
