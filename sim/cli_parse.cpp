// The only file that knows the command-line library. Options are taken as text and checked here, so that every
// mistake sounds the same and says what was probably meant.
#include "sim/cli_options.hpp"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <fmt/format.h>

#include "sim/scenario.hpp"
#include "sim/terminal_text.hpp"
#include "sim/values.hpp"
#include "sim/version.hpp"

namespace kexec_sim::sim {
namespace {

constexpr std::string_view command_names[] = {"run",   "explore", "replay", "merge",   "generate",
                                              "check", "list",    "schema", "inspect", "show"};
constexpr std::string_view list_names[] = {"steps",   "faults",   "invariants", "devices",
                                           "mutants", "profiles", "scenarios"};
constexpr std::string_view isolation_names[] = {"process", "inline"};

[[noreturn]] void usage_error(std::string_view text) { throw UserError(fmt::format("kexec-sim: error: {}", text)); }

/// Options as the user wrote them.
struct Texts {
    RunCommand run;
    ExploreCommand explore;
    ReplayCommand replay;
    MergeCommand merge;
    GenerateCommand generate;
    CheckCommand check;
    ListCommand list;
    InspectOptions inspect;
    ShowCommand show;
    std::string seed, isolation, stop_at, max_time, fdt, what;
    std::vector<std::string> sets, check_sets, faults;
    std::string explore_seed, explore_isolation, depth, budget, time, jobs, shard, random, shrink;
    std::vector<std::string> explore_sets;
    std::string length, generate_jobs, generate_budget, sample, generate_seed;
    bool no_symmetry = false;
    bool inspect_no_color = false;
    bool version = false;
};

constexpr std::size_t help_column = 28;

/// The words of an option, as wide as the terminal leaves.
std::string words(std::string_view text) {
    std::string out;
    for (const std::string& line : wrapped(text, terminal_columns - help_column))
        out += (out.empty() ? "" : "\n") + line;
    return out;
}

void add_view(CLI::App& command, ViewOptions& view) {
    command.add_flag("-q,--quiet", view.quiet, words("print nothing but failures"))->group("Output");
    command.add_flag("-v,--verbose", view.verbose, words("every kernel log line, range and event"))->group("Output");
    command
        .add_flag("--no-color", view.no_color,
                  words("no colour (NO_COLOR does the same; there is none off a terminal)"))
        ->group("Output");
}

/// An option that takes one text each time it is given, and may be given several times.
CLI::Option* add_repeatable(CLI::App& command, const std::string& name, std::vector<std::string>& into,
                            const std::string& help) {
    return command.add_option(name, into, words(help))->allow_extra_args(false)->take_all();
}

void add_run(CLI::App& app, Texts& texts) {
    CLI::App& run = *app.add_subcommand("run", "run scenarios, narrate them, check expectations and invariants");
    RunCommand& into = texts.run;
    run.add_option("SCENARIO", into.files, words("scenario files; all are checked before the first one runs"))
        ->required();
    const std::string what = "What is run", output = "Output", cut = "The cut: end at the jump";
    run.add_option("--seed", texts.seed, words("the seed, in place of the scenario's"))->type_name("N")->group(what);
    run.add_flag("--strict", into.strict, words("kernels with 'defects: strict'"))->group(what);
    add_repeatable(run, "--set", texts.sets, "a parameter of the scenario; repeatable")
        ->type_name("KEY=VALUE")
        ->group(what);
    add_repeatable(run, "--fault", texts.faults,
                   "a fault the scenario does not plan, as 'kho.preserve[memfd]#2=fail(ENOMEM)'; repeatable")
        ->type_name("FAULT")
        ->group(what);
    add_repeatable(run, "--module", into.modules,
                   "a shared object with C subsystems, loaded into every kernel; repeatable")
        ->type_name("FILE.so")
        ->group(what);
    run.add_option("--isolation", texts.isolation,
                   words("process: a process for each kernel (the default); inline: none"))
        ->type_name("process|inline")
        ->group(what);
    run.add_option("--max-time", texts.max_time, words("virtual time after which the scenario fails, as 10s"))
        ->type_name("DURATION")
        ->group(what);
    run.add_flag("--step", into.step, words("stop after each step: memory, state, last callbacks"))->group(what);
    run.add_option("--json", into.json_file,
                   words("the result as JSON ('-': standard output, the narration then goes to standard error)"))
        ->type_name("FILE")
        ->group(output);
    run.add_option("--trace", into.trace_file, words("every event, as JSON Lines; 'kexec-sim show' reads it"))
        ->type_name("FILE")
        ->group(output);
    run.add_option("--dump-fdt", into.dump_fdt_dir, words("the trees of every handover, as .dtb files"))
        ->type_name("DIR")
        ->group(output);
    add_view(run, into.view);
    run.add_option("--stop-at", texts.stop_at, words("end at the first instruction of generation N"))
        ->type_name("jump:N")
        ->group(cut);
    run.add_option("--ram", into.ram_file, words("keep memory in this file"))->type_name("FILE")->group(cut);
    run.add_option("--boot-params", into.boot_params_file, words("with --stop-at: what the next kernel is given"))
        ->type_name("FILE")
        ->group(cut);
}

void add_explore(CLI::App& app, Texts& texts) {
    CLI::App& explore =
        *app.add_subcommand("explore", "every fault (or pair) that a scenario can meet: violations, shrunk");
    ExploreCommand& into = texts.explore;
    explore.add_option("SCENARIO", into.file, words("a scenario file that passes"))->required();
    const std::string what = "What is tried", how = "How", output = "Output";
    explore.add_option("--depth", texts.depth, words("1: single faults (the default); 2: pairs, too"))
        ->type_name("1|2")
        ->group(what);
    explore.add_option("--points", into.points, words("only fault points of this name, as 'luo.*'"))
        ->type_name("GLOB")
        ->group(what);
    explore
        .add_option("--actions", into.actions,
                    words("as 'fail,panic', 'fail:all' (each errno), operational (the default), corrupting, all"))
        ->type_name("LIST")
        ->group(what);
    explore
        .add_flag("--all-visits", into.all_visits,
                  words("every visit of a call site, also beyond the 64th (else: powers of two and the last)"))
        ->group(what);
    explore.add_option("--random", texts.random, words("N plans of two to four faults more, by the seed"))
        ->type_name("N")
        ->group(what);
    explore.add_option("--budget", texts.budget, words("at most N runs"))->type_name("N")->group(what);
    explore.add_option("--time", texts.time, words("at most so many seconds"))->type_name("SECONDS")->group(what);
    explore.add_option("--shard", texts.shard, words("part I of N, from 1; 'merge' joins them"))
        ->type_name("I/N")
        ->group(what);
    explore.add_option("--seed", texts.explore_seed, words("the seed, in place of the scenario's"))
        ->type_name("N")
        ->group(how);
    explore.add_flag("--strict", into.strict, words("kernels with 'defects: strict'"))->group(how);
    add_repeatable(explore, "--set", texts.explore_sets, "a parameter of the scenario; repeatable")
        ->type_name("KEY=VALUE")
        ->group(how);
    add_repeatable(explore, "--module", into.modules,
                   "a shared object with C subsystems, loaded into every kernel; repeatable")
        ->type_name("FILE.so")
        ->group(how);
    explore.add_option("--jobs", texts.jobs, words("worker processes (default: one a core)"))
        ->type_name("N")
        ->group(how);
    explore
        .add_option("--isolation", texts.explore_isolation,
                    words("inline (the default), or process: kernels that really die, slowly"))
        ->type_name("process|inline")
        ->group(how);
    explore
        .add_option("--out", into.out_dir,
                    words("keep outcomes and reproductions here; started again, it goes on where it was"))
        ->type_name("DIR")
        ->group(output);
    explore
        .add_option("--shrink", texts.shrink,
                    words("with --out: seconds for making reproductions small (default 60; 0: write none)"))
        ->type_name("SECONDS")
        ->group(output);
    explore.add_option("--json", into.json_file, words("the result as JSON ('-': standard output)"))
        ->type_name("FILE")
        ->group(output);
    explore.add_option("--csv", into.csv_file, words("a line for each point"))->type_name("FILE")->group(output);
    add_view(explore, into.view);

    CLI::App& replay = *app.add_subcommand("replay", "run a reproduction that explore wrote, and compare");
    replay.add_option("FILE", texts.replay.file, words("a scenario file with 'reproduces'"))->required();
    add_view(replay, texts.replay.view);

    CLI::App& merge = *app.add_subcommand("merge", "join what the shards of an exploration found");
    merge.add_option("DIR", texts.merge.folders, words("the folders that explore --shard I/N --out DIR wrote"))
        ->required();
    merge.add_option("--json", texts.merge.json_file, words("the result as JSON ('-': standard output)"))
        ->type_name("FILE");
    merge.add_option("--csv", texts.merge.csv_file, words("a line for each point"))->type_name("FILE");
    add_view(merge, texts.merge.view);
}

void add_generate(CLI::App& app, Texts& texts) {
    CLI::App& generate = *app.add_subcommand(
        "generate", "all short sequences of steps, run against a reference of what they must give");
    GenerateCommand& into = texts.generate;
    const std::string what = "What is run", how = "How", output = "Output";
    generate
        .add_option(
            "--alphabet", into.alphabet,
            words("groups of steps, of: memfd, luo, file-event, kexec, subsystem, kho (default: memfd,luo,kexec)"))
        ->type_name("LIST")
        ->group(what);
    generate.add_option("--length", texts.length, words("steps of the longest sequence (default 3)"))
        ->type_name("N")
        ->group(what);
    generate
        .add_option("--from", into.from,
                    words("where sequences begin: normal (the default), preserved, prepared, frozen or updated"))
        ->type_name("STATE")
        ->group(what);
    generate
        .add_option("--profile", into.profile,
                    words("of the kernels: luo-v3 (the default), luo-v2, linux-6.16 or linux-6.18"))
        ->type_name("PROFILE")
        ->group(what);
    generate.add_flag("--strict", into.strict, words("kernels with 'defects: strict'"))->group(what);
    generate
        .add_flag("--no-symmetry", texts.no_symmetry,
                  words("also sequences that are the same but for the names of memfds, tokens, subsystems"))
        ->group(what);
    generate.add_option("--budget", texts.generate_budget, words("at most N sequences, picked by the seed"))
        ->type_name("N")
        ->group(how);
    generate.add_option("--seed", texts.generate_seed, words("of --budget and --sample (default 1)"))
        ->type_name("N")
        ->group(how);
    generate.add_option("--jobs", texts.generate_jobs, words("worker processes (default: one a core)"))
        ->type_name("N")
        ->group(how);
    generate
        .add_option("--out", into.out_dir, words("write sequences that disagree into this folder, as scenario files"))
        ->type_name("DIR")
        ->group(output);
    generate.add_option("--sample", texts.sample, words("with --out: K sequences more, picked by the seed"))
        ->type_name("K")
        ->group(output);
    generate.add_option("--json", into.json_file, words("the result as JSON ('-': standard output)"))
        ->type_name("FILE")
        ->group(output);
    generate.add_flag("--table", into.table, words("print the reference as a page, and run nothing"))->group(output);
    generate.add_flag("-q,--quiet", into.view.quiet, words("print nothing but disagreements"))->group(output);
    generate
        .add_flag("--no-color", into.view.no_color,
                  words("no colour (NO_COLOR does the same; there is none off a terminal)"))
        ->group(output);
}

void add_others(CLI::App& app, Texts& texts) {
    CLI::App& check = *app.add_subcommand("check", "check scenario files without running them");
    check.add_option("SCENARIO", texts.check.files, words("scenario files"))->required();
    add_repeatable(check, "--set", texts.check_sets, "a parameter of the scenario; repeatable")
        ->type_name("KEY=VALUE");
    check.add_flag("-q,--quiet", texts.check.quiet, words("print nothing but errors"));

    CLI::App& list = *app.add_subcommand(
        "list", "what there is: steps, faults, invariants, devices, mutants, profiles, scenarios");
    list.add_option("WHAT", texts.what, words("steps, faults, invariants, devices, mutants, profiles or scenarios"))
        ->required();
    list.add_option("DIR", texts.list.folder, words("scenarios: the folder to look in (default: scenarios)"));
    list.add_flag("--markdown", texts.list.markdown, words("as a reference page"));

    app.add_subcommand("schema", "the JSON Schema of scenario files");

    CLI::App& inspect = *app.add_subcommand("inspect", "decode a RAM image or a flattened devicetree");
    inspect.add_option("FILE", texts.inspect.file, words("a RAM image (offset = address) or an FDT"))->required();
    inspect
        .add_option("--boot-params", texts.inspect.boot_params,
                    words("where the handover is, as run --boot-params wrote it"))
        ->type_name("FILE");
    inspect.add_option("--fdt", texts.fdt, words("the physical address of the root tree"))->type_name("ADDRESS");
    inspect.add_flag("--map", texts.inspect.map, words("print memory by owner"));
    inspect.add_option("--json", texts.inspect.json_file, words("the same as JSON ('-': standard output)"))
        ->type_name("FILE");
    inspect.add_flag("--no-color", texts.inspect_no_color, words("no colour"));

    CLI::App& show = *app.add_subcommand("show", "the narration of a run, from its trace file alone");
    show.add_option("TRACE", texts.show.file, words("a file that run --trace wrote"))->required();
    add_view(show, texts.show.view);
}

void describe(CLI::App& app, Texts& texts) {
    app.description("kexec-sim simulates a machine whose kernels hand over memory through a live update.");
    app.require_subcommand(0, 1);
    app.add_flag("--version", texts.version, words("print the version"));
    app.footer(
        "kexec-sim COMMAND --help tells more of a command.\n\n"
        "examples:\n"
        "  kexec-sim run scenarios/memfd-survives.yaml\n"
        "  kexec-sim run s.yaml --fault 'luo.subsystem.prepare[iommu]#1=fail(ENOMEM)'\n"
        "  kexec-sim run s.yaml --trace t.jsonl -q; kexec-sim show -v t.jsonl\n\n"
        "exit codes: 0 all holds, 1 a scenario failed, 2 bad usage or input, 3 a bug of kexec-sim");
    add_run(app, texts);
    add_explore(app, texts);
    add_generate(app, texts);
    add_others(app, texts);
    app.get_formatter()->column_width(help_column);
    for (CLI::App* command : app.get_subcommands({})) {
        command->get_formatter()->column_width(help_column);
        command->description(words(command->get_description()));
        command->footer("");
    }
}

// --- From text to value
// ----------------------------------------------------------------------------------------------

std::map<std::string, std::string> overrides_of(const std::vector<std::string>& sets) {
    std::map<std::string, std::string> overrides;
    for (const std::string& set : sets) {
        const std::size_t equals = set.find('=');
        if (equals == std::string::npos || equals == 0)
            usage_error(fmt::format("--set needs KEY=VALUE, not '{}'", set));
        if (!overrides.emplace(set.substr(0, equals), set.substr(equals + 1)).second)
            usage_error(fmt::format("--set gives '{}' twice", set.substr(0, equals)));
    }
    return overrides;
}

template <typename Names> std::size_t index_of(std::string_view text, const Names& names, std::string_view what) {
    const auto at = std::find(std::begin(names), std::end(names), text);
    if (at != std::end(names)) return static_cast<std::size_t>(at - std::begin(names));
    std::string all;
    for (std::string_view name : names) all += fmt::format("{}{}", all.empty() ? "" : ", ", name);
    usage_error(fmt::format("unknown {} '{}'{} (there is: {})", what, text, did_you_mean(text, names), all));
}

PlannedFault fault_of(const std::string& text) {
    const auto fault = parse_fault(text);
    if (!fault) usage_error(fmt::format("--fault '{}': {}", text, fault.error()));
    if (const std::string problem = fault_problem(*fault); !problem.empty())
        usage_error(fmt::format("--fault '{}': {}", text, problem));
    return *fault;
}

Generation stop_of(const std::string& text) {
    const auto number = text.starts_with("jump:") ? parse_u64(std::string_view(text).substr(5)) : std::nullopt;
    if (!number || *number == 0 || *number > ~Generation{0})
        usage_error(fmt::format("--stop-at needs jump:N with the generation N from 1 on, not '{}'", text));
    return static_cast<Generation>(*number);
}

void check_view(const ViewOptions& view) {
    if (view.quiet && view.verbose) usage_error("-q and -v exclude each other");
}

RunCommand run_of(Texts& texts) {
    RunCommand& run = texts.run;
    run.overrides = overrides_of(texts.sets);
    for (const std::string& fault : texts.faults) run.faults.push_back(fault_of(fault));
    if (!texts.seed.empty()) {
        run.seed = parse_u64(texts.seed);
        if (!run.seed) usage_error(fmt::format("--seed needs a number, not '{}'", texts.seed));
    }
    if (!texts.isolation.empty())
        run.process_isolation = index_of(texts.isolation, isolation_names, "isolation") == 0;
    if (!texts.stop_at.empty()) run.stop_at_jump = stop_of(texts.stop_at);
    if (!texts.max_time.empty()) {
        const auto time = parse_duration(texts.max_time);
        if (!time || *time == 0)
            usage_error(fmt::format("--max-time needs a duration, as 500ms or 10s, not '{}'", texts.max_time));
        run.max_time_ns = *time;
        run.max_time_text = texts.max_time;
    }
    if (!run.boot_params_file.empty() && !run.stop_at_jump) usage_error("--boot-params needs --stop-at jump:N");
    if (run.files.size() > 1)
        for (const auto& [name, given] :
             {std::pair{"--ram", !run.ram_file.empty()}, std::pair{"--stop-at", run.stop_at_jump.has_value()},
              std::pair{"--dump-fdt", !run.dump_fdt_dir.empty()}})
            if (given) usage_error(fmt::format("{} takes one scenario, not {}", name, run.files.size()));
    check_view(run.view);
    return run;
}

/// A number of at least `least`; `otherwise` where nothing was given.
u64 number_of(const std::string& text, std::string_view option, u64 otherwise, u64 least = 0) {
    if (text.empty()) return otherwise;
    const auto number = parse_u64(text);
    if (!number || *number < least)
        usage_error(fmt::format("{} needs a number{}, not '{}'", option,
                                least ? fmt::format(" of at least {}", least) : "", text));
    return *number;
}

ExploreCommand explore_of(Texts& texts) {
    ExploreCommand& explore = texts.explore;
    explore.overrides = overrides_of(texts.explore_sets);
    if (!texts.explore_seed.empty()) explore.seed = number_of(texts.explore_seed, "--seed", 0);
    explore.depth = static_cast<unsigned>(number_of(texts.depth, "--depth", 1, 1));
    if (explore.depth > 2) usage_error(fmt::format("--depth needs 1 or 2, not '{}'", texts.depth));
    explore.budget = number_of(texts.budget, "--budget", 0, 1);
    explore.random_plans = number_of(texts.random, "--random", 0);
    explore.seconds = static_cast<double>(number_of(texts.time, "--time", 0, 1));
    explore.shrink_seconds = static_cast<double>(number_of(texts.shrink, "--shrink", 60));
    explore.jobs = static_cast<unsigned>(number_of(texts.jobs, "--jobs", 0, 1));
    if (explore.jobs > 1024) usage_error(fmt::format("--jobs needs at most 1024, not '{}'", texts.jobs));
    if (!texts.explore_isolation.empty())
        explore.process_isolation = index_of(texts.explore_isolation, isolation_names, "isolation") == 0;
    if (!texts.shard.empty()) {
        const std::size_t slash = std::min(texts.shard.find('/'), texts.shard.size() - 1);
        const auto part = parse_u64(std::string_view(texts.shard).substr(0, slash));
        const auto parts = parse_u64(std::string_view(texts.shard).substr(slash + 1));
        if (!part || !parts || *part == 0 || *part > *parts)
            usage_error(fmt::format("--shard needs I/N with I from 1 to N, not '{}'", texts.shard));
        explore.shard = *part - 1;
        explore.shards = *parts;
    }
    check_view(explore.view);
    return explore;
}

GenerateCommand generate_of(Texts& texts) {
    GenerateCommand& generate = texts.generate;
    generate.length = static_cast<unsigned>(number_of(texts.length, "--length", 3, 1));
    if (generate.length > 6) usage_error(fmt::format("--length needs at most 6, not '{}'", texts.length));
    generate.jobs = static_cast<unsigned>(number_of(texts.generate_jobs, "--jobs", 0, 1));
    if (generate.jobs > 1024) usage_error(fmt::format("--jobs needs at most 1024, not '{}'", texts.generate_jobs));
    generate.budget = number_of(texts.generate_budget, "--budget", 0, 1);
    generate.sample = number_of(texts.sample, "--sample", 0, 1);
    generate.seed = number_of(texts.generate_seed, "--seed", 1);
    generate.symmetry = !texts.no_symmetry;
    if (generate.sample && generate.out_dir.empty()) usage_error("--sample needs --out DIR");
    return generate;
}

Command command_of(std::string_view name, Texts& texts) {
    if (name == "run") return run_of(texts);
    if (name == "explore") return explore_of(texts);
    if (name == "merge") {
        check_view(texts.merge.view);
        return texts.merge;
    }
    if (name == "generate") return generate_of(texts);
    if (name == "replay") {
        check_view(texts.replay.view);
        return texts.replay;
    }
    if (name == "check") {
        texts.check.overrides = overrides_of(texts.check_sets);
        return texts.check;
    }
    if (name == "list") {
        texts.list.what = static_cast<ListWhat>(index_of(texts.what, list_names, "list"));
        if (!texts.list.folder.empty() && texts.list.what != ListWhat::scenarios)
            usage_error(fmt::format("'list {}' takes no folder", texts.what));
        return texts.list;
    }
    if (name == "schema") return SchemaCommand{};
    if (name == "show") {
        check_view(texts.show.view);
        return texts.show;
    }
    if (!texts.fdt.empty()) {
        texts.inspect.fdt_addr = parse_u64(texts.fdt);
        if (!texts.inspect.fdt_addr)
            usage_error(fmt::format("--fdt needs an address, as 0x1f400000, not '{}'", texts.fdt));
    }
    texts.inspect.color = !texts.inspect_no_color;
    return texts.inspect;
}

// --- Errors
// ------------------------------------------------------------------------------------------------------------

/// The first argument that no option is called like.
[[noreturn]] void unknown_argument(const CLI::App& app, int argc, const char* const* argv) {
    const CLI::App* command = app.get_subcommands().empty() ? &app : app.get_subcommands().front();
    std::vector<std::string> storage;
    for (const CLI::Option* option : command->get_options())
        for (const std::string& name : option->get_lnames()) storage.push_back("--" + name);
    const std::vector<std::string_view> known(storage.begin(), storage.end());
    for (int i = 1; i < argc; ++i) {
        const std::string argument = argv[i];
        if (argument.size() < 2 || argument[0] != '-') continue;
        const std::string name = argument.substr(0, argument.find('='));
        if (command->get_option_no_throw(name) || (name[1] != '-' && command->get_option_no_throw(name.substr(0, 2))))
            continue;
        const std::string of = command == &app ? "" : fmt::format(" of '{}'", command->get_name());
        usage_error(fmt::format("unknown option '{}'{}{}", name, of, did_you_mean(name, known)));
    }
    const std::vector<std::string> extra = app.remaining(true);
    usage_error(fmt::format("unexpected argument '{}'", extra.empty() ? "?" : extra.front()));
}

/// A misspelt command is an argument too many for the library.
void check_command_name(int argc, const char* const* argv) {
    if (argc < 2) usage_error("a command is needed; 'kexec-sim --help' lists them");
    const std::string_view first = argv[1];
    if (first.starts_with('-')) return;
    if (std::find(std::begin(command_names), std::end(command_names), first) != std::end(command_names)) return;
    const std::string near = did_you_mean(first, command_names);
    usage_error(
        fmt::format("unknown command '{}'{}", first, near.empty() ? "; 'kexec-sim --help' lists them" : near));
}

}  // namespace

Command parse_command_line(int argc, const char* const* argv) {
    check_command_name(argc, argv);
    for (int i = 1; i < argc; ++i) {
        const std::string_view argument = argv[i];
        if (argument.empty())
            usage_error(i > 1
                            ? fmt::format("nothing between '{}' and what follows: an argument is empty", argv[i - 1])
                            : "an argument is empty");
        if (argument.starts_with("--") && argument.ends_with('=') && argument.find('=') == argument.size() - 1)
            usage_error(fmt::format("'{}' needs a value", argument.substr(0, argument.size() - 1)));
    }
    Texts texts;
    CLI::App app({}, "kexec-sim");
    describe(app, texts);
    try {
        app.parse(argc, argv);
    } catch (const CLI::CallForHelp&) {
        return TextCommand{app.help()};
    } catch (const CLI::ExtrasError&) {
        unknown_argument(app, argc, argv);
    } catch (const CLI::ParseError& error) {
        usage_error(error.what());
    }
    if (texts.version) return TextCommand{fmt::format("kexec-sim {}\n", program_version())};
    if (app.get_subcommands().empty()) usage_error("a command is needed; 'kexec-sim --help' lists them");
    return command_of(app.get_subcommands().front()->get_name(), texts);
}

}  // namespace kexec_sim::sim
