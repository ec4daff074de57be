// Exploration: whole runs of two kernels, on one core, as a worker carries them out.
//
// Each iteration is a plan that goes through the whole update: memory of a memfd and a scripted subsystem, preserve,
// prepare, kexec, boot of the second kernel up to user space, retrieve, finish. Only outcomes that reached the second kernel
// count; one that did not stops the benchmark.
//
// Reference: what the host takes for a process that does nothing (fork, exit, wait): the least that a run in a process of
// its own would cost.
#include "tests/bench/table.hpp"

#include <sys/wait.h>
#include <unistd.h>

#include "sim/explore/forking_run.hpp"
#include "sim/explore/pool.hpp"
#include "tests/support/update_scenario.hpp"

namespace {

using namespace kexec_sim;
using namespace kexec_sim::sim;

struct Plans {
    explicit Plans(const char* size) : scenario(test_support::update_scenario({.size = size, .verify = false})) {
        RunOptions plain;
        plain.isolation = Isolation::inline_;
        plain.silent = true;
        options.baseline = baseline_of(run_scenario(scenario, plain));
        options.max_virtual_ns = 1'000'000'000'000;
    }
    static PlanJob plan(const char* text) { return {.faults = {parse_fault(text).value()}}; }
    Scenario scenario;
    PoolOptions options;
};

void fresh(benchmark::State& state, const char* size, double target_ns) {
    Plans plans(size);
    const PlanJob job = Plans::plan("luo.subsystem.finish[kvm]#1=delay(1ms)");
    for (auto _ : state) {
        const PlanOutcome outcome = run_plan(plans.scenario, plans.options, job);
        if (!outcome.two_kernels || !outcome.violations.empty()) return state.SkipWithError("not a whole update");
    }
    state.SetItemsProcessed(state.iterations());
    bench::set_target_ns(state, target_ns);
}

/// Plans whose faults come late: each costs its tail.
void forked(benchmark::State& state, const char* size) {
    Plans plans(size);
    const std::vector<PlanJob> jobs(64, Plans::plan("luo.subsystem.finish[kvm]#1=delay(1ms)"));
    for (auto _ : state)
        for (const PlanOutcome& outcome : run_forking(plans.scenario, plans.options, jobs))
            if (!outcome.two_kernels) return state.SkipWithError("not a whole update");
    state.SetItemsProcessed(state.iterations() * static_cast<i64>(jobs.size()));
}

void process(benchmark::State& state) {
    for (auto _ : state) {
        const pid_t child = fork();
        if (child == 0) _exit(0);
        waitpid(child, nullptr, 0);
    }
    state.SetItemsProcessed(state.iterations());
}

constexpr double small_ns = 500'000, large_ns = 10'000'000;  // 2,000 and 100 a second

BENCHMARK_CAPTURE(fresh, small, "64KiB", small_ns)->Name("explore, 64 KiB: a plan")->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(fresh, large, "8MiB", large_ns)->Name("explore, 8 MiB: a plan")->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(forked, small, "64KiB")->Name("explore, 64 KiB: the tail of a plan")->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(forked, large, "8MiB")->Name("explore, 8 MiB: the tail of a plan")->Unit(benchmark::kMicrosecond);
BENCHMARK(process)->Name("reference:explore, 64 KiB: a plan")->Unit(benchmark::kMicrosecond);

}  // namespace
