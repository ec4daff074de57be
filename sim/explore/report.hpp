// What an exploration tells: a line of progress, the summary, JSON (kexec-sim/explore-1), CSV by point.
#pragma once

#include <string>

#include "sim/explore/explorer.hpp"

namespace kexec_sim::sim {

struct ReportContext {
    std::string scenario, file, program;
    u64 seed = 1, depth = 1;
    std::string repeat_options;  // of `run`, beside file, seed and faults: " --set size=1MiB"
    bool quiet = false, verbose = false, color = false;
    std::string missing = {};  // merge: shards that are not there
};

/// How far it is, in a line.
std::string progress_text(const ExploreProgress& at);
std::string explore_text(const ExploreReport& report, const ReportContext& context);
std::string explore_json(const ExploreReport& report, const ReportContext& context);
std::string explore_csv(const ExploreReport& report);

}  // namespace kexec_sim::sim
