// The command line as data: which command, with which options, checked as far as that needs no scenario.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "machine/fault.hpp"
#include "sim/inspect.hpp"

namespace kexec_sim::sim {

struct ViewOptions {
    bool quiet = false, verbose = false, no_color = false;
};

struct RunCommand {
    std::vector<std::string> files;
    std::optional<u64> seed;
    bool strict = false;
    std::map<std::string, std::string> overrides;  // --set
    std::vector<PlannedFault> faults;
    bool process_isolation = true;
    std::string json_file, trace_file, ram_file, boot_params_file, dump_fdt_dir;
    std::optional<Generation> stop_at_jump;
    bool step = false;
    u64 max_time_ns = 0;
    std::string max_time_text;  // as given, for the command that repeats the run
    std::vector<std::string> modules;
    ViewOptions view;
};
struct ExploreCommand {
    std::string file;
    std::optional<u64> seed;
    bool strict = false;
    std::map<std::string, std::string> overrides;
    unsigned depth = 1, jobs = 0;  // jobs 0: one a core
    std::string points = "*", actions;
    u64 budget = 0, random_plans = 0, shard = 0, shards = 1;
    double seconds = 0, shrink_seconds = 60;
    bool all_visits = false, process_isolation = false;
    std::vector<std::string> modules;
    std::string out_dir, json_file, csv_file;
    ViewOptions view;
};
struct MergeCommand {
    std::vector<std::string> folders;
    std::string json_file, csv_file;
    ViewOptions view;
};
struct GenerateCommand {
    std::string alphabet = "memfd,luo,kexec", profile = "luo-v3", from = "normal";
    unsigned length = 3, jobs = 0;  // jobs 0: one a core
    bool strict = false, symmetry = true;
    bool table = false;  // print the reference instead
    u64 budget = 0, sample = 0, seed = 1;
    std::string out_dir, json_file;
    ViewOptions view;
};
struct ReplayCommand {
    std::string file;
    ViewOptions view;
};
struct CheckCommand {
    std::vector<std::string> files;
    std::map<std::string, std::string> overrides;
    bool quiet = false;
};
enum class ListWhat : u8 { steps, faults, invariants, devices, mutants, profiles, scenarios };
struct ListCommand {
    ListWhat what = ListWhat::steps;
    bool markdown = false;
    std::string folder;  // scenarios: where to look
};
struct SchemaCommand {};
struct ShowCommand {
    std::string file;
    ViewOptions view;
};
/// --help and --version: nothing but text.
struct TextCommand {
    std::string text;
};

using Command = std::variant<RunCommand, ExploreCommand, ReplayCommand, MergeCommand, GenerateCommand, CheckCommand,
                             ListCommand, SchemaCommand, InspectOptions, ShowCommand, TextCommand>;

/// Throws UserError: `kexec-sim: error: …` with a suggestion where something near exists.
Command parse_command_line(int argc, const char* const* argv);

}  // namespace kexec_sim::sim
