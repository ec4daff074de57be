#include "sim/explore/pool.hpp"

#include <chrono>
#include <deque>
#include <fmt/format.h>
#include <poll.h>

#include "machine/result.hpp"
#include "sim/event_line.hpp"
#include "sim/explore/forking_run.hpp"
#include "sim/workers/server.hpp"

namespace kexec_sim::sim {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::json;

/// Plans that a worker has at a time: one under way, the others waiting, so that it need not wait for an answer.
constexpr std::size_t depth_max = 4;

Json question(const std::vector<PlanJob>& jobs) {
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

/// They part at their last faults.
bool same_base(const PlanJob& one, const PlanJob& other) {
    if (one.faults.size() != other.faults.size()) return false;
    for (std::size_t i = 0; i + 1 < one.faults.size(); ++i)
        if (one.faults[i].text() != other.faults[i].text()) return false;
    return true;
}

}  // namespace

PlanOutcome run_plan(const Scenario& scenario, const PoolOptions& options, const PlanJob& job) {
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

struct Pool::Worker {
    using Batch = std::vector<PlanJob>;
    explicit Worker(Server::Handler handler) : server(std::move(handler)) {}
    Server server;
    std::deque<Batch> batches;  // the first is under way
    Clock::time_point since;
    void give(Batch batch) {
        if (batches.empty()) since = Clock::now();
        server.ask(question(batch));
        batches.push_back(std::move(batch));
    }
    Batch take_first() {
        Batch batch = std::move(batches.front());
        batches.pop_front();
        since = Clock::now();
        return batch;
    }
};

Pool::Pool(const Scenario& scenario, const PoolOptions& options) : scenario_(scenario), options_(options) {
    const auto handler = [this](const Json& plans) {
        const std::vector<PlanJob> jobs = jobs_of(plans);
        std::vector<PlanOutcome> outcomes;
        if (jobs.size() > 1)
            outcomes = run_forking(scenario_, options_, jobs);
        else
            outcomes.push_back(run_plan(scenario_, options_, jobs.front()));
        Json answers = Json::array();
        for (const PlanOutcome& outcome : outcomes) answers.push_back(outcome.json());
        return answers;
    };
    for (unsigned i = 0; i < options.jobs; ++i) workers_.push_back(std::make_unique<Worker>(handler));
}

Pool::~Pool() = default;

/// The next plan, and those after it that can share its run.
void Pool::refill(Worker& worker, const std::function<std::optional<PlanJob>()>& next) {
    const auto take = [&] {
        auto job = held_ ? std::exchange(held_, std::nullopt) : next();
        return job;
    };
    auto first = take();
    if (!first) return;
    Worker::Batch batch{std::move(*first)};
    const auto can_share = [](const PlanJob& job) { return !job.fresh && can_fork(job); };
    while (batch.size() < options_.plans_per_run && can_share(batch.front())) {
        auto job = take();
        if (!job) break;
        if (!can_share(*job) || !same_base(*job, batch.front())) {
            held_ = std::move(job);
            break;
        }
        batch.push_back(std::move(*job));
    }
    worker.give(std::move(batch));
}

/// The worker is gone, or is put an end to: that is what came of the plan that it had (of a shared run nobody knows which it
/// was: its plans run again, each by itself). What it had not begun goes to its successor.
void Pool::lose(Worker& worker, std::string_view id, const std::string& message,
                const std::function<void(const PlanJob&, PlanOutcome&&)>& done) {
    const std::string how = worker.server.stop();
    if (worker.batches.empty()) return;
    const Worker::Batch lost = worker.take_first();
    for (const Worker::Batch& batch : worker.batches) worker.server.ask(question(batch));
    if (lost.size() == 1) {
        done(lost.front(), outcome_of_failure(id, how.empty() ? message : "the simulator was " + how));
        return;
    }
    for (PlanJob job : lost) {
        job.fresh = true;
        worker.give({std::move(job)});
    }
}

void Pool::run(const std::function<std::optional<PlanJob>()>& next,
               const std::function<void(const PlanJob&, PlanOutcome&&)>& done, const std::function<bool()>& stop) {
    const std::size_t depth_wanted = options_.plans_per_run > 1 ? 2 : depth_max;
    while (!stop()) {
        for (std::size_t depth = 0; depth < depth_wanted; ++depth)
            for (const auto& worker : workers_)
                if (worker->batches.size() == depth) refill(*worker, next);
        std::vector<pollfd> waiting;
        std::vector<Worker*> who;
        for (const auto& worker : workers_) {
            if (worker->batches.empty()) continue;
            waiting.push_back({worker->server.answers(), POLLIN, 0});
            who.push_back(worker.get());
        }
        if (who.empty()) return;
        poll(waiting.data(), waiting.size(), 200);
        for (std::size_t i = 0; i < who.size(); ++i) {
            Worker& worker = *who[i];
            const double waited = std::chrono::duration<double>(Clock::now() - worker.since).count();
            // A shared run waits for each of its plans as long as that.
            const double patience =
                options_.max_host_seconds * static_cast<double>(worker.batches.front().size() > 1 ? 4 : 1) + 1;
            if (waiting[i].revents) {
                const bool open = worker.server.take();
                while (const auto answers = worker.server.answer()) {
                    const Worker::Batch batch = worker.take_first();
                    for (std::size_t k = 0; k < batch.size(); ++k)
                        done(batch[k], PlanOutcome::from_json(answers->at(k)));
                }
                if (!open) lose(worker, "crash", "the simulator ended by itself", done);
            } else if (waited > patience) {
                lose(worker, "hang", fmt::format("no end after {} s", options_.max_host_seconds), done);
            }
        }
    }
}

}  // namespace kexec_sim::sim
