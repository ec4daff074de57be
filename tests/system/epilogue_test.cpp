// What is demanded after a fault that the scenario did not plan (`--fault`): the epilogue in place of the rest of the
// script, and judgement by the kind of the fault.
#include <catch2/catch.hpp>

#include <algorithm>

#include "tests/system/library.hpp"

using namespace system_test;

namespace {

std::string update(const std::string& kernel, const std::string& rest = {}) {
    return R"(
format: 1
scenario: update
machine: {memory: 256MiB}
kernels: [{profile: luo-v3, cmdline: "kho=on liveupdate=on")" +
           kernel + R"(}]
steps:
  - memfd.create: {name: f, size: 64KiB, fill: pattern(3)}
  - memfd.write: {fd: f, offset: 5000, text: "some text over the pattern"}
  - subsystem.register: {name: a, pages: 1}
  - subsystem.register: {name: b, pages: 1}
  - luo.preserve: {fd: f, token: 1}
  - luo.prepare:
  - kexec:
  - subsystem.register: {name: a, pages: 1}
  - subsystem.register: {name: b, pages: 1}
  - luo.restore: {token: 1, as: f}
  - luo.finish:
)" + rest;
}

RunResult run_with(const std::string& text, const std::string& fault) {
    const Scenario scenario = kexec_sim::sim::parse_scenario(text, "update.yaml");
    RunOptions options;
    options.isolation = Isolation::inline_;
    options.faults = {kexec_sim::parse_fault(fault).value()};
    return kexec_sim::sim::run_scenario(scenario, options);
}

std::string reasons(const RunResult& result) {
    std::string text;
    for (const std::string& failure : result.failures) text += failure + "\n";
    return text;
}

}  // namespace

TEST_CASE("an update that fails before the jump is rolled back, and the next one succeeds", "[epilogue]") {
    for (const char* fault : {"luo.subsystem.prepare[b]#1=fail(ENOMEM)", "luo.file.prepare#1=fail(EBUSY)",
                              "mm.folio_alloc[luo.tree]#1=fail(ENOMEM)", "kexec.load#1=fail(ENOMEM)",
                              "luo.copy_in#1=fail(EFAULT)", "luo.subsystem.prepare[a]#1=kill-agent"}) {
        const RunResult result = run_with(update(""), fault);
        INFO(fault << "\n" << reasons(result));
        // The agent dies in prepared state and drops the files of an update that goes on: LUO-D7, which is a finding.
        CHECK(result.passed == !std::string(fault).ends_with("kill-agent"));
        CHECK(std::ranges::any_of(result.steps, [](const auto& step) { return step.outcome == "skipped"; }));
    }
}

TEST_CASE("a rollback that leaves things behind is a finding, and none where it is repaired", "[epilogue]") {
    const char* fault = "luo.subsystem.freeze[b]#1=fail(EBUSY)";
    const RunResult literal = run_with(update(""), fault);
    CHECK_FALSE(literal.passed);
    CHECK(has_finding(literal, "luo.rollback"));
    const RunResult strict = run_with(update(", defects: strict"), fault);
    INFO(reasons(strict));
    CHECK(strict.passed);
    CHECK(strict.findings.empty());
}

TEST_CASE("a loss that is announced is accepted once the jump has begun", "[epilogue]") {
    const RunResult result = run_with(update(""), "kexec.jump#1=panic");
    INFO(reasons(result));
    CHECK(result.passed);
    CHECK(has_finding(result, "loss.reported"));
    // A file that could not be retrieved once is retrieved by the epilogue: nothing is lost.
    const RunResult once = run_with(update(""), "luo.file.retrieve#1=fail(ENOMEM)");
    INFO(reasons(once));
    CHECK(once.passed);
    CHECK_FALSE(has_finding(once, "loss.silent"));
}

TEST_CASE("after a corruption only bounded decoding is demanded", "[epilogue]") {
    const RunResult result = run_with(update(""), "handover.map[bitmap:0]#1=zero(0,512)");
    INFO(reasons(result));
    CHECK(result.passed);
    CHECK_FALSE(result.findings.empty());
    for (const auto& finding : result.findings) CHECK(finding.by_fault);
}

