#include "sim/explore/reproduction.hpp"

#include <algorithm>
#include <chrono>
#include <fmt/format.h>
#include <regex>

#include "machine/result.hpp"
#include "sim/explore/plain.hpp"
#include "sim/scenario_text.hpp"
#include "sim/terminal_text.hpp"
#include "sim/version.hpp"
#include "sim/workers/sanitizer_report.hpp"
#include "sim/workers/server.hpp"

namespace kexec_sim::sim {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::json;

constexpr double run_seconds_max = 30;

/// What came of a plain scenario.
struct Trial {
    RunResult result;
    bool ended = true;   // false: it crashed, hung or was refused, and has no result
    std::string report;  // of a sanitizer
};

/// Runs plain scenarios in a child process.
class Sandbox {
public:
    Sandbox(const ShrinkOptions& options, Isolation isolation)
        : options_(options),
          isolation_(isolation),
          server_([this](const Json& question) { return answer(question); }) {}

    /// nullopt: the text makes no scenario.
    std::optional<Trial> run(const PlainScenario& plain, bool visits = false) {
        const auto answer = server_.ask_and_wait(
            {{"text", plain.text()}, {"path", plain.base.path.string()}, {"visits", visits}}, run_seconds_max);
        Trial trial;
        trial.ended = answer && answer->json.value("ended", true);
        if (!trial.ended) return trial;
        const Json& json = answer->json;
        if (json.contains("malformed")) return std::nullopt;
        trial.report = answer->report;
        RunResult& result = trial.result;
        result.executed = json.at("executed").get<std::vector<std::string>>();
        result.executed_index = json.at("index").get<std::vector<u32>>();
        result.trace_hash = json.at("trace_hash");
        result.died_by_signal = json.at("died_by_signal");
        for (const auto& one : json.at("findings"))
            result.findings.push_back({static_cast<InvariantId>(one.at(0).get<int>()),
                                       one.at(1),
                                       one.at(2),
                                       0,
                                       one.at(3),
                                       {},
                                       0,
                                       one.at(4),
                                       static_cast<CheckId>(one.at(5).get<int>())});
        for (const auto& fired : json.at("fired")) result.faults.push_back({{}, 0, fired, false});
        for (const auto& run : json.at("log"))
            result.visits.push_back(
                {static_cast<FaultPoint>(run.at(0).get<int>()), run.at(1), run.at(2), run.at(3), false});
        return trial;
    }

private:
    Json answer(const Json& question) const {
        Scenario scenario;
        try {
            scenario = parse_scenario(question.at("text").get<std::string>(), question.at("path").get<std::string>());
        } catch (const UserError&) {
            return {{"malformed", true}};
        }
        RunOptions run;
        run.isolation = isolation_;
        run.modules = options_.modules;
        run.to_the_end = run.silent = true;
        run.record_visits = question.at("visits");
        Json json{{"ended", true},          {"executed", Json::array()}, {"index", Json::array()},
                  {"trace_hash", ""},       {"died_by_signal", false},   {"findings", Json::array()},
                  {"fired", Json::array()}, {"log", Json::array()}};
        try {
            const RunResult result = run_scenario(scenario, run);
            json["executed"] = result.executed;
            json["index"] = result.executed_index;
            json["trace_hash"] = result.trace_hash;
            json["died_by_signal"] = result.died_by_signal;
            for (const Finding& one : result.findings)
                json["findings"].push_back({static_cast<int>(one.invariant), one.by_fault, one.generation,
                                            one.message, one.resource, static_cast<int>(one.check)});
            for (const auto& fault : result.faults) json["fired"].push_back(fault.fired);
            for (const auto& entry : result.visits)
                json["log"].push_back({static_cast<int>(entry.point), entry.name, entry.count, entry.generation});
        } catch (const std::exception&) {
            json["ended"] = false;
        }
        return json;
    }

