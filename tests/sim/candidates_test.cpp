// Which faults exploration tries, from a log of visits.
#include <catch2/catch.hpp>

#include <algorithm>
#include <set>

#include "sim/explore/candidates.hpp"

using namespace kexec_sim;
using namespace kexec_sim::sim;

namespace {

using Visits = FaultInjector::Visits;

CandidateOptions with_actions(std::string_view list) {
    CandidateOptions options;
    options.actions = ActionChoice::parse(list).value();
    return options;
}

std::vector<std::string> texts(const Candidates& candidates) {
    std::vector<std::string> all;
    for (const PlannedFault& fault : candidates.faults) all.push_back(fault.text());
    return all;
}

const std::vector<Visits> two_points = {
    {FaultPoint::kho_preserve, "luo", 2, 0, false},
    {FaultPoint::kho_preserve, "memfd-v1", 1, 0, false},
    {FaultPoint::luo_sysfs, "", 1, 0, false},
    {FaultPoint::kho_preserve, "luo", 1, 1, false},
};

}  // namespace

TEST_CASE("distinct points come before their other places, and these before repeated visits") {
    CHECK(texts(candidate_faults(two_points, with_actions("panic"))) ==
          std::vector<std::string>{"kho.preserve[luo]#1=panic", "luo.sysfs#1=panic", "kho.preserve[memfd-v1]#1=panic",
                                   "kho.preserve[luo]#3=panic", "kho.preserve[luo]#2=panic"});
}

TEST_CASE("an action is tried where it means something") {
    const auto faults =
        texts(candidate_faults({{FaultPoint::luo_sysfs, "", 1, 0, false}, {FaultPoint::kexec_jump, "", 1, 0, false}},
                               with_actions("operational")));
    CHECK(faults ==
          std::vector<std::string>{"luo.sysfs#1=fail(ENOMEM)", "luo.sysfs#1=panic", "luo.sysfs#1=kill-agent",
                                   "luo.sysfs#1=power-loss", "luo.sysfs#1=delay(1ms)", "kexec.jump#1=panic",
                                   "kexec.jump#1=kill-agent", "kexec.jump#1=power-loss", "kexec.jump#1=delay(1ms)"});
}

TEST_CASE("fail takes the first errno of a point, fail:all each") {
    const std::vector<Visits> log{{FaultPoint::kexec_load, "", 1, 0, false}};
    CHECK(texts(candidate_faults(log, with_actions("fail"))) ==
          std::vector<std::string>{"kexec.load#1=fail(ENOMEM)"});
    CHECK(texts(candidate_faults(log, with_actions("fail:all"))) ==
          std::vector<std::string>{"kexec.load#1=fail(ENOMEM)", "kexec.load#1=fail(EINVAL)"});
}

TEST_CASE("of a call site with many visits the first 64, powers of two and the last are tried, or all") {
    const std::vector<Visits> log{{FaultPoint::kho_preserve, "memfd-v1", 1000, 0, false}};
    CandidateOptions options = with_actions("panic");
    const Candidates some = candidate_faults(log, options);
    CHECK(some.thinned);
    CHECK(some.visits == 1000);
    std::set<u64> visits;
    for (const PlannedFault& fault : some.faults) visits.insert(fault.visit);
    CHECK(visits.size() == 64 + 4);  // 128, 256, 512; 1000
    CHECK(visits.contains(64));
    CHECK_FALSE(visits.contains(65));
    CHECK(visits.contains(1000));
    options.all_visits = true;
    const Candidates all = candidate_faults(log, options);
    CHECK_FALSE(all.thinned);
    CHECK(all.faults.size() == 1000);
}

TEST_CASE("the same name in another generation is another call site, and its visits count on") {
    const std::vector<Visits> log{{FaultPoint::kho_preserve, "luo", 100, 0, false},
                                  {FaultPoint::kho_preserve, "luo", 100, 1, false}};
    const Candidates some = candidate_faults(log, with_actions("panic"));
    CHECK(std::ranges::any_of(some.faults, [](const PlannedFault& fault) { return fault.visit == 101; }));
    CHECK(some.faults.size() == 2 * (64 + 1));
}

TEST_CASE("a place without a name is one of the point's visits by whatever name") {
    const std::vector<Visits> log{{FaultPoint::kho_debugfs, "root", 2, 0, false},
                                  {FaultPoint::kho_debugfs, "", 1, 0, false}};
    CHECK(texts(candidate_faults(log, with_actions("panic"))) ==
          std::vector<std::string>{"kho.debugfs[root]#1=panic", "kho.debugfs#3=panic", "kho.debugfs[root]#2=panic"});
}

TEST_CASE("for a second fault only visits after the first one are taken, counted from the start") {
    const std::vector<Visits> log{{FaultPoint::kho_preserve, "luo", 3, 0, false},
                                  {FaultPoint::kho_preserve, "luo", 2, 0, true}};
    CHECK(texts(candidate_faults(log, with_actions("panic"), true)) ==
          std::vector<std::string>{"kho.preserve[luo]#4=panic", "kho.preserve[luo]#5=panic"});
}

TEST_CASE("points are chosen by a glob") {
    CandidateOptions options = with_actions("panic");
    options.points = "luo.*";
    CHECK(texts(candidate_faults(two_points, options)) == std::vector<std::string>{"luo.sysfs#1=panic"});
}

TEST_CASE("a list of actions says what is wrong with it") {
    CHECK(ActionChoice::parse("fail,panic"));
    CHECK(ActionChoice::parse("all:all"));
    CHECK_THAT(ActionChoice::parse("fial").error(), Catch::Matchers::Contains("fail"));
    CHECK_FALSE(ActionChoice::parse(""));
    CHECK_FALSE(ActionChoice::parse("fail,"));
}

TEST_CASE("every action that is tried can be carried out at its point, and is read back from its text") {
    const ActionChoice all = ActionChoice::parse("all:all").value();
    std::set<FaultKind> kinds;
    for (const FaultPointInfo& point : fault_points())
        for (const ActionChoice::Entry& entry : all.entries)
            for (const FaultAction& action : action_samples(point.id, entry)) {
                const PlannedFault fault{point.id, "x", 1, std::nullopt, action};
                INFO(fault.text());
                const auto again = parse_fault(fault.text());
                REQUIRE(again);
                CHECK(again->text() == fault.text());
                kinds.insert(action.kind);
            }
    CHECK(kinds.size() == static_cast<std::size_t>(FaultKind::swap) + 1);
}
