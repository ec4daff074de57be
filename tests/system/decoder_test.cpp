// The independent decoder reads what the simulator hands over, and dtc accepts its trees.
#include <catch2/catch.hpp>

#include <algorithm>
#include <cstdlib>
#include <set>

#include "tests/system/handover.hpp"

using namespace system_test;
namespace sim = kexec_sim::sim;
namespace fs = std::filesystem;

namespace {

std::string text_of(const std::vector<decoder::Problem>& problems) {
    std::string text;
    for (const auto& problem : problems) text += problem.what + "\n";
    return text;
}

/// An image that was loaded before an abort carries the tree as it was finalized; by then the kernel has forgotten it.
const std::set<std::string> forgotten_after_load = {"bugs/stale-tree-handed-over", "kho/aborted-after-load-6.16"};

bool refused(const RunResult& result, Generation generation) {
    return std::ranges::any_of(result.log, [&](const auto& line) {
        return line.first == generation && line.second.find("disabling KHO revival") != std::string::npos;
    });
}

bool corrupts(const RunResult& result) {
    return std::ranges::any_of(result.faults, [](const auto& fault) { return fault.fired && fault.corrupting; });
}

u64 blocks_in(const decoder::Result& decoded) {
    u64 count = 0;
    for (const auto& run : decoded.runs) count += run.count;
    return count;
}
u64 bytes_in(const decoder::Result& decoded) {
    u64 count = 0;
    for (const auto& run : decoded.runs) count += (run.count << run.order) * decoder::page_bytes;
    return count;
}

}  // namespace

TEST_CASE("the independent decoder reads the first handover of every scenario", "[decoder]") {
    unsigned read = 0, with_files = 0, with_reservations = 0;
    for (const auto& file : scenario_files()) {
        INFO(scenario_name(file));
        const Scenario scenario = load(file);
        const RunResult uncut = run(scenario);
        const auto found = jumps(uncut);
        if (found.empty()) continue;
        StoppedRun stopped(scenario, found.front());
        if (!stopped.handover()) continue;
        const auto decoded = stopped.decode();
        // What was corrupted on purpose must be survived, and no more.
        if (corrupts(stopped.result())) continue;
        // A kexec that nobody prepared hands over a tree page without a tree, and the successor says so.
        if (!decoded.root) {
            CHECK(refused(uncut, found.front()));
            continue;
        }
        ++read;
        with_files += decoded.luo && !decoded.luo->files.empty() ? 1 : 0;
        with_reservations += decoded.reserve_mem.empty() ? 0 : 1;
        CHECK(text_of(decoded.problems) == "");
        CHECK(decoded.compatible == "kho-v1");
        CHECK_FALSE(decoded.scratch.empty());
        CHECK(text_of(decoded.findings) == "");
        if (forgotten_after_load.contains(scenario_name(file))) continue;
        CHECK(blocks_in(decoded) == stopped.result().preserved_folios);
        CHECK(bytes_in(decoded) == stopped.result().preserved_bytes);
    }
    CHECK(read > 100);
    CHECK(with_files > 30);
    CHECK(with_reservations > 5);
}

TEST_CASE("dtc accepts every tree of --dump-fdt", "[decoder]") {
    REQUIRE(std::system("dtc --version >/dev/null 2>&1") == 0);  // of the package device-tree-compiler
    unsigned trees = 0;
    for (const auto& file : scenario_files()) {
        INFO(scenario_name(file));
        const TempDir dir;
        RunOptions options;
        options.isolation = Isolation::inline_;
        options.dump_fdt_dir = dir.file("fdt");
        const RunResult result = sim::run_scenario(load(file), options);
        if (corrupts(result) || !fs::exists(options.dump_fdt_dir)) continue;
        std::string command;
        for (const auto& entry : fs::directory_iterator(options.dump_fdt_dir)) {
            ++trees;
            command += "dtc -q -I dtb -O dts -o /dev/null '" + entry.path().string() + "' && ";
        }
        CHECK(std::system((command + "true").c_str()) == 0);
    }
    CHECK(trees > 200);
}
