// Exploration of whole scenarios: what it finds, that it finds the same however it is carried out, and what it writes.
#include <catch2/catch.hpp>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <unistd.h>

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
struct FaultFree {
    explicit FaultFree(const Scenario& scenario) {
        RunOptions plain;
        plain.isolation = Isolation::inline_;
        plain.record_visits = true;
        RunResult result = run_scenario(scenario, plain);
        options.baseline = baseline_of(result);
        visits = std::move(result.visits);
        options.max_virtual_ns = 1'000'000'000'000;
    }
    std::vector<kexec_sim::FaultInjector::Visits> visits;
    PoolOptions options;
};

/// With a module that is ill in the way that an Ill says, while there is one (tests/modules/ill.c).
Scenario with_ill_module() {
    Scenario scenario = small("literal");
    scenario.modules.emplace_back(KEXEC_SIM_MODULE_DIR "/ill.so");
    return scenario;
}

class Ill {
public:
    explicit Ill(const char* how) { setenv("ILL", how, 1); }
    ~Ill() { unsetenv("ILL"); }
    Ill(const Ill&) = delete;
    Ill& operator=(const Ill&) = delete;
};

/// Single faults; under the first the module is called back, under none is anything wrong.
const std::string cancels = "luo.subsystem.prepare[kvm]#1=fail(ENOMEM)",
                  fails = "luo.file.prepare[memfd-v1]#1=fail(ENOMEM)",
                  harmless = "luo.subsystem.prepare[ill]#1=fail(ENOMEM)",
                  delays = "luo.subsystem.prepare[kvm]#1=delay(1ms)";

constexpr std::string_view undefined_report = "sim/use.cpp:10:37: runtime error: signed integer overflow\n";
void say(std::string_view text) { static_cast<void>(!write(STDERR_FILENO, text.data(), text.size())); }

/// What comes of single faults in a pool.
std::map<std::string, PlanOutcome> pooled(const Scenario& scenario, const PoolOptions& options,
                                          const std::vector<std::string>& faults) {
    Pool pool(scenario, options);
    std::map<std::string, PlanOutcome> outcomes;
    std::size_t at = 0;
    pool.run(
        [&]() -> std::optional<PlanJob> {
            if (at == faults.size()) return std::nullopt;
            return PlanJob{.id = at, .faults = {kexec_sim::parse_fault(faults[at++]).value()}};
        },
        [&](const PlanJob& job, PlanOutcome&& outcome) {
            CHECK(outcomes.emplace(plan_text(job.faults), std::move(outcome)).second);
        },
        [] { return false; });
    return outcomes;
}

bool has_violation(const PlanOutcome& outcome, std::string_view id) {
    return std::ranges::any_of(outcome.violations, [&](const Violation& one) { return one.id == id; });
}

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
    const FaultFree baseline(scenario);
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
    const FaultFree baseline(scenario);
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

TEST_CASE("a sanitizer's report on the kernel's code is a violation of its own, wherever that runs", "[explore]") {
    const Scenario scenario = with_ill_module();
    const FaultFree baseline(scenario);
    for (const char* how : {"report-exit", "report-abort"}) {
        const Ill ill(how);
        for (const Isolation isolation : {Isolation::inline_, Isolation::process}) {
            INFO(how << ", isolation " << static_cast<int>(isolation));
            PoolOptions options = baseline.options;
            options.isolation = isolation;
            const auto outcomes = pooled(scenario, options, {harmless, cancels});
            const PlanOutcome& outcome = outcomes.at(cancels);
            REQUIRE_FALSE(outcome.violations.empty());
            const Violation& first = outcome.violations.front();
            CHECK(first.id == "sanitizer");
            CHECK(first.severity == "corruption");
            CHECK(first.resource == "ill_cancel");
            CHECK(first.message == "AddressSanitizer: heap-use-after-free in ill_cancel ill.c:50");
            CHECK(outcome.error.find("READ of size 4") != std::string::npos);
            CHECK_FALSE(has_violation(outcome, "crash"));
            CHECK_FALSE(has_violation(outcomes.at(harmless), "sanitizer"));
        }
    }
}

