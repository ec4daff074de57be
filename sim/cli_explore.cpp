// `kexec-sim explore`: checks its input, explores, shows how far it is, and writes what it found.
#include <algorithm>
#include <filesystem>
#include <fmt/format.h>
#include <thread>
#include <unistd.h>

#include "machine/result.hpp"
#include "sim/boot_params_file.hpp"
#include "sim/cli.hpp"
#include "sim/explore/explorer.hpp"
#include "sim/explore/report.hpp"
#include "sim/interrupt.hpp"
#include "sim/output.hpp"
#include "sim/terminal_text.hpp"

namespace kexec_sim::sim {
namespace {

ExploreOptions options_of(const ExploreCommand& command) {
    ExploreOptions options;
    options.depth = command.depth;
    if (!command.actions.empty()) {
        const auto actions = ActionChoice::parse(command.actions);
        if (!actions) throw UserError(fmt::format("kexec-sim: error: --actions: {}", actions.error()));
        options.candidates.actions = *actions;
    }
    options.candidates.points = command.points;
    if (std::ranges::none_of(fault_points(),
                             [&](const auto& point) { return glob_matches(command.points, point.name); }))
        throw UserError(
            fmt::format("kexec-sim: error: --points '{}': there is no such fault point; 'kexec-sim list faults' has them",
                        command.points));
    options.candidates.all_visits = command.all_visits;
    options.budget = command.budget;
    options.seconds = command.seconds;
    options.jobs = command.jobs ? command.jobs : std::max(1U, std::thread::hardware_concurrency());
    options.shard = command.shard;
    options.shards = command.shards;
    options.random_plans = command.random_plans;
    options.isolation = command.process_isolation ? Isolation::process : Isolation::inline_;
    options.modules = command.modules;
    options.out_dir = command.out_dir;
    return options;
}

}  // namespace

int explore_command(const ExploreCommand& command, const std::string& program) {
    LoadOptions load;
    load.overrides = command.overrides;
    load.seed = command.seed;
    load.bench_names = bench_names_of;
    load.check_files = true;
    const Scenario scenario = load_scenario(command.file, load);
    const ExploreOptions options = options_of(command);
    if (!command.out_dir.empty()) {
        std::error_code error;
        std::filesystem::create_directories(command.out_dir, error);
        if (error || access(command.out_dir.c_str(), W_OK) != 0)
            throw UserError(fmt::format("kexec-sim: error: cannot write into {}", command.out_dir));
    }
    std::unique_ptr<Output> json, csv;
    if (!command.json_file.empty()) json = std::make_unique<Output>(command.json_file);
    if (!command.csv_file.empty()) csv = std::make_unique<Output>(command.csv_file);
    const bool moves = command.json_file == "-" || command.csv_file == "-";
    Output console(moves ? STDERR_FILENO : STDOUT_FILENO, moves ? "standard error" : "standard output");
    const bool color = wants_color(command.view.no_color, console.is_terminal());

    watch_for_interrupts();
    ProgressLine progress(console, !command.view.quiet);
    ExploreReport report = explore(
        scenario, options, [&](const ExploreProgress& at) { progress.show(at); },
        [] { return interrupt_signal() != 0; });
    progress.clear();
    ReportContext context{scenario, options, command, program, color};
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
    if (const int number = interrupt_signal()) {
        print_error("kexec-sim: interrupted");
        return 128 + number;
    }
    return report.baseline.passed && report.groups.empty() ? exit_ok : exit_failed;
}

}  // namespace kexec_sim::sim
