// A pool of worker processes: questions go in, answers come out, and a question that kills its worker is lost alone.
//
//   next() ──► worker 1: [under way | waits | waits] ──► answered(id, answer)
//          ──► worker 2: [under way | waits        ] ──► lost(id, loss)      it died, or took too long
//
// A question that waits at its worker spares it the wait for the next one. Where the worker is lost, only the question
// under way is lost with it: those that wait go to the process that takes its place.
#pragma once

#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "sim/workers/server.hpp"

namespace kexec_sim::sim {

class Workers {
public:
    struct Question {
        u64 id = 0;  // the caller's own
        nlohmann::json json;
        double patience_seconds = 60;  // of host time, once it is under way
    };
    struct Callbacks {
        /// A worker has room. nullopt: there is nothing now; after an answer or a loss it is asked again.
        std::function<std::optional<Question>()> next;
        std::function<void(u64 id, const Answer& answer)> answered;
        std::function<void(u64 id, const Loss& loss)> lost;
        /// True: no more questions, and those under way are given up.
        std::function<bool()> stop;
    };

    /// `handler` runs in the workers. `depth`: questions that one of them has at a time, at least 1.
    Workers(unsigned count, std::size_t depth, const Server::Handler& handler);
    ~Workers();
    Workers(const Workers&) = delete;
    Workers& operator=(const Workers&) = delete;

    /// Returns when `next` gives nothing and each question was answered or lost, or when `stop` says so. Callbacks are
    /// called in this process, answers in the order in which they come. UserError: the host has no process, pipe or
    /// file left.
    void run(const Callbacks& callbacks);

private:
    struct Worker;
    void refill(const std::function<std::optional<Question>()>& next);

    std::size_t depth_;
    std::vector<std::unique_ptr<Worker>> workers_;
};

}  // namespace kexec_sim::sim
