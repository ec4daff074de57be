// Exploration of whole scenarios: what it finds, that it finds the same however it is carried out, and what it writes.
#include <catch2/catch.hpp>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>

#include "machine/result.hpp"
#include "sim/explore/explorer.hpp"
#include "sim/explore/forking_run.hpp"
#include "sim/explore/journal.hpp"
#include "sim/explore/reproduction.hpp"
#include "tests/support/update_scenario.hpp"
#include "tests/system/library.hpp"

using namespace system_test;
using namespace kexec_sim::sim;

namespace {

Scenario small(std::string_view defects) { return test_support::update_scenario({.defects = defects}); }

/// What exploration sets up before its first plan.
struct Baseline {
    explicit Baseline(const Scenario& scenario) {
        RunOptions plain;
        plain.isolation = Isolation::inline_;
        plain.record_visits = true;
        RunResult result = run_scenario(scenario, plain);
        visits = std::move(result.visits);
        options.baseline = std::move(result.executed);
        options.max_virtual_ns = 1'000'000'000'000;
    }
    std::vector<kexec_sim::FaultInjector::Visits> visits;
    PoolOptions options;
};

ExploreReport explored(const Scenario& scenario, const ExploreOptions& options) {
    return explore(scenario, options, {}, {});
}

std::vector<std::string> causes(const ExploreReport& report) {
    std::vector<std::string> all;
    for (const ViolationGroup& group : report.groups)
        all.push_back(plan_text(group.plan) + " " + group.violation.id + " " + group.violation.resource + " " +
                      group.where);
    return all;
}

bool has_cause(const ExploreReport& report, std::string_view id, std::string_view point) {
    return std::ranges::any_of(report.groups, [&](const ViolationGroup& group) {
        return group.violation.id == id && kexec_sim::fault_point_info(group.plan.front().point).name == point;
    });
}

}  // namespace

TEST_CASE("single faults of a small update: what the literal edition does wrong is found", "[explore]") {
    ExploreOptions options;
    const ExploreReport report = explored(small("literal"), options);
    REQUIRE(report.baseline.passed);
    CHECK(report.complete);
    CHECK_FALSE(report.thinned);
    CHECK(report.runs == report.plans_known);
    CHECK(report.runs > 500);
    CHECK(report.not_reached == 0);
    CHECK(report.verified > 5);
    // LUO-D4 and D5: a failed freeze leaves KHO finalized, and those behind it prepared.
    CHECK(has_cause(report, "luo.rollback", "luo.subsystem.freeze"));
    CHECK(has_cause(report, "luo.rollback", "luo.file.freeze"));
    for (const ViolationGroup& group : report.groups) CHECK(group.violation.id != "determinism");
}

TEST_CASE("two workers find what one does", "[explore]") {
    ExploreOptions one, two;
    one.candidates.points = two.candidates.points = "luo.*";
    two.jobs = 2;
    const auto first = causes(explored(small("literal"), one)), second = causes(explored(small("literal"), two));
    CHECK(first == second);
}

TEST_CASE("a forking run comes to what fresh runs come to, event by event", "[explore]") {
    const Scenario scenario = small("literal");
    const Baseline baseline(scenario);
    CandidateOptions wanted;
    wanted.actions = ActionChoice::parse("all").value();
    std::vector<PlanJob> jobs;
    for (const auto& fault : candidate_faults(baseline.visits, wanted).faults) jobs.push_back({.faults = {fault}});
    REQUIRE(jobs.size() > 1000);
    std::vector<PlanJob> some;
    for (std::size_t i = 0; i < jobs.size(); i += 9) some.push_back(jobs[i]);
    const auto forked = run_forking(scenario, baseline.options, some);
    for (std::size_t i = 0; i < some.size(); ++i) {
        INFO(plan_text(some[i].faults));
        CHECK(can_fork(some[i]));
        const PlanOutcome fresh = run_plan(scenario, baseline.options, some[i]);
        CHECK(forked[i].json() == fresh.json());
    }
}

