#include "sim/generate/report.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "sim/terminal_text.hpp"

namespace kexec_sim::sim::generate {
namespace {

using Json = nlohmann::ordered_json;

std::string slugs(const Space& space, u64 sequence) {
    std::string text;
    for (const Letter& letter : letters_of(space, space.sequences.at(sequence)))
        text += (text.empty() ? "" : ", ") + letter.slug();
    return text;
}

double rate(const GenerateReport& report) {
    return report.seconds > 0 ? static_cast<double>(report.runs) / report.seconds : 0;
}

std::string command_text(const SpaceDescription& of) {
    return fmt::format("kexec-sim generate --alphabet {} --length {} --profile {}{}{}{}", of.alphabet, of.length,
                       of.profile, of.strict ? " --strict" : "",
                       of.from == "normal" ? "" : fmt::format(" --from {}", of.from),
                       of.symmetry ? "" : " --no-symmetry");
}

}  // namespace

std::string summary_text(const GenerateReport& report, const SpaceDescription& description, bool quiet, bool color) {
    std::string text;
    const auto line = [&](const std::string& one) { text += one + "\n"; };
    for (const DisagreementGroup& group : report.groups) {
        const Disagreement& first = group.first;
        line(styled(fmt::format("✗ {} ({})", first.step, first.before), Style::bad, color));
        line(fmt::format("    {}, and the reference says {}", first.got, first.expected));
        if (!first.detail.empty())
            for (const std::string& one : wrapped(first.detail, terminal_columns - 4)) line("    " + one);
        line(fmt::format("    {}; the first: {}", count_text(group.count, "sequence"),
                         slugs(report.space, first.sequence)));
    }
    if (quiet) return text;
    if (!report.groups.empty()) line("");
    line(fmt::format("{}{}: {} letters, sequences of up to {}{}", description.profile,
                     description.strict ? " strict" : "", report.space.letters.size(), description.length,
                     description.from == "normal" ? "" : fmt::format(", from {}", description.from)));
    line(fmt::format("{} sequences, {} steps in {:.1f} s ({:.0f} sequences a second), {} with two kernels",
                     report.runs, report.steps, report.seconds, rate(report), report.runs_two_kernels));
    line(fmt::format(
        "left out: {} the same but for names, {} whose result is not specified, and what begins with them",
        report.space.renamed, report.space.unspecified));
    if (!report.complete()) line(fmt::format("not complete: {} of {}", report.runs, report.space.sequences.size()));
    line(report.disagreements.empty() ? styled("all agree with the reference", Style::good, color)
                                      : styled(fmt::format("not as the reference says: {}",
                                                           count_text(report.disagreements.size(), "sequence")),
                                               Style::bad, color));
    return text;
}

std::string summary_json(const GenerateReport& report, const SpaceDescription& description) {
    Json out;
    out["format"] = "kexec-sim/generate-1";
    out["profile"] = description.profile;
    out["defects"] = description.strict ? "strict" : "literal";
    out["alphabet"] = description.alphabet;
    out["from"] = description.from;
    out["length"] = description.length;
    out["seed"] = description.seed;
    out["letters"] = Json::array();
    for (const Letter& letter : report.space.letters) out["letters"].push_back(letter.text());
    out["sequences"] = report.space.sequences.size();
    out["renamed"] = report.space.renamed;
    out["unspecified"] = report.space.unspecified;
    out["runs"] = report.runs;
    out["runs_two_kernels"] = report.runs_two_kernels;
    out["steps"] = report.steps;
    out["disagreements"] = report.disagreements.size();
    out["groups"] = Json::array();
    for (const DisagreementGroup& group : report.groups)
        out["groups"].push_back({{"step", group.first.step},
                                 {"before", group.first.before},
                                 {"expected", group.first.expected},
                                 {"got", group.first.got},
                                 {"detail", group.first.detail},
                                 {"sequences", group.count},
                                 {"first", slugs(report.space, group.first.sequence)}});
    out["complete"] = report.complete();
    out["runs_per_second"] = rate(report);
    return out.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string case_file(const Case& one, const Edition& edition, const SpaceDescription& description,
                      const Disagreement* disagreement) {
    std::string comment =
        "One sequence of a small step space, and the steps that close it; what is expected is what the reference "
        "says.\n";
    comment += command_text(description) + "\n";
    if (disagreement)
        comment += fmt::format("The simulator does not agree: {} ({}) gives {}, and not {}.\n", disagreement->step,
                               disagreement->before, disagreement->got, disagreement->expected);
    return one.text(edition, comment);
}

// ---- the page ----

namespace {

/// What a letter gives from an opening on; both postings where they differ.
std::string cell(const Letter& letter, const Opening& opening) {
    std::vector<std::string> results;
    for (const Profile profile : {Profile::luo_v3, Profile::luo_v2}) {
        const Reference reference({profile, false});
        World world = reference.world();
        world.create_objects();
        for (const Letter& before : opening.letters) static_cast<void>(reference.step(world, before));
        results.push_back(reference.step(world, letter).result);
    }
    if (results[0] == results[1]) return results[0];
    return fmt::format("{} (luo-v2: {})", results[0], results[1]);
}

void add_matrix(std::string& page) {
    page += "| step |";
    for (const Opening& opening : openings()) page += fmt::format(" {} |", opening.name);
    page += "\n|---|";
    for (std::size_t i = 0; i < openings().size(); ++i) page += "---|";
    page += "\n";
    for (const Group& group : groups()) {
        if (!group.with_luo) continue;
        for (const Letter& letter : group.letters) {
            page += fmt::format("| `{}` |", letter.text());
            for (const Opening& opening : openings()) page += fmt::format(" {} |", cell(letter, opening));
            page += "\n";
        }
    }
}

/// "", or the profiles that a row is about, where it is not about all that have the step.
std::string profiles_text(const Row& row, Profiles all) {
    if (row.in == all) return {};
    std::string text;
    for (const ProfileInfo& info : profiles())
        if (row.in & profile_bit(info.id)) text += fmt::format("{}{}", text.empty() ? "" : ", ", info.name);
    return text + ": ";
}

void add_rows(std::string& page, void (*add)(std::vector<Row>&)) {
    std::vector<Row> rows;
    add(rows);
    page += "| step | when | gives | changes | source |\n|---|---|---|---|---|\n";
    for (std::size_t at = 0; at < action_count; ++at) {
        const auto action = static_cast<Action>(at);
        Profiles all = 0;
        for (const Row& row : rows)
            if (row.action == action) all |= row.in;
        for (const Row& row : rows)
            if (row.action == action)
                page += fmt::format("| `{}`{} | {}{} | {} | {} | {} |\n", step_name(action), action_detail(action),
                                    profiles_text(row, all), row.when, row.result.empty() ? "its errno" : row.result,
                                    row.change.empty() ? "–" : row.change, row.source);
    }
}

}  // namespace

std::string reference_page() {
    std::string page =
        "# What each step must give\n\n"
        "The reference of `kexec-sim generate` ([small step spaces](../small-spaces.md)), written by `kexec-sim "
        "generate\n--table`.\n\n"
        "## By state\n\n"
        "What one step gives from each of these situations on (literal defects; s and t are subsystems, a and b "
        "memfds of "
        "two\npages):\n\n";
    for (const Opening& opening : openings()) page += fmt::format("- *{}*: {}\n", opening.name, opening.description);
    page += "\n";
    add_matrix(page);
    page +=
        "\n## Row by row: LUO\n\nOf the rows of a step the first whose condition holds counts. *Unspecified*: the "
        "specification does not say what\nhappens from there on, and no sequence goes there.\n\n";
    add_rows(page, add_luo_rows);
    page +=
        "\n## Row by row: kernels with KHO alone\n\nThe profiles `linux-6.16` and `linux-6.18`; memfds as above.\n\n";
    add_rows(page, add_kho_rows);
    return page;
}

}  // namespace kexec_sim::sim::generate
