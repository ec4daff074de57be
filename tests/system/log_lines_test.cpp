// Warnings and errors of the kernel log: each has a scenario in which it appears and one in which it must not.
//
// What must not appear is what scenarios say under `no-log`. Each of these texts must appear in the log of some other
// scenario, or it could be misspelt; each warning or error that any kernel of any scenario logs must be one of them.
#include <catch2/catch.hpp>

#include <map>
#include <set>

#include "tests/system/library.hpp"

using namespace system_test;
namespace fs = std::filesystem;

namespace {

/// What the test bench and modules say of themselves.
bool of_the_bench(const std::string& line) { return line.starts_with("subsystem '") || line.starts_with("module"); }

/// The text of a `kernel.log` event at level warn or err; empty for any other event.
std::string complaint(const kexec_sim::TraceEvent& event) {
    constexpr u64 warning = 4;
    return event.name == "kernel.log" && event.number("level") <= warning ? event.text("text") : std::string();
}

std::vector<std::pair<std::string, Scenario>> all_scenarios() {
    std::vector<std::pair<std::string, Scenario>> scenarios;
    for (const auto& file : scenario_files()) scenarios.emplace_back(scenario_name(file), load(file));
    for (const auto& entry : fs::directory_iterator(fs::path(KEXEC_SIM_TESTS_DIR) / "modules")) {
        if (entry.path().extension() != ".yaml") continue;
        Scenario scenario = load(entry.path());
        scenario.modules.emplace_back(fs::path(KEXEC_SIM_MODULE_DIR) / entry.path().stem().replace_extension(".so"));
        scenarios.emplace_back("modules/" + entry.path().stem().string(), std::move(scenario));
    }
    return scenarios;
}

}  // namespace

TEST_CASE("each line of the kernel log appears in one scenario and must not in another", "[log_lines]") {
    std::map<std::string, bool> unwanted;  // a text under `no-log`, and whether some scenario has it
    std::set<std::string> complaints;
    const auto scenarios = all_scenarios();
    for (const auto& [name, scenario] : scenarios)
        for (const std::string& text : scenario.expect.no_log) unwanted[text] = false;
    for (const auto& [name, scenario] : scenarios) {
        RunOptions options;
        options.on_event = [&](const kexec_sim::TraceEvent& event) {
            const std::string line = complaint(event);
            if (!line.empty() && !of_the_bench(line)) complaints.insert(line);
        };
        const RunResult result = kexec_sim::sim::run_scenario(scenario, options);
        for (const auto& [generation, line] : result.log)
            for (auto& [text, seen] : unwanted) seen = seen || line.find(text) != std::string::npos;
    }
    CHECK(unwanted.size() > 40);
    for (const auto& [text, seen] : unwanted) {
        INFO("no scenario has in its log: " << text);
        CHECK(seen);
    }
    CHECK(complaints.size() > 40);
    for (const std::string& line : complaints) {
        INFO("no scenario says under no-log that this must not appear: " << line);
        bool known = false;
        for (const auto& [text, seen] : unwanted) known = known || line.find(text) != std::string::npos;
        CHECK(known);
    }
}