    const ShrinkOptions& options_;
    const Isolation isolation_;
    Server server_;
};

/// What a sanitizer reports on a kernel's code ends the process that it runs in: with one of its own the run goes on to
/// its end, and what it gave is known.
Isolation isolation_for(const Target& target) {
    return target.violation.id == "sanitizer" ? Isolation::process : Isolation::inline_;
}

std::string_view name_of(InvariantId id) { return invariants()[static_cast<std::size_t>(id)].name; }

class Shrinker {
public:
    Shrinker(const Target& target, const ShrinkOptions& options)
        : target_(target),
          options_(options),
          sandbox_(options, isolation_for(target)),
          began_(Clock::now()) {}

    /// False: it does not show the violation.
    bool start(PlainScenario plain) {
        const auto trial = attempt(plain);
        if (!trial) return false;
        best_ = std::move(plain);
        take_results(best_, trial->result);
        parts_ = parts(best_);
        steps_before_ = best_.steps.size();
        return true;
    }

    /// Makes it smaller until nothing works any more. True: it came to that.
    bool shrink() {
        for (bool smaller = true; smaller && !over();) {
            smaller = false;
            smaller |= fewer_steps();
            smaller |= fewer_faults();
            smaller |= weaker_actions();
            smaller |= smaller_numbers();
            smaller |= fewer_devices();
            smaller |= fewer_kernels();
            smaller |= less_memory();
        }
        return !over();
    }

    const PlainScenario& best() const { return best_; }
    std::size_t steps_before() const { return steps_before_; }
    u64 runs() const { return runs_; }

private:
    bool over() const {
        return runs_ >= options_.runs_max ||
               std::chrono::duration<double>(Clock::now() - began_).count() >= options_.seconds_max ||
               (options_.interrupted && options_.interrupted());
    }

    /// Without the roll-back before it, say, another part of the epilogue would fail for a reason of its own.
    std::size_t parts(const PlainScenario& plain) const {
        if (target_.violation.id != "epilogue") return 0;
        return static_cast<std::size_t>(
            std::ranges::count_if(plain.steps, [](const PlainStep& step) { return !step.part.empty(); }));
    }

    bool shows(const PlainScenario& plain, const Trial& trial) const {
        const Violation& wanted = target_.violation;
        if (!trial.ended) return false;  // nobody knows what its steps gave
        if (wanted.id == "sanitizer")
            return !trial.report.empty() && read_sanitizer_report(trial.report).where() == wanted.resource;
        if (wanted.id == "crash") return trial.result.died_by_signal && trial.report.empty();
        for (const auto& fault : trial.result.faults)
            if (!fault.fired) return false;
        if (wanted.id == "epilogue") {
            // The first part of the epilogue that does not succeed is the one that did not.
            for (std::size_t i = 0; i < trial.result.executed.size(); ++i) {
                const PlainStep& step = plain.steps[trial.result.executed_index[i]];
                if (!step.part.empty() && trial.result.executed[i] != "ok")
                    return step.part == wanted.resource &&
                           wanted.message.find(": " + trial.result.executed[i]) != std::string::npos;
            }
            return false;
        }
        return std::ranges::any_of(trial.result.findings, [&](const Finding& finding) {
            return name_of(finding.invariant) == wanted.id && check_name(finding.check) == wanted.check &&
                   finding.resource == wanted.resource;
        });
    }

    std::optional<Trial> attempt(const PlainScenario& plain) {
        if (over() || parts(plain) < parts_) return std::nullopt;
        ++runs_;
        auto trial = sandbox_.run(plain);
        if (!trial || !shows(plain, *trial) || shows_without_faults(plain)) return std::nullopt;
        return trial;
    }

    /// Then it is not the fault that brings it about.
    bool shows_without_faults(PlainScenario plain) {
        plain.base.faults.clear();
        ++runs_;
        const auto trial = sandbox_.run(plain);
        return trial && shows(plain, *trial);
    }

