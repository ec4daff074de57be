// The runner: boots kernels one after another and sends them the steps of a scenario.
//
//   power on -> boot generation 0 -> step, step, … kexec -> jump -> boot generation 1 -> … -> judge
//
// It is the supervisor: it owns the machine, never runs kernel code itself (but for inline isolation), drains the
// trace after every step and knows how each kernel ended. Everything it tells anybody goes through trace events (layer
// sim):
//
//   run.begin     scenario, summary, seed, memory, nodes       run.end     outcome
//   step          span: index, line, text, expected, note  ->  result, detail, outcome
//   kernel.panic  reason                                       kernel.end  how
//   machine.reset how                                          run.failure text
//
// so that a view needs nothing but the stream.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "sim/device_counters.hpp"
#include "sim/host.hpp"
#include "sim/scenario.hpp"

namespace kexec_sim::sim {

/// What makes two findings the same one.
using FindingKey = std::tuple<InvariantId, CheckId, std::string>;  // …, resource
FindingKey finding_key(const Finding& finding);

/// What a run with unplanned faults is held against: the run without them.
struct Baseline {
    std::vector<std::string> executed;  // what its steps gave, in the order in which they ran
    std::set<FindingKey> findings;      // which no fault brought about
    /// Steps that are not ok there: name and result. What the script is refused, the epilogue may be refused too.
    std::set<std::pair<std::string, std::string>> refusals;
};
struct RunResult;
Baseline baseline_of(const RunResult& result);

struct RunOptions {
    Isolation isolation = Isolation::process;
    std::vector<PlannedFault> faults;        // --fault: unplanned by the scenario
    std::string ram_file;                    // --ram
    std::optional<Generation> stop_at_jump;  // --stop-at jump:N
    std::string boot_params_file;            // with stop_at_jump
    std::string dump_fdt_dir;                // --dump-fdt
    u64 max_time_ns = 0;                     // --max-time; 0: none
    std::vector<std::string> modules;        // --module
    /// Every event, in order, as soon as the step that made it has ended.
    std::function<void(const TraceEvent&)> on_event;
    /// Between steps, for `--step`; the machine and the notes may be looked at. Returns false to end the run.
    std::function<bool(Machine&, const RunState&, int kernel_pid)> after_step;
    /// Polled between steps; true ends the run early (a signal).
    std::function<bool()> interrupted;
    bool record_visits = false;
    /// With `faults`: the fault-free run, where the caller has run it already.
    const Baseline* baseline = nullptr;
    /// What a step gives is taken as it is: an unmet `expect` ends nothing and is no failure, and nothing is judged.
    bool to_the_end = false;
    /// Memory and state of the machine are this process's own (MachineConfig); inline isolation and no modules.
    bool private_memory = false;
    /// Given the machine's injector, before the first kernel boots.
    std::function<void(FaultInjector&)> on_machine;
    /// Nobody asks for events, nor for the kernels' logs (but a scenario that expects lines of them).
    bool silent = false;
};

struct StepRecord {
    u32 index = 0;
    int line = 0;
    std::string name, result, expected, outcome = "skipped", detail;  // outcome: pass, fail, skipped
    u64 virtual_ns = 0;                                               // how long it took
    Generation generation = 0;
};

struct GenerationRecord {
    Generation index = 0;
    std::string profile, release, end;  // kexec, panic, reset, power-loss, scenario
};

struct RunResult {
    bool passed = false;
    bool stopped_at_jump = false, interrupted = false;
    u64 seed = 1;
    u64 virtual_ns = 0;
    std::vector<u64> blackouts_ns;
    std::vector<GenerationRecord> generations;
    std::vector<StepRecord> steps;
    std::vector<std::string> executed;  // results in the order in which steps ran (a repeated one counts each time)
    std::vector<u32> executed_index;    // and which steps these were
    /// Under an unplanned fault: where the run left the script.
    struct Left {
        bool script = false, alive = false;
        bool update_under_way = false;  // that can be cancelled
        Generation generation = 0;
    } left;
    std::vector<FaultInjector::Status> faults;
    std::vector<FaultInjector::Visits> visits;
    std::vector<Finding> findings;
    std::set<FindingKey> known_findings;  // under an unplanned fault: those of the fault-free run
    std::vector<std::string> failures;    // each a line: what was expected and what happened
    /// The part of the epilogue that did not succeed, and should have.
    struct EpilogueFailure {
        std::string part, result, detail;
    };
    std::optional<EpilogueFailure> epilogue_failure;
    bool died_by_signal = false;  // inline isolation: a kernel's code got a fatal signal, and the run ended there
    bool out_of_time = false;     // max_time_ns
    u64 preserved_folios = 0, preserved_bytes = 0, overhead_pages = 0, map_pages = 0, luo_files = 0,
        frames_in_use = 0;
    DeviceCounters devices;
    std::string trace_hash, ram_hash;
    u64 trace_events = 0;
    /// Kernel log of every generation, as (generation, line).
    std::vector<std::pair<Generation, std::string>> log;
};

/// Runs one scenario to its end. UserError: exit 2; SimulatorBug: exit 3.
RunResult run_scenario(const Scenario& scenario, const RunOptions& options);

}  // namespace kexec_sim::sim
