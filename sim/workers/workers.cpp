#include "sim/workers/workers.hpp"

#include <chrono>
#include <deque>
#include <poll.h>

namespace kexec_sim::sim {
namespace {

using Clock = std::chrono::steady_clock;

/// How often `stop` is asked while nothing comes.
constexpr int poll_ms = 200;

}  // namespace

struct Workers::Worker {
    explicit Worker(const Server::Handler& handler) : server(handler) {}

    void give(Question question) {
        if (questions.empty()) since = Clock::now();
        server.ask(question.json);
        questions.push_back(std::move(question));
    }
    u64 take_first() {
        const u64 id = questions.front().id;
        questions.pop_front();
        since = Clock::now();
        return id;
    }
    bool late() const {
        if (questions.empty()) return false;
        return std::chrono::duration<double>(Clock::now() - since).count() > questions.front().patience_seconds;
    }
    /// The question under way is lost; the others go to a new process.
    void lose(const Callbacks& callbacks) {
        const Loss loss = server.stop(questions.front().patience_seconds);
        const u64 lost = take_first();
        for (const Question& question : questions) server.ask(question.json);
        callbacks.lost(lost, loss);
    }
    void give_up() {
        server.stop(0);
        questions.clear();
    }

    Server server;
    std::deque<Question> questions;  // the first is under way
    Clock::time_point since;         // and has been since then
};

Workers::Workers(unsigned count, std::size_t depth, const Server::Handler& handler) : depth_(depth) {
    for (unsigned i = 0; i < count; ++i) workers_.push_back(std::make_unique<Worker>(handler));
}

Workers::~Workers() = default;

/// Those that have least get first.
void Workers::refill(const std::function<std::optional<Question>()>& next) {
    for (std::size_t depth = 0; depth < depth_; ++depth)
        for (const auto& worker : workers_) {
            if (worker->questions.size() != depth) continue;
            auto question = next();
            if (!question) return;
            worker->give(std::move(*question));
        }
}

void Workers::run(const Callbacks& callbacks) {
    while (!callbacks.stop()) {
        refill(callbacks.next);
        std::vector<pollfd> polled;
        std::vector<Worker*> who;
        for (const auto& worker : workers_) {
            if (worker->questions.empty()) continue;
            polled.push_back({worker->server.answers(), POLLIN, 0});
            who.push_back(worker.get());
        }
        if (who.empty()) return;
        poll(polled.data(), polled.size(), poll_ms);
        for (std::size_t i = 0; i < who.size(); ++i) {
            Worker& worker = *who[i];
            const bool open = !polled[i].revents || worker.server.take();
            while (const auto answer = worker.server.answer()) callbacks.answered(worker.take_first(), *answer);
            if (!open && worker.questions.empty())
                worker.give_up();
            else if (!open || worker.late())
                worker.lose(callbacks);
        }
    }
    for (const auto& worker : workers_) worker->give_up();
}

}  // namespace kexec_sim::sim
