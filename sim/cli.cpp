#include "sim/cli.hpp"

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fmt/format.h>
#include <new>
#include <thread>
#include <unistd.h>

#include "machine/result.hpp"
#include "sim/boot_params_file.hpp"
#include "sim/host_file.hpp"
#include "sim/interrupt.hpp"
#include "sim/narration.hpp"
#include "sim/scenario.hpp"
#include "sim/step_spec.hpp"
#include "sim/trace_file.hpp"
#include "sim/version.hpp"

namespace kexec_sim::sim {
namespace {

std::string quoted_command(int argc, const char* const* argv) {
    std::string text;
    for (int i = 0; i < argc; ++i) text += fmt::format("{}{}", i ? " " : "", argv[i]);
    return text;
}

int schema_command() {
    Output out("-");
    std::string text = json_schema();
    if (!text.ends_with('\n')) text += '\n';
    out.write(text);
    out.flush();
    return exit_ok;
}

int text_command(const TextCommand& command) {
    Output out("-");
    out.write(command.text);
    out.flush();
    return exit_ok;
}

int inspect_command(InspectOptions options) {
    options.color = wants_color(!options.color, isatty(STDOUT_FILENO) == 1);
    return run_inspect(options);
}

int dispatch(const Command& command, const std::string& program) {
    struct Visitor {
        const std::string& program;
        int operator()(const RunCommand& run) const { return run_command(run, program); }
        int operator()(const ExploreCommand& explore) const { return explore_command(explore, program); }
        int operator()(const MergeCommand& merge) const { return merge_command(merge, program); }
        int operator()(const ReplayCommand& replay) const { return replay_command(replay, program); }
        int operator()(const GenerateCommand& generate) const { return generate_command(generate); }
        int operator()(const CheckCommand& check) const { return check_command(check); }
        int operator()(const ListCommand& list) const { return list_command(list); }
        int operator()(const SchemaCommand&) const { return schema_command(); }
        int operator()(const InspectOptions& inspect) const { return inspect_command(inspect); }
        int operator()(const ShowCommand& show) const { return show_command(show); }
        int operator()(const TextCommand& text) const { return text_command(text); }
    };
    return std::visit(Visitor{program}, command);
}

}  // namespace

void print_error(const std::string& text) {
    try {
        Output error(STDERR_FILENO, "standard error");
        error.write(text.ends_with('\n') ? text : text + "\n");
        error.flush();
    } catch (const UserError&) {
        // Nobody can be told.
    }
}

Output console_beside(std::initializer_list<std::string_view> files) {
    if (std::ranges::find(files, "-") == files.end()) return Output("-");
    return Output(STDERR_FILENO, "standard error");
}

std::unique_ptr<Output> result_file(const std::string& path) {
    return path.empty() ? nullptr : std::make_unique<Output>(path);
}

void make_folder(const std::string& folder) {
    std::error_code error;
    std::filesystem::create_directories(folder, error);
    if (error || access(folder.c_str(), W_OK | X_OK) != 0)
        throw UserError(fmt::format("kexec-sim: error: cannot write into {}: {}", folder,
                                    error ? error.message() : std::strerror(errno)));
}

std::vector<std::string> module_files(const std::vector<std::string>& modules) {
    std::vector<std::string> files;
    for (const std::string& module : modules) {
        std::error_code error;
        const auto path = std::filesystem::absolute(module, error);
        if (const std::string problem = error ? error.message() : module_problem(path); !problem.empty())
            throw UserError(fmt::format("kexec-sim: error: --module {}: {}", module, problem));
        files.push_back(path.string());
    }
    return files;
}

unsigned worker_count(unsigned jobs) { return jobs ? jobs : std::max(1U, std::thread::hardware_concurrency()); }

int exit_code(int uninterrupted) {
    const int number = interrupt_signal();
    if (!number) return uninterrupted;
    print_error("kexec-sim: interrupted");
    return 128 + number;
}

bool wants_color(bool no_color, bool is_terminal) {
    const char* variable = std::getenv("NO_COLOR");
    return is_terminal && !no_color && (!variable || !*variable);
}

std::string bug_text(const std::string& what, const std::string& doing, const std::string& command) {
    return fmt::format(
        "kexec-sim: internal error while {}: {}\n"
        "  This is a bug of kexec-sim {}, not of your scenario. Please report it with this text, the scenario file "
        "and the\n"
        "  command that shows it:\n"
        "    {}\n",
        doing, what, program_version(), command);
}

int cli_main(int argc, const char* const* argv) {
    // A file beyond the host's limit is an error of the call that would make it (EFBIG), not the end of the program.
    std::signal(SIGXFSZ, SIG_IGN);
    try {
        return dispatch(parse_command_line(argc, argv), argc > 0 ? argv[0] : "kexec-sim");
    } catch (const UserError& error) {
        print_error(error.what());
        return exit_usage;
    } catch (const std::bad_alloc&) {
        print_error("kexec-sim: error: the host has no memory left");
        return exit_usage;
    } catch (const std::exception& error) {
        print_error(bug_text(error.what(), argc > 1 ? fmt::format("carrying out '{}'", argv[1]) : "starting",
                             quoted_command(argc, argv)));
        return exit_bug;
    }
}

int check_command(const CheckCommand& command) {
    Output out("-");
    int code = exit_ok;
    for (const std::string& file : command.files) {
        try {
            LoadOptions options;
            options.overrides = command.overrides;
            options.bench_names = bench_names_of;
            options.check_files = true;
            const Scenario scenario = load_scenario(file, options);
            if (!command.quiet)
                out.write(fmt::format("{}: ok ({}, {} steps)\n", file, scenario.name, scenario.steps.size()));
        } catch (const UserError& error) {
            out.flush();
            print_error(error.what());
            code = exit_usage;
        }
    }
    out.flush();
    return code;
}

int show_command(const ShowCommand& command) {
    Output out("-");
    NarrationSeries series(
        [&](std::string_view text) { out.write(text); },
        {wants_color(command.view.no_color, out.is_terminal()), command.view.quiet, command.view.verbose});
    TraceListener listener;
    listener.begin = [&](const TraceHeader& header) { series.begin(header.command); };
    listener.event = [&](const TraceEvent& event) { series.event(event); };
    listener.end = [&](const TraceFooter*) { series.end(); };
    try {
        read_trace_file(command.file, listener);
    } catch (const UserError&) {
        out.flush();
        throw;
    }
    series.total();
    out.flush();
    return exit_ok;
}

}  // namespace kexec_sim::sim
