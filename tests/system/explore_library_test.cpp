// The shipped code under every single fault of every scenario.
//
//   [explore_library]    a sample, part of every test run: the first visits of each point of each scenario, repaired kernels
//   [.explore_strict]    all of depth 1, repaired kernels: nothing of severity corruption, leak or stuck
//   [.explore_literal]   all of depth 1, kernels as the scenarios have them: what documented defects produce, by their names
//   [.explore_corrupt]   all of depth 1, corrupting actions: no hang, no wild read, no crash, no bug of the simulator
//   [.explore_pairs]     the main scenarios at depth 2, within a budget
//
// The long ones are `ctest -L explore`. Each prints what it did.
#include <catch2/catch.hpp>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fmt/format.h>
#include <map>
#include <set>
#include <span>
#include <thread>

#include "sim/explore/explorer.hpp"
#include "tests/system/library.hpp"

using namespace system_test;
using namespace kexec_sim::sim;
using kexec_sim::glob_matches;

namespace {

/// What kernels are known to do under a fault, and what it is called (docs/fidelity.md).
struct Known {
    std::string_view defect, violation, action, phase;  // globs, but for the first
    std::string_view message = "*";
};
constexpr Known known_repaired[] = {
    {"LUO-D9", "epilogue", "*", "*", "retrieve and finish: panic: *can't find property*"},
    {"an empty file cannot be prepared", "epilogue", "*", "*", "prepare again: EINVAL"},
    {"lost record of a device", "luo.resource", "fail", "*"},
};
constexpr Known known_as_posted[] = {
    {"LUO-D9", "epilogue", "*", "*", "retrieve and finish: panic: *can't find property*"},
    {"an empty file cannot be prepared", "epilogue", "*", "*", "prepare again: EINVAL"},
    {"LUO-D4, LUO-D5", "luo.rollback", "fail", "freeze"},
    {"LUO-D4, LUO-D5", "epilogue", "fail", "freeze"},
    {"LUO-D6", "luo.rollback", "fail", "prepare"},
    {"LUO-D6", "epilogue", "fail", "prepare"},
    {"LUO-D6", "luo.rollback", "fail", "boot"},  // what KHO lacks from its boot on is missed at the end of PREPARE
    {"LUO-D6", "epilogue", "fail", "boot"},
    {"LUO-D7", "frame.accounted", "kill-agent", "*"},
    {"refused handover, devices run on", "dma.contained", "fail", "boot"},
    {"refused handover, guests own memory", "snp.reverse_map", "fail", "boot"},
    {"translation off until the new tables are there", "iommu.tables", "*", "*"},
    {"translation off until the new tables are there", "dma.contained", "*", "*"},
    {"half a list of devices", "pci.stable", "fail", "boot"},
    {"lost record of a device", "luo.resource", "fail", "*"},
};

struct Totals {
    u64 scenarios = 0, skipped = 0, runs = 0, two_kernels = 0, incomplete = 0;
    std::map<std::string, u64> by_defect;
};

Scenario load_as(const std::filesystem::path& file, bool strict) {
    LoadOptions options;
    options.strict = strict;
    return load_scenario(file, options);
}

std::string_view defect_of(std::span<const Known> all, const ViolationGroup& group) {
    for (const Known& known : all)
        if (glob_matches(known.violation, group.violation.id) && glob_matches(known.phase, group.outcome.phase) &&
            glob_matches(known.message, group.violation.message) &&
            glob_matches(known.action, kexec_sim::fault_kind_name(group.plan.front().action.kind)))
            return known.defect;
    return {};
}
const auto of_repaired = [](const ViolationGroup& group) { return defect_of(known_repaired, group); };
const auto of_posted = [](const ViolationGroup& group) { return defect_of(known_as_posted, group); };

/// Explores each scenario of the library for which `wanted` says so; every group that `excused` does not excuse fails.
Totals explore_library(bool strict, const ExploreOptions& options, auto&& wanted, auto&& excused) {
    Totals totals;
    for (const auto& file : scenario_files()) {
        // Kernels of the bug zoo are sick on purpose; zoo_test.cpp explores them.
        if (!wanted(scenario_name(file)) || scenario_name(file).starts_with("bugs/")) continue;
        const Scenario scenario = load_as(file, strict);
        const ExploreReport report = explore(scenario, options, {}, {});
        if (!report.baseline.passed) {
            // It shows a defect that the repaired kernel does not have.
            CHECK(strict);
            ++totals.skipped;
            continue;
        }
        ++totals.scenarios;
        totals.runs += report.runs;
        totals.two_kernels += report.runs_two_kernels;
        totals.incomplete += !report.complete;
        for (const ViolationGroup& group : report.groups) {
            const std::string_view why = excused(group);
            if (!why.empty()) {
                totals.by_defect[std::string(why)] += group.plans;
                continue;
            }
            FAIL_CHECK(scenario_name(file)
                       << ": " << group.violation.id << " (" << group.violation.severity
                       << "): " << group.violation.resource << ": " << group.violation.message << "\n  "
                       << group.plans << " plans, as " << plan_text(group.plan) << "\n  in " << group.where);
        }
    }
    std::string text =
        fmt::format("{} scenarios, {} runs, {} with two kernels; {} left out, {} not complete\n", totals.scenarios,
                    totals.runs, totals.two_kernels, totals.skipped, totals.incomplete);
    for (const auto& [defect, plans] : totals.by_defect) text += fmt::format("  {}: {} plans\n", defect, plans);
    std::fputs(text.c_str(), stdout);
    return totals;
}

ExploreOptions all_cores() {
    ExploreOptions options;
    options.jobs = std::max(1U, std::thread::hardware_concurrency());
    return options;
}

const auto every_scenario = [](const std::string&) { return true; };
const auto nothing = [](const ViolationGroup&) -> std::string_view { return {}; };

/// Their runs are long: left to `ctest -L explore`.
bool is_heavy(const std::string& name) {
    static const std::set<std::string> heavy{"memfd/largest", "vm/largest-guest", "memfd/large-folios"};
    return heavy.contains(name);
}

}  // namespace

