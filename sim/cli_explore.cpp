// `kexec-sim explore`: checks its input, explores, shows how far it is, and writes what it found.
#include <algorithm>
#include <filesystem>
#include <fmt/format.h>
#include <map>

#include "machine/result.hpp"
#include "sim/boot_params_file.hpp"
#include "sim/cli.hpp"
#include "sim/explore/explorer.hpp"
#include "sim/explore/journal.hpp"
#include "sim/explore/report.hpp"
#include "sim/explore/reproduction.hpp"
#include "sim/interrupt.hpp"
#include "sim/output.hpp"
#include "sim/progress_line.hpp"
#include "sim/shell.hpp"
#include "sim/terminal_text.hpp"
#include "sim/trace_file.hpp"

namespace kexec_sim::sim {
namespace {

ExploreOptions options_of(const ExploreCommand& command) {
    ExploreOptions options;
    options.depth = command.depth;
    if (!command.actions.empty()) {
        const auto actions = ActionChoice::parse(command.actions);
        if (!actions) throw UserError(fmt::format("kexec-sim: error: --actions: {}", actions.error()));
        options.candidates.actions = *actions;
        options.actions_text = command.actions;
    }
    options.candidates.points = command.points;
    if (std::ranges::none_of(fault_points(),
                             [&](const auto& point) { return glob_matches(command.points, point.name); }))
        throw UserError(fmt::format(
            "kexec-sim: error: --points '{}': there is no such fault point; 'kexec-sim list faults' has them",
            command.points));
    options.candidates.all_visits = command.all_visits;
    options.budget = command.budget;
    options.seconds = command.seconds;
    options.jobs = worker_count(command.jobs);
    options.shard = command.shard;
    options.shards = command.shards;
    options.random_plans = command.random_plans;
    options.isolation = command.process_isolation ? Isolation::process : Isolation::inline_;
    options.modules = module_files(command.modules);
    options.out_dir = command.out_dir;
    if (command.strict) options.repeat_options += " --strict";
    for (const auto& [key, value] : command.overrides)
        options.repeat_options += " --set " + shell_quoted(key + "=" + value);
    if (!command.process_isolation) options.repeat_options += " --isolation inline";
    for (const std::string& module : command.modules) options.repeat_options += " --module " + shell_quoted(module);
    return options;
}

/// The events of the reproduction, beside it: `replay` shows the first one that differs.
void write_trace(const Scenario& scenario, std::filesystem::path file) {
    Output out(file.replace_extension(".trace").string());
    TraceFileWriter trace(out);
    trace.begin({scenario.name, scenario.path.string(), {}});
    RunOptions run;
    run.isolation = Isolation::process;  // it may be one that crashes
    run.on_event = [&](const TraceEvent& event) { trace.event(event); };
    const RunResult result = run_scenario(scenario, run);
    trace.end({result.passed ? "pass" : "fail", {}, 0, result.trace_hash});
    out.flush();
}

/// A scenario file for each group of violations, until the time for it is up.
void write_reproductions(const Scenario& scenario, const ExploreCommand& command,
                         const std::vector<std::string>& modules, ExploreReport& report, ProgressLine& progress) {
    using Clock = std::chrono::steady_clock;
    const auto began = Clock::now();
    const auto left = [&] {
        return command.shrink_seconds - std::chrono::duration<double>(Clock::now() - began).count();
    };
    const auto interrupted = [] { return interrupt_signal() != 0; };
    std::map<std::string, std::size_t> written;  // by trace hash
    for (std::size_t i = 0; i < report.groups.size() && left() > 0 && !interrupted(); ++i) {
        ViolationGroup& group = report.groups[i];
        ShrinkOptions options;
        options.modules = modules;
        options.interrupted = interrupted;
        options.seconds_max = left();
        options.on_progress = [&](std::size_t steps, std::size_t faults, u64 runs) {
            progress.say(fmt::format("{} of {}, {}: {} steps, {} fault(s), {} runs", i + 1, report.groups.size(),
                                     group.violation.id, steps, faults, runs));
        };
        const auto found = reproduce(scenario, {group.violation, group.plan, group.where}, options);
        if (!found) continue;
        // Two violations of one plan may come down to one and the same story.
        const auto [same, fresh] = written.emplace(found->scenario.reproduces->trace_hash, i);
        if (!fresh) {
            const ViolationGroup& other = report.groups[same->second];
            group.reproduction = other.reproduction;
            group.steps_before = other.steps_before;
            group.steps = other.steps;
            continue;
        }
        const auto file =
            std::filesystem::path(command.out_dir) / fmt::format("{:03}-{}.yaml", i + 1, group.violation.id);
        Output out(file.string());
        out.write(found->text);
        out.flush();
        write_trace(found->scenario, file);
        group.reproduction = file.string();
        group.steps_before = found->steps_before;
        group.steps = found->scenario.steps.size();
    }
}

void tell(const ExploreReport& report, const ReportContext& context, Output& console, Output* json, Output* csv) {
    console.write(explore_text(report, context));
    console.flush();
    if (json) {
        json->write(explore_json(report, context));
        json->flush();
    }
    if (csv) {
        csv->write(explore_csv(report));
        csv->flush();
    }
}

/// What the shards found, together. UserError: they are not all of one exploration.
ExploreReport merged(const std::vector<std::string>& folders, ReportContext& context) {
    std::vector<ReadJournal> journals;
    for (const std::string& folder : folders) journals.push_back(read_journal(folder));
    const JournalHead& first = journals.front().head;
    std::vector<bool> there(first.shards, false);
    for (std::size_t i = 0; i < journals.size(); ++i) {
        const JournalHead& head = journals[i].head;
        if (!first.same_exploration(head))
            throw UserError(
                fmt::format("kexec-sim: error: {} and {} are of different explorations", folders[0], folders[i]));
        if (head.shard >= first.shards || there[head.shard])
            throw UserError(fmt::format("kexec-sim: error: {}: shard {}/{} is there already", folders[i],
                                        head.shard + 1, head.shards));
        there[head.shard] = true;
    }
    ExploreReport report;
    report.phases = first.phases;
    report.visits = first.visits;
    report.baseline.passed = true;
    report.complete = std::ranges::all_of(there, std::identity{});
    for (const auto& [name, visits] : first.point_visits) report.points[name].visits = visits;
    std::map<std::string, std::size_t> seen;
    for (std::size_t i = 0; i < journals.size(); ++i) {
        for (const auto& [plan, outcome] : journals[i].outcomes) {
            const auto [at, fresh] = seen.emplace(plan_text(plan), i);
            if (!fresh && at->second != i)
                throw UserError(fmt::format("kexec-sim: error: {} and {} both have {}: the shards overlap",
                                            folders[at->second], folders[i], plan_text(plan)));
            if (!fresh) continue;
            ++report.runs;
            report.count(plan, outcome);
        }
        const auto& end = journals[i].end;
        report.complete = report.complete && end && end->complete;
        if (!end) continue;
        report.thinned = report.thinned || end->thinned;
        report.plans_known += end->plans;
        report.verified += end->verified;
        report.seconds += end->seconds;
    }
    report.settle();
    for (std::size_t shard = 0; shard < there.size(); ++shard)
        if (!there[shard]) context.missing += fmt::format("{}{}", context.missing.empty() ? "" : ", ", shard + 1);
    context.scenario = first.scenario;
    context.file = first.file;
    context.seed = first.seed;
    context.depth = first.depth;
    context.repeat_options = first.repeat_options;
    return report;
}

}  // namespace

int merge_command(const MergeCommand& command, const std::string& program) {
    ReportContext context;
    const ExploreReport report = merged(command.folders, context);
    const auto json = result_file(command.json_file), csv = result_file(command.csv_file);
    Output console = console_beside({command.json_file, command.csv_file});
    context.program = program;
    context.quiet = command.view.quiet;
    context.verbose = command.view.verbose;
    context.color = wants_color(command.view.no_color, console.is_terminal());
    tell(report, context, console, json.get(), csv.get());
    return report.groups.empty() && report.complete ? exit_ok : exit_failed;
}

int explore_command(const ExploreCommand& command, const std::string& program) {
    LoadOptions load;
    load.overrides = command.overrides;
    load.seed = command.seed;
    load.strict = command.strict;
    load.bench_names = bench_names_of;
    load.check_files = true;
    const Scenario scenario = load_scenario(command.file, load);
    const ExploreOptions options = options_of(command);
    if (!command.out_dir.empty()) make_folder(command.out_dir);
    const auto json = result_file(command.json_file), csv = result_file(command.csv_file);
    Output console = console_beside({command.json_file, command.csv_file});
    const bool color = wants_color(command.view.no_color, console.is_terminal());

    watch_for_interrupts();
    ProgressLine progress(console, !command.view.quiet);
    ExploreReport report = explore(
        scenario, options, [&](const ExploreProgress& at) { progress.say(progress_text(at)); },
        [] { return interrupt_signal() != 0; });
    if (!command.out_dir.empty()) write_reproductions(scenario, command, options.modules, report, progress);
    progress.clear();
    tell(report,
         {scenario.name, scenario.path.string(), program, scenario.seed, options.depth, options.repeat_options,
          command.view.quiet, command.view.verbose, color},
         console, json.get(), csv.get());
    return exit_code(report.baseline.passed && report.groups.empty() ? exit_ok : exit_failed);
}

}  // namespace kexec_sim::sim
