#include "sim/explore/explorer.hpp"

#include <algorithm>
#include <chrono>
#include <deque>
#include <fmt/format.h>
#include <random>

#include "machine/result.hpp"
#include "sim/event_line.hpp"
#include "sim/explore/forking_run.hpp"
#include "sim/explore/journal.hpp"
#include "sim/result_json.hpp"
#include "sim/version.hpp"
#include "sim/workers/server.hpp"

namespace kexec_sim::sim {
namespace {

using Clock = std::chrono::steady_clock;

/// Virtual time that a run may take: the baseline's, many times, and room for delays.
u64 virtual_budget(u64 baseline_ns) { return 20 * baseline_ns + 100'000'000'000; }

class Session {
public:
    Session(const Scenario& scenario, const ExploreOptions& options,
            const std::function<void(const ExploreProgress&)>& on_progress, const std::function<bool()>& interrupted)
        : scenario_(scenario),
          options_(options),
          on_progress_(on_progress),
          interrupted_(interrupted),
          began_(Clock::now()) {}

    ExploreReport run() {
        run_baseline();
        if (!report_.baseline.passed || report_.baseline.interrupted) return std::move(report_);
        const Candidates singles = candidate_faults(report_.baseline.visits, options_.candidates);
        report_.visits = singles.visits;
        report_.thinned = singles.thinned;
        report_.count_visits(report_.baseline.visits);
        for (const PlannedFault& fault : singles.faults) share_plan({fault});
        if (options_.random_plans) add_random(singles.faults);
        if (!options_.out_dir.empty()) journal_.open(options_.out_dir, journal_head());

        pool_options_.jobs = options_.jobs;
        pool_options_.isolation = options_.isolation;
        pool_options_.modules = options_.modules;
        pool_options_.max_virtual_ns = virtual_budget(report_.baseline.virtual_ns);
        pool_options_.max_host_seconds = 20 + 50 * baseline_seconds_;
        pool_options_.baseline = baseline_of(report_.baseline);
        pool_options_.plans_per_run = plans_per_run();
        Pool pool(scenario_, pool_options_);
        pool.run([this] { return next_job(); },
                 [this](const PlanJob& job, PlanOutcome&& outcome) { ended(job, std::move(outcome)); },
                 [this] { return stop(); });
        for (const Differing& one : differing_) note_difference(one);
        report_.settle();
        report_.interrupted = interrupted_ && interrupted_();
        report_.complete =
            !cut_short_ && !report_.interrupted && report_.runs + report_.resumed == report_.plans_known;
        report_.seconds = elapsed();
        journal_.close(report_);
        return std::move(report_);
    }

private:
    /// A plan that did not give the same twice.
    struct Differing {
        FaultPlan plan;
        PlanOutcome second;
        std::string first_hash;
    };

    double elapsed() const { return std::chrono::duration<double>(Clock::now() - began_).count(); }

    void run_baseline() {
        RunOptions run;
        run.isolation = options_.isolation;
        run.modules = options_.modules;
        run.record_visits = true;
        run.interrupted = interrupted_;
        const auto begin = Clock::now();
        report_.baseline = run_scenario(scenario_, run);
        report_.baseline_json = nlohmann::ordered_json::parse(
            result_json({{scenario_.name, scenario_.path.string(), report_.baseline, {}}}))[0];
        baseline_seconds_ = std::chrono::duration<double>(Clock::now() - begin).count();
    }

    /// A fork costs about half a millisecond: sharing pays where a run takes longer than a few of these.
    std::size_t plans_per_run() const {
        constexpr double worth_seconds = 0.003, batch_seconds = 1;
        const bool own_memory =
            options_.isolation == Isolation::inline_ && options_.modules.empty() && scenario_.modules.empty();
        if (!own_memory || baseline_seconds_ < worth_seconds) return 1;
        return std::clamp<std::size_t>(static_cast<std::size_t>(batch_seconds / baseline_seconds_), 8, 64);
    }

    // --- plans ---

    /// Of the plans that every shard enumerates alike, each takes its share; pairs go with their first fault.
    void share_plan(FaultPlan plan) {
        if (shared_plans_++ % options_.shards == options_.shard) add_plan(std::move(plan));
    }
    void add_plan(FaultPlan plan) {
        const bool goes_on = options_.depth > 1 && plan.size() == 1;
        waiting_.push_back({.id = next_id_++, .faults = std::move(plan), .record_visits = goes_on});
        ++report_.plans_known;
    }

    void add_random(const std::vector<PlannedFault>& singles) {
        if (singles.empty()) return;
        std::mt19937_64 random(scenario_.seed);
        const auto below = [&](u64 bound) { return random() % bound; };
        for (u64 i = 0; i < options_.random_plans; ++i) {
            FaultPlan plan;
            for (u64 count = 2 + below(3); plan.size() < count;) plan.push_back(singles[below(singles.size())]);
            share_plan(std::move(plan));
        }
    }

    std::optional<PlanJob> next_job() {
        if (!verify_.empty()) {
            PlanJob job = std::move(verify_.front());
            verify_.pop_front();
            return job;
        }
        while (!waiting_.empty()) {
            if ((options_.budget && started_ >= options_.budget) || out_of_time()) {
                cut_short_ = true;
                return std::nullopt;
            }
            PlanJob job = std::move(waiting_.front());
            waiting_.pop_front();
            if (const PlanOutcome* known = journal_.find(job.faults)) {
                ++report_.resumed;
                count(job, *known);
                continue;
            }
            ++started_;
            return job;
        }
        return std::nullopt;
    }
    bool out_of_time() const { return options_.seconds > 0 && elapsed() >= options_.seconds; }
    bool stop() {
        if (interrupted_ && interrupted_()) return true;
        if (out_of_time() && (!waiting_.empty() || !verify_.empty())) cut_short_ = true;
        return out_of_time();
    }

    // --- outcomes ---

    void ended(const PlanJob& job, PlanOutcome&& outcome) {
        if (const auto first = hashes_.find(job.id); first != hashes_.end()) {
            ++report_.verified;
            if (first->second != outcome.trace_hash)
                differing_.push_back({job.faults, std::move(outcome), first->second});
            hashes_.erase(first);
            return;
        }
        if (options_.verify_every && job.id % options_.verify_every == 0 && !outcome.trace_hash.empty()) {
            hashes_[job.id] = outcome.trace_hash;
            verify_.push_back(job);
            verify_.back().fresh = true;
        }
        journal_.add(job.faults, outcome);
        ++report_.runs;
        count(job, outcome);
        if (on_progress_) on_progress_({report_, waiting_.size(), static_cast<double>(report_.runs) / elapsed()});
    }

    /// Runs it again, both ways, for the first event that differs.
    void note_difference(const Differing& differing) {
        Server server([&](const nlohmann::json& question) {
            PlanJob again{.faults = differing.plan, .record_events = true};
            const bool forking = question.at("forking").get<bool>() && can_fork(again);
            const PlanOutcome outcome = forking ? run_forking(scenario_, pool_options_, {again}).front()
                                                : run_plan(scenario_, pool_options_, again);
            return outcome.json();
        });
        const auto run_as = [&](bool forking) {
            const auto answer = server.ask_and_wait({{"forking", forking}}, pool_options_.max_host_seconds);
            return answer ? PlanOutcome::from_json(answer->json) : PlanOutcome{};
        };
        const PlanOutcome one = run_as(pool_options_.plans_per_run > 1), other = run_as(false);
        std::string where = "; run again, both ways are alike";
        if (const auto first = first_difference(one.event_lines, other.event_lines))
            where = fmt::format("; event {} is the first that differs: {}; and: {}", first->number,
                                first->one.value_or("nothing more"), first->other.value_or("nothing more"));
        const Violation violation{"determinism",
                                  "stuck",
                                  "run",
                                  {},
                                  fmt::format("the same plan gave trace {} first, then {}{}", differing.first_hash,
                                              differing.second.trace_hash, where),
                                  0};
        PlanOutcome outcome = differing.second;
        outcome.violations = {violation};
        report_.note_violations(differing.plan, outcome);
        // Who reads the journal hears of it too.
        outcome.violations = differing.second.violations;
        outcome.violations.push_back(violation);
        journal_.add(differing.plan, outcome);
    }

    void count(const PlanJob& job, const PlanOutcome& outcome) {
        report_.count(job.faults, outcome);
        if (job.record_visits && outcome.reached)
            for (PlannedFault& second : candidate_faults(outcome.visits, options_.candidates, true).faults)
                add_plan({job.faults.front(), std::move(second)});
    }

    // --- the journal ---

    JournalHead journal_head() const {
        JournalHead head;
        head.program = program_version();
        head.scenario = scenario_.name;
        head.file = scenario_.path.string();
        head.seed = scenario_.seed;
        head.baseline = report_.baseline.trace_hash;
        head.depth = options_.depth;
        head.points = options_.candidates.points;
        head.actions = options_.actions_text;
        head.repeat_options = options_.repeat_options;
        head.all_visits = options_.candidates.all_visits;
        head.random_plans = options_.random_plans;
        head.shard = options_.shard;
        head.shards = options_.shards;
        head.visits = report_.visits;
        for (const auto& run : report_.baseline.visits)
            head.point_visits[std::string(fault_point_info(run.point).name)] += run.count;
        for (const PhaseSummary& phase : report_.phases)
            if (phase.visits) head.phases.push_back({phase.generation, phase.name, phase.visits, {}, {}});
        return head;
    }

    const Scenario& scenario_;
    const ExploreOptions& options_;
    const std::function<void(const ExploreProgress&)>& on_progress_;
    const std::function<bool()>& interrupted_;
    const Clock::time_point began_;
    double baseline_seconds_ = 0;
    PoolOptions pool_options_;
    ExploreReport report_;
    std::deque<PlanJob> waiting_, verify_;
    std::map<u64, std::string> hashes_;  // of plans that run a second time
    std::vector<Differing> differing_;
    Journal journal_;
    u64 next_id_ = 0, shared_plans_ = 0, started_ = 0;
    bool cut_short_ = false;
};

}  // namespace

ExploreReport explore(const Scenario& scenario, const ExploreOptions& options,
                      const std::function<void(const ExploreProgress&)>& on_progress,
                      const std::function<bool()>& interrupted) {
    return Session(scenario, options, on_progress, interrupted).run();
}

}  // namespace kexec_sim::sim