TEST_CASE("a chain that is a circle or leads astray, and parts that change places, are decoded within bounds",
          "[epilogue]") {
    for (const char* plan : {"handover.map[chunk:0]#1=duplicate", "handover.map[chunk:0]#1=misdirect(0x1000)",
                             "handover.map[chunk:0]#1=misdirect(0x400000000000)", "handover.map[bitmap:0]#1=swap"}) {
        INFO(plan);
        const RunResult result = run_with(update(""), plan);
        INFO(reasons(result));
        CHECK(result.passed);
        REQUIRE(result.faults.size() == 1);
        CHECK(result.faults.front().fired);
    }
}

TEST_CASE("a scenario's own steps replace the epilogue, and what they expect counts", "[epilogue]") {
    const char* fault = "luo.subsystem.prepare[b]#1=fail(ENOMEM)";
    const auto own = [](const char* steps) { return update("", std::string("under-faults: ") + steps + "\n"); };
    const RunResult right = run_with(own("{steps: [{luo.state: normal}, {memfd.close: {fd: f}}]}"), fault);
    INFO(reasons(right));
    CHECK(right.passed);
    CHECK(right.executed.size() == 6 + 2);
    CHECK_FALSE(run_with(own("{steps: [{luo.state: prepared}]}"), fault).passed);
    // Without the fault they are no steps of the script.
    const RunResult plain = run(kexec_sim::sim::parse_scenario(own("{steps: [{luo.state: prepared}]}"), "own.yaml"));
    CHECK(plain.passed);
    CHECK(plain.executed.size() == 11);
}

TEST_CASE("findings that a scenario accepts under faults do not fail it", "[epilogue]") {
    const char* fault = "luo.subsystem.freeze[b]#1=fail(EBUSY)";
    const RunResult result = run_with(
        update("", "under-faults: {steps: [{luo.state: normal}], accept: [luo.rollback, frame.accounted]}\n"), fault);
    INFO(reasons(result));
    CHECK(result.passed);
    CHECK(has_finding(result, "luo.rollback"));
}

TEST_CASE("a fault that is never reached fails the run", "[epilogue]") {
    const RunResult result = run_with(update(""), "luo.subsystem.prepare[c]#1=fail(ENOMEM)");
    CHECK_FALSE(result.passed);
    CHECK(reasons(result).find("never reached, 0 visits") != std::string::npos);
}

TEST_CASE("a caller that is killed as it reboots takes nothing with it", "[epilogue]") {
    for (const char* point : {"kexec.load", "kexec.segment", "kexec.jump", "luo.subsystem.freeze", "luo.file.freeze",
                              "handover.luo", "handover.setup_data"}) {
        const RunResult result = run_with(update(""), std::string(point) + "#1=kill-agent");
        INFO(point << "\n" << reasons(result));
        CHECK(result.passed);
        CHECK(result.findings.empty());
        CHECK(result.generations.size() == 2);
    }
}

TEST_CASE("a panic that a corruption leads to is no failure, even if it comes in the epilogue", "[epilogue]") {
    for (const char* fault : {"handover.luo[LUO]#1=truncate(185)", "handover.luo[LUO]#1=zero(181,4096)"}) {
        const RunResult result = run_with(update(""), fault);
        INFO(fault << "\n" << reasons(result));
        CHECK(result.passed);
    }
}

TEST_CASE("the first kernel may die of a fault that its scenario did not plan", "[epilogue]") {
    for (const char* fault : {"memblock.alloc#1=power-loss", "memblock.alloc#1=fail(ENOMEM)",
                              "mm.folio_alloc#1=panic", "luo.sysfs#1=panic", "kho.debugfs#1=panic"}) {
        const RunResult result = run_with(update(""), fault);
        INFO(fault << "\n" << reasons(result));
        CHECK(result.passed);
        CHECK(result.findings.empty());
    }
    // KHO that could not start is off; in a repaired kernel that is all that happens.
    const RunResult off = run_with(update(", defects: strict"), "kho.debugfs#1=fail(ENOMEM)");
    INFO(reasons(off));
    CHECK(off.passed);
}

TEST_CASE("a corruption that is aimed beyond its blob counts as never reached", "[epilogue]") {
    for (const char* fault :
         {"handover.fdt#1=flip(99999999,0)", "handover.fdt[LUO]#1=replace(\"no such\",\"nothing\")",
          "handover.map[chunk:0]#1=truncate(4096)", "handover.setup_data#1=zero(48,8)"}) {
        const RunResult result = run_with(update(""), fault);
        INFO(fault);
        CHECK_FALSE(result.passed);
        CHECK(reasons(result).find("never reached, ") != std::string::npos);
    }
}
