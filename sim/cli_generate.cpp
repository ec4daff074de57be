// `kexec-sim generate`: checks its input, runs the space, shows how far it is, and writes scenario files.
#include <algorithm>
#include <filesystem>
#include <fmt/format.h>
#include <set>

#include "machine/result.hpp"
#include "sim/cli.hpp"
#include "sim/generate/report.hpp"
#include "sim/interrupt.hpp"
#include "sim/output.hpp"
#include "sim/progress_line.hpp"

namespace kexec_sim::sim {
namespace {

using namespace generate;

/// Disagreements that are written: who has more has another problem.
constexpr u64 files_max = 1000;

[[noreturn]] void usage_error(const std::string& text) { throw UserError("kexec-sim: error: " + text); }

template <typename Named> std::string names_of(const Named& all) {
    std::string text;
    for (const auto& one : all) text += fmt::format("{}{}", text.empty() ? "" : ", ", one.name);
    return text;
}

std::vector<const Group*> alphabet_of(const std::string& list, const Edition& edition) {
    std::vector<const Group*> alphabet;
    for (std::size_t at = 0; at <= list.size();) {
        const std::size_t end = std::min(list.find(',', at), list.size());
        const std::string name = list.substr(at, end - at);
        const Group* group = group_by_name(name);
        if (!group)
            usage_error(fmt::format("--alphabet: there is no group '{}' (there is: {})", name, names_of(groups())));
        if (!(edition.has_luo() ? group->with_luo : group->without_luo))
            usage_error(fmt::format("--alphabet: the group '{}' is not for {}", name, profile_name(edition.profile)));
        if (std::ranges::find(alphabet, group) == alphabet.end()) alphabet.push_back(group);
        at = end + 1;
    }
    return alphabet;
}

Edition edition_of(const GenerateCommand& command) {
    Edition edition;
    edition.strict = command.strict;
    const auto profile = profile_by_name(command.profile);
    if (!profile) usage_error(fmt::format("--profile '{}' (there is: {})", command.profile, names_of(profiles())));
    edition.profile = *profile;
    return edition;
}

GenerateOptions options_of(const GenerateCommand& command, const Edition& edition) {
    GenerateOptions options;
    options.space.alphabet = alphabet_of(command.alphabet, edition);
    options.space.length = command.length;
    options.space.symmetry = command.symmetry;
    const auto opening = std::ranges::find(openings(), command.from, &Opening::name);
    if (opening == openings().end())
        usage_error(fmt::format("--from '{}' (there is: {})", command.from, names_of(openings())));
    if (!edition.has_luo() && !opening->letters.empty())
        usage_error(fmt::format("--from '{}' is not for {}", command.from, profile_name(edition.profile)));
    options.space.opening = opening->letters;
    if (!opening->letters.empty()) options.space.from = opening->name;
    options.jobs = worker_count(command.jobs);
    options.budget = command.budget;
    options.seed = command.seed;
    return options;
}

/// The sequences that are written: a sample, or those that disagree.
u64 write_cases(const GenerateCommand& command, const Reference& reference, const GenerateOptions& options,
                const GenerateReport& report, const SpaceDescription& description) {
    std::map<u64, const Disagreement*> chosen;
    if (command.sample)
        for (const u64 sequence : sampled(report.space.sequences.size(), command.sample, command.seed))
            chosen[sequence] = nullptr;
    for (const Disagreement& one : report.disagreements)
        if (chosen.size() < files_max || chosen.contains(one.sequence)) chosen[one.sequence] = &one;
    for (const auto& [sequence, disagreement] : chosen) {
        const Case one =
            make_case(reference, options.space, letters_of(report.space, report.space.sequences[sequence]));
        Output out((std::filesystem::path(command.out_dir) / (one.name + ".yaml")).string());
        out.write(case_file(one, reference.edition(), description, disagreement));
        out.flush();
    }
    return chosen.size();
}

}  // namespace

int generate_command(const GenerateCommand& command) {
    if (command.table) {
        Output out("-");
        out.write(reference_page());
        out.flush();
        return exit_ok;
    }
    const Reference reference(edition_of(command));
    const GenerateOptions options = options_of(command, reference.edition());
    const SpaceDescription description{command.profile, command.alphabet, command.from, command.length,
                                       command.strict,  command.symmetry, command.seed};
    if (!command.out_dir.empty()) make_folder(command.out_dir);
    const auto json = result_file(command.json_file);
    Output console = console_beside({command.json_file});

    watch_for_interrupts();
    ProgressLine progress(console, !command.view.quiet);
    const GenerateReport report = generate::generate(
        reference, options,
        [&](const GenerateProgress& at) {
            progress.say(fmt::format("{} of {} sequences, {:.0f}/s · {} disagree", at.report.runs, at.report.wanted,
                                     at.runs_per_second, at.report.disagreements.size()));
        },
        [] { return interrupt_signal() != 0; });
    progress.clear();
    const u64 written = command.out_dir.empty() ? 0 : write_cases(command, reference, options, report, description);
    console.write(summary_text(report, description, command.view.quiet,
                               wants_color(command.view.no_color, console.is_terminal())));
    if (written && !command.view.quiet) console.print("{} scenarios in {}\n", written, command.out_dir);
    console.flush();
    if (json) {
        json->write(summary_json(report, description));
        json->flush();
    }
    return exit_code(report.disagreements.empty() ? exit_ok : exit_failed);
}

}  // namespace kexec_sim::sim
