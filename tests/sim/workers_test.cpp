// A pool of worker processes: each question is answered or lost, once.
#include <catch2/catch.hpp>

#include <csignal>
#include <deque>
#include <map>
#include <set>
#include <stdexcept>
#include <sys/wait.h>
#include <unistd.h>

#include "sim/workers/workers.hpp"

using namespace kexec_sim;
using namespace kexec_sim::sim;

namespace {

using Json = nlohmann::json;

const std::string report = "sim/use.cpp:10:37: runtime error: signed integer overflow\n";

void say(const std::string& text) { static_cast<void>(!write(STDERR_FILENO, text.data(), text.size())); }

/// In a worker: what the question asks for.
Json twice(const Json& question) {
    if (question == "die") raise(SIGKILL);
    if (question == "leave") _exit(7);
    if (question == "throw") throw std::runtime_error("thrown in a worker, as a test wants it");
    if (question == "report" || question == "report and leave") say(report);
    if (question == "report") return 0;
    if (question == "report and leave") _exit(1);
    if (question == "hang")
        for (;;) pause();
    return 2 * question.get<u64>();
}

struct Asked {
    std::map<u64, Json> answers;
    std::map<u64, std::string> reports;  // with answers
    std::map<u64, Loss> losses;
};

/// Asks all of `questions`; their ids are their indices.
Asked ask(Workers& workers, const std::vector<Json>& questions, double patience_seconds = 60) {
    Asked asked;
    std::size_t at = 0;
    workers.run({.next = [&]() -> std::optional<Workers::Question> {
                     if (at == questions.size()) return std::nullopt;
                     const u64 id = at++;
                     return Workers::Question{id, questions[id], patience_seconds};
                 },
                 .answered =
                     [&](u64 id, const Answer& answer) {
                         CHECK(asked.answers.emplace(id, answer.json).second);
                         if (!answer.report.empty()) asked.reports[id] = answer.report;
                     },
                 .lost = [&](u64 id, const Loss& loss) { CHECK(asked.losses.emplace(id, loss).second); },
                 .stop = [] { return false; }});
    return asked;
}

}  // namespace

TEST_CASE("each question is answered once, however many workers there are and however many wait at each",
          "[workers]") {
    std::vector<Json> questions;
    for (u64 i = 0; i < 200; ++i) questions.emplace_back(i);
    for (const unsigned count : {1U, 3U})
        for (const std::size_t depth : {1U, 8U}) {
            Workers workers(count, depth, twice);
            const Asked asked = ask(workers, questions);
            CHECK(asked.losses.empty());
            REQUIRE(asked.answers.size() == questions.size());
            for (const auto& [id, answer] : asked.answers) CHECK(answer == 2 * id);
        }
}

TEST_CASE("a question that ends its worker is lost, and those that wait behind it are answered", "[workers]") {
    Workers workers(1, 4, twice);
    const Asked asked = ask(workers, {1, "die", 2, 3, "leave", "die", 4, "throw", 5});
    CHECK(asked.answers == std::map<u64, Json>{{0, 2}, {2, 4}, {3, 6}, {6, 8}, {8, 10}});
    REQUIRE(asked.losses.size() == 4);
    CHECK(asked.losses.at(1).how == "was killed by signal 9 (Killed)");
    CHECK(asked.losses.at(4).how == "ended with exit status 7");
    CHECK(asked.losses.at(7).how == "ended with exit status 1");
    for (const auto& [id, loss] : asked.losses) CHECK(loss.id() == "crash");
}

TEST_CASE("a question that takes too long is lost as late, and no other is", "[workers]") {
    Workers workers(2, 4, twice);
    const Asked asked = ask(workers, {1, "hang", 2, 3, 4, 5, 6, 7}, 0.5);
    CHECK(asked.answers.size() == 7);
    REQUIRE(asked.losses.size() == 1);
    CHECK(asked.losses.at(1).id() == "hang");
}

TEST_CASE("what was lost can be asked again, and answers may lead to questions", "[workers]") {
    Workers workers(2, 2, twice);
    std::deque<Workers::Question> due{{0, "die", 60}};
    std::set<u64> answers;
    workers.run({.next = [&]() -> std::optional<Workers::Question> {
                     if (due.empty()) return std::nullopt;
                     Workers::Question question = std::move(due.front());
                     due.pop_front();
                     return question;
                 },
                 .answered =
                     [&](u64, const Answer& answer) {
                         answers.insert(answer.json.get<u64>());
                         if (answer.json.get<u64>() < 8) due.push_back({0, answer.json, 60});
                     },
                 .lost =
                     [&](u64, const Loss&) {
                         due.push_back({0, 1, 60});
                     },
                 .stop = [] { return false; }});
    CHECK(answers == std::set<u64>{2, 4, 8});
}

TEST_CASE("a pool that is stopped gives up what is under way, and can be used again", "[workers]") {
    Workers workers(2, 2, twice);
    bool given = false;
    workers.run({.next = [&]() -> std::optional<Workers::Question> {
                     given = true;
                     return Workers::Question{0, "hang", 60};
                 },
                 .answered = [](u64, const Answer&) { FAIL("nobody answers"); },
                 .lost = [](u64, const Loss&) { FAIL("nothing is lost"); },
                 .stop = [&] { return given; }});
    CHECK(ask(workers, {5}).answers.at(0) == 10);
}

TEST_CASE("a sanitizer's report goes with the question that was under way, and no other", "[workers]") {
    Workers workers(1, 8, twice);
    const Asked asked = ask(workers, {1, "report", 2, "report and leave", 3, "die"});
    CHECK(asked.reports == std::map<u64, std::string>{{1, report}});
    REQUIRE(asked.losses.size() == 2);
    CHECK(asked.losses.at(3).id() == "sanitizer");
    CHECK(asked.losses.at(3).report == report);
    CHECK(asked.losses.at(3).message() == "UndefinedBehaviorSanitizer: signed integer overflow in sim/use.cpp:10:37");
    CHECK(asked.losses.at(5).id() == "crash");
    CHECK(asked.answers.size() == 4);
}

TEST_CASE("what a child says is taken once, as much of it as there is room for", "[workers]") {
    ErrorCapture errors;
    const auto in_child = [&](const auto& body) {
        const pid_t child = fork();
        if (child == 0) {
            errors.begin();
            body();
            _exit(0);
        }
        waitpid(child, nullptr, 0);
    };
    in_child([] { say("one\n"); });
    in_child([] { say("two\n"); });
    CHECK(errors.take() == "one\ntwo\n");
    CHECK(errors.take().empty());
    in_child([] {
        const std::string much(64 * 1024, 'x');
        for (int i = 0; i < 40; ++i)
            if (write(STDERR_FILENO, much.data(), much.size()) < 0) break;
    });
    CHECK(errors.take().size() == ErrorCapture::bytes_max);
    in_child([] { say("three\n"); });
    CHECK(errors.take() == "three\n");
}
