// `kexec-sim run`: check every file, open every output, run one scenario after another, write the results.
//
// Nothing half done: a scenario that does not parse, or a file that cannot be written, is found before the first
// kernel boots. An error in one run (exit 2 or 3) does not keep the others from running; the highest code wins.
#include <algorithm>
#include <filesystem>
#include <fmt/format.h>
#include <memory>
#include <new>

#include "machine/result.hpp"
#include "sim/boot_params_file.hpp"
#include "sim/cli.hpp"
#include "sim/host_file.hpp"
#include "sim/interrupt.hpp"
#include "sim/narration.hpp"
#include "sim/output.hpp"
#include "sim/result_json.hpp"
#include "sim/runner.hpp"
#include "sim/shell.hpp"
#include "sim/step_view.hpp"
#include "sim/trace_file.hpp"

namespace kexec_sim::sim {
namespace {

/// The one command that repeats the run of `file`: what decides it, and nothing of the view.
std::string repeat_command(const RunCommand& command, const std::string& program, const Scenario& scenario) {
    std::string text = shell_quoted(program) + " run " + shell_quoted(scenario.path.string());
    const auto add = [&](std::string_view option, const std::string& value) {
        text += fmt::format(" {} {}", option, shell_quoted(value));
    };
    add("--seed", fmt::format("{}", scenario.seed));
    if (command.strict) text += " --strict";
    for (const auto& [key, value] : command.overrides) add("--set", key + "=" + value);
    for (const PlannedFault& fault : command.faults) add("--fault", fault.text());
    if (!command.process_isolation) add("--isolation", "inline");
    if (command.max_time_ns) add("--max-time", command.max_time_text);
    for (const std::string& module : command.modules) add("--module", module);
    if (command.stop_at_jump) add("--stop-at", fmt::format("jump:{}", *command.stop_at_jump));
    return text;
}

/// Every file read and checked; all that is wrong is said.
std::vector<Scenario> load_all(const RunCommand& command) {
    std::vector<Scenario> scenarios;
    std::string errors;
    for (const std::string& file : command.files) {
        try {
            LoadOptions options;
            options.overrides = command.overrides;
            options.seed = command.seed;
            options.strict = command.strict;
            options.bench_names = bench_names_of;
            options.check_files = true;
            scenarios.push_back(load_scenario(file, options));
            if (!command.boot_params_file.empty() && scenarios.back().machine.has_devices())
                throw UserError(
                    fmt::format("kexec-sim: error: --boot-params: the machine of {} has devices, and a machine "
                                "with devices cannot be resumed",
                                file));
        } catch (const UserError& error) {
            errors += std::string(errors.empty() ? "" : "\n") + error.what();
        }
    }
    if (!errors.empty()) throw UserError(errors);
    return scenarios;
}

/// What is written must not be what is read, nor two results one file: neither would be what was asked for.
void check_distinct(const RunCommand& command, const std::vector<Scenario>& scenarios) {
    struct Named {
        std::string what;
        std::filesystem::path path;
    };
    std::vector<Named> outputs, inputs;
    const auto output = [&](std::string_view what, const std::string& path) {
        if (!path.empty()) outputs.push_back({std::string(what), path});
    };
    output("--ram", command.ram_file);
    output("--boot-params", command.boot_params_file);
    output("--trace", command.trace_file);
    output("--json", command.json_file);
    for (const Scenario& scenario : scenarios) {
        inputs.push_back({"the scenario", scenario.path});
        for (const auto& module : scenario.modules) inputs.push_back({"a module", module});
        if (!scenario.machine.from_handover()) continue;
        inputs.push_back({"the memory image", scenario.machine.image});
        inputs.push_back({"the boot parameters", scenario.machine.boot_params});
    }
    for (const std::string& module : command.modules) inputs.push_back({"a module", module});
    for (std::size_t i = 0; i < outputs.size(); ++i) {
        const Named& out = outputs[i];
        for (std::size_t k = 0; k < i; ++k)
            if (same_file(out.path, outputs[k].path))
                throw UserError(fmt::format("kexec-sim: error: {} and {} would both write {}", outputs[k].what,
                                            out.what, out.path.string()));
        for (const Named& in : inputs)
            if (same_file(out.path, in.path))
                throw UserError(fmt::format("kexec-sim: error: {} would overwrite {}, which is {}", out.what,
                                            out.path.string(), in.what));
    }
}

/// Files and folders that did not exist before: removed again if what follows is refused.
class Fresh {
public:
    Fresh() = default;
    ~Fresh() {
        std::error_code none;
        for (const auto& path : made_) std::filesystem::remove(path, none);
    }
    Fresh(const Fresh&) = delete;
    Fresh& operator=(const Fresh&) = delete;

