#include "sim/explore/forking_run.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <fmt/format.h>
#include <map>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "machine/result.hpp"
#include "sim/event_line.hpp"
#include "sim/workers/error_capture.hpp"
#include "sim/workers/sanitizer_report.hpp"

namespace kexec_sim::sim {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::json;

RunOptions run_options(const PoolOptions& options, FaultPlan base) {
    RunOptions run;
    run.isolation = Isolation::inline_;
    run.faults = std::move(base);
    run.max_time_ns = options.max_virtual_ns;
    run.record_visits = run.silent = run.private_memory = true;
    run.baseline = &options.baseline;
    return run;
}

class ForkingRun final : public FaultInjector::VisitHook {
public:
    ForkingRun(const Scenario& scenario, const PoolOptions& options, const std::vector<PlanJob>& jobs)
        : scenario_(scenario),
          options_(options),
          jobs_(jobs),
          run_(run_options(options, FaultPlan(jobs.front().faults.begin(), jobs.front().faults.end() - 1))),
          outcomes_(jobs.size()),
          begun_(jobs.size()) {
        for (std::size_t i = 0; i < jobs.size(); ++i) {
            const PlannedFault& last = jobs[i].faults.back();
            due_[last.point][last.match][last.visit].push_back(i);
        }
        if (std::ranges::any_of(jobs, &PlanJob::record_events)) {
            run_.silent = false;
            run_.on_event = [this](const TraceEvent& event) { lines_.push_back(event_line(event)); };
        }
        run_.on_machine = [this](FaultInjector& injector) {
            injector_ = &injector;
            injector.hook = this;
        };
    }

    std::vector<PlanOutcome> carry_out() {
        const auto run = [&] {
            if (options_.on_plan) options_.on_plan(run_.faults);
            try {
                return outcome_of(scenario_, run_scenario(scenario_, run_));
            } catch (const UserError& error) {
                return outcome_of_failure("host", error.what());
            } catch (const std::exception& bug) {
                return outcome_of_failure("simulator", bug.what());
            }
        };
        PlanOutcome end = run();
        end.event_lines = std::move(lines_);
        if (!wants_visits_) end.visits.clear();
        if (out_ >= 0) answer(end);
        // Where the host or the simulator ended the run, that is what came of the plans that it had not come to.
        for (std::size_t i = 0; i < jobs_.size(); ++i)
            if (!begun_[i] && !end.error.empty()) outcomes_[i] = end;
        return std::move(outcomes_);
    }

    void visited(FaultPoint point, std::string_view name) override {
        const auto at = due_.find(point);
        if (at == due_.end()) return;
        ++by_point_[point];
        auto known = by_name_.find({point, std::string(name)});
        if (known == by_name_.end()) known = by_name_.emplace(std::pair{point, std::string(name)}, 0).first;
        const u64 nth = ++known->second;
        // A call site without a name is one of the point's visits by whatever name.
        if (go_on(at->second, "", by_point_[point])) return;
        if (!name.empty()) go_on(at->second, std::string(name), nth);
    }

private:
    using Due = std::map<std::string, std::map<u64, std::vector<std::size_t>>>;

    /// True in a child, which is on its way from here.
    bool go_on(const Due& due, const std::string& match, u64 visit) {
        const auto names = due.find(match);
        if (names == due.end()) return false;
        const auto visits = names->second.find(visit);
        if (visits == names->second.end()) return false;
        for (const std::size_t index : visits->second)
            if (fork_for(index)) return true;
        return false;
    }

    bool fork_for(std::size_t index) {
        std::array<int, 2> pipe_ends{};
        const pid_t parent = getpid();
        const pid_t child = pipe(pipe_ends.data()) == 0 ? fork() : -1;
        if (child < 0) throw UserError(fmt::format("kexec-sim: error: no process: {}", std::strerror(errno)));
        if (child == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            if (getppid() != parent) _exit(0);
            close(pipe_ends[0]);
            errors_.begin();
            out_ = pipe_ends[1];
            const PlanJob& job = jobs_[index];
            injector_->hook = nullptr;
            injector_->record_visits = wants_visits_ = job.record_visits;
            injector_->plan_now(job.faults.back());
            run_.faults = job.faults;
            if (options_.on_plan) options_.on_plan(job.faults);
            return true;
        }
        close(pipe_ends[1]);
        begun_[index] = true;
        outcomes_[index] = outcome_of_child(child, pipe_ends[0]);
        close(pipe_ends[0]);
        return false;
    }

    PlanOutcome outcome_of_child(pid_t child, int from) {
        const auto end = Clock::now() + std::chrono::duration<double>(options_.max_host_seconds);
        std::string text;
        bool late = false;
        while (true) {
            const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now()).count();
            pollfd waiting{from, POLLIN, 0};
            late = left <= 0 || (poll(&waiting, 1, static_cast<int>(left)) == 0);
            if (late) break;
            std::array<char, 65536> buffer;
            const ssize_t got = read(from, buffer.data(), buffer.size());
            if (got < 0 && errno == EINTR) continue;
            if (got <= 0) break;
            text.append(buffer.data(), static_cast<std::size_t>(got));
        }
        if (late) kill(child, SIGKILL);
        int status = 0;
        while (waitpid(child, &status, 0) < 0 && errno == EINTR) {}
        HeardErrors heard = split_sanitizer_report(errors_.take());
        errors_.pass_on(heard.rest);
        if (late) return outcome_of_loss(loss_of_late(options_.max_host_seconds, std::move(heard.report)));
        const Json json = Json::parse(text, nullptr, false);
        if (json.is_discarded() || !json.is_object())
            return outcome_of_loss(loss_of_ended(status, std::move(heard.report)));
        PlanOutcome outcome = PlanOutcome::from_json(json);
        outcome.note_report(heard.report);
        return outcome;
    }

    [[noreturn]] void answer(const PlanOutcome& outcome) const {
        const std::string text = outcome.json().dump(-1, ' ', false, Json::error_handler_t::replace);
        for (std::string_view rest = text; !rest.empty();) {
            const ssize_t done = write(out_, rest.data(), rest.size());
            if (done < 0 && errno == EINTR) continue;
            if (done <= 0) break;
            rest.remove_prefix(static_cast<std::size_t>(done));
        }
        _exit(0);
    }

    const Scenario& scenario_;
    const PoolOptions& options_;
    const std::vector<PlanJob>& jobs_;
    RunOptions run_;
    std::vector<PlanOutcome> outcomes_;
    std::vector<bool> begun_;  // whose visits came
    FaultInjector* injector_ = nullptr;
    std::vector<std::string> lines_;
    bool wants_visits_ = false;
    std::map<FaultPoint, Due> due_;
    std::map<FaultPoint, u64> by_point_;
    std::map<std::pair<FaultPoint, std::string>, u64> by_name_;
    ErrorCapture errors_;  // of one child after another
    int out_ = -1;         // in a child: where its outcome goes
};

}  // namespace

bool can_fork(const PlanJob& job) {
    const PlannedFault& last = job.faults.back();
    return last.visit != 0 && !last.generation && last.match.find_first_of("*?") == std::string::npos;
}

std::vector<PlanOutcome> run_forking(const Scenario& scenario, const PoolOptions& options,
                                     const std::vector<PlanJob>& jobs) {
    return ForkingRun(scenario, options, jobs).carry_out();
}

}  // namespace kexec_sim::sim
