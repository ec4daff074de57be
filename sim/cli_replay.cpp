// `kexec-sim replay FILE`: runs what `explore` wrote, and compares: does it still end as it did, event by event?
//
// The hash of all events is in the file (`reproduces`). Beside it, under the same name with the ending `.trace`, explore
// leaves the events themselves; where they are, the first one that differs is shown.
#include <filesystem>
#include <fmt/format.h>

#include "machine/result.hpp"
#include "sim/boot_params_file.hpp"
#include "sim/cli.hpp"
#include "sim/event_line.hpp"
#include "sim/interrupt.hpp"
#include "sim/narration.hpp"
#include "sim/output.hpp"
#include "sim/runner.hpp"
#include "sim/shell.hpp"
#include "sim/trace_file.hpp"

namespace kexec_sim::sim {
namespace {

/// The first place where two runs part, each given by the lines of its events.
std::string difference(const std::vector<std::string>& before, const std::vector<std::string>& now) {
    const auto first = first_difference(before, now);
    if (!first)
        return "which event differs first is not known: the file of events (.trace) is not there, or is of another "
               "run\n";
    return fmt::format("event {} differs\n    then: {}\n    now:  {}\n", first->number,
                       first->one.value_or("the run had ended"), first->other.value_or("the run has ended"));
}

std::vector<std::string> recorded(const std::filesystem::path& scenario) {
    const auto file = std::filesystem::path(scenario).replace_extension(".trace");
    std::vector<std::string> events;
    if (!std::filesystem::exists(file)) return events;
    TraceListener listener;
    listener.begin = [](const TraceHeader&) {};
    listener.event = [&](const TraceEvent& event) { events.push_back(event_line(event)); };
    listener.end = [](const TraceFooter*) {};
    read_trace_file(file.string(), listener);
    return events;
}

}  // namespace

int replay_command(const ReplayCommand& command, const std::string& program) {
    LoadOptions load;
    load.bench_names = bench_names_of;
    load.check_files = true;
    const Scenario scenario = load_scenario(command.file, load);
    if (!scenario.reproduces)
        throw UserError(
            fmt::format("{}: error: this scenario does not say what it reproduces; 'run' it", command.file));
    const std::vector<std::string> before = recorded(scenario.path);

    Output console("-");
    NarrationSeries series(
        [&](std::string_view text) { console.write(text); },
        {wants_color(command.view.no_color, console.is_terminal()), command.view.quiet, command.view.verbose});
    watch_for_interrupts();
    series.begin(fmt::format("{} replay {}", shell_quoted(program), shell_quoted(command.file)));
    std::vector<std::string> now;
    RunOptions options;
    options.isolation = Isolation::process;  // it may be one that crashes
    options.interrupted = [] { return interrupt_signal() != 0; };
    options.on_event = [&](const TraceEvent& event) {
        series.event(event);
        if (!before.empty()) now.push_back(event_line(event));
    };
    const RunResult result = run_scenario(scenario, options);
    series.end();
    if (interrupt_signal()) {
        console.flush();
        return exit_code(exit_ok);
    }
    const bool same = result.trace_hash == scenario.reproduces->trace_hash;
    console.write(fmt::format(
        "{}: {}; {}\n", scenario.name, result.passed ? "it is as it was" : "it is not as it was any more",
        same
            ? fmt::format("the same events (trace {})", result.trace_hash)
            : fmt::format("other events: trace {}, and was {}", result.trace_hash, scenario.reproduces->trace_hash)));
    if (!same) console.write("  " + difference(before, now));
    console.flush();
    return result.passed && same ? exit_ok : exit_failed;
}

}  // namespace kexec_sim::sim
