// Every write of bytes that the next kernel reads is left out once, as if somebody had deleted its line.
//
// The intents of the referee come from the boundary, so that no line of the codecs can take an intent along with the
// byte that it fails to write: each of these mutants must turn a scenario red, by a finding or by a step that fails.
#include <catch2/catch.hpp>

#include <map>
#include <set>

#include "kernel-model/abi_write.hpp"
#include "tests/system/library.hpp"

using namespace system_test;

namespace {

/// Scenarios that together pass through every codec.
const char* const scenarios[] = {
    "memfd-survives",        "kho-folio",           "memfd/several",          "luo/many-files",
    "luo/v2-update",         "kho/vmalloc-6.18",    "kho/subtrees-6.16",      "kho/subtrees-luo",
    "kho/two-chunks",        "kho/all-orders",      "reserve-mem/two-entries", "reserve-mem/three-kernels",
    "selftests/subsystem.getdata_verify", "chains/update-of-an-update", "luo/unpreserve",
};

/// Writes that no kernel misses, with the reason.
const std::map<std::string, std::string> unnoticed = {
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
    std::map<std::string, std::set<std::string>> noticed_in;  // write -> scenarios that turned red
    for (const char* name : scenarios) {
        INFO(name);
        const Scenario scenario = load(scenario_file(name));
        for (const std::string& write : writes_of(scenario)) {
            auto& noticed = noticed_in[write];
            if (!noticed.empty()) continue;
            const Dropped dropped(write);
            if (!run(scenario).passed) noticed.insert(name);
        }
    }
    CHECK(noticed_in.size() > 20);
    for (const auto& [write, noticed] : noticed_in) {
        INFO(write);
        CHECK(noticed.empty() == unnoticed.contains(write));
    }
    for (const auto& [write, reason] : unnoticed) {
        INFO(write << ": " << reason);
        CHECK(noticed_in.contains(write));
    }
}
