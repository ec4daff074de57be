#include "sim/generate/space.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "machine/result.hpp"

namespace kexec_sim::sim::generate {
namespace {

// ---- symmetry ----

/// Whether the objects of one kind are named in the order in which they are mentioned.
bool in_order(const std::vector<Letter>& letters, int Letter::*object) {
    int next = 0;
    for (const Letter& letter : letters) {
        const int name = letter.*object;
        if (name > next) return false;
        if (name == next) ++next;
    }
    return true;
}

/// A sequence with token 2 alone is one with token 1. While it may still become one with both, it goes on.
bool second_token_alone(const std::vector<Letter>& letters) {
    bool first = false, second = false;
    for (const Letter& letter : letters) {
        first |= letter.token == 0;
        second |= letter.token == 1;
    }
    return second && !first;
}

bool named_before(const std::vector<Letter>& letters, const Letter& letter) {
    if (letter.action != Action::unregister_subsystem) return true;
    return std::ranges::any_of(letters, [&](const Letter& one) {
        return one.action == Action::register_subsystem && one.subsystem == letter.subsystem;
    });
}

class Enumeration {
public:
    Enumeration(const Reference& reference, const SpaceOptions& options, Space& space)
        : reference_(reference),
          options_(options),
          space_(space) {}

    void run() {
        World world = reference_.world();
        world.create_objects();
        for (const Letter& letter : options_.opening) static_cast<void>(reference_.step(world, letter));
        descend(world, 0);
        std::ranges::stable_sort(space_.sequences, {}, [](const Sequence& one) { return one.size(); });
    }

private:
    void descend(const World& world, unsigned depth) {
        if (depth == options_.length) return;
        for (std::size_t at = 0; at < space_.letters.size(); ++at) {
            const Letter& letter = space_.letters[at];
            std::vector<Letter> all = options_.opening;
            all.insert(all.end(), letters_.begin(), letters_.end());
            if (!named_before(all, letter)) continue;
            letters_.push_back(letter);
            sequence_.push_back(static_cast<u8>(at));
            visit(world, depth);
            letters_.pop_back();
            sequence_.pop_back();
        }
    }

    void visit(const World& before, unsigned depth) {
        // An opening has named the objects already.
        const bool renames = options_.symmetry && options_.opening.empty();
        if (renames && (!in_order(letters_, &Letter::file) || !in_order(letters_, &Letter::subsystem) ||
                        !in_order(letters_, &Letter::folio))) {
            ++space_.renamed;
            return;
        }
        World world = before;
        if (reference_.step(world, letters_.back()).result == unspecified) {
            ++space_.unspecified;
            return;
        }
        if (renames && second_token_alone(letters_))
            ++space_.renamed;
        else
            space_.sequences.push_back(sequence_);
        descend(world, depth + 1);
    }

    const Reference& reference_;
    const SpaceOptions& options_;
    Space& space_;
    std::vector<Letter> letters_;
    Sequence sequence_;
};

// ---- a case ----

class CaseBuilder {
public:
    CaseBuilder(const Reference& reference, Case& result)
        : reference_(reference),
          world_(reference.world()),
          case_(result) {}

    void open(const std::vector<Letter>& letters) {
        for (int file = 0; file < file_count; ++file)
            check(fmt::format("memfd.create: {{name: {}, size: {}KiB, fill: pattern({})}}", file_name(file),
                              file_pages * page_bytes / KiB, first_pattern(file)));
        world_.create_objects();
        for (int folio = 0; folio < static_cast<int>(world_.folios.size()); ++folio)
            check(fmt::format("kho.alloc: {{name: {}, fill: pattern({})}}", folio_name(folio), folio_pattern(folio)));
        for (const Letter& letter : letters) step(letter);
    }

    void step(const Letter& letter) {
        const std::string before = situation();
        Reference::Answer answer = reference_.step(world_, letter);
        INVARIANT(answer.result != unspecified);
        case_.steps.push_back(
            {line(letter), std::move(answer.result), before, answer.row ? answer.row->when : "no kernel is running"});
    }

    void close() {
        if (world_.dead) return;
        if (!world_.edition.has_luo()) {
            close_kho();
            return;
        }
        check_state();
        check_files();
        check_calls();
        if (world_.undefined) return;
        if (world_.device == World::Device::closed) step({.action = Action::open_device});
        if (world_.state == State::updated && !finish_update()) return;
        if (make_ready()) {
            if (update()) finish_update();
            return;
        }
        check_state();
        check_calls();
    }