    std::unique_ptr<Output> open(const std::string& path) {
        note(path);
        return std::make_unique<Output>(path);
    }
    void note(const std::string& path) {
        std::error_code none;
        if (path != "-" && !std::filesystem::exists(path, none)) made_.push_back(path);
    }
    void keep() { made_.clear(); }

private:
    std::vector<std::filesystem::path> made_;
};

void check_writable(const RunCommand& command, Fresh& fresh) {
    if (!command.boot_params_file.empty()) {
        std::error_code none;
        const bool was_there = std::filesystem::exists(command.boot_params_file, none);
        Output(command.boot_params_file).is_terminal();
        if (!was_there)
            std::filesystem::remove(command.boot_params_file, none);  // a run that does not stop leaves none
    }
    if (command.dump_fdt_dir.empty()) return;
    fresh.note(command.dump_fdt_dir);
    make_folder(command.dump_fdt_dir);
}

class RunSession {
public:
    RunSession(const RunCommand& command, const std::string& program)
        : command_(command),
          program_(program),
          scenarios_(load_all(command)),
          modules_(module_files(command.modules)),
          console_(console_beside({command.json_file, command.trace_file})),
          color_(wants_color(command.view.no_color, console_.is_terminal())),
          series_([this](std::string_view text) { console_.write(text); },
                  {color_, command.view.quiet, command.view.verbose}) {
        check_distinct(command, scenarios_);
        Fresh fresh;
        check_writable(command, fresh);
        if (!command.json_file.empty()) json_ = fresh.open(command.json_file);
        if (!command.trace_file.empty()) {
            trace_file_ = fresh.open(command.trace_file);
            trace_ = std::make_unique<TraceFileWriter>(*trace_file_);
        }
        fresh.keep();
    }

    int run() {
        watch_for_interrupts();
        for (const Scenario& scenario : scenarios_) {
            run_one(scenario);
            if (stopped_) break;
        }
        series_.total();
        console_.flush();
        if (json_) {
            json_->write(result_json(reported_));
            json_->flush();
        }
        if (trace_file_) trace_file_->flush();
        return exit_code(code_);
    }

private:
    RunOptions options_of() {
        RunOptions options;
        options.isolation = command_.process_isolation ? Isolation::process : Isolation::inline_;
        options.faults = command_.faults;
        options.ram_file = command_.ram_file;
        options.stop_at_jump = command_.stop_at_jump;
        options.boot_params_file = command_.boot_params_file;
        options.dump_fdt_dir = command_.dump_fdt_dir;
        options.max_time_ns = command_.max_time_ns;
        options.modules = modules_;
        options.interrupted = [] { return interrupt_signal() != 0; };
        options.on_event = [this](const TraceEvent& event) { hear(event); };
        if (command_.step)
            options.after_step = [this](Machine& machine, const RunState&, int pid) { return wait(machine, pid); };
        return options;
    }

    void hear(const TraceEvent& event) {
        series_.event(event);
        if (trace_) trace_->event(event);
        if (step_view_) step_view_->event(event);
        if (event.name == "step" && event.phase == Phase::begin)
            doing_ = fmt::format("step {} ({})", event.number("index") + 1, event.text("text"));
    }

    /// --step: shows where the run stands and waits.
    bool wait(Machine& machine, int pid) {
        console_.write(step_view_->text(machine));
        console_.write("  [Enter: next step, q: quit]\n");
        console_.flush();
        if (pid) print_error(fmt::format("kexec-sim: the kernel is process {}", pid));
        if (prompt_.ask() == StepAnswer::next) return true;
        stopped_ = true;
        return false;
    }

    void run_one(const Scenario& scenario) {
        const std::string command = repeat_command(command_, program_, scenario);
        doing_.clear();
        if (command_.step) step_view_ = std::make_unique<StepView>(color_);
        series_.begin(command);
        if (trace_) trace_->begin({scenario.name, scenario.path.string(), command});
        ReportedRun report{scenario.name, scenario.path.string(), result_of_no_run(scenario), std::nullopt};
        TraceFooter footer;
        const auto error = [&](std::string text, int code) {
            report.error = text;
            footer = {"error", text, 0, {}};
            code_ = std::max(code_, code);
        };
        try {
            report.result = run_scenario(scenario, options_of());
            const RunResult& result = report.result;
            footer = {result.interrupted ? "interrupted" : result.passed ? "pass" : "fail", {}, 0, result.trace_hash};
            if (!result.passed) code_ = std::max<int>(code_, exit_failed);
            stopped_ = stopped_ || result.interrupted;
        } catch (const UserError& user_error) {
            error(user_error.what(), exit_usage);
        } catch (const std::bad_alloc&) {
            error("kexec-sim: error: the host has no memory left", exit_usage);
        } catch (const std::exception& bug) {
            const std::string where = doing_.empty() ? "" : ", after " + doing_;
            error(bug_text(bug.what(), fmt::format("running {}{}", scenario.path.string(), where), command),
                  exit_bug);
        }
        series_.end();
        console_.flush();
        if (trace_) {
            trace_->end(footer);
            trace_file_->flush();
        }
        if (report.error) print_error(*report.error);
        // A run that was broken off has no outcome.
        if (!report.result.interrupted) reported_.push_back(std::move(report));
    }

    const RunCommand& command_;
    const std::string& program_;
    std::vector<Scenario> scenarios_;
    std::vector<std::string> modules_;
    Output console_;
    bool color_;
    NarrationSeries series_;
    std::unique_ptr<Output> json_, trace_file_;
    std::unique_ptr<TraceFileWriter> trace_;
    std::unique_ptr<StepView> step_view_;
    StepPrompt prompt_;
    std::vector<ReportedRun> reported_;
    std::string doing_;
    int code_ = exit_ok;
    bool stopped_ = false;
};

}  // namespace

int run_command(const RunCommand& command, const std::string& program) { return RunSession(command, program).run(); }

}  // namespace kexec_sim::sim
