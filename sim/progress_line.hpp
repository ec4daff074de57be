// How far something is: on a terminal one line that is written over, elsewhere nothing.
#pragma once

#include <chrono>
#include <string_view>

#include "sim/output.hpp"

namespace kexec_sim::sim {

class ProgressLine {
public:
    /// `out` outlives it.
    ProgressLine(Output& out, bool wanted) : out_(out), wanted_(wanted && out.is_terminal()) {}
    /// At most a few times a second; what comes in between is not shown.
    void say(std::string_view text);
    void clear();

private:
    Output& out_;
    bool wanted_, shown_ = false;
    std::chrono::steady_clock::time_point last_{};
};

}  // namespace kexec_sim::sim