    const World& world() const { return world_; }

private:
    static std::string line(const Letter& letter) {
        std::string text = letter.text();
        return text.find(':') == std::string::npos ? text + ":" : text;
    }
    std::string situation() const {
        if (world_.dead) return "dead";
        if (!world_.edition.has_luo()) return world_.finalized ? "finalized" : "not finalized";
        std::string text(state_name(world_.state));
        if (world_.finalized && world_.state == State::normal) text += ", KHO finalized";
        return text;
    }
    void check(std::string text) { case_.steps.push_back({std::move(text), "ok", situation(), {}}); }
    void check_state() { check(fmt::format("luo.state: {}", state_name(world_.state))); }

    void check_files() {
        for (int at = 0; at < descriptor_count; ++at) {
            if (!world_.is_open(at)) continue;
            const Pages& pages = world_.file_at(at).pages;
            check(fmt::format("memfd.stat: {{fd: {}, size: {}, pos: 0}}", file_name(at),
                              pages.empty() ? "0" : fmt::format("{}KiB", pages.size() * page_bytes / KiB)));
            for (std::size_t page = 0; page < pages.size(); ++page)
                check(fmt::format("memfd.verify: {{fd: {}, offset: {}, fill: {}, length: 4KiB}}", file_name(at),
                                  page ? fmt::format("{}KiB", page * page_bytes / KiB) : "0",
                                  pages[page] == zero_pattern ? "zero" : fmt::format("pattern({})", pages[page])));
        }
    }

    void check_calls() {
        for (const World::Subsystem& one : world_.subsystems)
            check(fmt::format("subsystem.expect: {{name: {}, calls: [{}]}}", subsystem_name(one.name),
                              fmt::join(one.calls, ", ")));
    }

    void take_back(int subsystem) { step({.action = Action::unregister_subsystem, .subsystem = subsystem}); }

    void check_folios() {
        for (int folio = 0; folio < static_cast<int>(world_.folios.size()); ++folio)
            if (world_.folios[static_cast<std::size_t>(folio)].owned)
                check(fmt::format("kho.verify: {{folio: {}, fill: pattern({})}}", folio_name(folio),
                                  folio_pattern(folio)));
    }
    /// Fetches what came; then what is preserved crosses a kexec, and is fetched.
    void close_kho() {
        check_files();
        fetch_folios();
        if (world_.undefined) return;
        if (!world_.finalized) step({.action = Action::kho_finalize});
        step({.action = Action::load});
        step({.action = Action::exec});
        fetch_folios();
    }
    void fetch_folios() {
        for (int folio = 0; folio < static_cast<int>(world_.folios.size()); ++folio) {
            const World::Folio& one = world_.folios[static_cast<std::size_t>(folio)];
            if (one.came && !one.restored) step({.action = Action::kho_restore, .folio = folio});
        }
        check_folios();
    }

    /// From updated to normal. False: there is no going on.
    bool finish_update() {
        const auto registered = world_.subsystems;
        for (const World::Subsystem& one : registered)
            if (!world_.incoming_subsystems.contains(one.name)) take_back(one.name);
        const auto incoming_subsystems = world_.incoming_subsystems;
        for (const int subsystem : incoming_subsystems)
            if (!world_.registered(subsystem)) step({.action = Action::register_subsystem, .subsystem = subsystem});
        const auto incoming = world_.incoming;
        for (const auto& [token, file] : incoming) {
            if (file.restored) continue;
            step({.action = Action::restore, .file = file_count + token, .token = token});
            if (world_.undefined) break;
        }
        check_files();
        if (world_.undefined) return false;
        step({.action = Action::finish});
        check_state();
        check_calls();
        return !world_.dead;
    }

