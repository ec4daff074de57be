// A child process that answers JSON lines with JSON lines: what runs in it can crash or hang without harm.
//
// What it writes to standard error is held back until its answer is there, or its end: then it is passed on, but for a
// report of a sanitizer, which goes with the answer or the loss.
#pragma once

#include <expected>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <sys/types.h>

#include "machine/types.hpp"
#include "sim/workers/error_capture.hpp"
#include "sim/workers/loss.hpp"

namespace kexec_sim::sim {

struct Answer {
    nlohmann::json json;
    std::string report;  // of a sanitizer, written while the question was under way; or empty
};

class Server {
public:
    using Handler = std::function<nlohmann::json(const nlohmann::json&)>;
    /// `handler` runs in the child, which ends where it throws. It is started with the first question, and again after
    /// stop().
    explicit Server(Handler handler) : handler_(std::move(handler)) {}
    ~Server() { stop(0); }
    Server(const Server&) = delete;
    Server& operator=(const Server&) = delete;

    /// UserError: the host has no process, pipe or file left. A child that is gone takes it without a word.
    void ask(const nlohmann::json& question);
    /// For poll(): readable when an answer, or the end, is there; -1 while there is no child.
    int answers() const { return from_; }
    /// Takes in what is there. False: the child is gone, and says nothing more.
    bool take();
    /// The next answer that was taken in.
    std::optional<Answer> answer();
    /// Waits for it; where there is none in `seconds`, the child is stopped.
    std::expected<Answer, Loss> ask_and_wait(const nlohmann::json& question, double seconds);
    /// Kills the child, which was waited for as long as `seconds`, and says what became of it.
    Loss stop(double seconds);

private:
    void start();
    [[noreturn]] void serve(int in, int out);

    Handler handler_;
    std::optional<ErrorCapture> errors_;
    pid_t pid_ = -1;
    int to_ = -1, from_ = -1;
    std::string text_;
};

}  // namespace kexec_sim::sim
