// From a plan that violates something to a scenario file of its own that shows it, as small as it gets.
//
//   scenario + plan ──run──► steps that ran, with the results they gave ──► + the epilogue, as plain steps ──► plain scenario
//        plain scenario ──smaller, and smaller──► the smallest that still has the violation ──► text
//
// A plain scenario plans its faults itself, has one step a line without loops, expects of each step what it gives, and
// expects the findings that come: `run` gives exit 0 while the bug lives, and 1 when it is fixed.
//
// Smaller, in this order, until nothing of it works any more: steps (halves, quarters, …, single ones), faults, weaker
// actions, sizes, devices, kernels, memory. What is left has a fault and a step. Each attempt is a run in a worker
// process; visits of a fault are looked for again where steps before it have gone.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "sim/explore/outcome.hpp"
#include "sim/explore/pool.hpp"

namespace kexec_sim::sim {

struct Target {
    Violation violation;
    FaultPlan plan;
    std::string where;  // the call chain of the fault
};

struct ShrinkOptions {
    u64 runs_max = 2000;
    double seconds_max = 30;
    std::vector<std::string> modules;
    std::function<bool()> interrupted;
    /// After each smaller one: how many steps and faults are left, runs so far.
    std::function<void(std::size_t steps, std::size_t faults, u64 runs)> on_progress;
};

struct Reproduction {
    Scenario scenario;
    std::string text;
    std::size_t steps_before = 0;  // of the plain scenario, before it was made smaller
    u64 runs = 0;
    bool finished = false;  // nothing smaller was found; false: budget, time or an interrupt ended the search
};

/// nullopt: the plain scenario does not show the violation (what the epilogue found cannot be said in steps).
std::optional<Reproduction> reproduce(const Scenario& scenario, const Target& target, const ShrinkOptions& options);

}  // namespace kexec_sim::sim