    /// One file under two tokens cannot be restored twice, an empty one and what refuses cannot be prepared.
    bool preparable() const {
        std::set<int> seen;
        for (const auto& [token, file] : world_.outgoing)
            if (!seen.insert(file.file).second || world_.files[static_cast<std::size_t>(file.file)].pages.empty())
                return false;
        return std::ranges::none_of(world_.subsystems,
                                    [](const World::Subsystem& one) { return one.refusal != Refusal::none; });
    }
    /// To a state from which an update succeeds. False: only a reboot would help.
    bool make_ready() {
        const bool under_way = world_.state == State::prepared || world_.state == State::frozen;
        if (under_way && preparable() && !world_.leftovers()) return true;
        if (world_.state != State::normal || world_.finalized) {
            if (!under_way) step({.action = Action::prepare});
            step({.action = Action::cancel});
        }
        std::set<int> seen;
        const auto outgoing = world_.outgoing;
        for (const auto& [token, file] : outgoing)
            if (!seen.insert(file.file).second || world_.files[static_cast<std::size_t>(file.file)].pages.empty())
                step({.action = Action::unpreserve, .token = token});
        const auto subsystems = world_.subsystems;
        for (const World::Subsystem& one : subsystems)
            if (one.refusal != Refusal::none) take_back(one.name);
        step({.action = Action::prepare});
        if (!world_.leftovers()) return true;
        step({.action = Action::cancel});
        return false;
    }
    bool update() {
        step({.action = Action::kexec});
        if (!world_.dead) check_state();
        return !world_.dead;
    }

    const Reference& reference_;
    World world_;
    Case& case_;
};

std::string joined(const std::vector<Letter>& letters, std::string_view between) {
    std::string text;
    for (const Letter& letter : letters) text += (text.empty() ? "" : std::string(between)) + letter.slug();
    return text;
}

std::vector<Letter> opening_letters(std::initializer_list<Action> events) {
    std::vector<Letter> letters{{.action = Action::preserve, .file = 0, .token = 0},
                                {.action = Action::register_subsystem, .subsystem = 0}};
    for (const Action event : events) letters.push_back({.action = event});
    return letters;
}

}  // namespace

std::span<const Opening> openings() {
    static const std::vector<Opening> all{
        {"normal", "nothing is preserved", {}},
        {"preserved", "memfd a is preserved under token 1, subsystem s is registered", opening_letters({})},
        {"prepared", "the same, prepared", opening_letters({Action::prepare})},
        {"frozen", "the same, frozen", opening_letters({Action::prepare, Action::freeze})},
        {"updated", "the same, after the kexec", opening_letters({Action::prepare, Action::kexec})},
    };
    return all;
}

Space enumerate(const Reference& reference, const SpaceOptions& options) {
    Space space;
    for (const Group* group : options.alphabet)
        space.letters.insert(space.letters.end(), group->letters.begin(), group->letters.end());
    INVARIANT(space.letters.size() <= 255);
    Enumeration(reference, options, space).run();
    return space;
}

std::vector<Letter> letters_of(const Space& space, const Sequence& sequence) {
    std::vector<Letter> letters;
    for (const u8 at : sequence) letters.push_back(space.letters[at]);
    return letters;
}

Case make_case(const Reference& reference, const SpaceOptions& options, const std::vector<Letter>& letters) {
    Case result;
    const bool opened = !options.from.empty();
    result.name = (opened ? options.from + "--" : "") + joined(letters, "--");
    result.summary = fmt::format("{}{}; then whatever is preserved crosses an update.",
                                 opened ? fmt::format("From {} on, ", options.from) : "", joined(letters, ", "));
    CaseBuilder builder(reference, result);
    builder.open(options.opening);
    for (const Letter& letter : letters) builder.step(letter);
    builder.close();
    result.findings.assign(builder.world().findings.begin(), builder.world().findings.end());
    return result;
}

std::string Case::text(const Edition& edition, const std::string& comment) const {
    std::string out;
    for (std::size_t at = 0; at < comment.size();) {
        const std::size_t end = std::min(comment.find('\n', at), comment.size());
        out += fmt::format("# {}\n", comment.substr(at, end - at));
        at = end + 1;
    }
    out += fmt::format(
        "format: 1\nscenario: {}\nsummary: {}\n\nmachine: {{memory: 64MiB}}\n\nkernels:\n"
        "  - {{profile: {}, release: {}, cmdline: \"kho=on{}\", image: {{kernel: 1MiB, initrd: "
        "64KiB}}{}}}\n\nsteps:\n",
        name, summary, profile_name(edition.profile), profile_info(edition.profile).default_release,
        edition.has_luo() ? " liveupdate=on" : "", edition.strict ? ", defects: strict" : "");
    for (const CaseStep& step : steps) {
        out += "  - " + step.text + "\n";
        if (step.expected == "ok") continue;
        out += fmt::format("    expect: {}\n    note: \"{}\"\n", step.expected, step.why);
    }
    if (!findings.empty()) out += fmt::format("\nexpect:\n  findings: [{}]\n", fmt::join(findings, ", "));
    return out;
}

}  // namespace kexec_sim::sim::generate
