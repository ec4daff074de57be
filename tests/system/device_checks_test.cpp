// Each check of devices has a scenario that trips it, and nothing else in the referee says so when it is muted.
//
//   docs/devices/oracle.md   | id | check | judged by | tripped by |
#include <catch2/catch.hpp>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <regex>

#include "tests/system/library.hpp"

using namespace system_test;

namespace {

struct Row {
    std::string check, scenario;
};
std::vector<Row> rows_of_page() {
    std::ifstream stream(std::filesystem::path(KEXEC_SIM_SOURCE_DIR) / "docs" / "devices" / "oracle.md");
    const std::string page{std::istreambuf_iterator<char>(stream), {}};
    const std::regex row("\\| ([DIFM][0-9]) \\|[^|]*\\|[^|]*\\| `([a-z0-9/-]+)` \\|");
    std::vector<Row> rows;
    for (std::sregex_iterator at(page.begin(), page.end(), row), end; at != end; ++at)
        rows.push_back({(*at)[1], (*at)[2]});
    return rows;
}

std::filesystem::path file_of(const std::string& scenario) {
    return scenario_file(scenario.find('/') == std::string::npos ? "devices/" + scenario : scenario);
}

bool trips(const Scenario& scenario, std::string_view check) {
    const RunResult result = run_to_the_end(scenario);
    return std::ranges::any_of(result.findings,
                               [&](const auto& finding) { return check_name(finding.check) == check; });
}

}  // namespace

TEST_CASE("each check of devices is tripped by the scenario that the page of the oracle names", "[device_checks]") {
    const auto rows = rows_of_page();
    std::size_t checks = 0;
#define DEVICE_CHECK(id, name) ++checks;
#include "machine/device_checks.def"
#undef DEVICE_CHECK
    CHECK(rows.size() == checks);
    for (const Row& row : rows) {
        INFO("check " << row.check << " in " << row.scenario);
        const Scenario scenario = load(file_of(row.scenario));
        CHECK(trips(scenario, row.check));
        setenv("KEXEC_SIM_MUTE", row.check.c_str(), 1);
        CHECK_FALSE(trips(scenario, row.check));
        unsetenv("KEXEC_SIM_MUTE");
    }
}
