// The catalogue of device faults: each row has its scenario, and without its fault nothing is found.
//
//   | row | where | fault | scenario, … | silent |
//                               │           ├ "without the plan": the scenario itself, its `faults:` left out
//                               │           └ a twin: a scenario in which a step does not go wrong, and nothing is found
//                               └ its comment names the row
#include <catch2/catch.hpp>

#include <algorithm>
#include <fstream>
#include <map>
#include <regex>

#include "tests/system/library.hpp"

using namespace system_test;

namespace {

constexpr std::size_t lines_of_difference_max = 6;

bool of_devices(const std::string& name) { return name.starts_with("devices/") || name.starts_with("vm/"); }

std::string text_of(const std::filesystem::path& file) {
    std::ifstream stream(file);
    return {std::istreambuf_iterator<char>(stream), {}};
}

struct Row {
    int number;
    std::string scenarios, silent;
};
std::vector<Row> catalogue() {
    const std::string page = text_of(std::filesystem::path(KEXEC_SIM_SOURCE_DIR) / "docs" / "devices" / "faults.md");
    const std::regex row("\\| ([0-9]+) \\|[^|]*\\|[^|]*\\|([^|]*)\\|([^|]*)\\|");
    std::vector<Row> rows;
    for (std::sregex_iterator at(page.begin(), page.end(), row), end; at != end; ++at)
        rows.push_back({std::stoi((*at)[1]), (*at)[2], (*at)[3]});
    return rows;
}

/// `name`: of a scenario in devices/ or vm/, or with its folder.
std::filesystem::path file_named(const std::string& name) {
    for (const auto& file : scenario_files())
        if (scenario_name(file) == name || (file.stem() == name && of_devices(scenario_name(file)))) return file;
    FAIL("there is no scenario " << name);
    return {};
}

std::vector<std::filesystem::path> files_in(const std::string& cell) {
    const std::regex name("`([A-Za-z0-9/-]+)`");
    std::vector<std::filesystem::path> files;
    for (std::sregex_iterator at(cell.begin(), cell.end(), name), end; at != end; ++at)
        files.push_back(file_named((*at)[1]));
    return files;
}

/// Lines from the machine on, but comments, and how often each occurs.
std::map<std::string, std::size_t> lines_of(const std::filesystem::path& file) {
    std::ifstream stream(file);
    std::map<std::string, std::size_t> lines;
    bool begun = false;
    for (std::string line; std::getline(stream, line);) {
        begun |= line.starts_with("machine:");
        if (begun && !line.empty() && !line.starts_with("#")) ++lines[line];
    }
    return lines;
}

std::size_t lines_only_in(const std::filesystem::path& file, const std::filesystem::path& other) {
    const auto theirs = lines_of(other);
    std::size_t count = 0;
    for (const auto& [line, times] : lines_of(file)) {
        const auto there = theirs.find(line);
        count += times - std::min(times, there == theirs.end() ? 0 : there->second);
    }
    return count;
}

/// Its plan makes a kexec fail, and what follows is a second attempt.
bool tries_again(const Scenario& scenario) {
    return std::ranges::any_of(scenario.steps, [](const auto& step) {
        return step.id == kexec_sim::sim::StepId::kexec && step.expected != "ok" && step.expected != "panic";
    });
}

/// The scenario as it is, but for its plan, and to its end whatever the steps answer now.
std::vector<std::string> findings_without_plan(Scenario scenario) {
    scenario.faults.clear();
    scenario.expect = {};
    return describe_findings(tries_again(scenario) ? run(scenario) : run_to_the_end(std::move(scenario)));
}

}  // namespace

TEST_CASE("a device scenario whose planned fault is left out ends without a finding", "[device_faults]") {
    unsigned tried = 0;
    for (const auto& file : scenario_files()) {
        if (!of_devices(scenario_name(file))) continue;
        const Scenario scenario = load(file);
        if (scenario.faults.empty()) continue;
        INFO(scenario_name(file));
        CHECK(findings_without_plan(scenario) == std::vector<std::string>{});
        ++tried;
    }
    CHECK(tried > 15);
}

TEST_CASE("every row of the catalogue of device faults names scenarios that name the row", "[device_faults]") {
    std::map<int, Row> rows;
    for (const Row& row : catalogue()) {
        rows[row.number] = row;
        for (const auto& file : files_in(row.scenarios)) {
            INFO("row " << row.number << ", " << scenario_name(file));
            CHECK(std::regex_search(text_of(file), std::regex("Row " + std::to_string(row.number) + "\\b")));
        }
    }
    for (int number = 1; number <= 33; ++number)
        if (number != 21 && number != 22) CHECK(rows.contains(number));
    for (int number = 38; number <= 41; ++number) CHECK(rows.contains(number));
}

TEST_CASE("every row of the catalogue of device faults has a scenario that is silent without the fault",
          "[device_faults]") {
    unsigned twins = 0;
    for (const Row& row : catalogue()) {
        INFO("row " << row.number);
        const auto faulty = files_in(row.scenarios);
        if (faulty.empty()) continue;
        if (row.silent.find("without the plan") != std::string::npos) {
            CHECK(!load(faulty.front()).faults.empty());
            continue;
        }
        const auto silent = files_in(row.silent);
        REQUIRE(silent.size() == 1);
        INFO(scenario_name(faulty.front()) << " and " << scenario_name(silent.front()));
        const Scenario twin = load(silent.front());
        CHECK(twin.faults.empty());
        CHECK(describe_findings(run(twin)) == std::vector<std::string>{});
        CHECK(lines_only_in(faulty.front(), silent.front()) > 0);
        CHECK(lines_only_in(faulty.front(), silent.front()) <= lines_of_difference_max);
        CHECK(lines_only_in(silent.front(), faulty.front()) <= lines_of_difference_max);
        ++twins;
    }
    CHECK(twins >= 10);
}
