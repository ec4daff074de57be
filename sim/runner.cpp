#include "sim/runner.hpp"

#include <algorithm>
#include <cstdlib>
#include <fmt/format.h>
#include <functional>
#include <span>

#include "sim/boot_params_file.hpp"
#include "sim/epilogue.hpp"
#include "sim/judge.hpp"
#include "sim/steps.hpp"
#include "sim/supervisor.hpp"

namespace kexec_sim::sim {
namespace {

MachineConfig machine_config(const Scenario& scenario, const RunOptions& options, const BootParamsFile* file) {
    MachineConfig config;
    config.seed = scenario.seed;
    config.ram_file = options.ram_file;
    config.private_memory = options.private_memory;
    config.node_bytes = scenario.machine.node_bytes;
    config.iommu = scenario.machine.iommu;
    config.iommu_never_evicts = scenario.machine.iommu_never_evicts;
    config.devices = scenario.machine.devices;
    if (file) {
        config.memory_map = file->memory_map;
        config.nodes = file->nodes;
        config.node_count = file->node_count;
        if (config.memory_map.empty()) config.node_bytes = {file->image_bytes};
    }
    return config;
}

/// Runs a program; stops at the first step that ends the run, or for which `leave` says so (true is returned then).
bool run_program(Supervisor& supervisor, std::span<const Step> steps, std::span<const ProgramOp> program,
                 const std::function<bool(const StepRecord&)>& leave) {
    std::vector<u64> rounds_left(program.size());
    for (std::size_t at = 0; at < program.size() && !supervisor.ended(); ++at) {
        const ProgramOp& op = program[at];
        switch (op.kind) {
        case ProgramOp::Kind::step:
            if (leave(supervisor.run_step(steps[op.step]))) return true;
            break;
        case ProgramOp::Kind::repeat_begin:
            rounds_left[at] = op.times;
            if (op.times == 0) at = op.partner;
            break;
        case ProgramOp::Kind::repeat_end:
            if (--rounds_left[op.partner] != 0) at = op.partner;
            break;
        }
    }
    return false;
}

/// With the modules of the command line, and the scenario's own epilogue behind the script: a kernel process knows steps
/// by their index.
Scenario with_additions(const Scenario& scenario, const RunOptions& options) {
    Scenario own = scenario;
    for (const std::string& module : options.modules) own.modules.emplace_back(module);
    if (own.under_faults)
        for (Step step : own.under_faults->steps) {
            step.index = static_cast<u32>(own.steps.size());
            own.steps.push_back(std::move(step));
        }
    return own;
}

}  // namespace

FindingKey finding_key(const Finding& finding) { return {finding.invariant, finding.check, finding.resource}; }

Baseline baseline_of(const RunResult& result) {
    Baseline baseline{result.executed, {}, {}};
    for (std::size_t i = 0; i < result.executed.size(); ++i)
        if (const u32 index = result.executed_index[i]; result.executed[i] != "ok" && index < result.steps.size())
            baseline.refusals.emplace(result.steps[index].name, result.executed[i]);
    for (const Finding& finding : result.findings) baseline.findings.insert(finding_key(finding));
    return baseline;
}

RunResult run_scenario(const Scenario& scenario, const RunOptions& options) {
    std::optional<Baseline> own_baseline;
    std::string broken_without;
    if (!options.baseline && !options.faults.empty()) {
        // What a run without the unplanned faults does, to see where this one leaves it.
        RunOptions plain;
        plain.isolation = options.isolation;
        plain.modules = options.modules;
        plain.max_time_ns = options.max_time_ns;
        plain.interrupted = options.interrupted;
        plain.silent = true;
        RunResult result = run_scenario(scenario, plain);
        if (result.interrupted) return result;
        if (!result.passed) broken_without = result.failures.front();
        own_baseline = baseline_of(result);
    }
    const Baseline* baseline = own_baseline ? &*own_baseline : options.baseline;
    const EpilogueGate gate(baseline);
    std::optional<BootParamsFile> file;
    if (scenario.machine.from_handover())
        file = read_boot_params_file(scenario.machine.boot_params, scenario.machine.image);
    const MachineHandle machine = make_machine(machine_config(scenario, options, file ? &*file : nullptr));
    if (const char* muted = std::getenv("KEXEC_SIM_MUTE")) {
        if (const auto id = invariant_by_name(muted)) machine->referee.mute(*id);
        if (const auto check = check_by_name(muted)) machine->referee.mute(*check);
    }

    std::vector<PlannedFault> plan = scenario.faults;
    plan.insert(plan.end(), options.faults.begin(), options.faults.end());
    machine->faults.set_plan(plan, scenario.faults.size());
    machine->faults.record_visits = options.record_visits;
    if (options.on_machine) options.on_machine(machine->faults);

    std::optional<Scenario> extended;
    if (!options.modules.empty() || scenario.under_faults) extended = with_additions(scenario, options);
    const Scenario& own = extended ? *extended : scenario;
    Supervisor supervisor(*machine, own, options);
    supervisor.begin();
    if (!broken_without.empty()) {
        supervisor.refuse("without the faults of the command line the scenario fails already: " + broken_without);
        return supervisor.finish(baseline);
    }
    if (file) {
        machine->ram.load_image(scenario.machine.image.string());
        supervisor.power_on_from(*file);
    } else {
        supervisor.power_on();
    }
    std::size_t visit = 0;
    const std::span<const Step> script = std::span(own.steps).first(scenario.steps.size());
    const bool left = run_program(supervisor, script, own.program,
                                  [&](const StepRecord& record) { return gate.diverges(visit++, record); });
    if (left) {
        supervisor.note_left();
        machine->faults.disarm();  // whether the system still works is asked without faults, the scenario's own too
    }
    if (left && own.under_faults && !own.under_faults->steps.empty()) {
        supervisor.own_epilogue_begins();
        run_program(supervisor, std::span(own.steps).subspan(scenario.steps.size()), own.under_faults->program,
                    [](const StepRecord&) { return false; });
    } else if (left) {
        supervisor.run_epilogue(*baseline);
    }
    RunResult result = supervisor.finish(baseline);
    std::erase_if(result.steps, [&](const StepRecord& record) {
        return record.index >= scenario.steps.size() && record.outcome == "skipped";
    });
    return result;
}

}  // namespace kexec_sim::sim
