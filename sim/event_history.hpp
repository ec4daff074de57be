// What happened to a resource: the last events that touched it, out of a bounded memory of all.
//
// A finding names a resource ("file 0x1001", "bench kept") and frames; an unmet step names what it was about in its
// fields. Both become a Subject: words, numbers and frames. An event touches the subject if one of its texts holds
// one of the words, if its token is one of the numbers, or if its range of memory holds one of the frames. A step
// counts by its text, and is remembered with its result.
#pragma once

#include <deque>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "machine/trace.hpp"

namespace kexec_sim::sim {

struct Subject {
    std::vector<std::string> words;
    std::vector<u64> numbers;  // tokens
    std::vector<u64> frames;
    bool empty() const { return words.empty() && numbers.empty() && frames.empty(); }
    /// "file 0x1001" -> number 0x1001; "bench kept" -> word kept.
    void add_resource(std::string_view resource);
    /// The names and tokens in the fields of a step: `luo.preserve: {fd: guest, token: 1}` -> guest, 1.
    void add_step(std::string_view step_text);
    bool touched_by(const TraceEvent& event) const;
};

class EventHistory {
public:
    void add(const TraceEvent& event);
    /// The last `count` that touched it, oldest first; with an empty subject the last steps. Completions that follow
    /// one another are one, and so are config writes to one device; the latter then with a field `writes`.
    std::vector<TraceEvent> last(const Subject& subject, std::size_t count) const;

private:
    std::deque<TraceEvent> events_;
};

/// Which device is behind a requester id: config cycles tell. A fault of an IOMMU gets a field `device`.
class RequesterNames {
public:
    const TraceEvent& named(const TraceEvent& event);

private:
    std::map<std::string, std::string> names_;  // "0000:03:00.0"
    TraceEvent fault_;
};

/// `name` and its fields in one line, "kho.preserve phys 0x1000 order 0 count 2": for events that have no words of
/// their own.
std::string event_text(const TraceEvent& event);
/// A signed field `result` as a word: "ok", or an errno's name.
std::string result_text(const TraceEvent& event);

}  // namespace kexec_sim::sim
