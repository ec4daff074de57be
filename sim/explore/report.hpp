// What an exploration tells: a line of progress, the summary, JSON (kexec-sim/explore-1), CSV by point.
#pragma once

#include <chrono>
#include <string>

#include "sim/explore/explorer.hpp"
#include "sim/output.hpp"

namespace kexec_sim::sim {

/// On a terminal one line that is written over; elsewhere nothing.
class ProgressLine {
public:
    ProgressLine(Output& out, bool wanted) : out_(out), wanted_(wanted && out.is_terminal()) {}
    void show(const ExploreProgress& progress);
    void say(const std::string& text);
    void clear();

private:
    Output& out_;
    bool wanted_, shown_ = false;
    std::chrono::steady_clock::time_point last_{};
};

struct ReportContext {
    std::string scenario, file, program;
    u64 seed = 1, depth = 1;
    std::string repeat_options;  // of `run`, beside file, seed and faults: " --set size=1MiB"
    bool quiet = false, verbose = false, color = false;
    std::string missing = {};  // merge: shards that are not there
};

std::string explore_text(const ExploreReport& report, const ReportContext& context);
std::string explore_json(const ExploreReport& report, const ReportContext& context);
std::string explore_csv(const ExploreReport& report);

}  // namespace kexec_sim::sim
