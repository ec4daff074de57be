// Small step spaces against the simulator: what the reference says is what a run gives.
#include <catch2/catch.hpp>

#include <csignal>
#include <fmt/format.h>
#include <fstream>
#include <sys/wait.h>
#include <unistd.h>

#include "sim/generate/generator.hpp"
#include "sim/generate/report.hpp"
#include "tests/system/library.hpp"

using namespace system_test;
using namespace kexec_sim::sim::generate;

namespace {

using kexec_sim::sim::Profile;

/// Those that are for the profile.
std::vector<const Group*> all_groups(const Edition& edition = {}) {
    std::vector<const Group*> all;
    for (const Group& group : groups())
        if (edition.has_luo() ? group.with_luo : group.without_luo) all.push_back(&group);
    return all;
}

std::vector<Letter> opening(std::string_view name) {
    for (const Opening& one : openings())
        if (one.name == name) return one.letters;
    FAIL("no opening " << name);
    return {};
}

GenerateOptions options_of(std::vector<const Group*> alphabet, unsigned length, std::string_view from = "normal") {
    GenerateOptions options;
    options.space.alphabet = std::move(alphabet);
    options.space.length = length;
    options.space.opening = opening(from);
    options.jobs = 2;
    return options;
}

GenerateReport run_space(const Edition& edition, const GenerateOptions& options) {
    return generate(Reference(edition), options, nullptr, [] { return false; });
}

/// "" or the first disagreement, in words.
std::string disagreement(const GenerateReport& report) {
    if (report.disagreements.empty()) return {};
    const Disagreement& first = report.disagreements.front();
    std::string text;
    for (const Letter& letter : letters_of(report.space, report.space.sequences[first.sequence]))
        text += letter.slug() + " ";
    return fmt::format("{}: {} ({}) gives {}, expected {}: {}", text, first.step, first.before, first.got,
                       first.expected, first.detail);
}

int exit_code(const std::string& arguments) {
    const int status = std::system((std::string(KEXEC_SIM_PROGRAM) + " " + arguments).c_str());
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

}  // namespace

TEST_CASE("all sequences of two steps over all groups are as the reference says", "[generate]") {
    for (const Edition edition :
         {Edition{Profile::luo_v3, false}, Edition{Profile::luo_v3, true}, Edition{Profile::luo_v2, false},
          Edition{Profile::linux_6_16, false}, Edition{Profile::linux_6_18, false}}) {
        const GenerateReport report = run_space(edition, options_of(all_groups(edition), 2));
        CHECK(report.complete());
        CHECK(report.runs > 100);
        CHECK(report.runs_two_kernels > report.runs / 2);
        CHECK(disagreement(report) == "");
    }
}

TEST_CASE("so are all that begin in the updated state, and a sample from the others", "[generate]") {
    for (const std::string_view from : {"preserved", "prepared", "frozen", "updated"}) {
        GenerateOptions options = options_of(all_groups(), 2, from);
        if (from != "updated") options.budget = 300;
        const GenerateReport report = run_space({}, options);
        INFO(from);
        CHECK(disagreement(report) == "");
    }
}

TEST_CASE("so is a sample of the sequences of three and four steps", "[generate]") {
    for (const unsigned length : {3U, 4U}) {
        GenerateOptions options =
            options_of({group_by_name("memfd"), group_by_name("luo"), group_by_name("kexec")}, 3);
        if (length == 4) options = options_of({group_by_name("luo"), group_by_name("kexec")}, 4);
        options.budget = 400;
        options.seed = length;
        const GenerateReport report = run_space({}, options);
        CHECK(report.runs == 400);
        CHECK_FALSE(report.complete());
        CHECK(disagreement(report) == "");
    }
}

// Each row of the table in turn says something else than the specification. A case that comes to this row must
// disagree then: no row is there without a run that looks at it.
TEST_CASE("a wrong row of the reference is noticed, whichever it is", "[generate]") {
    for (const kexec_sim::sim::ProfileInfo& info : kexec_sim::sim::profiles()) {
        const Edition edition{info.id, false};
        Reference reference(edition);
        std::set<const Row*> wanted;
        for (const Row& row : reference.rows())
            if (row.result != unspecified) wanted.insert(&row);
        const auto try_space = [&](const SpaceOptions& options) {
            const Space space = enumerate(reference, options);
            for (const Sequence& sequence : space.sequences) {
                if (wanted.empty()) return;
                const std::vector<Letter> letters = letters_of(space, sequence);
                World world = reference.world();
                world.create_objects();
                for (const Letter& letter : options.opening) static_cast<void>(reference.step(world, letter));
                const Row* last = nullptr;
                for (const Letter& letter : letters) last = reference.step(world, letter).row;
                if (!last || !wanted.erase(last)) continue;
                Row& row = reference.rows()[static_cast<std::size_t>(last - reference.rows().data())];
                const std::string_view right = row.result;
                row.result = "ESRCH";
                const Case broken = make_case(reference, options, letters);
                row.result = right;
                INFO(broken.name << ": " << step_name(row.action) << ", " << row.when);
                const auto noticed = run_case(broken, edition);
                REQUIRE(noticed);
                CHECK(noticed->expected == "ESRCH");
            }
        };
        for (const Opening& from : openings())
            if (edition.has_luo() || from.letters.empty())
                try_space(options_of(all_groups(edition), edition.has_luo() ? 2 : 3, from.name).space);
        // What takes longer to come to: something that arrives in a kernel without LUO, and a failed freeze.
        if (!edition.has_luo()) {
            GenerateOptions arrived = options_of(all_groups(edition), 2);
            arrived.space.opening = {{.action = Action::kho_preserve, .folio = 0},
                                     {.action = Action::kho_finalize},
                                     {.action = Action::kexec}};
            try_space(arrived.space);
        }
        GenerateOptions refused = options_of(all_groups(edition), 1);
        refused.space.opening = {{.action = Action::register_subsystem, .subsystem = 0, .refusal = Refusal::freeze},
                                 {.action = Action::prepare}};
        if (edition.has_luo()) try_space(refused.space);
        refused.space.opening.push_back({.action = Action::freeze});
        if (edition.has_luo()) try_space(refused.space);
        for (const Row* row : wanted) UNSCOPED_INFO(step_name(row->action) << ", " << row->when);
        CHECK(wanted.empty());
    }
}

TEST_CASE("a finding that the reference does not know is a disagreement", "[generate]") {
    const Reference reference({});
    const SpaceOptions options = options_of(all_groups(), 1, "updated").space;
    Case lossy = make_case(reference, options, {{.action = Action::kexec}});
    REQUIRE(lossy.findings == std::vector<std::string>{"loss.silent"});
    CHECK_FALSE(run_case(lossy, {}));
    lossy.findings.clear();
    const auto noticed = run_case(lossy, {});
    REQUIRE(noticed);
    CHECK(noticed->step == "findings");
    CHECK(noticed->got == "loss.silent");
}

TEST_CASE("how many workers there are does not matter", "[generate]") {
    GenerateOptions options = options_of({group_by_name("luo"), group_by_name("kexec")}, 2);
    const GenerateReport two = run_space({}, options);
    options.jobs = 1;
    const GenerateReport one = run_space({}, options);
    CHECK(one.runs == two.runs);
    CHECK(one.steps == two.steps);
    CHECK(one.space.sequences == two.space.sequences);
}

TEST_CASE("a run that kills its worker or hangs is a disagreement, and every other sequence has its answer",
          "[generate]") {
    GenerateOptions options = options_of({group_by_name("luo"), group_by_name("kexec")}, 2);
    options.max_host_seconds = 3;
    options.on_sequence = [](u64 sequence) {
        constexpr std::string_view report = "sim/use.cpp:10:37: runtime error: signed integer overflow\n";
        if (sequence == 5) raise(SIGKILL);
        if (sequence == 17) _exit(3);
        while (sequence == 40) pause();
        if (sequence != 41) return;
        static_cast<void>(!write(STDERR_FILENO, report.data(), report.size()));
        _exit(1);
    };
    for (const unsigned jobs : {1U, 3U}) {
        options.jobs = jobs;
        const GenerateReport report = run_space({}, options);
        CHECK(report.complete());
        CHECK(report.runs > 100);
        CHECK(report.runs_two_kernels == report.runs - 4);
        std::vector<std::string> lines;
        for (const Disagreement& one : report.disagreements)
            lines.push_back(fmt::format("{} {} {}: {}", one.sequence, one.step, one.got, one.detail));
        CHECK(lines ==
              std::vector<std::string>{
                  "5 run crash: the simulator was killed by signal 9 (Killed)",
                  "17 run crash: the simulator ended with exit status 3",
                  "40 run hang: the simulator gave no answer in 3.0 s",
                  "41 run sanitizer: UndefinedBehaviorSanitizer: signed integer overflow in sim/use.cpp:10:37"});
        REQUIRE(report.groups.size() == 3);
        CHECK(report.groups.front().count == 2);
    }
}

TEST_CASE("what generate writes are scenario files that check and run accept", "[generate]") {
    const TempDir dir;
    const std::string out = (dir.path() / "cases").string();
    REQUIRE(
        exit_code(fmt::format("generate --alphabet luo,kexec,subsystem --length 2 --budget 50 --out {} --sample 12 "
                              "--json {}/result.json -q",
                              out, dir.path().string())) == 0);
    std::size_t count = 0;
    std::string files;
    for (const auto& entry : std::filesystem::directory_iterator(out)) {
        ++count;
        files += " " + entry.path().string();
        const Scenario scenario = load(entry.path());
        CHECK(scenario.name == entry.path().stem());
        CHECK(run(scenario).passed);
    }
    CHECK(count == 12);
    CHECK(exit_code("run -q" + files) == 0);
    std::ifstream json(dir.path() / "result.json");
    const std::string text(std::istreambuf_iterator<char>(json), {});
    CHECK(text.find("\"kexec-sim/generate-1\"") != std::string::npos);
    CHECK(text.find("\"complete\": false") != std::string::npos);
}

TEST_CASE("a mistake on the command line of generate is exit 2", "[generate]") {
    for (const std::string arguments : {"--alphabet memfd,lou", "--length 0", "--length x", "--profile linux-7.0",
                                        "--from nowhere", "--sample 3", "--jobs 0"})
        CHECK(exit_code("generate " + arguments + " 2>/dev/null") == 2);
}

TEST_CASE("an interrupted generate says what it knows and ends with 130", "[generate]") {
    const TempDir dir;
    const std::string json = (dir.path() / "result.json").string();
    const std::string command = fmt::format(
        "timeout --preserve-status -s INT 0.5 {} generate --length 4 --json {} "
        "-q 2>/dev/null",
        KEXEC_SIM_PROGRAM, json);
    const int status = std::system(command.c_str());
    REQUIRE(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 130);
    std::ifstream in(json);
    const std::string text(std::istreambuf_iterator<char>(in), {});
    CHECK(text.find("\"complete\": false") != std::string::npos);
}
