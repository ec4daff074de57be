#include "sim/workers/server.hpp"

#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <utility>

#include "machine/result.hpp"
#include "sim/workers/sanitizer_report.hpp"

namespace kexec_sim::sim {
namespace {

using Json = nlohmann::json;

bool write_all(int fd, std::string_view bytes) {
    while (!bytes.empty()) {
        const ssize_t done = ::write(fd, bytes.data(), bytes.size());
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) return false;
        bytes.remove_prefix(static_cast<std::size_t>(done));
    }
    return true;
}

/// False: nothing more will come.
bool read_some(int fd, std::string& into) {
    std::array<char, 65536> buffer;
    ssize_t got;
    do {
        got = ::read(fd, buffer.data(), buffer.size());
    } while (got < 0 && errno == EINTR);
    if (got > 0) into.append(buffer.data(), static_cast<std::size_t>(got));
    return got > 0;
}

std::optional<std::string> take_line(std::string& text) {
    const std::size_t end = text.find('\n');
    if (end == std::string::npos) return std::nullopt;
    std::string line = text.substr(0, end);
    text.erase(0, end + 1);
    return line;
}

std::string line_of(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n"; }

}  // namespace

void Server::start() {
    if (!errors_) errors_.emplace();
    std::array<int, 2> down{}, up{};
    if (pipe2(down.data(), O_CLOEXEC) != 0 || pipe2(up.data(), O_CLOEXEC) != 0)
        throw UserError(fmt::format("kexec-sim: error: no pipe: {}", std::strerror(errno)));
    std::signal(SIGPIPE, SIG_IGN);
    const pid_t parent = getpid();
    pid_ = fork();
    if (pid_ < 0) throw UserError(fmt::format("kexec-sim: error: no process: {}", std::strerror(errno)));
    if (pid_ == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent) _exit(0);
        std::signal(SIGINT, SIG_IGN);  // who asks says when it is over
        std::signal(SIGTERM, SIG_DFL);
        close(down[1]);
        close(up[0]);
        serve(down[0], up[1]);
    }
    close(down[0]);
    close(up[1]);
    to_ = down[1];
    from_ = up[0];
    text_.clear();
}

void Server::serve(int in, int out) {
    errors_->begin();
    std::string text;
    // Nothing is thrown out of here: the frames above are the parent's.
    try {
        while (true) {
            while (const auto line = take_line(text)) {
                Json reply{{"answer", handler_(Json::parse(*line))}};
                HeardErrors heard = split_sanitizer_report(errors_->take());
                errors_->pass_on(heard.rest);
                if (!heard.report.empty()) reply["report"] = std::move(heard.report);
                if (!write_all(out, line_of(reply))) _exit(0);
            }
            if (!read_some(in, text)) _exit(0);
        }
    } catch (const std::exception& error) {
        errors_->pass_on(fmt::format("{}\n", error.what()));
    } catch (...) {
        errors_->pass_on("kexec-sim: a worker threw what is no exception\n");
    }
    _exit(1);
}

void Server::ask(const Json& question) {
    if (pid_ < 0) start();
    static_cast<void>(write_all(to_, line_of(question)));
}

bool Server::take() { return read_some(from_, text_); }

std::optional<Answer> Server::answer() {
    const auto line = take_line(text_);
    if (!line) return std::nullopt;
    Json reply = Json::parse(*line);
    return Answer{std::move(reply.at("answer")), reply.value("report", std::string())};
}

std::expected<Answer, Loss> Server::ask_and_wait(const Json& question, double seconds) {
    using Clock = std::chrono::steady_clock;
    const auto end = Clock::now() + std::chrono::duration<double>(seconds);
    ask(question);
    while (true) {
        if (auto known = answer()) return std::move(*known);
        const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now()).count();
        if (left <= 0) return std::unexpected(stop(seconds));
        pollfd waiting{from_, POLLIN, 0};
        const int ready = poll(&waiting, 1, static_cast<int>(std::min<i64>(left, 1000)));
        if (ready <= 0 || take()) continue;
        if (auto last = answer()) return std::move(*last);
        return std::unexpected(stop(seconds));
    }
}

Loss Server::stop(double seconds) {
    if (pid_ < 0) return {};
    int status = 0;
    // Where it ended by itself, its pipe is closed, and it can be waited for.
    bool ended = waitpid(pid_, &status, WNOHANG) == pid_;
    if (!ended) {
        pollfd waiting{from_, POLLIN, 0};
        const bool closing = poll(&waiting, 1, 0) > 0 && (waiting.revents & POLLHUP);
        if (!closing) kill(pid_, SIGKILL);
        waitpid(pid_, &status, 0);
        ended = closing;
    }
    close(to_);
    close(from_);
    pid_ = to_ = from_ = -1;
    text_.clear();
    HeardErrors heard = split_sanitizer_report(errors_->take());
    errors_->pass_on(heard.rest);
    return ended ? loss_of_ended(status, std::move(heard.report)) : loss_of_late(seconds, std::move(heard.report));
}

}  // namespace kexec_sim::sim
