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

bool in_referee_folder(const std::string& name) { return name.starts_with("referee/"); }

bool expects(const Scenario& scenario, std::string_view invariant) {
    return std::ranges::find(scenario.expect.findings.ids, invariant) != scenario.expect.findings.ids.end();
}

}  // namespace

TEST_CASE("every invariant is violated on purpose by two scenarios, which fail when it is muted", "[mute]") {
    std::vector<std::pair<std::string, Scenario>> scenarios;
    for (const auto& file : scenario_files())
        if (in_referee_folder(scenario_name(file))) scenarios.emplace_back(scenario_name(file), load(file));
    for (const auto& invariant : kexec_sim::invariants()) {
        unsigned violated = 0;
        for (const auto& [name, scenario] : scenarios) {
            if (!expects(scenario, invariant.name)) continue;
            INFO(invariant.name << " in " << name);
            ++violated;
            CHECK(run(scenario).passed);
            const Mute mute(invariant.name);
            CHECK_FALSE(run(scenario).passed);
        }
        INFO(invariant.name);
        CHECK(violated >= 2);
    }
}
