// Lines of the kernel log: each has a scenario in which it appears and one in which it must not.
//
// What must not appear is what scenarios say under `no-log`. Each of these texts must appear in the log of some other
// scenario, or it could be misspelt; each line that any kernel of any scenario logs must be one of them.
#include <catch2/catch.hpp>

#include <algorithm>
#include <map>
#include <set>

#include "tests/system/library.hpp"

using namespace system_test;
namespace fs = std::filesystem;

namespace {

/// What every kernel says as it boots, and what the test bench and the modules of the tests say of themselves.
bool needs_no_scenario(const std::string& line) {
    constexpr std::string_view beginnings[] = {"Linux version ",
                                               "Command line: ",
                                               "Memory: ",
                                               "Run /init as init process",
                                               "kexec_core: Starting new kernel",
                                               "subsystem '",
                                               "module",
                                               "other_abi.so: ",
                                               "the second time gives ",
                                               "without a tree: ",
                                               "no data yet",
                                               "data before registration: ",
                                               "full ",
                                               "plain boot: ",
                                               "quiet holds ",
                                               "the last page holds "};
    return std::ranges::any_of(beginnings, [&](std::string_view beginning) { return line.starts_with(beginning); });
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
    std::set<std::string> lines;
    const auto scenarios = all_scenarios();
    for (const auto& [name, scenario] : scenarios)
        for (const std::string& text : scenario.expect.no_log) unwanted[text] = false;
    for (const auto& [name, scenario] : scenarios) {
        RunOptions options;
        options.on_event = [&](const kexec_sim::TraceEvent& event) {
            if (event.name == "kernel.log" && !needs_no_scenario(event.text("text")))
                lines.insert(event.text("text"));
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
    CHECK(lines.size() > 60);
    for (const std::string& line : lines) {
        INFO("no scenario says under no-log that this must not appear: " << line);
        bool known = false;
        for (const auto& [text, seen] : unwanted) known = known || line.find(text) != std::string::npos;
        CHECK(known);
    }
}
