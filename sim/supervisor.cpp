#include "sim/supervisor.hpp"

#include <algorithm>
#include <fmt/format.h>

#include "sim/dump.hpp"
#include "sim/judge.hpp"
#include "sim/steps.hpp"

namespace kexec_sim::sim {
namespace {

std::string_view end_name(KernelEnd end) {
    switch (end) {
    case KernelEnd::kexec: return "kexec";
    case KernelEnd::panic: return "panic";
    case KernelEnd::reset: return "reset";
    case KernelEnd::power_loss: return "power-loss";
    case KernelEnd::scenario: return "scenario";
    }
    return "?";
}

/// Its steps or its expectations look at what kernels logged.
bool wants_log(const Scenario& scenario) {
    return !scenario.expect.log.empty() || !scenario.expect.no_log.empty() ||
           std::ranges::any_of(scenario.steps, [](const Step& step) { return step.id == StepId::expect_log; });
}

}  // namespace

Supervisor::Supervisor(Machine& machine, const Scenario& scenario, const RunOptions& options)
    : machine_(machine),
      scenario_(scenario),
      options_(options),
      state_(machine.arena->make<RunState>(machine.arena)),
      host_(make_host(options.isolation, machine, *state_, scenario)) {
    result_.seed = scenario.seed;
    machine.trace.keep = !options.silent || wants_log(scenario);
    for (const Step& step : scenario.steps) {
        StepRecord record;
        record.index = step.index;
        record.line = step.pos.line;
        record.name = step.name();
        record.expected = step.expected;
        result_.steps.push_back(record);
    }
}

Supervisor::~Supervisor() {
    host_->destroy();
    state_->~RunState();
}

void Supervisor::drain() {
    machine_.trace.drain([this](TraceEvent&& event) {
        if (event.name == "kernel.log") result_.log.emplace_back(event.generation, event.text("text"));
        if (options_.on_event) options_.on_event(event);
    });
}

void Supervisor::begin() {
    u64 memory = 0;
    for (const PhysRange& range : machine_.ram.ranges()) memory += range.bytes();
    machine_.trace.emit(Layer::sim, "run.begin",
                        {{"scenario", scenario_.name},
                         {"summary", scenario_.summary},
                         {"seed", scenario_.seed},
                         {"memory", memory},
                         {"nodes", u64{machine_.node_count}}});
    drain();
}

bool Supervisor::poll_interrupt() {
    if (options_.interrupted && options_.interrupted()) result_.interrupted = ended_ = true;
    return result_.interrupted;
}

void Supervisor::refuse(const std::string& why) {
    refused_ = true;
    fail(why);
    drain();
}

void Supervisor::first_kernel_ended(const Outcome& outcome) {
    // Under a fault that the scenario did not plan, a kernel may die as it boots.
    const bool by_fault = !options_.faults.empty() && machine_.faults.any_fired();
    if (!poll_interrupt() && outcome.text != "ok" && !by_fault)
        fail(fmt::format("the first kernel did not reach user space: {}", outcome.detail));
    drain();
}

void Supervisor::power_on() {
    machine_.reset_devices();
    BootRequest request;
    request.params = firmware_boot(machine_, kexec_request(scenario_, 0));
    const Outcome outcome = boot(request);
    first_kernel_ended(outcome);
}

void Supervisor::power_on_from(const BootParamsFile& file) {
    machine_.clock.start_at(file.clock_ns);
    machine_.set_generation(file.generation - 1);
    {
        const MachineEntry entry;
        for (const auto& [name, object] : file.bench) state_->bench[std::pmr::string(name, machine_.arena)] = object;
        for (const auto& [name, frames] : file.marks) state_->marks[std::pmr::string(name, machine_.arena)] = frames;
        state_->blackout_running = file.blackout_start_ns.has_value();
        state_->blackout_start_ns = file.blackout_start_ns.value_or(0);
    }
    state_->map_pages = file.counters[0];
    state_->preserved_folios = file.counters[1];
    state_->preserved_bytes = file.counters[2];
    state_->overhead_pages = file.counters[3];
    state_->luo_files = file.counters[4];
    if (!file.referee.empty()) machine_.referee.load_promises(file.referee);
    machine_.set_generation(file.generation);
    BootRequest request;
    request.params = boot_params_of(file, machine_, kexec_request(scenario_, 0));
    booted_once_ = false;
    const Outcome outcome = boot(request);
    first_kernel_ended(outcome);
}

Supervisor::Outcome Supervisor::boot(const BootRequest& request) {
    if (booted_once_) machine_.set_generation(machine_.generation + 1);
    booted_once_ = true;
    kernel_index_ = request.kernel_index;
    const KernelSpec& spec = scenario_.kernel(request.kernel_index);
    result_.generations.push_back(
        {machine_.generation, std::string(profile_name(spec.profile)), spec.release, "scenario"});
    machine_.trace.emit(
        Layer::sim, "generation",
        {{"index", machine_.generation}, {"profile", profile_name(spec.profile)}, {"release", spec.release}});
    alive_ = true;
    host_->boot(request);
    return take_outcome();
}

Supervisor::Outcome Supervisor::take_outcome() {
    Outcome outcome{std::string(state_->mailbox.text), std::string(state_->mailbox.detail)};
    switch (state_->mailbox.kind) {
    case OutcomeKind::result: return outcome;
    case OutcomeKind::jump: return jump();
    case OutcomeKind::panic: kernel_dies(KernelEnd::panic, outcome.detail); return {"panic", outcome.detail};
    case OutcomeKind::power_loss: kernel_dies(KernelEnd::power_loss, "power loss"); return {"panic", "power loss"};
    case OutcomeKind::user_error: throw UserError(outcome.detail);
    case OutcomeKind::bug: throw SimulatorBug(outcome.detail);
    }
    return outcome;
}

void Supervisor::end_kernel(KernelEnd end) {
    if (!alive_) return;
    alive_ = false;
    state_->guests_run = false;
    host_->destroy();
    result_.generations.back().end = end_name(end);
    machine_.trace.emit(Layer::sim, "kernel.end", {{"how", end_name(end)}});
    machine_.referee.kernel_ended(end);
}

void Supervisor::kernel_dies(KernelEnd end, const std::string& reason) {
    if (end == KernelEnd::panic)
        machine_.trace.emit(Layer::kernel, "kernel.log",
                            {{"level", u64{0}}, {"text", fmt::format("Kernel panic - not syncing: {}", reason)}});
    machine_.trace.emit(Layer::kernel, "kernel.panic", {{"reason", reason}});
    const bool by_signal = host_->ended_by_signal();
    end_kernel(end);
    if (end == KernelEnd::power_loss) {
        machine_.ram.lose_content();
        machine_.reset_devices();
    }
    state_->blackout_running = false;
    if (by_signal && !ended_) {
        result_.died_by_signal = true;
        fail("the kernel died by a host signal; with inline isolation the run ends here (use --isolation process)");
    }
}

Supervisor::Outcome Supervisor::jump() {
    if (!options_.dump_fdt_dir.empty()) dump_handover(machine_, *state_, options_.dump_fdt_dir);
    end_kernel(KernelEnd::kexec);
    drain();
    if (options_.stop_at_jump && *options_.stop_at_jump == machine_.generation + 1) {
        stop_here();
        return {"ok", {}};
    }
    const PhysRange where = phys_range(PhysAddr{state_->boot_params_begin}, state_->boot_params_bytes);
    BootRequest request;
    request.kernel_index = state_->next_kernel_index;
    request.params = read_boot_params(machine_.ram, where);
    return boot(request);
}

void Supervisor::stop_here() {
    result_.stopped_at_jump = true;
    ended_ = true;
    if (!options_.boot_params_file.empty()) write_boot_params_file(options_.boot_params_file, machine_, *state_);
}

Supervisor::Outcome Supervisor::reset(bool cold) {
    if (alive_) {
        machine_.trace.emit(Layer::sim, "machine.reset", {{"how", cold ? "cold" : "warm"}});
        end_kernel(KernelEnd::reset);
    } else {
        machine_.trace.emit(Layer::sim, "machine.reset", {{"how", cold ? "cold" : "warm"}});
    }
    if (cold) machine_.ram.lose_content();
    machine_.reset_devices();
    BootRequest request;
    request.kernel_index = kernel_index_;
    request.params = firmware_boot(machine_, kexec_request(scenario_, kernel_index_));
    return boot(request);
}

Supervisor::Outcome Supervisor::crash_kernel() {
    const PhysRange range{PhysAddr{state_->crash_begin}, PhysAddr{state_->crash_end}};
    if (range.empty()) return {"EINVAL", "no memory was reserved for a crash kernel (crashkernel=SIZE)"};
    if (alive_) kernel_dies(KernelEnd::panic, "sysrq triggered crash");
    if (ended_) return {"panic", "the run has ended"};
    KexecRequest image = kexec_request(scenario_, kernel_index_);
    image.crash = true;
    image.cmdline += " kho=off";
    BootRequest request;
    request.kernel_index = kernel_index_;
    request.crash_kernel = true;
    try {
        request.params = crash_boot(machine_, image, range);
    } catch (const KernelPanic& panic) {
        return {"ENOMEM", panic.what()};
    }
    return boot(request);
}

void Supervisor::notice_silent_death() {
    if (!alive_ || host_->alive()) return;
    static_cast<void>(take_outcome());
}

/// Outside of any call of the kernel. What devices do meanwhile may be its end, by a planned fault.
std::optional<Supervisor::Outcome> Supervisor::time_passes(u64 ns) {
    const auto ends = [&](KernelEnd how, const std::string& why) -> Outcome {
        if (alive_) kernel_dies(how, why);
        return {"panic", why};
    };
    try {
        machine_.clock.advance(ns);
    } catch (const KernelPanic& panic) {
        return ends(KernelEnd::panic, panic.what());
    } catch (const PowerLoss&) {
        return ends(KernelEnd::power_loss, "power loss");
    }
    return std::nullopt;
}

Supervisor::Outcome Supervisor::dispatch(const Step& step) {
    notice_silent_death();
    if (const auto died = time_passes(step_cost_ns)) return *died;
    switch (step.id) {
    case StepId::advance:
        if (alive_ && state_->guests_run) break;  // the kernel lets them run
        if (const auto died = time_passes(step.get_u64(step.spec->fields.front().name))) return *died;
        return {"ok", {}};
    case StepId::note: return {"ok", {}};
    case StepId::reset: return reset(step.get_text(step.spec->fields.front().name) == "cold");
    case StepId::crash_kernel: return crash_kernel();
    case StepId::mark:
    case StepId::expect_log:
    case StepId::expect_counter:
    case StepId::expect_frames:
    case StepId::expect_memory_in_use: {
        drain();
        const StepResult result = run_check_step(machine_, *state_, result_.log, step);
        return {result.text, result.detail};
    }
    default: break;
    }
    if (!alive_) {
        if (step.id == StepId::kho_expect_map) {
            const StepResult result = check_last_map(*state_, step);
            return {result.text, result.detail};
        }
        return {"dead", "no kernel is running"};
    }
    host_->run_step(step);
    return take_outcome();
}

const StepRecord& Supervisor::run_step(const Step& step) {
    StepRecord& record = result_.steps[step.index];
    const u64 start_ns = machine_.clock.now_ns();
    record.generation = machine_.generation;
    state_->last_step = std::max(state_->last_step, step.index);
    machine_.trace.emit(Layer::sim, "step",
                        {{"index", step.index},
                         {"line", i64{step.pos.line}},
                         {"text", step.text},
                         {"expected", step.expected},
                         {"note", step.note}},
                        Phase::begin);
    const Outcome outcome = dispatch(step);
    record.result = outcome.text;
    if (!in_epilogue_) {
        result_.executed.push_back(outcome.text);
        result_.executed_index.push_back(step.index);
    }
    record.detail = outcome.detail;
    record.virtual_ns = machine_.clock.now_ns() - start_ns;
    const bool pass = record.result == step.expected || (result_.stopped_at_jump && record.result == "ok");
    if (record.outcome != "fail") record.outcome = pass ? "pass" : "fail";
    machine_.trace.emit(
        Layer::sim, "step",
        {{"index", step.index}, {"result", outcome.text}, {"detail", outcome.detail}, {"outcome", record.outcome}},
        Phase::end);
    const bool interrupted = poll_interrupt();
    const bool matters = !options_.to_the_end && (options_.faults.empty() || own_epilogue_) && !in_epilogue_;
    if (!pass && !interrupted && matters) {
        std::string text = fmt::format("step {} (line {}, {}): {}, expected {}", step.index + 1, step.pos.line,
                                       step.name(), outcome.text, step.expected);
        if (!outcome.detail.empty()) text += ": " + outcome.detail;
        fail(std::move(text));
    }
    drain();
    if (options_.max_time_ns && machine_.clock.now_ns() > options_.max_time_ns && !interrupted) {
        result_.out_of_time = true;
        fail(fmt::format("virtual time is {} ns, more than --max-time allows", machine_.clock.now_ns()));
    }
    if (options_.after_step && !ended_ && !options_.after_step(machine_, *state_, host_->pid())) {
        result_.interrupted = true;
        ended_ = true;
    }
    poll_interrupt();
    last_ = record;
    return last_;
}

void Supervisor::fail(std::string text) {
    machine_.trace.emit(Layer::sim, "run.failure", {{"text", text}});
    result_.failures.push_back(std::move(text));
    ended_ = true;
}

RunResult Supervisor::finish(const Baseline* baseline) {
    const bool under_faults = baseline != nullptr;
    if (baseline) result_.known_findings = baseline->findings;
    if (alive_ && !result_.stopped_at_jump) {
        result_.frames_in_use = machine_.referee.frames_in_use();
        end_kernel(KernelEnd::scenario);
        machine_.referee.scenario_ends();
    } else {
        result_.frames_in_use = machine_.referee.frames_in_use();
        if (!result_.stopped_at_jump) machine_.referee.scenario_ends();
    }
    result_.faults = machine_.faults.status();
    result_.visits = machine_.faults.visits();
    result_.findings = machine_.referee.findings();
    drain();
    const bool judged = !result_.stopped_at_jump && !result_.interrupted && !refused_ && !options_.to_the_end;
    if (options_.stop_at_jump && judged)
        fail(fmt::format("the jump to generation {}, where the run was to stop, did not come",
                         *options_.stop_at_jump));
    if (judged) {
        for (std::string& failure : judge_run(scenario_, result_, options_, under_faults)) fail(std::move(failure));
    }
    result_.devices = device_counters(machine_);
    result_.virtual_ns = machine_.clock.now_ns();
    result_.blackouts_ns.assign(state_->blackouts_ns.begin(), state_->blackouts_ns.end());
    result_.preserved_folios = state_->preserved_folios;
    result_.preserved_bytes = state_->preserved_bytes;
    result_.overhead_pages = state_->overhead_pages;
    result_.map_pages = state_->map_pages;
    result_.luo_files = state_->luo_files;
    result_.passed = result_.failures.empty();
    machine_.trace.emit(Layer::sim, "run.end",
                        {{"outcome", !result_.passed       ? "fail"
                                     : result_.interrupted ? "interrupted"
                                                           : "pass"},
                         {"blackout", result_.blackouts_ns.empty() ? u64{0} : result_.blackouts_ns.back()},
                         {"folios", result_.preserved_folios},
                         {"bytes", result_.preserved_bytes},
                         {"map_pages", result_.map_pages},
                         {"stopped", u64{result_.stopped_at_jump}},
                         {"under_faults", u64{under_faults}}});
    drain();
    result_.trace_hash = machine_.trace.hash().hex();
    result_.trace_events = machine_.trace.events();
    result_.ram_hash = machine_.ram.hash().hex();
    return std::move(result_);
}

}  // namespace kexec_sim::sim
