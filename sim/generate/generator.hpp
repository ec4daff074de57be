// Runs a small step space against the reference.
//
//   Space ──index──► worker: case, scenario, fresh inline run ──► agreed, or the first step that did not ──► groups
//
// Workers are processes (sim/workers/workers.hpp): a run that crashes or hangs costs that worker, and is a disagreement
// of its sequence. The result does not depend on how many there are.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "sim/generate/space.hpp"

namespace kexec_sim::sim::generate {

struct GenerateOptions {
    SpaceOptions space;
    unsigned jobs = 1;
    u64 budget = 0;  // at most so many sequences, picked by the seed; 0: all
    u64 seed = 1;
    double max_host_seconds = 60;  // of one run
    /// In the worker, before it runs that sequence: for tests, which let some of them die.
    std::function<void(u64 sequence)> on_sequence;
};

/// One run that is not as the reference says.
struct Disagreement {
    u64 sequence = 0;  // index into Space::sequences
    std::string step, before, expected, got, detail;
};
/// Disagreements whose first wrong step is alike.
struct DisagreementGroup {
    Disagreement first;  // that of the earliest sequence
    u64 count = 0;
};

struct GenerateReport {
    Space space;
    u64 wanted = 0, runs = 0, runs_two_kernels = 0;
    u64 steps = 0;
    double seconds = 0;
    bool interrupted = false;
    std::vector<Disagreement> disagreements;  // ascending by sequence
    std::vector<DisagreementGroup> groups;    // in the order of their first

    bool complete() const { return !interrupted && runs == space.sequences.size(); }
};

struct GenerateProgress {
    const GenerateReport& report;
    double runs_per_second;
};

/// UserError: the host has no process left.
GenerateReport generate(const Reference& reference, const GenerateOptions& options,
                        const std::function<void(const GenerateProgress&)>& on_progress,
                        const std::function<bool()>& interrupted);

/// One case, in this process.
std::optional<Disagreement> run_case(const Case& one, const Edition& edition, bool* two_kernels = nullptr);

/// `count` different numbers below `total`, ascending, by the seed; all of them where there are no more.
std::vector<u64> sampled(u64 total, u64 count, u64 seed);

}  // namespace kexec_sim::sim::generate
