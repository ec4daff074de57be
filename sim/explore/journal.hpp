// The journal of an exploration: DIR/runs.jsonl, a line as soon as an outcome is known.
//
//   {"format":"kexec-sim/explore-runs-1", …what was explored, and how…}      head
//   {"plan":["kho.preserve[memfd-v1]#1=fail(ENOMEM)"], …outcome…}             one plan
//   …
//   {"end":true,"complete":true,"plans":123,"seconds":1.5}                   once all that was asked for is done
//
// Of a plan that is there twice the last line counts: the first did not know yet that another run of it gave something
// else. The same exploration, started again with the same DIR, takes what is there for known; a line that was being written when
// the explorer was killed is dropped. Shards are joined by reading their journals.
#pragma once

#include <fstream>
#include <map>
#include <optional>
#include <string>

#include "sim/explore/tally.hpp"

namespace kexec_sim::sim {

struct JournalHead {
    std::string program /* version */, scenario, file, baseline /* trace hash */, points, actions;
    std::string repeat_options;  // ReportContext
    u64 seed = 1, depth = 1, random_plans = 0, shard = 0, shards = 1, visits = 0;
    bool all_visits = false;
    std::map<std::string, u64> point_visits;
    std::vector<PhaseSummary> phases;  // with their visits

    nlohmann::json json() const;
    static JournalHead from_json(const nlohmann::json& json);
    /// Equal but for the shard.
    bool same_exploration(const JournalHead& other) const;
};

struct JournalEnd {
    bool complete = false, thinned = false;
    u64 plans = 0, verified = 0;
    double seconds = 0;
};

struct ReadJournal {
    JournalHead head;
    std::vector<std::pair<FaultPlan, PlanOutcome>> outcomes;  // each plan once
    std::optional<JournalEnd> end;                            // nullopt: it is not finished
};
/// UserError: there is none in `dir`, or it is not one.
ReadJournal read_journal(const std::string& dir);

class Journal {
public:
    /// Goes on with what is in `dir`. UserError: what is there is of another exploration, or it cannot be written.
    void open(const std::string& dir, const JournalHead& head);
    const PlanOutcome* find(const FaultPlan& plan) const;
    void add(const FaultPlan& plan, const PlanOutcome& outcome);
    void close(const ExploreReport& report);

private:
    std::map<std::string, PlanOutcome> known_;
    std::ofstream file_;
    std::string name_;
};

}  // namespace kexec_sim::sim
