// A scenario that is written out and read again runs as it did.
#include <catch2/catch.hpp>

#include "sim/scenario_text.hpp"
#include "tests/system/library.hpp"

using namespace system_test;
using namespace kexec_sim::sim;

namespace {

Scenario reread(const Scenario& scenario) { return parse_scenario(scenario_text(scenario), scenario.path); }

/// What a run gave, but for what depends on the numbers of lines.
std::vector<std::string> described(const Scenario& scenario) {
    const RunResult result = run(scenario);
    std::vector<std::string> lines = describe_findings(result);
    for (const std::string& one : result.executed) lines.push_back(one);
    for (const std::string& one : result.failures) lines.push_back(one);
    lines.push_back(result.ram_hash);
    lines.push_back(std::to_string(result.virtual_ns));
    return lines;
}

}  // namespace

TEST_CASE("every scenario of the library runs alike when it is written out and read again", "[scenario_text]") {
    for (const auto& file : scenario_files()) {
        INFO(scenario_name(file));
        const Scenario scenario = load(file), again = reread(scenario);
        CHECK(scenario_text(again) == scenario_text(scenario));
        if (!scenario.modules.empty()) continue;  // as C code in this process: run by others
        CHECK(first_difference(described(scenario), described(again)) == "");
    }
}

TEST_CASE("text with quotes, line breaks and control characters is written so that it can be read again",
          "[scenario_text]") {
    const std::string odd = R"("\" \\ \n \t \r \0 \x01 \x1f \x7f ä")";
    const Scenario scenario = parse_scenario(R"(
format: 1
scenario: odd
summary: Text that needs quoting.
machine: {memory: 512MiB}
kernels: [{cmdline: "kho=on liveupdate=on"}]
steps:
  - note: )" + odd + R"(
  - memfd.create: {name: ram, size: 4KiB}
  - memfd.write: {fd: ram, text: )" + odd + R"(}
    note: )" + odd + R"(
)",
                                             "odd.yaml");
    const Scenario again = reread(scenario);
    CHECK(again.steps.at(2).note == scenario.steps.at(2).note);
    CHECK(again.steps.at(2).text == scenario.steps.at(2).text);
    CHECK(described(again) == described(scenario));
}