// Many plans in a run: each goes its way in a process of its own, and dies there alone.
TEST_CASE("a plan that kills its process, hangs or makes a sanitizer speak is noted as that, and no other plan is",
          "[explore]") {
    const Scenario scenario = small("literal");
    const FaultFree baseline(scenario);
    const struct {
        std::string_view id;
        void (*die)();
    } cases[] = {
        {"crash", [] { raise(SIGKILL); }},
        {"hang",
         [] {
             for (;;) pause();
         }},
        {"sanitizer",
         [] {
             say(undefined_report);
             _exit(1);
         }},
        {"sanitizer",
         [] {
             say(undefined_report);
             abort();
         }},
    };
    for (const auto& [id, die] : cases) {
        for (const std::size_t plans_per_run : {1U, 8U}) {
            INFO(id << ", plans in a run " << plans_per_run);
            PoolOptions options = baseline.options;
            options.plans_per_run = plans_per_run;
            options.max_host_seconds = 2;
            options.on_plan = [&, die = die](const FaultPlan& plan) {
                if (plan_text(plan) == cancels) die();
            };
            const auto outcomes = pooled(scenario, options, {delays, cancels, fails});
            REQUIRE(outcomes.size() == 3);
            REQUIRE(outcomes.at(cancels).violations.size() == 1);
            CHECK(outcomes.at(cancels).violations.front().id == id);
            CHECK(outcomes.at(delays).violations.empty());
            CHECK(outcomes.at(fails).violations.empty());
        }
    }
}

TEST_CASE("a sanitizer's report on the kernel's code is shrunk to a scenario that shows it", "[explore]") {
    const Ill ill("report-exit");
    const Scenario scenario = with_ill_module();
    ExploreOptions options;
    options.candidates.points = "luo.subsystem.prepare";
    options.candidates.actions = ActionChoice::parse("fail").value();
    const ExploreReport report = explored(scenario, options);
    REQUIRE(report.groups.size() == 1);
    const ViolationGroup& group = report.groups.front();
    CHECK(group.violation.id == "sanitizer");
    const auto found = reproduce(scenario, {group.violation, group.plan, group.where}, {});
    REQUIRE(found);
    CHECK(found->finished);
    CHECK(found->scenario.steps.size() == 2);  // register, prepare
    const RunResult result = run(found->scenario, Isolation::process);
    CHECK(result.passed);
    CHECK(result.trace_hash == found->scenario.reproduces->trace_hash);
}

TEST_CASE("plans whose shared run is lost run again, each by itself", "[explore]") {
    const Scenario scenario = small("literal");
    const FaultFree baseline(scenario);
    PoolOptions options = baseline.options;
    const auto fresh = pooled(scenario, options, {delays, cancels, fails});
    options.plans_per_run = 8;
    options.on_plan = [&](const FaultPlan& plan) {
        if (plan.empty()) raise(SIGKILL);  // what the three share
    };
    const auto again = pooled(scenario, options, {delays, cancels, fails});
    REQUIRE(again.size() == 3);
    for (const auto& [plan, outcome] : again) CHECK(outcome.json() == fresh.at(plan).json());
}

TEST_CASE("a plan whose visit never comes is not reached", "[explore]") {
    const Scenario scenario = small("literal");
    const FaultFree baseline(scenario);
    const PlanJob never{.faults = {kexec_sim::parse_fault("luo.subsystem.prepare[kvm]#99=fail(ENOMEM)").value()}};
    const PlanOutcome fresh = run_plan(scenario, baseline.options, never),
                      forked = run_forking(scenario, baseline.options, {never, never}).at(1);
    for (const PlanOutcome& outcome : {fresh, forked}) {
        CHECK_FALSE(outcome.reached);
        CHECK(outcome.violations.empty());
    }
}

TEST_CASE("a shared run that cannot be is no success of its plans", "[explore]") {
    // A module needs memory that other processes see, which a forking run does not have.
    const Scenario scenario = with_ill_module();
    const FaultFree baseline(scenario);
    const PlanJob job{.faults = {kexec_sim::parse_fault(cancels).value()}};
    CHECK_FALSE(run_forking(scenario, baseline.options, {job, job}).front().violations.empty());
}

TEST_CASE("an exploration whose time is up while its last plan is under way is not complete", "[explore]") {
    const Ill ill("hang");
    ExploreOptions options;
    options.candidates.points = "luo.subsystem.prepare";
    options.candidates.actions = ActionChoice::parse("fail").value();
    options.verify_every = 0;
    options.seconds = 2;
    const ExploreReport report = explored(with_ill_module(), options);
    REQUIRE(report.plans_known > 1);
    CHECK(report.runs < report.plans_known);
    CHECK_FALSE(report.complete);
}

TEST_CASE("a plan that does not give the same twice is a violation, and the journal knows it", "[explore]") {
    const Ill ill("random");
    const TempDir folder;
    ExploreOptions options;
    options.candidates.points = "luo.subsystem.prepare";
    options.candidates.actions = ActionChoice::parse("fail").value();
    options.verify_every = 1;
    options.out_dir = folder.path().string();
    const ExploreReport report = explored(with_ill_module(), options);
    REQUIRE(report.groups.size() == 1);
    const ViolationGroup& group = report.groups.front();
    CHECK(group.violation.id == "determinism");
    CHECK(group.violation.message.find("is the first that differs: ") != std::string::npos);
    CHECK(plan_text(group.plan) == cancels);
    const ExploreReport again = explored(with_ill_module(), options);
    CHECK(again.runs == 0);
    CHECK(causes(again) == causes(report));
}
