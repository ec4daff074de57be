#include "sim/generate/generator.hpp"

#include <algorithm>
#include <chrono>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <map>
#include <random>

#include "machine/result.hpp"
#include "sim/runner.hpp"
#include "sim/workers/workers.hpp"

namespace kexec_sim::sim::generate {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::json;

/// Sequences that a worker has at a time.
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

class Session {
public:
    Session(const Reference& reference, const GenerateOptions& options,
            const std::function<void(const GenerateProgress&)>& on_progress, const std::function<bool()>& interrupted)
        : reference_(reference),
          options_(options),
          on_progress_(on_progress),
          interrupted_(interrupted),
          began_(Clock::now()) {}

    GenerateReport run() {
        report_.space = enumerate(reference_, options_.space);
        const u64 total = report_.space.sequences.size();
        waiting_ = sampled(total, options_.budget ? options_.budget : total, options_.seed);
        report_.wanted = waiting_.size();
        Workers workers(options_.jobs, depth_max, [this](const Json& index) { return answer(index); });
        workers.run({.next = [this] { return next(); },
                     .answered = [this](u64 sequence, const Answer& answer) { note(sequence, answer); },
                     .lost = [this](u64 sequence, const Loss& loss) { note_loss(sequence, loss); },
                     .stop = [this] { return report_.interrupted = interrupted_(); }});
        report_.seconds = elapsed();
        group();
        return std::move(report_);
    }

private:
    /// In the worker.
    Json answer(u64 index) const {
        if (options_.on_sequence) options_.on_sequence(index);
        const Case one =
            make_case(reference_, options_.space, letters_of(report_.space, report_.space.sequences.at(index)));
        bool two_kernels = false;
        const auto found = run_case(one, reference_.edition(), &two_kernels);
        Json json{{"steps", one.steps.size()}, {"two_kernels", two_kernels}};
        if (found) json["disagreement"] = json_of(*found);
        return json;
    }

    std::optional<Workers::Question> next() {
        if (next_ == waiting_.size()) return std::nullopt;
        const u64 sequence = waiting_[next_++];
        return Workers::Question{sequence, sequence, options_.max_host_seconds};
    }

    void note(u64 sequence, const Answer& answer) {
        const Json& json = answer.json;
        report_.steps += json.at("steps").get<u64>();
        report_.runs_two_kernels += json.at("two_kernels").get<bool>();
        if (const auto at = json.find("disagreement"); !answer.report.empty())
            note_no_end(sequence, {false, {}, answer.report});
        else if (at != json.end())
            report_.disagreements.push_back(
                {sequence, at->at("step"), at->at("before"), at->at("expected"), at->at("got"), at->at("detail")});
        ran();
    }

    void note_loss(u64 sequence, const Loss& loss) {
        note_no_end(sequence, loss);
        ran();
    }

    /// The run died or hangs, or a sanitizer has something to say: that is what came of it.
    void note_no_end(u64 sequence, const Loss& loss) {
        report_.disagreements.push_back({sequence, "run", "?", "an end", std::string(loss.id()), loss.message()});
    }

    void ran() {
        ++report_.runs;
        if (on_progress_) on_progress_({report_, static_cast<double>(report_.runs) / std::max(elapsed(), 1e-9)});
    }

    double elapsed() const { return std::chrono::duration<double>(Clock::now() - began_).count(); }

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
    const Clock::time_point began_;
    GenerateReport report_;
    std::vector<u64> waiting_;
    std::size_t next_ = 0;
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