TEST_CASE("pairs: the second fault comes after the first, and forking runs agree with fresh runs there too",
          "[explore]") {
    const Scenario scenario = small("literal");
    const Baseline baseline(scenario);
    PlanJob first{.faults = {kexec_sim::parse_fault("luo.subsystem.prepare[kvm]#1=delay(1ms)").value()},
                  .record_visits = true};
    const PlanOutcome outcome = run_plan(scenario, baseline.options, first);
    REQUIRE(outcome.reached);
    std::vector<PlanJob> jobs;
    const auto seconds = candidate_faults(outcome.visits, {}, true).faults;
    for (std::size_t i = 0; i < seconds.size(); i += 20)
        jobs.push_back({.faults = {first.faults.front(), seconds[i]}});
    REQUIRE(jobs.size() > 10);
    const auto forked = run_forking(scenario, baseline.options, jobs);
    for (std::size_t i = 0; i < jobs.size(); ++i) {
        INFO(plan_text(jobs[i].faults));
        const PlanOutcome fresh = run_plan(scenario, baseline.options, jobs[i]);
        CHECK(fresh.reached);
        CHECK(forked[i].json() == fresh.json());
    }
}

TEST_CASE("depth two and random plans stay within their budget, and say that they are not complete", "[explore]") {
    ExploreOptions options;
    options.depth = 2;
    options.budget = 700;
    options.candidates.points = "luo.file.*";
    options.jobs = 2;
    const ExploreReport pairs = explored(small("literal"), options);
    CHECK(pairs.runs <= 700);
    options = {};
    options.random_plans = 50;
    options.candidates.points = "kho.*";
    options.candidates.actions = ActionChoice::parse("fail").value();
    const ExploreReport random = explored(small("literal"), options);
    CHECK(random.complete);
    CHECK(random.runs == random.plans_known);
    CHECK(random.runs > 50);
}

TEST_CASE("a violation is shrunk to a scenario of its own that shows it", "[explore]") {
    const Scenario scenario = small("literal");
    ExploreOptions options;
    options.candidates.points = "luo.subsystem.freeze";
    const ExploreReport report = explored(scenario, options);
    const auto group = std::ranges::find_if(report.groups, [](const ViolationGroup& one) {
        return one.violation.id == "luo.rollback" && one.violation.resource == "KHO";
    });
    REQUIRE(group != report.groups.end());
    const auto found = reproduce(scenario, {group->violation, group->plan, group->where}, {});
    REQUIRE(found);
    CHECK(found->finished);
    CHECK(found->steps_before > 6);
    CHECK(found->scenario.steps.size() <= 4);  // register, prepare, kexec
    for (const Isolation isolation : {Isolation::process, Isolation::inline_}) {
        const RunResult result = run(found->scenario, isolation);
        CHECK(result.passed);
        CHECK(has_finding(result, "luo.rollback"));
        CHECK(result.trace_hash == found->scenario.reproduces->trace_hash);
    }
}

TEST_CASE("an exploration that was cut short goes on where it was", "[explore]") {
    const Scenario scenario = small("literal");
    const TempDir folder;
    ExploreOptions options;
    options.candidates.points = "luo.*";
    options.out_dir = folder.path().string();
    const ExploreReport whole = explored(scenario, options);
    CHECK(read_journal(options.out_dir).end);
    // As a kill leaves it: some lines are missing, and one is half written.
    const auto file = folder.path() / "runs.jsonl";
    std::ifstream in(file);
    std::string text;
    std::string line;
    for (int i = 0; i < 40 && std::getline(in, line); ++i) text += line + "\n";
    in.close();
    std::ofstream(file, std::ios::trunc) << text << R"({"plan":["luo.)";
    CHECK_FALSE(read_journal(options.out_dir).end);
    const ExploreReport again = explored(scenario, options);
    CHECK(again.resumed == 39);
    CHECK(again.runs == whole.runs - 39);
    CHECK(again.complete);
    CHECK(causes(again) == causes(whole));
    ExploreOptions other = options;
    other.depth = 2;
    CHECK_THROWS_AS(explored(scenario, other), kexec_sim::UserError);
}

TEST_CASE("shards take every plan once between them", "[explore]") {
    const Scenario scenario = small("literal");
    ExploreOptions options;
    options.candidates.points = "luo.file.*";
    const u64 all = explored(scenario, options).runs;
    options.shards = 3;
    u64 sum = 0;
    for (options.shard = 0; options.shard < 3; ++options.shard) sum += explored(scenario, options).runs;
    CHECK(sum == all);
}

TEST_CASE("a scenario that fails without faults is not explored", "[explore]") {
    Scenario scenario = small("literal");
    scenario.steps.front().expected = "ENOMEM";
    const ExploreReport report = explored(scenario, {});
    CHECK_FALSE(report.baseline.passed);
    CHECK(report.runs == 0);
}
