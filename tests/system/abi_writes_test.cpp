// Every write of bytes that the next kernel reads is left out once, as if somebody had deleted its line, and the
// referee must speak.
//
// Its intents come from the boundary, so that no line of the codecs can take an intent along with the byte that it
// fails to write. A step that fails shows the damage too, but it ends the script before the promise does; so the
// script goes on with whatever the steps now answer, and at its end kexecs once more: what was never claimed is lost
// by that.
#include <catch2/catch.hpp>

#include <algorithm>
#include <map>
#include <set>

#include "kernel-model/abi_write.hpp"
#include "tests/system/library.hpp"

using namespace system_test;
namespace sim = kexec_sim::sim;

namespace {

/// More pages than two chunks of a vmalloc descriptor hold, so that the chain matters.
constexpr const char* long_vmalloc = R"(
format: 1
scenario: long-vmalloc
machine: {memory: 512MiB}
kernels: [{profile: linux-6.18, cmdline: "kho=on"}]
steps:
  - kho.preserve_vmalloc: {name: area, size: 5MiB, fill: pattern(1)}
  - kho.finalize:
  - kexec:
  - kho.restore: {vmalloc: area}
  - kho.verify: {vmalloc: area, fill: pattern(1)}
)";

/// What a write that is left out gives.
enum class Notice { none, step, finding };

/// Writes whose lack breaks no promise, with the reason.
struct Unpromised {
    Notice notice;
    std::string reason;
};
const std::map<std::string, Unpromised> unpromised = {
    {"bench.tree.compatible", {Notice::none, "the tree of the test bench: only a decoder reads what kind it is"}},
    {"bench.tree.finish", {Notice::step, "the same tree: its content is nobody's promise"}},
};

/// Leaves one write out for as long as it lives.
class Dropped {
public:
    explicit Dropped(const std::string& name) { kexec_sim::set_dropped_abi_write(name); }
    ~Dropped() { kexec_sim::set_dropped_abi_write({}); }
    Dropped(const Dropped&) = delete;
    Dropped& operator=(const Dropped&) = delete;
};

/// The line of code behind a write: names of subsystems are data.
std::string line_of(const std::string& write) {
    constexpr std::string_view subsystems = "luo.subsystems.";
    return write.starts_with(subsystems) ? std::string(subsystems) + "*" : write;
}

/// With one more kexec at the end.
Scenario with_last_jump(Scenario scenario) {
    const auto found =
        std::ranges::find_if(scenario.steps, [](const sim::Step& step) { return step.id == sim::StepId::kexec; });
    if (found == scenario.steps.end()) return scenario;
    sim::Step last = *found;
    last.index = static_cast<kexec_sim::u32>(scenario.steps.size());
    last.expected = "ok";
    scenario.steps.push_back(last);
    scenario.program.push_back({sim::ProgramOp::Kind::step, last.index, 0, 0});
    return scenario;
}

std::set<std::string> findings_of(const RunResult& result) {
    std::set<std::string> lines;
    for (const auto& finding : result.findings) lines.insert(invariant_of(finding) + ": " + finding.message);
    return lines;
}

/// For each line of code that writes: the most that leaving it out gave in any scenario.
void judge_writes(const Scenario& scenario, std::map<std::string, Notice>& noticed) {
    kexec_sim::record_abi_writes(true);
    const RunResult whole = run_to_the_end(scenario);
    kexec_sim::record_abi_writes(false);
    for (const std::string& write : std::vector(kexec_sim::recorded_abi_writes())) {
        Notice& notice = noticed[line_of(write)];
        if (notice == Notice::finding) continue;
        const Dropped dropped(write);
        const RunResult result = run_to_the_end(scenario);
        if (!std::ranges::includes(findings_of(whole), findings_of(result)))
            notice = Notice::finding;
        else if (result.executed != whole.executed)
            notice = Notice::step;
    }
}

}  // namespace

TEST_CASE("a write to the successor that is left out gives a finding", "[abi_writes]") {
    std::map<std::string, Notice> noticed;
    judge_writes(with_last_jump(sim::parse_scenario(long_vmalloc, "long-vmalloc.yaml")), noticed);
    for (const auto& file : scenario_files()) judge_writes(with_last_jump(load(file)), noticed);
    CHECK(noticed.size() > 30);
    for (const auto& [write, notice] : noticed) {
        INFO(write);
        const auto known = unpromised.find(write);
        CHECK((notice == (known == unpromised.end() ? Notice::finding : known->second.notice)));
    }
    for (const auto& [write, known] : unpromised) {
        INFO(write << ": " << known.reason);
        CHECK(noticed.contains(write));
    }
}