    /// Takes `candidate` if it shows the violation too; where its faults hit other visits now, these are looked for.
    bool accept(PlainScenario candidate) {
        if (take(candidate)) return true;
        for (std::size_t i = 0; i < candidate.base.faults.size(); ++i) {
            const u64 was = candidate.base.faults[i].visit;
            for (const u64 visit : other_visits(candidate, i)) {
                candidate.base.faults[i].visit = visit;
                if (take(candidate)) return true;
                if (over()) return false;
            }
            candidate.base.faults[i].visit = was;
        }
        return false;
    }
    bool take(const PlainScenario& candidate) {
        const auto trial = attempt(candidate);
        if (!trial) return false;
        best_ = candidate;
        take_results(best_, trial->result);
        if (options_.on_progress) options_.on_progress(best_.steps.size(), best_.base.faults.size(), runs_);
        return true;
    }

    /// Other visits of the place that a fault could mean, the nearest first.
    std::vector<u64> other_visits(const PlainScenario& candidate, std::size_t which) {
        const PlannedFault& fault = candidate.base.faults[which];
        std::vector<u64> visits;
        if (fault.visit <= 1) return visits;
        PlainScenario without = candidate;
        without.base.faults.erase(without.base.faults.begin() + static_cast<std::ptrdiff_t>(which));
        ++runs_;
        const auto trial = sandbox_.run(without, true);
        if (!trial || !trial->ended) return visits;
        u64 count = 0;
        for (const auto& run : trial->result.visits)
            if (run.point == fault.point && (fault.match.empty() || glob_matches(fault.match, run.name)))
                count += run.count;
        constexpr u64 tried_max = 24;
        for (u64 visit = std::min(fault.visit - 1, count); visit > 0 && visits.size() < tried_max; --visit)
            visits.push_back(visit);
        return visits;
    }

    bool fewer_steps() {
        bool any = false;
        for (std::size_t chunk = std::max<std::size_t>(1, best_.steps.size() / 2); chunk > 0; chunk /= 2) {
            for (std::size_t end = best_.steps.size(); end > 0 && !over();) {
                const std::size_t begin = end > chunk ? end - chunk : 0;
                if (best_.steps.size() > end - begin) {
                    PlainScenario candidate = best_;
                    candidate.steps.erase(candidate.steps.begin() + static_cast<std::ptrdiff_t>(begin),
                                          candidate.steps.begin() + static_cast<std::ptrdiff_t>(end));
                    if (accept(std::move(candidate))) {
                        any = true;
                        end = std::min(begin, best_.steps.size());
                        continue;
                    }
                }
                end = begin;
            }
        }
        return any;
    }

    bool fewer_faults() {
        bool any = false;
        for (std::size_t i = best_.base.faults.size(); i-- > 0 && best_.base.faults.size() > 1;) {
            PlainScenario candidate = best_;
            candidate.base.faults.erase(candidate.base.faults.begin() + static_cast<std::ptrdiff_t>(i));
            any |= accept(std::move(candidate));
            i = std::min(i, best_.base.faults.size());
        }
        return any;
    }

    bool weaker_actions() {
        bool any = false;
        for (std::size_t i = 0; i < best_.base.faults.size(); ++i) {
            const FaultPoint point = best_.base.faults[i].point;
            ActionChoice weaker;
            for (const FaultKind kind : {FaultKind::delay, FaultKind::fail, FaultKind::kill_agent, FaultKind::panic})
                if (kind != best_.base.faults[i].action.kind) weaker.entries.push_back({kind});
            for (const ActionChoice::Entry& entry : weaker.entries) {
                if (rank(entry.kind) >= rank(best_.base.faults[i].action.kind)) continue;
                const auto samples = action_samples(point, entry);
                if (samples.empty()) continue;
                PlainScenario candidate = best_;
                candidate.base.faults[i].action = samples.front();
                if (take(candidate)) {
                    any = true;
                    break;
                }
            }
        }
        return any;
    }
    static int rank(FaultKind kind) {
        switch (kind) {
        case FaultKind::delay: return 0;
        case FaultKind::fail: return 1;
        case FaultKind::kill_agent: return 2;
        case FaultKind::panic: return 3;
        case FaultKind::power_loss: return 4;
        default: return 5;
        }
    }

