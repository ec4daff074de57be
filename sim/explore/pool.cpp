#include "sim/explore/pool.hpp"

#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <deque>
#include <fmt/format.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

namespace kexec_sim::sim {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::json;

/// Plans that a worker has at a time: one under way, the others waiting, so that it need not wait for an answer.
constexpr std::size_t depth_max = 4;

bool write_all(int fd, std::string_view bytes) {
    while (!bytes.empty()) {
        const ssize_t done = ::write(fd, bytes.data(), bytes.size());
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) return false;
        bytes.remove_prefix(static_cast<std::size_t>(done));
    }
    return true;
}

/// Lines from a descriptor, as they come.
class LineReader {
public:
    /// False: nothing more will come.
    bool fill(int fd) {
        std::array<char, 65536> buffer;
        ssize_t got;
        do {
            got = ::read(fd, buffer.data(), buffer.size());
        } while (got < 0 && errno == EINTR);
        if (got <= 0) return false;
        text_.append(buffer.data(), static_cast<std::size_t>(got));
        return true;
    }
    std::optional<std::string> line() {
        const std::size_t end = text_.find('\n', begin_);
        if (end == std::string::npos) {
            text_.erase(0, begin_);
            begin_ = 0;
            return std::nullopt;
        }
        std::string one = text_.substr(begin_, end - begin_);
        begin_ = end + 1;
        return one;
    }

private:
    std::string text_;
    std::size_t begin_ = 0;
};

std::string job_line(const PlanJob& job) {
    Json line{{"id", job.id}, {"visits", job.record_visits}, {"faults", Json::array()}};
    for (const PlannedFault& fault : job.faults) line["faults"].push_back(fault.text());
    return line.dump() + "\n";
}

PlanJob job_of(const std::string& line) {
    const Json json = Json::parse(line);
    PlanJob job;
    job.id = json.at("id");
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
    pid_t pid = -1;
    int to = -1, from = -1;
    LineReader reader;
    std::deque<PlanJob> jobs;  // the first is under way
    Clock::time_point since;
    void close_pipes() {
        if (to >= 0) close(to);
        if (from >= 0) close(from);
        to = from = -1;
    }
};

Pool::Pool(const Scenario& scenario, const PoolOptions& options) : scenario_(scenario), options_(options) {
    for (unsigned i = 0; i < options.jobs; ++i) workers_.push_back(std::make_unique<Worker>());
}

Pool::~Pool() {
    for (const auto& worker : workers_) {
        if (worker->pid > 0) kill(worker->pid, SIGKILL);
        worker->close_pipes();
        if (worker->pid > 0) waitpid(worker->pid, nullptr, 0);
    }
}

void Pool::start(Worker& worker) {
    std::array<int, 2> down{}, up{};
    if (pipe(down.data()) != 0) throw UserError(fmt::format("kexec-sim: error: no pipe: {}", std::strerror(errno)));
    if (pipe(up.data()) != 0) throw UserError(fmt::format("kexec-sim: error: no pipe: {}", std::strerror(errno)));
    const pid_t parent = getpid();
    const pid_t pid = fork();
    if (pid < 0) throw UserError(fmt::format("kexec-sim: error: no process: {}", std::strerror(errno)));
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent) _exit(0);
        std::signal(SIGINT, SIG_IGN);  // the explorer says when it is over
        std::signal(SIGTERM, SIG_DFL);
        for (const auto& other : workers_)
            if (other.get() != &worker) other->close_pipes();
        close(down[1]);
        close(up[0]);
        serve(down[0], up[1]);
    }
    close(down[0]);
    close(up[1]);
    worker.pid = pid;
    worker.to = down[1];
    worker.from = up[0];
    worker.reader = {};
}

void Pool::serve(int in, int out) {
    LineReader reader;
    while (true) {
        while (const auto line = reader.line()) {
            const PlanJob job = job_of(*line);
            Json answer = run_plan(scenario_, options_, job).json();
            answer["id"] = job.id;
            if (!write_all(out, answer.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n")) _exit(0);
        }
        if (!reader.fill(in)) _exit(0);
    }
}

/// The worker is gone, or is put an end to; the plan that it had has this outcome, the others go to its successor.
void Pool::reap(Worker& worker, std::string_view id, const std::string& message,
                const std::function<void(const PlanJob&, PlanOutcome&&)>& done) {
    kill(worker.pid, SIGKILL);
    int status = 0;
    waitpid(worker.pid, &status, 0);
    worker.pid = -1;
    worker.close_pipes();
    std::string text = message;
    if (id == "crash") {
        const int number = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
        text = number ? fmt::format("the simulator was killed by signal {} ({})", number, strsignal(number))
                      : fmt::format("the simulator ended by itself, status {}", WEXITSTATUS(status));
    }
    if (worker.jobs.empty()) return;
    const PlanJob lost = worker.jobs.front();
    worker.jobs.pop_front();
    done(lost, outcome_of_failure(id, text));
    if (worker.jobs.empty()) return;
    start(worker);
    worker.since = Clock::now();
    for (const PlanJob& job : worker.jobs) static_cast<void>(write_all(worker.to, job_line(job)));
}

void Pool::run(const std::function<std::optional<PlanJob>()>& next,
               const std::function<void(const PlanJob&, PlanOutcome&&)>& done, const std::function<bool()>& stop) {
    std::signal(SIGPIPE, SIG_IGN);
    while (!stop()) {
        bool busy = false, more = true;  // an outcome may make new plans
        for (std::size_t depth = 0; more && depth < depth_max; ++depth)
            for (const auto& worker : workers_) {
                if (!more || worker->jobs.size() > depth) continue;
                auto job = next();
                if (!job) {
                    more = false;
                    break;
                }
                if (worker->pid < 0) start(*worker);
                if (worker->jobs.empty()) worker->since = Clock::now();
                static_cast<void>(write_all(worker->to, job_line(*job)));
                worker->jobs.push_back(std::move(*job));
            }
        std::vector<pollfd> waiting;
        std::vector<Worker*> who;
        for (const auto& worker : workers_) {
            if (worker->jobs.empty()) continue;
            busy = true;
            waiting.push_back({worker->from, POLLIN, 0});
            who.push_back(worker.get());
        }
        if (!busy) return;
        poll(waiting.data(), waiting.size(), 200);
        for (std::size_t i = 0; i < waiting.size(); ++i) {
            Worker& worker = *who[i];
            if (waiting[i].revents) {
                const bool open = worker.reader.fill(worker.from);
                while (const auto line = worker.reader.line()) {
                    const PlanJob job = worker.jobs.front();
                    worker.jobs.pop_front();
                    worker.since = Clock::now();
                    done(job, PlanOutcome::from_json(Json::parse(*line)));
                }
                if (!open) reap(worker, "crash", {}, done);
            } else if (std::chrono::duration<double>(Clock::now() - worker.since).count() > options_.max_host_seconds) {
                reap(worker, "hang", fmt::format("no end after {} s", options_.max_host_seconds), done);
            }
        }
    }
}

}  // namespace kexec_sim::sim
