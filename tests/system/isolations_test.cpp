// Every scenario in both isolations, and twice: nothing of the host may show in what a run says.
#include <catch2/catch.hpp>

#include <algorithm>
#include <set>

#include "tests/system/library.hpp"

using namespace system_test;
namespace fs = std::filesystem;

namespace {

/// Those in which a kernel is killed by a signal of the host: inline isolation ends there, as it must.
const std::set<std::string> killed_by_a_signal = {"crash/killed-process"};

bool signal_arrived(const std::vector<Event>& events) {
    return std::ranges::any_of(
        events, [](const Event& event) { return event.text.find(" kernel.signal ") != std::string::npos; });
}

/// Where two runs of one scenario part, by their events.
std::string first_event_that_differs(const Scenario& scenario, Isolation left, Isolation right) {
    std::vector<Event> events[2];
    run_recorded(scenario, left, events[0]);
    run_recorded(scenario, right, events[1]);
    std::vector<std::string> lines[2];
    for (const int side : {0, 1})
        for (const Event& event : events[side])
            lines[side].push_back(std::to_string(event.generation) + " " + event.text);
    return first_difference(lines[0], lines[1]);
}

void check_equal(const Scenario& scenario, const RunResult& left, const RunResult& right, Isolation left_isolation,
                 Isolation right_isolation) {
    CHECK(first_difference(describe_steps(left), describe_steps(right)) == "");
    CHECK(first_difference(describe_findings(left), describe_findings(right)) == "");
    CHECK(first_difference(describe_log(left), describe_log(right)) == "");
    CHECK(left.ram_hash == right.ram_hash);
    CHECK(left.trace_hash == right.trace_hash);
    CHECK(left.trace_events == right.trace_events);
    if (left.trace_hash != right.trace_hash)
        WARN("first event that differs: " << first_event_that_differs(scenario, left_isolation, right_isolation));
}

}  // namespace

TEST_CASE("process and inline isolation agree in trace, memory, steps and findings", "[isolations]") {
    const auto files = scenario_files();
    REQUIRE(files.size() > 200);
    for (const auto& file : files) {
        INFO(scenario_name(file));
        const Scenario scenario = load(file);
        std::vector<Event> events;
        const RunResult process = run_recorded(scenario, Isolation::process, events);
        const bool killed = signal_arrived(events);
        CHECK(killed == killed_by_a_signal.contains(scenario_name(file)));
        if (!killed)
            check_equal(scenario, process, run(scenario, Isolation::inline_), Isolation::process, Isolation::inline_);
    }
}

TEST_CASE("a module that was loaded behaves alike in both isolations, and every time", "[isolations]") {
    const fs::path examples = fs::path(KEXEC_SIM_SOURCE_DIR) / "docs/examples";
    unsigned modules = 0;
    for (const auto& entry : fs::directory_iterator(examples)) {
        if (entry.path().extension() != ".yaml") continue;
        INFO(entry.path().string());
        Scenario scenario = load(entry.path());
        scenario.modules.emplace_back(fs::path(KEXEC_SIM_MODULE_DIR) / entry.path().stem().replace_extension(".so"));
        const RunResult process = run(scenario, Isolation::process);
        CHECK(process.passed);
        check_equal(scenario, process, run(scenario), Isolation::process, Isolation::inline_);
        check_equal(scenario, process, run(scenario), Isolation::process, Isolation::inline_);
        ++modules;
    }
    CHECK(modules > 0);
}

TEST_CASE("a second run in one process equals the first", "[isolations]") {
    for (const auto& file : scenario_files()) {
        if (killed_by_a_signal.contains(scenario_name(file))) continue;
        INFO(scenario_name(file));
        const Scenario scenario = load(file);
        const RunResult first = run(scenario);
        check_equal(scenario, first, run(scenario), Isolation::inline_, Isolation::inline_);
    }
}

TEST_CASE("a kernel that a signal killed leaves the same trace every time", "[isolations]") {
    for (const auto& name : killed_by_a_signal) {
        INFO(name);
        const Scenario scenario = load(scenario_file(name));
        const RunResult first = run(scenario, Isolation::process);
        CHECK(first.passed);
        check_equal(scenario, first, run(scenario, Isolation::process), Isolation::process, Isolation::process);
    }
}
