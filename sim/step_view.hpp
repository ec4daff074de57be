// `--step`: between two steps the run waits and shows where it stands.
//
//     memory, 13.477 MiB a cell: P preserved  I next image  S scratch  # written
//    ▕P#·····························································PSSSSSSSSSP·P▏
//     LUO: prepared
//     last callbacks:
//       prepare subsystem file-descriptors → ok
//     devices:
//       nic0: DMA every 10 µs, 4400 completions (4100 in the blackout)
//     guests:
//       web: 4000 steps, paused since 30.052 ms
//     [Enter: next step, q: quit]
//
// A cell of the bar is a stretch of memory; it shows the most telling of what lies in it. What is preserved,
// scratch or image comes from the event stream, what was written from RAM. Nothing of it is in the trace.
#pragma once

#include <deque>
#include <string>
#include <vector>

#include "machine/machine.hpp"
#include "machine/trace.hpp"
#include "sim/narration.hpp"

namespace kexec_sim::sim {

class StepView {
public:
    explicit StepView(bool color) : color_(color) {}
    void event(const TraceEvent& event);
    std::string text(const Machine& machine) const;

private:
    struct Range {
        u64 begin = 0, end = 0;
    };
    std::string bar(const Machine& machine) const;
    std::string devices_text() const;
    std::string guests_text() const;

    bool color_;
    bool forgets_on_abort_ = false;  // 6.16 and 6.18 drop what was tracked; LUO unpreserves range by range
    std::vector<Range> preserved_, scratch_, image_;
    std::string luo_state_;
    std::deque<std::string> callbacks_;
    UpdateStory update_;
};

enum class StepAnswer : u8 { next, quit };
/// Waits for a line on standard input. At its end the run goes on, without waiting any more.
class StepPrompt {
public:
    StepAnswer ask();

private:
    bool input_ended_ = false;
};

}  // namespace kexec_sim::sim