    /// Sizes, lengths and counts in steps: the least there is, else half.
    bool smaller_numbers() {
        static const std::regex number(
            R"(\b(size|length|memory|offset|pages|count|order|vcpus): ([0-9]+)(KiB|MiB|GiB|TiB)?)");
        bool any = false;
        for (std::size_t i = 0; i < best_.steps.size(); ++i) {
            for (std::size_t from = 0;;) {
                const std::string text = best_.steps[i].text;
                std::smatch found;
                const auto begin = text.begin() + static_cast<std::ptrdiff_t>(std::min(from, text.size()));
                if (!std::regex_search(begin, text.end(), found, number)) break;
                const std::size_t at = static_cast<std::size_t>(found[2].first - text.begin());
                from = at + static_cast<std::size_t>(found[2].length());
                any |= smaller_number(i, text, at, found);
                if (i >= best_.steps.size() || over()) return any;
            }
        }
        return any;
    }
    bool smaller_number(std::size_t i, const std::string& text, std::size_t at, const std::smatch& found) {
        const std::string unit = found[3];
        const u64 value = std::stoull(found[2]);
        const u64 factor = unit == "KiB" ? KiB : unit == "MiB" ? MiB : unit == "GiB" ? GiB : unit == "TiB" ? TiB : 1;
        const bool bytes = found[1] == "size" || found[1] == "length" || found[1] == "memory" || found[1] == "offset";
        const u64 length = static_cast<std::size_t>(found[2].length() + found[3].length());
        for (const u64 smaller : {u64{0}, bytes ? page_bytes : u64{1}, bytes ? MiB : u64{2}, value * factor / 2}) {
            if (smaller >= value * factor) continue;
            PlainScenario candidate = best_;
            candidate.steps[i].text = text.substr(0, at) + (bytes ? size_text(smaller) : fmt::format("{}", smaller)) +
                                      text.substr(at + length);
            if (accept(std::move(candidate))) return true;
        }
        return false;
    }

    bool fewer_devices() {
        bool any = false;
        for (std::size_t i = best_.base.machine.devices.size(); i-- > 0;) {
            PlainScenario candidate = best_;
            candidate.base.machine.devices.erase(candidate.base.machine.devices.begin() +
                                                 static_cast<std::ptrdiff_t>(i));
            any |= accept(std::move(candidate));
        }
        if (best_.base.machine.iommu && best_.base.machine.devices.empty()) {
            PlainScenario candidate = best_;
            candidate.base.machine.iommu = false;
            any |= accept(std::move(candidate));
        }
        return any;
    }

    bool fewer_kernels() {
        bool any = false;
        while (best_.base.kernels.size() > 1) {
            PlainScenario candidate = best_;
            candidate.base.kernels.pop_back();
            if (!accept(std::move(candidate))) break;
            any = true;
        }
        return any;
    }

    bool less_memory() {
        if (best_.base.machine.from_handover()) return false;
        bool any = false;
        if (best_.base.machine.node_bytes.size() > 1) {
            PlainScenario candidate = best_;
            candidate.base.machine.node_bytes = {candidate.base.machine.memory_bytes};
            any |= accept(std::move(candidate));
        }
        while (best_.base.machine.node_bytes.size() == 1 && best_.base.machine.memory_bytes > 512 * MiB) {
            PlainScenario candidate = best_;
            candidate.base.machine.memory_bytes =
                std::max(512 * MiB, align_down(best_.base.machine.memory_bytes / 2, MiB));
            candidate.base.machine.node_bytes = {candidate.base.machine.memory_bytes};
            if (!accept(std::move(candidate))) break;
            any = true;
        }
        return any;
    }

