// Each invariant has scenarios in which it is violated on purpose, and they fail when it is silenced.
#include <catch2/catch.hpp>

#include <algorithm>
#include <cstdlib>

#include "tests/system/library.hpp"

using namespace system_test;

namespace {

/// Silences one invariant for as long as it lives.
class Mute {
public:
    explicit Mute(std::string_view invariant) { setenv("KEXEC_SIM_MUTE", std::string(invariant).c_str(), 1); }
    ~Mute() { unsetenv("KEXEC_SIM_MUTE"); }
    Mute(const Mute&) = delete;
    Mute& operator=(const Mute&) = delete;
};

bool in_guilty_folder(const std::string& name) {
    return name.starts_with("referee/") || name.starts_with("devices/") || name.starts_with("vm/");
}

bool expects(const Scenario& scenario, std::string_view invariant) {
    return std::ranges::find(scenario.expect.findings.ids, invariant) != scenario.expect.findings.ids.end();
}

}  // namespace

/// Scenarios that break a rule on purpose: those in referee/, devices/ and vm/, and those with a wrong module beside them.
std::vector<std::pair<std::string, Scenario>> guilty_scenarios() {
    std::vector<std::pair<std::string, Scenario>> scenarios;
    for (const auto& file : scenario_files())
        if (in_guilty_folder(scenario_name(file))) scenarios.emplace_back(scenario_name(file), load(file));
    for (const char* name : {"stale_pointer", "wild_read", "reentrant"}) {
        Scenario scenario =
            load(std::filesystem::path(KEXEC_SIM_TESTS_DIR) / "modules" / (std::string(name) + ".yaml"));
        scenario.modules.emplace_back(std::filesystem::path(KEXEC_SIM_MODULE_DIR) / (std::string(name) + ".so"));
        scenarios.emplace_back(std::string("modules/") + name, std::move(scenario));
    }
    return scenarios;
}

// Where a scenario accepts one of several findings, muting one of them need not make it fail; two that fail are
// demanded.
TEST_CASE("every invariant is violated on purpose by two scenarios that fail when it is muted", "[mute]") {
    const auto scenarios = guilty_scenarios();
    for (const auto& invariant : kexec_sim::invariants()) {
        unsigned red = 0;
        for (const auto& [name, scenario] : scenarios) {
            if (!expects(scenario, invariant.name)) continue;
            INFO(invariant.name << " in " << name);
            CHECK(run(scenario, Isolation::process).passed);
            const Mute mute(invariant.name);
            red += !run(scenario, Isolation::process).passed;
        }
        INFO(invariant.name);
        CHECK(red >= 2);
    }
}
