#include "sim/explore/journal.hpp"

#include <filesystem>
#include <fmt/format.h>

#include "machine/result.hpp"

namespace kexec_sim::sim {
namespace {

using Json = nlohmann::json;

constexpr std::string_view format_name = "kexec-sim/explore-runs-2";

std::string file_in(const std::string& dir) { return (std::filesystem::path(dir) / "runs.jsonl").string(); }

std::string line_of(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n"; }

Json outcome_json(const FaultPlan& plan, const PlanOutcome& outcome) {
    Json json = outcome.json();
    json["plan"] = Json::array();
    for (const PlannedFault& fault : plan) json["plan"].push_back(fault.text());
    return json;
}

FaultPlan plan_of(const Json& json) {
    FaultPlan plan;
    for (const auto& text : json.at("plan")) {
        auto fault = parse_fault(text.get<std::string>());
        if (!fault) throw std::invalid_argument(fault.error());
        plan.push_back(std::move(*fault));
    }
    if (plan.empty()) throw std::invalid_argument("an empty plan");
    return plan;
}

}  // namespace

Json JournalHead::json() const {
    Json out{{"format", format_name},
             {"program", program},
             {"scenario", scenario},
             {"file", file},
             {"baseline", baseline},
             {"points", points},
             {"actions", actions},
             {"seed", seed},
             {"depth", depth},
             {"random", random_plans},
             {"shard", shard},
             {"shards", shards},
             {"visits", visits},
             {"all_visits", all_visits},
             {"point_visits", point_visits},
             {"phases", Json::array()},
             {"repeat_options", repeat_options}};
    for (const PhaseSummary& phase : phases) out["phases"].push_back({phase.generation, phase.name, phase.visits});
    return out;
}

JournalHead JournalHead::from_json(const Json& json) {
    if (json.at("format") != format_name) throw std::invalid_argument("another format");
    JournalHead head;
    head.program = json.at("program");
    head.scenario = json.at("scenario");
    head.file = json.at("file");
    head.baseline = json.at("baseline");
    head.points = json.at("points");
    head.actions = json.at("actions");
    head.seed = json.at("seed");
    head.depth = json.at("depth");
    head.random_plans = json.at("random");
    head.shard = json.at("shard");
    head.shards = json.at("shards");
    head.visits = json.at("visits");
    head.repeat_options = json.at("repeat_options");
    head.all_visits = json.at("all_visits");
    head.point_visits = json.at("point_visits").get<std::map<std::string, u64>>();
    for (const auto& phase : json.at("phases"))
        head.phases.push_back({phase.at(0), phase.at(1), phase.at(2), {}, {}});
    return head;
}

bool JournalHead::same_exploration(const JournalHead& other) const {
    const auto without_shard = [](const JournalHead& head) {
        Json json = head.json();
        json.erase("shard");
        json.erase("file");  // shards may have run where it has another name
        return json;
    };
    return without_shard(*this) == without_shard(other);
}

ReadJournal read_journal(const std::string& dir) {
    const std::string name = file_in(dir);
    std::ifstream file(name);
    if (!file) throw UserError(fmt::format("kexec-sim: error: there is no journal of an exploration in {}", dir));
    ReadJournal journal;
    std::map<std::string, std::size_t> places;
    std::string line;
    for (u64 number = 1; std::getline(file, line); ++number) {
        const Json json = Json::parse(line, nullptr, false);
        if (json.is_discarded() && file.eof()) break;  // cut short by a kill
        try {
            if (json.is_discarded()) throw std::invalid_argument("this is no JSON");
            if (number == 1)
                journal.head = JournalHead::from_json(json);
            else if (json.contains("end"))
                journal.end = JournalEnd{json.at("complete"), json.at("thinned"), json.at("plans"),
                                         json.at("verified"), json.at("seconds")};
            else {
                FaultPlan plan = plan_of(json);
                PlanOutcome outcome = PlanOutcome::from_json(json);
                const auto [at, fresh] = places.emplace(plan_text(plan), journal.outcomes.size());
                if (fresh)
                    journal.outcomes.emplace_back(std::move(plan), std::move(outcome));
                else
                    journal.outcomes[at->second].second = std::move(outcome);
            }
        } catch (const std::exception& error) {
            throw UserError(
                fmt::format("{}:{}: error: not a line of such a journal: {}", name, number, error.what()));
        }
    }
    if (journal.head.scenario.empty()) throw UserError(fmt::format("{}:1: error: the journal is empty", name));
    return journal;
}

void Journal::open(const std::string& dir, const JournalHead& head) {
    name_ = file_in(dir);
    std::error_code none;
    if (std::filesystem::exists(name_, none) && std::filesystem::file_size(name_, none) > 0) {
        ReadJournal old = read_journal(dir);
        if (!head.same_exploration(old.head) || head.shard != old.head.shard)
            throw UserError(fmt::format("kexec-sim: error: {} is of another exploration (of {}); give another --out",
                                        name_, old.head.scenario));
        for (auto& [plan, outcome] : old.outcomes) known_[plan_text(plan)] = std::move(outcome);
        // A new file first: what is known is not lost if this process is killed now.
        std::ofstream fresh(name_ + ".new", std::ios::trunc);
        fresh << line_of(head.json());
        for (const auto& [plan, outcome] : old.outcomes)
            fresh << line_of(outcome_json(plan, known_.at(plan_text(plan))));
        fresh.close();
        std::filesystem::rename(name_ + ".new", name_, none);
        if (!fresh || none) throw UserError(fmt::format("kexec-sim: error: cannot write {}", name_));
        file_.open(name_, std::ios::app);
    } else {
        file_.open(name_, std::ios::trunc);
        file_ << line_of(head.json()) << std::flush;
    }
    if (!file_) throw UserError(fmt::format("kexec-sim: error: cannot write {}", name_));
}

const PlanOutcome* Journal::find(const FaultPlan& plan) const {
    if (known_.empty()) return nullptr;
    const auto at = known_.find(plan_text(plan));
    return at == known_.end() ? nullptr : &at->second;
}

void Journal::add(const FaultPlan& plan, const PlanOutcome& outcome) {
    if (!file_.is_open()) return;
    file_ << line_of(outcome_json(plan, outcome)) << std::flush;
    if (!file_) throw UserError(fmt::format("kexec-sim: error: cannot write {}", name_));
}

void Journal::close(const ExploreReport& report) {
    if (!file_.is_open() || !report.complete) return;
    file_ << line_of({{"end", true},
                      {"complete", report.complete},
                      {"thinned", report.thinned},
                      {"plans", report.plans_known},
                      {"verified", report.verified},
                      {"seconds", report.seconds}});
    file_.close();
}

}  // namespace kexec_sim::sim
