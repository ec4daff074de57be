// A child process that answers JSON lines with JSON lines: what runs in it can crash or hang without harm.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <sys/types.h>

#include "machine/types.hpp"

namespace kexec_sim::sim {

class Server {
public:
    using Handler = std::function<nlohmann::json(const nlohmann::json&)>;
    /// `handler` runs in the child. It is started with the first question, and again after stop().
    explicit Server(Handler handler) : handler_(std::move(handler)) {}
    ~Server() { stop(); }
    Server(const Server&) = delete;
    Server& operator=(const Server&) = delete;

    /// UserError: the host has no process or pipe left. A child that is gone takes it without a word.
    void ask(const nlohmann::json& question);
    /// For poll(): readable when an answer, or the end, is there; -1 while there is no child.
    int answers() const { return from_; }
    /// Takes in what is there. False: the child is gone, and says nothing more.
    bool take();
    /// The next answer that was taken in.
    std::optional<nlohmann::json> answer();
    /// Waits for it; nullopt: the child died, or took longer than `seconds`.
    std::optional<nlohmann::json> ask_and_wait(const nlohmann::json& question, double seconds);
    /// Kills the child. How it had ended, if by itself: "was killed by signal 11 (…)", "ended with exit status 1", or ""
    /// (it lived).
    std::string stop();

private:
    void start();
    [[noreturn]] void serve(int in, int out) const;

    Handler handler_;
    pid_t pid_ = -1;
    int to_ = -1, from_ = -1;
    std::string text_;
};

}  // namespace kexec_sim::sim