    const Target& target_;
    const ShrinkOptions& options_;
    Sandbox sandbox_;
    const Clock::time_point began_;
    PlainScenario best_;
    std::size_t steps_before_ = 0, parts_ = 0;
    u64 runs_ = 0;
};

/// What happens, for the head of the file.
std::string story(const Scenario& scenario, const Target& target, const PlainScenario& plain) {
    const Violation& violation = target.violation;
    std::string text = fmt::format("Written by kexec-sim {} explore, from {} under\n  {}\n", program_version(),
                                   scenario.name, plan_text(target.plan));
    std::string what = fmt::format("{}{} is violated in generation {}: {}", violation.id,
                                   violation.check.empty() ? "" : " (" + violation.check + ")", violation.generation,
                                   violation.message);
    if (violation.id == "epilogue")
        what = fmt::format("What must succeed after the fault does not. {}", violation.message);
    if (violation.id == "sanitizer") what = "A sanitizer reports an error. " + violation.message;
    for (const std::string& line : wrapped(printable(what), 110)) text += line + "\n";
    for (const PlannedFault& fault : plain.base.faults)
        for (const std::string& line :
             wrapped(fmt::format("The fault: {}; {}.", fault.text(), fault_point_info(fault.point).description), 110))
            text += line + "\n";
    if (!target.where.empty())
        for (const std::string& line : wrapped("It fires in: " + target.where + ".", 110)) text += line + "\n";
    text += "This file passes while that is so, and fails once it is repaired.\n";
    return text;
}

}  // namespace

std::optional<Reproduction> reproduce(const Scenario& scenario, const Target& target, const ShrinkOptions& options) {
    RunOptions run;
    run.isolation = isolation_for(target);
    run.faults = target.plan;
    run.modules = options.modules;
    run.silent = true;
    PlainScenario plain;
    {
        // In a child: the run may be one that crashes.
        Server server([&](const Json&) {
            const RunResult result = run_scenario(scenario, run);
            return Json{{"executed", result.executed},
                        {"index", result.executed_index},
                        {"left", result.left.script},
                        {"alive", result.left.alive},
                        {"under_way", result.left.update_under_way},
                        {"generation", result.left.generation}};
        });
        const auto answer = server.ask_and_wait({}, run_seconds_max);
        if (!answer) return std::nullopt;
        const Json& json = answer->json;
        RunResult result;
        result.executed = json.at("executed").get<std::vector<std::string>>();
        result.executed_index = json.at("index").get<std::vector<u32>>();
        result.left = {json.at("left"), json.at("alive"), json.at("under_way"), json.at("generation")};
        plain = plain_scenario(scenario, target.plan, result);
    }
    plain.base.modules.insert(plain.base.modules.end(), options.modules.begin(), options.modules.end());
    ShrinkOptions own = options;
    own.modules.clear();  // they are part of the scenario now
    Shrinker shrinker(target, own);
    if (!shrinker.start(std::move(plain))) return std::nullopt;
    Reproduction reproduction;
    reproduction.finished = shrinker.shrink();
    reproduction.runs = shrinker.runs();
    reproduction.steps_before = shrinker.steps_before();

    PlainScenario best = shrinker.best();
    best.base.name = scenario.name + "-" + target.violation.id;
    best.base.summary = fmt::format("Found by exploration: {}.", target.violation.id);
    const std::string comment = story(scenario, target, best);
    const std::string nobody(32, '0');
    best.base.reproduces = Reproduces{scenario.name, scenario.seed, target.plan, nobody};
    Server server([&](const Json&) {
        RunOptions last;
        last.isolation = Isolation::process;  // as `run` and `replay` will
        last.silent = true;
        const RunResult result = run_scenario(parse_scenario(best.text(comment), scenario.path), last);
        return Json{{"hash", result.trace_hash}, {"passed", result.passed}};
    });
    if (const auto answer = server.ask_and_wait({}, run_seconds_max))
        best.base.reproduces->trace_hash = answer->json.at("hash");
    reproduction.text = best.text(comment);
    reproduction.scenario = parse_scenario(reproduction.text, scenario.path);
    return reproduction;
}

}  // namespace kexec_sim::sim
