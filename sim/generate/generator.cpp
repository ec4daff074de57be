#include "sim/generate/generator.hpp"

#include <algorithm>
#include <chrono>
#include <deque>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <map>
#include <memory>
#include <poll.h>
#include <random>

#include "machine/result.hpp"

#include "sim/runner.hpp"
#include "sim/workers/server.hpp"

namespace kexec_sim::sim::generate {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::json;

/// Sequences that a worker has at a time, so that it need not wait for an answer.
constexpr std::size_t depth_max = 8;
/// Virtual time of one run: many reboots of the fast cost model.
constexpr u64 virtual_ns_max = 60'000'000'000;

std::set<std::string> ids_of(const std::vector<Finding>& findings) {
    std::set<std::string> ids;
    for (const Finding& finding : findings)
        ids.emplace(invariants()[static_cast<std::size_t>(finding.invariant)].name);
    return ids;
}

std::string list_of(const auto& names) {
    return names.empty() ? std::string("none") : fmt::format("{}", fmt::join(names, ", "));
}

/// The first step that is not as expected, or the findings that are not.
std::optional<Disagreement> compared(const Case& one, const RunResult& result) {
    if (result.passed) return std::nullopt;
    for (const StepRecord& step : result.steps) {
        if (step.outcome != "fail") continue;
        const CaseStep& own = one.steps.at(step.index);
        return Disagreement{0, own.text, own.before, step.expected, step.result, step.detail};
    }
    std::string detail;
    for (const std::string& failure : result.failures) detail += (detail.empty() ? "" : "; ") + failure;
    return Disagreement{0, "findings", "the end", list_of(one.findings), list_of(ids_of(result.findings)), detail};
}

Json json_of(const Disagreement& one) {
    return {{"step", one.step},
            {"before", one.before},
            {"expected", one.expected},
            {"got", one.got},
            {"detail", one.detail}};
}

struct Worker {
    explicit Worker(Server::Handler handler) : server(std::move(handler)) {}
    Server server;
    std::deque<u64> sequences;  // the first is under way
    Clock::time_point since;

    void give(u64 sequence) {
        if (sequences.empty()) since = Clock::now();
        server.ask(sequence);
        sequences.push_back(sequence);
    }
    u64 take_first() {
        const u64 first = sequences.front();
        sequences.pop_front();
        since = Clock::now();
        return first;
    }
};

class Session {
public:
    Session(const Reference& reference, const GenerateOptions& options,
            const std::function<void(const GenerateProgress&)>& on_progress, const std::function<bool()>& interrupted)
        : reference_(reference),
          options_(options),
          on_progress_(on_progress),
          interrupted_(interrupted) {}

    GenerateReport run() {
        const auto began = Clock::now();
        report_.space = enumerate(reference_, options_.space);
        const u64 total = report_.space.sequences.size();
        waiting_ = sampled(total, options_.budget ? options_.budget : total, options_.seed);
        report_.wanted = waiting_.size();
        for (unsigned i = 0; i < options_.jobs; ++i)
            workers_.push_back(std::make_unique<Worker>([this](const Json& index) { return answer(index); }));
        while (!(report_.interrupted = interrupted_()) && !round())
            if (on_progress_) {
                const double seconds = std::chrono::duration<double>(Clock::now() - began).count();
                on_progress_({report_, static_cast<double>(report_.runs) / std::max(seconds, 1e-9)});
            }
        report_.seconds = std::chrono::duration<double>(Clock::now() - began).count();
        group();
        return std::move(report_);
    }

private:
    /// In the worker.
    Json answer(u64 index) const {
        const Case one =
            make_case(reference_, options_.space, letters_of(report_.space, report_.space.sequences.at(index)));
        bool two_kernels = false;
        const auto found = run_case(one, reference_.edition(), &two_kernels);
        Json json{{"steps", one.steps.size()}, {"two_kernels", two_kernels}};
        if (found) json["disagreement"] = json_of(*found);
        return json;
    }

