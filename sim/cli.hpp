// The program: every command of `kexec-sim`, from its arguments to its exit code.
//
//   0  all expectations and invariants hold          1  a scenario failed
//   2  bad usage or input, host out of something     3  the simulator itself failed
//   130, 143  interrupted by SIGINT, SIGTERM
//
// Of several scenarios the highest code wins. Standard output holds results, standard error holds errors; both are
// written through sim/output.hpp.
#pragma once

#include <initializer_list>
#include <memory>

#include "sim/cli_options.hpp"
#include "sim/output.hpp"

namespace kexec_sim::sim {

enum ExitCode : int { exit_ok = 0, exit_failed = 1, exit_usage = 2, exit_bug = 3 };

int cli_main(int argc, const char* const* argv);

/// `program`: how the user called it, for the command that repeats a run.
int explore_command(const ExploreCommand& command, const std::string& program);
int merge_command(const MergeCommand& command, const std::string& program);
int generate_command(const GenerateCommand& command);
int replay_command(const ReplayCommand& command, const std::string& program);
int run_command(const RunCommand& command, const std::string& program);
int check_command(const CheckCommand& command);
int list_command(const ListCommand& command);
int show_command(const ShowCommand& command);

/// Colour only on a terminal, and not with --no-color or NO_COLOR.
bool wants_color(bool no_color, bool is_terminal);
/// The text on standard error of a bug: what it was doing, and how to report it.
std::string bug_text(const std::string& what, const std::string& doing, const std::string& command);
/// Writes to standard error, whole or not at all.
void print_error(const std::string& text);

/// Where a command tells what it does: standard output, or standard error where one of `files` (results; empty: none)
/// is "-" and wants standard output for itself.
Output console_beside(std::initializer_list<std::string_view> files);
/// The file of a result, opened; null for "".
std::unique_ptr<Output> result_file(const std::string& path);
/// Makes the folder and those above it where they are not there. UserError: it cannot be, or not be written into.
void make_folder(const std::string& folder);
/// `modules` by absolute name: a bare one would be searched for among the system's libraries. UserError: one of them is
/// no module.
std::vector<std::string> module_files(const std::vector<std::string>& modules);
/// Worker processes for `jobs`: as many, or one a core for 0.
unsigned worker_count(unsigned jobs);
/// The exit code of a command that watched for interrupts: where one came that is said, and it is 128 + its number.
int exit_code(int uninterrupted);

}  // namespace kexec_sim::sim
