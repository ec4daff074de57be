// The bug zoo: every mutant is caught by an invariant of the referee, and nothing is seen where there is none.
//
//   scenarios/bugs/NAME.yaml   has one mutant on its kernels, and expects what the referee makes of it
//
// A step that a mutant gives another result takes it from a parameter: `expect: "${prepare}"` with
// `{prepare: ok, prepare-without-mutant: E2BIG}`. Where the defect is in the handling of an error there are two
// scenarios: one without a fault, which passes in silence, and one with the fault that exploration finds for it.
#include <catch2/catch.hpp>

#include <algorithm>
#include <cstdio>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <map>
#include <set>

#include "sim/explore/explorer.hpp"
#include "tests/system/library.hpp"

using namespace system_test;
using kexec_sim::Mutant;
using kexec_sim::MutantInfo;
using kexec_sim::mutants;
using kexec_sim::MutantSet;

namespace {

namespace sim = kexec_sim::sim;

constexpr std::string_view suffix = "-without-mutant";

struct Bug {
    std::string name;
    std::string path;
    Scenario sick;   // as in the file
    Scenario sound;  // without mutants, and with the results that this gives
    MutantSet mutants;
};

void set_mutants(Scenario& scenario, MutantSet set) {
    for (auto& kernel : scenario.kernels) kernel.mutants = set;
}

/// The parameters of a sound kernel: NAME-without-mutant becomes NAME.
Scenario load_sound(const std::filesystem::path& file) {
    sim::LoadOptions options;
    const Scenario as_is = load(file);
    for (const auto& [key, value] : as_is.parameters)
        if (key.ends_with(suffix)) options.overrides[key.substr(0, key.size() - suffix.size())] = value;
    Scenario scenario = sim::load_scenario(file, options);
    set_mutants(scenario, {});
    return scenario;
}

std::vector<Bug> bugs() {
    std::vector<Bug> all;
    for (const auto& file : scenario_files()) {
        const std::string name = scenario_name(file);
        if (!name.starts_with("bugs/")) continue;
        Bug bug{name.substr(5), file.string(), load(file), load_sound(file), {}};
        for (const auto& kernel : bug.sick.kernels)
            for (const MutantInfo& info : mutants())
                if (kernel.mutants.has(info.id)) bug.mutants.add(info.id);
        all.push_back(std::move(bug));
    }
    return all;
}

std::set<std::string> findings_of(const RunResult& result) {
    std::set<std::string> ids;
    for (const auto& finding : result.findings) ids.insert(invariant_of(finding));
    return ids;
}

std::set<std::string> without(std::set<std::string> ids, const std::set<std::string>& others) {
    for (const std::string& id : others) ids.erase(id);
    return ids;
}

bool steps_passed(const RunResult& result) {
    return std::ranges::none_of(result.steps, [](const auto& step) { return step.outcome == "fail"; });
}

}  // namespace

TEST_CASE("a scenario of the zoo shows its bug, and is silent without the mutant", "[zoo]") {
    for (const Bug& bug : bugs()) {
        INFO(bug.name);
        for (const Isolation isolation : {Isolation::inline_, Isolation::process}) {
            const RunResult sick = run(bug.sick, isolation);
            CAPTURE(sick.failures);
            CHECK(sick.passed);
        }
        const RunResult sound = run(bug.sound);
        CAPTURE(describe_findings(sound), sound.failures);
        CHECK(steps_passed(sound));
        // A planned fault may cost something in any kernel; then that is said.
        const std::set<std::string> may =
            bug.sick.faults.empty() ? std::set<std::string>{} : std::set<std::string>{"loss.reported"};
        CHECK(without(findings_of(sound), may).empty());
    }
}

TEST_CASE("every mutant is caught by a scenario of its own", "[zoo]") {
    const std::vector<Bug> all = bugs();
    for (const MutantInfo& info : mutants()) {
        if (!info.modelled()) continue;
        INFO(info.name);
        CHECK(std::ranges::any_of(all, [&](const Bug& bug) {
            MutantSet only;
            only.add(info.id);
            return bug.mutants == only && !without(findings_of(run(bug.sick)), findings_of(run(bug.sound))).empty();
        }));
    }
}

TEST_CASE("the whole zoo: every mutant in every scenario", "[zoo]") {
    const std::vector<Bug> all = bugs();
    std::vector<std::set<std::string>> silent;
    for (const Bug& bug : all) silent.push_back(findings_of(run(bug.sound)));

    std::string table = "\nscenarios of scenarios/bugs:\n";
    for (std::size_t i = 0; i < all.size(); ++i) table += fmt::format("  {:2}  {}\n", i + 1, all[i].name);
    table += "\ncaught where (number of the scenario) and by what; * is its own scenario:\n";
    for (const MutantInfo& info : mutants()) {
        if (!info.modelled()) {
            table += fmt::format("  {:12} not modelled yet: {}\n", info.name, info.later);
            continue;
        }
        MutantSet only;
        only.add(info.id);
        std::map<std::string, std::vector<std::string>> caught;
        for (std::size_t i = 0; i < all.size(); ++i) {
            const bool own = all[i].mutants == only;
            Scenario scenario = own ? all[i].sick : all[i].sound;
            if (!own) set_mutants(scenario, only);
            for (const std::string& id : without(findings_of(run(scenario)), silent[i]))
                caught[id].push_back(fmt::format("{}{}", i + 1, own ? "*" : ""));
        }
        std::string line;
        for (const auto& [id, where] : caught)
            line += fmt::format("{}{} ({})", line.empty() ? "" : ", ", id, fmt::join(where, " "));
        table += fmt::format("  {:12} {}\n", info.name, line.empty() ? "by nothing" : line);
        INFO(info.name);
        CHECK(!caught.empty());
    }
    std::fputs(table.c_str(), stdout);
}

namespace {

/// A scenario without a fault, in which exploration must find by itself what another one plans.
struct Search {
    const char* scenario;
    const char* points;
    const char* invariant;
};
constexpr Search searches[] = {
    {"huge-area-cannot-be-undone", "kho.preserve", "frame.accounted"},
    {"area-that-cannot-fail", "mm.folio_alloc", "loss.silent"},
    {"cleanup-never-needed", "kho.restore", "frame.once"},
    {"accounting-never-fails", "mm.shmem_account", "kernel.sane"},
    {"hole-never-needed", "kho.restore", "frame.intact"},
};

std::set<std::string> explored(const Scenario& scenario, const char* points) {
    sim::ExploreOptions options;
    options.candidates.points = points;
    options.candidates.actions = *sim::ActionChoice::parse("fail");
    options.jobs = 2;
    const auto report = sim::explore(scenario, options, {}, [] { return false; });
    CHECK(report.baseline.passed);
    CHECK(report.complete);
    std::set<std::string> ids;
    for (const auto& group : report.groups) ids.insert(group.violation.id);
    return ids;
}

}  // namespace

TEST_CASE("exploration finds by itself the mutants that need a fault", "[zoo]") {
    std::set<std::string> planned;
    for (const Search& search : searches) {
        INFO(search.scenario);
        const auto file = scenario_file(std::string("bugs/") + search.scenario);
        const Scenario sick = load(file);
        CHECK(sick.faults.empty());
        CHECK(sick.expect.findings.ids.empty());
        CHECK(explored(sick, search.points).contains(search.invariant));
        // A sound kernel stands the same faults.
        const auto sound = explored(load_sound(file), search.points);
        CAPTURE(sound);
        CHECK(sound.empty());
    }
}
