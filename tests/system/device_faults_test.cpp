// The catalogue of device faults: each row has its scenario, and without its planned fault nothing is found.
#include <catch2/catch.hpp>

#include <fstream>
#include <regex>
#include <set>

#include "tests/system/library.hpp"

using namespace system_test;

namespace {

bool of_devices(const std::string& name) { return name.starts_with("devices/") || name.starts_with("vm/"); }

std::string text_of(const std::filesystem::path& file) {
    std::ifstream stream(file);
    return {std::istreambuf_iterator<char>(stream), {}};
}

}  // namespace

TEST_CASE("a device scenario whose planned fault is left out ends without a finding", "[device_faults]") {
    unsigned tried = 0;
    for (const auto& file : scenario_files()) {
        if (!of_devices(scenario_name(file))) continue;
        Scenario scenario = load(file);
        if (scenario.faults.empty()) continue;
        INFO(scenario_name(file));
        scenario.faults.clear();
        scenario.expect = {};
        const RunResult result = run(scenario);
        CHECK(describe_findings(result) == std::vector<std::string>{});
        ++tried;
    }
    CHECK(tried > 15);
}

TEST_CASE("every row of the catalogue of device faults names scenarios that name the row", "[device_faults]") {
    const std::string page = text_of(std::filesystem::path(KEXEC_SIM_SOURCE_DIR) / "docs" / "devices" / "faults.md");
    const std::regex row("\\| ([0-9]+) \\|[^|]*\\|[^|]*\\|([^|]*)\\|");
    const std::regex name("`([A-Za-z0-9-]+)`");
    std::set<int> rows;
    for (std::sregex_iterator at(page.begin(), page.end(), row), end; at != end; ++at) {
        const int number = std::stoi((*at)[1]);
        const std::string cell = (*at)[2];
        rows.insert(number);
        for (std::sregex_iterator one(cell.begin(), cell.end(), name); one != end; ++one) {
            INFO("row " << number << ", " << (*one)[1]);
            const auto files = scenario_files();
            const auto file = std::ranges::find_if(files, [&](const auto& candidate) {
                return candidate.stem() == (*one)[1].str() && of_devices(scenario_name(candidate));
            });
            REQUIRE(file != files.end());
            const std::string text = text_of(*file);
            CHECK(std::regex_search(text, std::regex("Row " + std::to_string(number) + "\\b")));
        }
    }
    for (int number = 1; number <= 33; ++number)
        if (number != 21 && number != 22) CHECK(rows.contains(number));
    for (int number = 38; number <= 41; ++number) CHECK(rows.contains(number));
}
