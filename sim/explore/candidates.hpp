// Which faults there are to try, from the visits of a run without them.
//
//   log of visits ──► places (point, name, generation: one call site) ──► visits of it ──► actions of the point
//
// Order: the first visit of each point, then the first of each place, then the rest; within each in order of time. Of a
// place with more than 64 visits only the first 64, the powers of two and the last are taken, unless all are asked for.
#pragma once

#include <string>
#include <vector>

#include "machine/fault.hpp"

namespace kexec_sim::sim {

/// `--actions`: which actions are tried.
struct ActionChoice {
    struct Entry {
        FaultKind kind;
        bool every_sample = false;  // fail:all, lie:all: each errno of the point; delay:all
    };
    std::vector<Entry> entries;

    /// fail, panic, kill-agent, power-loss, delay, drop (of an interrupt).
    static ActionChoice operational();
    /// A list as on the command line: names of actions, `NAME:all`, `operational`, `corrupting`, `all`. The error says what
    /// is wrong.
    static std::expected<ActionChoice, std::string> parse(std::string_view list);
};

/// What a point publishes to be tried, of one kind: nothing where that kind means nothing there.
std::vector<FaultAction> action_samples(FaultPoint point, const ActionChoice::Entry& entry);

struct CandidateOptions {
    ActionChoice actions = ActionChoice::operational();
    std::string points = "*";  // a glob
    bool all_visits = false;
};
struct Candidates {
    std::vector<PlannedFault> faults;
    u64 visits = 0;        // of the points that were asked for
    bool thinned = false;  // some visits of a place were left out
};
/// `after_fault`: only visits that came after a planned fault had fired.
Candidates candidate_faults(const std::vector<FaultInjector::Visits>& log, const CandidateOptions& options,
                            bool after_fault = false);

}  // namespace kexec_sim::sim
