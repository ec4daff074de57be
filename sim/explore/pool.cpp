#include "sim/explore/pool.hpp"

#include <chrono>
#include <deque>
#include <fmt/format.h>
#include <poll.h>

#include "machine/result.hpp"
#include "sim/explore/server.hpp"

namespace kexec_sim::sim {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::json;

/// Plans that a worker has at a time: one under way, the others waiting, so that it need not wait for an answer.
constexpr std::size_t depth_max = 4;

Json question(const PlanJob& job) {
    Json json{{"visits", job.record_visits}, {"faults", Json::array()}};
    for (const PlannedFault& fault : job.faults) json["faults"].push_back(fault.text());
    return json;
}

PlanJob job_of(const Json& json) {
    PlanJob job;
    job.record_visits = json.at("visits");
    for (const auto& text : json.at("faults")) job.faults.push_back(parse_fault(text.get<std::string>()).value());
    return job;
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
    run.silent = true;
    try {
        return outcome_of(scenario, run_scenario(scenario, run));
    } catch (const UserError& error) {
        return outcome_of_failure("host", error.what());
    } catch (const std::exception& bug) {
        return outcome_of_failure("simulator", bug.what());
    }
}

struct Pool::Worker {
    explicit Worker(Server::Handler handler) : server(std::move(handler)) {}
    Server server;
    std::deque<PlanJob> jobs;  // the first is under way
    Clock::time_point since;
    void give(PlanJob job) {
        if (jobs.empty()) since = Clock::now();
        server.ask(question(job));
        jobs.push_back(std::move(job));
    }
    PlanJob take_first() {
        PlanJob job = std::move(jobs.front());
        jobs.pop_front();
        since = Clock::now();
        return job;
    }
};

Pool::Pool(const Scenario& scenario, const PoolOptions& options) : scenario_(scenario), options_(options) {
    for (unsigned i = 0; i < options.jobs; ++i)
        workers_.push_back(std::make_unique<Worker>(
            [this](const Json& json) { return run_plan(scenario_, options_, job_of(json)).json(); }));
}

Pool::~Pool() = default;

/// The worker is gone, or is put an end to: that is what came of the plan that it had. The others go to its successor.
void Pool::lose(Worker& worker, std::string_view id, const std::string& message,
                const std::function<void(const PlanJob&, PlanOutcome&&)>& done) {
    const std::string how = worker.server.stop();
    if (worker.jobs.empty()) return;
    const PlanJob lost = worker.take_first();
    for (const PlanJob& job : worker.jobs) worker.server.ask(question(job));
    done(lost, outcome_of_failure(id, how.empty() ? message : "the simulator was " + how));
}

void Pool::run(const std::function<std::optional<PlanJob>()>& next,
               const std::function<void(const PlanJob&, PlanOutcome&&)>& done, const std::function<bool()>& stop) {
    while (!stop()) {
        bool more = true;  // an outcome may make new plans
        for (std::size_t depth = 0; more && depth < depth_max; ++depth)
            for (const auto& worker : workers_) {
                if (worker->jobs.size() > depth) continue;
                auto job = next();
                more = job.has_value();
                if (!more) break;
                worker->give(std::move(*job));
            }
        std::vector<pollfd> waiting;
        std::vector<Worker*> who;
        for (const auto& worker : workers_) {
            if (worker->jobs.empty()) continue;
            waiting.push_back({worker->server.answers(), POLLIN, 0});
            who.push_back(worker.get());
        }
        if (who.empty()) return;
        poll(waiting.data(), waiting.size(), 200);
        for (std::size_t i = 0; i < who.size(); ++i) {
            Worker& worker = *who[i];
            const double waited = std::chrono::duration<double>(Clock::now() - worker.since).count();
            if (waiting[i].revents) {
                const bool open = worker.server.take();
                while (const auto answer = worker.server.answer()) {
                    const PlanJob job = worker.take_first();
                    done(job, PlanOutcome::from_json(*answer));
                }
                if (!open) lose(worker, "crash", "the simulator ended by itself", done);
            } else if (waited > options_.max_host_seconds) {
                lose(worker, "hang", fmt::format("no end after {} s", options_.max_host_seconds), done);
            }
        }
    }
}

}  // namespace kexec_sim::sim
