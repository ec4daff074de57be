#include "sim/explore/explorer.hpp"

#include <algorithm>
#include <chrono>
#include <deque>
#include <filesystem>
#include <fmt/format.h>
#include <fstream>
#include <random>
#include <unordered_map>

#include "machine/result.hpp"

namespace kexec_sim::sim {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::json;

/// Virtual time that a run may take: the baseline's, many times, and room for delays.
u64 virtual_budget(u64 baseline_ns) { return 20 * baseline_ns + 100'000'000'000; }

/// Listens to the fault-free run: which phase of the update it is in, and since when.
class PhaseListener {
public:
    explicit PhaseListener(std::vector<UpdatePhase>& phases) : phases_(phases) {}
    void operator()(const TraceEvent& event) {
        if (event.name == "kernel.boot") enter(event, "boot");
        if (event.name == "kernel.user_space") enter(event, after_boot_);
        if (event.name == "luo.state" && event.text("from") == "undefined") after_boot_ = event.text("to");
        if (event.name == "luo.state" && event.text("from") != "undefined") enter(event, event.text("to"));
        if (event.name == "luo.ioctl" && event.phase == Phase::begin) request(event);
        if (event.name == "kernel.reboot") enter(event, "freeze");
        if (event.name == "kernel.shutdown") enter(event, "shutdown");
        if (event.name == "kernel.relocation") enter(event, "relocation");
    }

private:
    void request(const TraceEvent& event) {
        const std::string ioctl = event.text("ioctl");
        for (const std::string_view name : {"prepare", "freeze", "cancel", "finish"})
            if (std::ranges::search(ioctl, name, {}, [](char c) { return std::tolower(c); }).begin() != ioctl.end())
                enter(event, std::string(name));
    }
    void enter(const TraceEvent& event, std::string name) {
        if (!phases_.empty() && phases_.back().name == name) return;
        phases_.push_back({event.time_ns, std::move(name)});
    }
    std::vector<UpdatePhase>& phases_;
    std::string after_boot_ = "normal";
};

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
        for (const auto& run : report_.baseline.visits)
            report_.points[std::string(fault_point_info(run.point).name)].visits += run.count;
        for (const PlannedFault& fault : singles.faults) add_plan({fault});
        if (options_.random_plans) add_random(singles.faults);
        open_journal();

        pool_options_.jobs = options_.jobs;
        pool_options_.isolation = options_.isolation;
        pool_options_.modules = options_.modules;
        pool_options_.max_virtual_ns = virtual_budget(report_.baseline.virtual_ns);
        pool_options_.max_host_seconds = 20 + 50 * baseline_seconds_;
        pool_options_.baseline = report_.baseline.executed;
        Pool pool(scenario_, pool_options_);
        pool.run([this] { return next_job(); },
                 [this](const PlanJob& job, PlanOutcome&& outcome) { ended(job, std::move(outcome)); },
                 [this] { return stop(); });
        report_.interrupted = interrupted_ && interrupted_();
        report_.complete = !cut_short_ && !report_.interrupted && waiting_.empty();
        report_.seconds = elapsed();
        return std::move(report_);
    }

private:
    double elapsed() const { return std::chrono::duration<double>(Clock::now() - began_).count(); }

    void run_baseline() {
        RunOptions run;
        run.isolation = options_.isolation;
        run.modules = options_.modules;
        run.record_visits = true;
        run.on_event = PhaseListener(report_.phases);
        run.interrupted = interrupted_;
        const auto begin = Clock::now();
        report_.baseline = run_scenario(scenario_, run);
        baseline_seconds_ = std::chrono::duration<double>(Clock::now() - begin).count();
    }

    // --- plans ---

    void add_plan(FaultPlan plan) {
        const u64 id = next_id_++;
        if (id % options_.shards != options_.shard) return;
        waiting_.push_back({id, std::move(plan), options_.depth > 1 && plan.size() <= 1});
        ++report_.plans_known;
    }