TEST_CASE("a sample of single faults in every scenario violates nothing in repaired kernels", "[explore_library]") {
    ExploreOptions options = all_cores();
    options.budget = 16;
    options.seconds = 2;
    const Totals totals = explore_library(
        true, options, [](const std::string& name) { return !is_heavy(name); }, of_repaired);
    CHECK(totals.scenarios > 380);
}

TEST_CASE("no single fault in any scenario violates anything in repaired kernels", "[.explore_strict]") {
    explore_library(true, all_cores(), every_scenario, of_repaired);
}

TEST_CASE("what single faults violate in kernels as posted is known by name", "[.explore_literal]") {
    explore_library(false, all_cores(), every_scenario, of_posted);
}

TEST_CASE("no corruption of what is handed over makes a kernel hang, read wild, or the simulator fail",
          "[.explore_corrupt]") {
    ExploreOptions options = all_cores();
    options.candidates.actions = ActionChoice::parse("corrupting").value();
    explore_library(false, options, every_scenario, nothing);
}

TEST_CASE("pairs of faults in the main scenarios violate nothing in repaired kernels", "[.explore_pairs]") {
    ExploreOptions options = all_cores();
    options.depth = 2;
    options.budget = 100'000;
    static const std::set<std::string> main_ones{
        "memfd-survives",      "subsystem-rollback",      "kho-folio",
        "luo/quiet-update",    "luo/cancel-and-again",    "subsystems/freeze-fails-strict",
        "chains/6.16-to-6.18", "reserve-mem/two-entries", "vm/vm-live-update",
        "devices/undisturbed"};
    explore_library(
        true, options, [](const std::string& name) { return main_ones.contains(name); }, of_repaired);
}
