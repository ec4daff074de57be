// Two kernels share RAM and boot parameters and nothing else: a run that is cut in two at its jump shows it.
//
// Every scenario with one jump is stopped there, in one run, and resumed by another from the two files. Steps, kernel
// log and findings are those of the uncut run; so they are after everything that the parameters do not lead to has been
// zeroed; and they are not if a byte of a preserved file, or the map, was changed in between.
#include <catch2/catch.hpp>

#include <algorithm>
#include <functional>
#include <map>
#include <set>

#include "tests/system/handover.hpp"

using namespace system_test;
namespace sim = kexec_sim::sim;

namespace {

struct Case {
    std::string name;
    Scenario scenario;
    RunResult uncut;
    Generation generation = 0;
};

/// Calls `body` for every scenario with exactly one jump.
void each_with_one_jump(const std::function<void(const Case&)>& body) {
    unsigned cases = 0;
    for (const auto& file : scenario_files()) {
        Case one{scenario_name(file), load(file), {}, 0};
        if (one.scenario.machine.has_devices()) continue;  // cannot be resumed
        one.uncut = run(one.scenario);
        const auto found = jumps(one.uncut);
        if (found.size() != 1) continue;
        one.generation = found.front();
        ++cases;
        INFO(one.name);
        body(one);
    }
    CHECK(cases > 80);
}

/// Steps that ran after the jump, as lines.
std::vector<std::string> steps_after(const Case& one, const RunResult& result, std::size_t jump_at,
                                     std::size_t first) {
    std::vector<std::string> lines;
    const auto order = execution_order(one.scenario);
    for (std::size_t i = first; i < result.executed.size(); ++i) {
        const auto& step = result.steps.at(order.at(jump_at + 1 + i - first));
        lines.push_back(step.name + " (line " + std::to_string(step.line) + "): " + result.executed[i] + "; " +
                        step.detail);
    }
    return lines;
}

/// What the jump's own step came to: with "panic" the successor did not reach user space.
bool successor_boots(const Case& one, const StoppedRun& stopped) {
    return one.uncut.executed.at(stopped.jump_at()) == "ok";
}

/// Everything that the uncut run says of the second half, the resumed one says too. A successor that never reaches user
/// space ends the resumed run, so that there only its own generation can be compared.
void check_same(const Case& one, const StoppedRun& stopped, const RunResult& resumed) {
    const std::size_t jump_at = stopped.jump_at();
    RunResult uncut = one.uncut;
    const bool boots = successor_boots(one, stopped);
    if (!boots) {
        std::erase_if(uncut.log, [&](const auto& line) { return line.first > one.generation; });
        std::erase_if(uncut.findings, [&](const auto& finding) { return finding.generation > one.generation; });
        CHECK(resumed.executed.empty());
        CHECK(resumed.generations.back().end == "panic");
    } else {
        CHECK(first_difference(steps_after(one, uncut, jump_at, jump_at + 1),
                               steps_after(one, resumed, jump_at, 0)) == "");
        CHECK(uncut.ram_hash == resumed.ram_hash);
        CHECK(uncut.virtual_ns == resumed.virtual_ns);
        CHECK(uncut.blackouts_ns == resumed.blackouts_ns);
    }
    CHECK(first_difference(describe_log(uncut, one.generation), describe_log(resumed, one.generation)) == "");
    // As a set: the order within one moment follows names that the two runs may have met in another order.
    auto wanted = describe_findings(uncut, one.generation), found = describe_findings(resumed, one.generation);
    std::ranges::sort(wanted);
    std::ranges::sort(found);
    CHECK(first_difference(wanted, found) == "");
}

}  // namespace

TEST_CASE("a run cut in two at its jump goes on as if it had not been cut", "[cut]") {
    each_with_one_jump([](const Case& one) {
        const StoppedRun stopped(one.scenario, one.generation);
        check_same(one, stopped, run(stopped.resumed(one.scenario)));
    });
}

TEST_CASE("memory that the boot parameters do not lead to may be zeroed in between", "[cut]") {
    // In these the successor reads what nothing led it to, and they are about that.
    const std::map<std::string, std::string> reads_more = {};
    each_with_one_jump([&](const Case& one) {
        if (reads_more.contains(one.name)) return;
        StoppedRun stopped(one.scenario, one.generation);
        CHECK(stopped.ram().zero_all_but(stopped.reachable()) > 0);
        RunResult resumed = run(stopped.resumed(one.scenario));
        resumed.ram_hash = one.uncut.ram_hash;  // what was zeroed is missing at the end as well
        check_same(one, stopped, resumed);
    });
}