    void add_random(const std::vector<PlannedFault>& singles) {
        if (singles.empty()) return;
        std::mt19937_64 random(scenario_.seed);
        const auto below = [&](u64 bound) { return random() % bound; };
        for (u64 i = 0; i < options_.random_plans; ++i) {
            FaultPlan plan;
            for (u64 count = 2 + below(3); plan.size() < count;) plan.push_back(singles[below(singles.size())]);
            add_plan(std::move(plan));
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
            if (const auto known = journal_.find(plan_text(job.faults)); known != journal_.end()) {
                ++report_.resumed;
                PlanOutcome outcome = known->second;
                count(job, std::move(outcome));
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
            if (first->second != outcome.trace_hash) {
                PlanOutcome differs = outcome;
                differs.violations = {
                    {"determinism",
                     "stuck",
                     "run",
                     {},
                     fmt::format("the same plan gave trace {} first, then {}", first->second, outcome.trace_hash),
                     0}};
                note_violations(job, differs);
            }
            hashes_.erase(first);
            return;
        }
        if (options_.verify_every && job.id % options_.verify_every == 0 && !outcome.trace_hash.empty()) {
            hashes_[job.id] = outcome.trace_hash;
            verify_.push_back(job);
        }
        if (journal_file_.is_open()) {
            Json line = outcome.json();
            line["plan"] = plan_text(job.faults);
            journal_file_ << line.dump(-1, ' ', false, Json::error_handler_t::replace) << '\n' << std::flush;
        }
        ++report_.runs;
        count(job, std::move(outcome));
        if (on_progress_) on_progress_({report_, waiting_.size(), static_cast<double>(report_.runs) / elapsed()});
    }

    void count(const PlanJob& job, PlanOutcome&& outcome) {
        report_.runs_two_kernels += outcome.two_kernels;
        report_.not_reached += !outcome.reached;
        PointSummary& point = report_.points[std::string(fault_point_info(job.faults.front().point).name)];
        ++point.runs;
        point.reached += outcome.reached;
        const std::string phase = report_.phase_at(outcome.fired_ns);
        if (outcome.reached) ++report_.runs_by_phase[phase];
        if (!outcome.violations.empty()) {
            ++point.violating;
            ++report_.violating_by_phase[phase];
        }
        note_violations(job, outcome);
        if (job.record_visits && outcome.reached && job.faults.size() == 1)
            for (PlannedFault& second : candidate_faults(outcome.visits, options_.candidates, true).faults)
                add_plan({job.faults.front(), std::move(second)});
    }

    void note_violations(const PlanJob& job, const PlanOutcome& outcome) {
        for (const Violation& violation : outcome.violations) {
            const PlannedFault& fault = job.faults.front();
            const std::string key =
                fmt::format("{}|{}|{}|{}|{}|{}", violation.id, violation.check, violation.resource,
                            fault_point_info(fault.point).name, fault.match, outcome.where);
            const auto [at, fresh] = group_of_.emplace(key, report_.groups.size());
            if (fresh) report_.groups.push_back({violation, job.faults, outcome, outcome.where, 0, {}});
            ViolationGroup& group = report_.groups[at->second];
            ++group.plans;
            if (job.faults.size() < group.plan.size()) {
                group.violation = violation;
                group.plan = job.faults;
                group.outcome = outcome;
            }
        }
    }

    // --- the journal ---

    std::string journal_head() const {
        return fmt::format("{{\"format\":\"kexec-sim/explore-runs-1\",\"baseline\":\"{}\",\"depth\":{}}}",
                           report_.baseline.trace_hash, options_.depth);
    }

    void open_journal() {
        if (options_.out_dir.empty()) return;
        const std::filesystem::path file = std::filesystem::path(options_.out_dir) / "runs.jsonl";
        std::ifstream old(file);
        std::string line;
        bool same = static_cast<bool>(std::getline(old, line)) && line == journal_head();
        while (same && std::getline(old, line)) {
            const Json json = Json::parse(line, nullptr, false);
            if (json.is_discarded()) break;  // the line that was being written when the explorer was killed
            try {
                journal_[json.at("plan")] = PlanOutcome::from_json(json);
            } catch (const Json::exception&) {
                break;
            }
        }
        old.close();
        if (!same && std::filesystem::exists(file) && std::filesystem::file_size(file) > 0)
            throw UserError(fmt::format("kexec-sim: error: {} is of another exploration", file.string()));
        journal_file_.open(file, std::ios::trunc);
        journal_file_ << journal_head() << '\n';
        for (const auto& [plan, outcome] : journal_) {
            Json again = outcome.json();
            again["plan"] = plan;
            journal_file_ << again.dump(-1, ' ', false, Json::error_handler_t::replace) << '\n';
        }
        journal_file_.flush();
        if (!journal_file_) throw UserError(fmt::format("kexec-sim: error: cannot write {}", file.string()));
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
    std::unordered_map<std::string, std::size_t> group_of_;
    std::map<std::string, PlanOutcome> journal_;
    std::ofstream journal_file_;
    u64 next_id_ = 0, started_ = 0;
    bool cut_short_ = false;
};

}  // namespace

std::string ExploreReport::phase_at(u64 ns) const {
    std::string name = "power on";
    for (const UpdatePhase& phase : phases) {
        if (phase.begin_ns > ns) break;
        name = phase.name;
    }
    return name;
}

ExploreReport explore(const Scenario& scenario, const ExploreOptions& options,
                      const std::function<void(const ExploreProgress&)>& on_progress,
                      const std::function<bool()>& interrupted) {
    return Session(scenario, options, on_progress, interrupted).run();
}

}  // namespace kexec_sim::sim