    /// True: every answer is in.
    bool round() {
        for (std::size_t depth = 0; depth < depth_max; ++depth)
            for (const auto& worker : workers_)
                if (worker->sequences.size() <= depth && next_ < waiting_.size()) worker->give(waiting_[next_++]);
        std::vector<pollfd> polled;
        std::vector<Worker*> who;
        for (const auto& worker : workers_) {
            if (worker->sequences.empty()) continue;
            polled.push_back({worker->server.answers(), POLLIN, 0});
            who.push_back(worker.get());
        }
        if (who.empty()) return true;
        poll(polled.data(), polled.size(), 200);
        for (std::size_t i = 0; i < who.size(); ++i) {
            Worker& worker = *who[i];
            if (polled[i].revents) {
                const bool open = worker.server.take();
                while (const auto json = worker.server.answer()) note(worker.take_first(), *json);
                if (!open) lose(worker, "the run ended by itself");
            } else if (std::chrono::duration<double>(Clock::now() - worker.since).count() >
                       options_.max_host_seconds) {
                lose(worker, fmt::format("no end after {} s", options_.max_host_seconds));
            }
        }
        return false;
    }

    void note(u64 sequence, const Json& json) {
        ++report_.runs;
        report_.steps += json.at("steps").get<u64>();
        report_.runs_two_kernels += json.at("two_kernels").get<bool>();
        const auto at = json.find("disagreement");
        if (at == json.end()) return;
        report_.disagreements.push_back(
            {sequence, at->at("step"), at->at("before"), at->at("expected"), at->at("got"), at->at("detail")});
    }

    /// The worker died or hangs: that is what came of the sequence that it had. The others go to its successor.
    void lose(Worker& worker, const std::string& message) {
        const std::string how = worker.server.stop();
        if (worker.sequences.empty()) return;
        ++report_.runs;
        report_.disagreements.push_back(
            {worker.take_first(), "run", "?", "an end", "crash", how.empty() ? message : "the simulator was " + how});
        for (const u64 sequence : worker.sequences) worker.server.ask(sequence);
    }

    void group() {
        std::ranges::sort(report_.disagreements, {}, &Disagreement::sequence);
        std::map<std::string, std::size_t> known;
        for (const Disagreement& one : report_.disagreements) {
            const auto [at, fresh] = known.emplace(
                fmt::format("{}|{}|{}|{}", one.step, one.before, one.expected, one.got), report_.groups.size());
            if (fresh) report_.groups.push_back({one, 0});
            ++report_.groups[at->second].count;
        }
    }

    const Reference& reference_;
    const GenerateOptions& options_;
    const std::function<void(const GenerateProgress&)>& on_progress_;
    const std::function<bool()>& interrupted_;
    GenerateReport report_;
    std::vector<u64> waiting_;
    std::size_t next_ = 0;
    std::vector<std::unique_ptr<Worker>> workers_;
};

}  // namespace

std::optional<Disagreement> run_case(const Case& one, const Edition& edition, bool* two_kernels) {
    try {
        const Scenario scenario = parse_scenario(one.text(edition), one.name + ".yaml");
        RunOptions run;
        run.isolation = Isolation::inline_;
        run.max_time_ns = virtual_ns_max;
        run.silent = true;
        const RunResult result = run_scenario(scenario, run);
        if (two_kernels) *two_kernels = result.generations.size() > 1;
        return compared(one, result);
    } catch (const std::exception& error) {
        return Disagreement{0, "run", "?", "an end", "error", error.what()};
    }
}

std::vector<u64> sampled(u64 total, u64 count, u64 seed) {
    std::vector<u64> all(total);
    for (u64 i = 0; i < total; ++i) all[i] = i;
    if (count >= total) return all;
    std::mt19937_64 random(seed);
    for (u64 i = 0; i < count; ++i) std::swap(all[i], all[i + random() % (total - i)]);
    all.resize(count);
    std::ranges::sort(all);
    return all;
}

GenerateReport generate(const Reference& reference, const GenerateOptions& options,
                        const std::function<void(const GenerateProgress&)>& on_progress,
                        const std::function<bool()>& interrupted) {
    return Session(reference, options, on_progress, interrupted).run();
}

}  // namespace kexec_sim::sim::generate
