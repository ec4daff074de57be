// What is changed between the two kernels arrives changed, or is found.
#include <catch2/catch.hpp>

#include <algorithm>

#include "tests/system/handover.hpp"

using namespace system_test;
namespace sim = kexec_sim::sim;

namespace {

/// Scenarios with one jump and no finding, stopped there, whose handover the decoder can read.
template <typename Body> unsigned each_clean_handover(Body&& body) {
    unsigned cases = 0;
    for (const auto& file : scenario_files()) {
        const Scenario scenario = load(file);
        if (scenario.machine.has_devices()) continue;  // cannot be resumed
        const RunResult uncut = run(scenario);
        const auto found = jumps(uncut);
        if (found.size() != 1 || !uncut.findings.empty()) continue;
        StoppedRun stopped(scenario, found.front());
        const auto decoded = stopped.decode();
        if (!stopped.handover() || !decoded.problems.empty()) continue;
        INFO(scenario_name(file));
        cases += body(scenario, stopped, decoded) ? 1 : 0;
    }
    return cases;
}

void flip(RamFile& ram, u64 phys) {
    unsigned char byte = 0;
    REQUIRE(ram.read(phys, &byte, 1));
    byte ^= 0x40;
    ram.write(phys, &byte, 1);
}

/// Tokens that the rest of the scenario restores with success, and whether a file's content is compared there.
bool compares_files(const Scenario& rest) {
    return std::ranges::any_of(rest.program, [&](const sim::ProgramOp& op) {
        const sim::Step& step = rest.steps[op.step];
        return step.id == sim::StepId::memfd_verify && step.expected == "ok";
    });
}

}  // namespace

TEST_CASE("a byte of a file's page that is changed in between changes what is retrieved", "[cut_changes]") {
    const unsigned cases = each_clean_handover([](const Scenario& scenario, StoppedRun& stopped,
                                                  const decoder::Result& decoded) {
        const Scenario rest = stopped.resumed(scenario);
        if (!decoded.luo || !compares_files(rest)) return false;
        u64 changed = 0;
        for (const auto& file : decoded.luo->files) {
            if (!file.memfd) continue;
            for (const auto& folio : file.memfd->folios) {
                flip(stopped.ram(), folio.pfn * decoder::page_bytes + 5);
                ++changed;
            }
        }
        if (changed == 0) return false;
        const RunResult resumed = run(rest);
        CHECK(has_finding(resumed, "frame.intact"));
        CHECK(std::ranges::any_of(resumed.executed, [](const std::string& result) { return result == "mismatch"; }));
        return true;
    });
    CHECK(cases > 10);
}

/// Somebody claims what was preserved: by token or, as a test module does, by address. Memory that memblock itself
/// revives (reserve_mem) is safe without the map.
bool claims_memory(const Scenario& rest) {
    return std::ranges::any_of(rest.program, [&](const sim::ProgramOp& op) {
        const sim::Step& step = rest.steps[op.step];
        return (step.id == sim::StepId::luo_restore || step.id == sim::StepId::kho_restore) && step.expected == "ok";
    });
}

TEST_CASE("a map page that is zeroed in between gives a finding", "[cut_changes]") {
    const unsigned cases =
        each_clean_handover([](const Scenario& scenario, StoppedRun& stopped, const decoder::Result& decoded) {
            if (decoded.chunks.empty() || !stopped.promises()) return false;
            const std::vector<char> zeros(decoder::page_bytes);
            for (const auto& chunk : decoded.chunks) stopped.ram().write(chunk.phys, zeros.data(), zeros.size());
            const Scenario rest = stopped.resumed(scenario);
            if (!claims_memory(rest)) return false;
            const RunResult resumed = run(rest);
            CHECK_FALSE(resumed.findings.empty());
            return true;
        });
    CHECK(cases > 20);
}

TEST_CASE("an untouched handover that is read, and not changed, gives no finding", "[cut_changes]") {
    const Scenario scenario = load(scenario_file("memfd-survives"));
    StoppedRun stopped(scenario, 1);
    const auto decoded = stopped.decode();
    REQUIRE(decoded.luo);
    REQUIRE(decoded.luo->files.size() == 1);
    const u64 phys = decoded.luo->files[0].memfd->folios[1].pfn * decoder::page_bytes;
    flip(stopped.ram(), phys);
    CHECK(has_finding(run(stopped.resumed(scenario)), "frame.intact"));
    flip(stopped.ram(), phys);
    const RunResult resumed = run(stopped.resumed(scenario));
    CHECK(resumed.findings.empty());
    CHECK(resumed.passed);
}
