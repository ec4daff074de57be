#include "sim/explore/pool.hpp"

#include <fmt/format.h>
#include <utility>

#include "machine/result.hpp"
#include "sim/event_line.hpp"
#include "sim/explore/forking_run.hpp"

namespace kexec_sim::sim {
namespace {

using Json = nlohmann::json;

/// Batches that a worker has at a time.
constexpr std::size_t depth_alone = 4, depth_shared = 2;
/// A shared run waits for each of its plans by itself: how many of them may hang before it is given up.
constexpr double hangs_shared_max = 4;

Json plans_json(const std::vector<PlanJob>& jobs) {
    Json plans = Json::array();
    for (const PlanJob& job : jobs) {
        Json faults = Json::array();
        for (const PlannedFault& fault : job.faults) faults.push_back(fault.text());
        plans.push_back(
            {{"visits", job.record_visits}, {"events", job.record_events}, {"faults", std::move(faults)}});
    }
    return plans;
}

std::vector<PlanJob> jobs_of(const Json& plans) {
    std::vector<PlanJob> jobs;
    for (const Json& json : plans) {
        PlanJob& job = jobs.emplace_back();
        job.record_visits = json.at("visits");
        job.record_events = json.at("events");
        for (const auto& text : json.at("faults")) job.faults.push_back(parse_fault(text.get<std::string>()).value());
    }
    return jobs;
}

/// In a worker: plans in, outcomes out.
Json carry_out(const Scenario& scenario, const PoolOptions& options, const Json& plans) {
    const std::vector<PlanJob> jobs = jobs_of(plans);
    std::vector<PlanOutcome> outcomes;
    if (jobs.size() > 1)
        outcomes = run_forking(scenario, options, jobs);
    else
        outcomes.push_back(run_plan(scenario, options, jobs.front()));
    Json answers = Json::array();
    for (const PlanOutcome& outcome : outcomes) answers.push_back(outcome.json());
    return answers;
}

bool can_share(const PlanJob& job) { return !job.fresh && can_fork(job); }

/// They part at their last faults.
bool same_base(const PlanJob& one, const PlanJob& other) {
    if (one.faults.size() != other.faults.size()) return false;
    for (std::size_t i = 0; i + 1 < one.faults.size(); ++i)
        if (one.faults[i].text() != other.faults[i].text()) return false;
    return true;
}

}  // namespace

PlanOutcome run_plan(const Scenario& scenario, const PoolOptions& options, const PlanJob& job) {
    if (options.on_plan) options.on_plan(job.faults);
    RunOptions run;
    run.isolation = options.isolation;
    run.faults = job.faults;
    run.modules = options.modules;
    run.max_time_ns = options.max_virtual_ns;
    run.record_visits = job.record_visits;
    run.baseline = &options.baseline;
    std::vector<std::string> lines;
    run.silent = !job.record_events;
    if (job.record_events) run.on_event = [&](const TraceEvent& event) { lines.push_back(event_line(event)); };
    run.private_memory =
        options.isolation == Isolation::inline_ && options.modules.empty() && scenario.modules.empty();
    try {
        PlanOutcome outcome = outcome_of(scenario, run_scenario(scenario, run));
        outcome.event_lines = std::move(lines);
        return outcome;
    } catch (const UserError& error) {
        return outcome_of_failure("host", error.what());
    } catch (const std::exception& bug) {
        return outcome_of_failure("simulator", bug.what());
    }
}

Pool::Pool(const Scenario& scenario, const PoolOptions& options)
    : options_(options),
      workers_(options.jobs, options.plans_per_run > 1 ? depth_shared : depth_alone,
               [&scenario, &options](const Json& plans) { return carry_out(scenario, options, plans); }) {}

/// A plan, and those after it that can share its run; empty: there is none.
Pool::Batch Pool::next_batch(const std::function<std::optional<PlanJob>()>& next) {
    if (!again_.empty()) {
        Batch alone{std::move(again_.front())};
        again_.pop_front();
        return alone;
    }
    const auto take = [&] { return held_ ? std::exchange(held_, std::nullopt) : next(); };
    auto first = take();
    if (!first) return {};
    Batch batch{std::move(*first)};
    while (batch.size() < options_.plans_per_run && can_share(batch.front())) {
        auto job = take();
        if (!job) break;
        if (!can_share(*job) || !same_base(*job, batch.front())) {
            held_ = std::move(job);
            break;
        }
        batch.push_back(std::move(*job));
    }
    return batch;
}

Workers::Question Pool::question_of(Batch batch) {
    const double patience = options_.max_host_seconds * (batch.size() > 1 ? hangs_shared_max : 1) + 1;
    Workers::Question question{next_id_++, plans_json(batch), patience};
    asked_.emplace(question.id, std::move(batch));
    return question;
}

Pool::Batch Pool::ended(u64 id) { return std::move(asked_.extract(id).mapped()); }

void Pool::run(const std::function<std::optional<PlanJob>()>& next,
               const std::function<void(const PlanJob&, PlanOutcome&&)>& done, const std::function<bool()>& stop) {
    Workers::Callbacks callbacks;
    callbacks.next = [&]() -> std::optional<Workers::Question> {
        Batch batch = next_batch(next);
        if (batch.empty()) return std::nullopt;
        return question_of(std::move(batch));
    };
    callbacks.answered = [&](u64 id, const Answer& answer) {
        const Batch batch = ended(id);
        for (std::size_t i = 0; i < batch.size(); ++i) {
            PlanOutcome outcome = PlanOutcome::from_json(answer.json.at(i));
            // In a shared run each plan has brought its own.
            if (batch.size() == 1) outcome.note_report(answer.report);
            done(batch[i], std::move(outcome));
        }
    };
    callbacks.lost = [&](u64 id, const Loss& loss) {
        Batch batch = ended(id);
        if (batch.size() > 1) {
            for (PlanJob& job : batch) {
                job.fresh = true;
                again_.push_back(std::move(job));
            }
        } else {
            done(batch.front(), outcome_of_loss(loss));
        }
    };
    callbacks.stop = stop;
    workers_.run(callbacks);
}

}  // namespace kexec_sim::sim
