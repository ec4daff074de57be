// Every write of bytes that the next kernel reads is left out once, as if somebody had deleted its line.
//
// The intents of the referee come from the boundary, so that no line of the codecs can take an intent along with the
// byte that it fails to write: each of these mutants must turn a scenario red, by a finding or by a step that fails.
#include <catch2/catch.hpp>

#include <map>

#include "kernel-model/abi_write.hpp"
#include "tests/system/library.hpp"

using namespace system_test;

namespace {

/// Scenarios that together pass through every codec.
const char* const scenarios[] = {
    "memfd-survives",
    "kho-folio",
    "memfd/several",
    "luo/many-files",
    "luo/v2-update",
    "kho/vmalloc-6.18",
    "kho/subtrees-6.16",
    "kho/subtrees-luo",
    "kho/two-chunks",
    "kho/all-orders",
    "reserve-mem/two-entries",
    "reserve-mem/three-kernels",
    "selftests/subsystem.getdata_verify",
    "chains/update-of-an-update",
    "luo/unpreserve",
};

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

/// Writes that no kernel misses, with the reason.
const std::map<std::string, std::string> unnoticed = {
    {"bench.tree.compatible", "the tree of the test bench, which nothing but a decoder ever reads"},
};

/// Leaves one write out for as long as it lives.
class Dropped {
public:
    explicit Dropped(const std::string& name) { kexec_sim::set_dropped_abi_write(name); }
    ~Dropped() { kexec_sim::set_dropped_abi_write({}); }
    Dropped(const Dropped&) = delete;
    Dropped& operator=(const Dropped&) = delete;
};

std::vector<std::string> writes_of(const Scenario& scenario) {
    kexec_sim::record_abi_writes(true);
    const RunResult result = run(scenario);
    kexec_sim::record_abi_writes(false);
    CHECK(result.passed);
    return kexec_sim::recorded_abi_writes();
}

}  // namespace

TEST_CASE("a write to the successor that is left out is noticed", "[abi_writes]") {
    std::map<std::string, bool> noticed;  // by some scenario that passes through it
    std::vector<Scenario> all = {kexec_sim::sim::parse_scenario(long_vmalloc, "long-vmalloc.yaml")};
    for (const char* name : scenarios) all.push_back(load(scenario_file(name)));
    for (const Scenario& scenario : all) {
        INFO(scenario.name);
        for (const std::string& write : writes_of(scenario)) {
            bool& red = noticed[write];
            if (red) continue;
            const Dropped dropped(write);
            red = !run(scenario).passed;
        }
    }
    CHECK(noticed.size() > 20);
    for (const auto& [write, red] : noticed) {
        INFO(write);
        CHECK(red != unnoticed.contains(write));
    }
    for (const auto& [write, reason] : unnoticed) {
        INFO(write << ": " << reason);
        CHECK(noticed.contains(write));
    }
}
