// What devices and guests do, in words.
//
// Most of it comes in numbers that nobody reads line by line: an Activity adds it up, per device and guest, until the
// step or the phase of the blackout ends, and makes a few lines of it.
//
//   nic0: 200 completions, sequence 0–199, every 10 µs           the ticks of a step
//   nic0 in shutdown: 500 completions, 500–999, every 10 µs      the ticks of a phase, while no user space runs
//   nic0: 12 ticks lost, sequence 300–311: translation fault
//   config writes: nic0 18, gpu0 17
//   guests: web 4000 steps, render 2000 steps
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "machine/trace.hpp"
#include "sim/terminal_text.hpp"
#include "sim/update_story.hpp"

namespace kexec_sim::sim {

/// One event of a device or guest as a line; empty: it is none.
std::string device_words(const TraceEvent& event);
/// "10 µs", "2 ms": in the largest unit that gives a whole number.
std::string interval_text(u64 ns);
/// "sequence 0–199", or without the word.
std::string sequence_text(u64 first, u64 last, bool word = true);
/// How serious it is.
Style device_style(const TraceEvent& event);

class Activity {
public:
    /// `each_config_write`: they are told one by one, and not added up here.
    explicit Activity(bool each_config_write) : each_config_write_(each_config_write) {}
    /// False: the event is none that is added up.
    bool add(const TraceEvent& event);
    bool empty() const;
    struct Line {
        std::string text;
        Style style = Style::plain;
    };
    /// The lines, with the phase that they belong to; it is empty from now on.
    std::vector<Line> take(UpdatePhase phase);

private:
    struct Run {
        u64 count = 0, first_sequence = 0, last_sequence = 0, first_ns = 0, last_ns = 0;
        void add(const TraceEvent& event);
    };
    struct Device {
        std::string name;
        Run completed;
        struct Lost {
            std::string name;  // how
            Run run;
        };
        std::vector<Lost> lost;
        u64 dry = 0, dry_ns = 0, dry_sequence = 0;
        bool still_dry = false;
        u64 config_writes = 0;
    };
    /// Events alike: told once, with their number.
    struct Alike {
        std::string name;  // its words
        u64 count = 0;
        Style style = Style::plain;
    };
    struct Guest {
        std::string name;
        u64 steps = 0;
    };
    struct Interval {
        std::string name;  // of the device
        u64 ns = 0;
    };
    bool add_dma(const TraceEvent& event);
    void take_dma(const Device& device, std::string_view phase, std::vector<Line>& lines) const;

    bool each_config_write_;
    std::vector<Device> devices_;
    std::vector<Alike> alike_;
    std::vector<Guest> guests_;
    std::vector<Interval> intervals_;  // as the engines were started; stay
};

}  // namespace kexec_sim::sim
