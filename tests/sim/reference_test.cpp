// The reference of small step spaces by itself: no simulator runs here.
#include <catch2/catch.hpp>

#include <fstream>

#include "sim/generate/space.hpp"

namespace {

using namespace kexec_sim::sim::generate;

struct Bench {
    explicit Bench(Edition edition = {}) : reference(edition), world(reference.world()) { world.create_objects(); }
    std::string step(Letter letter) { return reference.step(world, letter).result; }
    std::string event(Action action) { return step({.action = action}); }
    std::string preserve(int file, int token) {
        return step({.action = Action::preserve, .file = file, .token = token});
    }
    std::string restore(int token, int as) { return step({.action = Action::restore, .file = as, .token = token}); }
    std::string enlist(int subsystem, Refusal refusal = Refusal::none) {
        return step({.action = Action::register_subsystem, .subsystem = subsystem, .refusal = refusal});
    }

    Reference reference;
    World world;
};

SpaceOptions space_of(std::initializer_list<std::string_view> names, unsigned length) {
    SpaceOptions options;
    options.length = length;
    for (const std::string_view name : names) options.alphabet.push_back(group_by_name(name));
    return options;
}

}  // namespace

TEST_CASE("every event from every state gives what the transition table says") {
    struct {
        std::string_view from;
        std::string prepare, freeze, cancel, finish;
    } const table[] = {
        {"normal", "ok", "EINVAL", "ENOENT", "EINVAL"},
        {"prepared", "EINVAL", "ok", "ok", "EINVAL"},
        {"frozen", "EINVAL", "EINVAL", "ok", "EINVAL"},
        {"updated", "EINVAL", "EINVAL", "ENOENT", "ok"},
    };
    for (const auto& row : table)
        for (const auto& [action, expected] :
             {std::pair{Action::prepare, row.prepare}, std::pair{Action::freeze, row.freeze},
              std::pair{Action::cancel, row.cancel}, std::pair{Action::finish, row.finish}}) {
            Bench bench;
            for (const Opening& opening : openings())
                if (opening.name == row.from)
                    for (const Letter& letter : opening.letters) bench.step(letter);
            if (row.from == "updated") bench.enlist(0);
            INFO(row.from << ", " << step_name(action));
            CHECK(bench.event(action) == expected);
        }
}

TEST_CASE("a file arrives with what was written after prepare, once") {
    Bench bench;
    CHECK(bench.preserve(0, 1) == "ok");
    CHECK(bench.preserve(1, 1) == "EEXIST");
    CHECK(bench.event(Action::prepare) == "ok");
    CHECK(bench.step({.action = Action::write, .file = 0}) == "ok");
    CHECK(bench.step({.action = Action::append, .file = 0}) == "EPERM");
    CHECK(bench.preserve(1, 0) == "EBUSY");
    CHECK(bench.event(Action::exec) == "EINVAL");
    CHECK(bench.world.state == State::frozen);
    CHECK(bench.event(Action::kexec) == "ok");
    CHECK(bench.step({.action = Action::write, .file = 0}) == "EBADF");
    CHECK(bench.restore(0, 0) == "ENOENT");
    CHECK(bench.restore(1, 0) == "ok");
    CHECK(bench.world.file_at(0).pages == Pages{first_pattern(0), written_pattern(0)});
    CHECK(bench.restore(1, 1) == "EINVAL");
    CHECK(bench.event(Action::finish) == "ok");
    CHECK(bench.restore(1, 1) == "EBUSY");
    CHECK(bench.world.findings.empty());
}

TEST_CASE("a failed freeze leaves KHO finalized where defects are literal") {
    for (const bool strict : {false, true}) {
        Bench bench({kexec_sim::sim::Profile::luo_v3, strict});
        CHECK(bench.enlist(0, Refusal::freeze) == "ok");
        CHECK(bench.event(Action::prepare) == "ok");
        CHECK(bench.event(Action::kexec) == refusal_errno(Refusal::freeze));
        CHECK(bench.world.state == State::normal);
        CHECK(bench.event(Action::prepare) == (strict ? "ok" : "EBUSY"));
        CHECK(bench.event(Action::cancel) == (strict ? "ok" : "EINVAL"));
        CHECK(bench.world.findings == (strict ? std::set<std::string>{} : std::set<std::string>{"luo.rollback"}));
    }
}

TEST_CASE("closing the device drops the files in the third posting only") {
    for (const kexec_sim::sim::Profile posting : {kexec_sim::sim::Profile::luo_v2, kexec_sim::sim::Profile::luo_v3}) {
        Bench bench({posting, false});
        CHECK(bench.preserve(0, 0) == "ok");
        CHECK(bench.event(Action::open_device) == (posting == kexec_sim::sim::Profile::luo_v3 ? "EBUSY" : "ok"));
        CHECK(bench.event(Action::close_device) == "ok");
        CHECK(bench.event(Action::prepare) == "EBADF");
        CHECK(bench.event(Action::open_device) == "ok");
        CHECK(bench.step({.action = Action::unpreserve, .token = 0}) ==
              (posting == kexec_sim::sim::Profile::luo_v3 ? "ENOENT" : "ok"));
    }
}

TEST_CASE("what is lost without a word is a finding, and so is a newcomer's panic when something was promised") {
    Bench lost;
    lost.preserve(0, 0);
    lost.event(Action::prepare);
    lost.event(Action::kexec);
    lost.event(Action::kexec);
    CHECK(lost.world.findings == std::set<std::string>{"loss.silent"});

    Bench panic;
    panic.preserve(0, 0);
    panic.event(Action::prepare);
    panic.event(Action::kexec);
    CHECK(panic.enlist(0) == "ENOENT");
    CHECK(panic.event(Action::finish) == "panic");
    CHECK(panic.event(Action::finish) == "dead");
    CHECK(panic.world.findings == std::set<std::string>{"loss.reported"});
}

TEST_CASE("a jump with a stale root tree is not specified") {
    Bench bench;
    bench.event(Action::prepare);
    bench.event(Action::cancel);
    CHECK(bench.event(Action::kexec) == unspecified);
}

TEST_CASE("without symmetry the space is every sequence that a scenario can hold") {
    const Reference reference({});
    SpaceOptions options = space_of({"kexec", "memfd"}, 2);
    options.symmetry = false;
    const Space space = enumerate(reference, options);
    CHECK(space.letters.size() == 11);
    CHECK(space.sequences.size() == 11 + 11 * 11);
    CHECK(space.renamed == 0);
}

TEST_CASE("of sequences that differ in names one is left, and it is renamed to none other") {
    const Reference reference({});
    SpaceOptions options = space_of({"memfd", "luo", "subsystem"}, 2);
    const Space space = enumerate(reference, options);
    options.symmetry = false;
    const Space all = enumerate(reference, options);

    // The least of all sequences that renaming memfds, subsystems and a lone token makes of one.
    const auto canonical = [&](const Sequence& sequence) {
        Sequence least;
        const std::vector<Letter> letters = letters_of(all, sequence);
        bool tokens[2] = {};
        for (const Letter& letter : letters)
            if (letter.token != no_object) tokens[letter.token] = true;
        for (int which = 0; which < 8; ++which) {
            if ((which & 4) && tokens[0] == tokens[1]) continue;
            Sequence renamed;
            for (Letter letter : letters) {
                if (letter.file != no_object && (which & 1)) letter.file ^= 1;
                if (letter.subsystem != no_object && (which & 2)) letter.subsystem ^= 1;
                if (letter.token != no_object && (which & 4)) letter.token ^= 1;
                renamed.push_back(static_cast<kexec_sim::u8>(
                    std::find(all.letters.begin(), all.letters.end(), letter) - all.letters.begin()));
            }
            if (least.empty() || renamed < least) least = renamed;
        }
        return least;
    };
    std::set<Sequence> wanted, found;
    for (const Sequence& sequence : all.sequences) wanted.insert(canonical(sequence));
    for (const Sequence& sequence : space.sequences) found.insert(canonical(sequence));
    CHECK(found == wanted);
    CHECK(space.sequences.size() == wanted.size());
}

TEST_CASE("an enumeration begins with the short sequences and is always the same") {
    const Reference reference({});
    const SpaceOptions options = space_of({"memfd", "luo", "kexec"}, 2);
    const Space space = enumerate(reference, options), again = enumerate(reference, options);
    CHECK(space.sequences == again.sequences);
    CHECK(std::is_sorted(space.sequences.begin(), space.sequences.end(),
                         [](const Sequence& left, const Sequence& right) { return left.size() < right.size(); }));
}

TEST_CASE("the reference includes nothing of the code that it is compared with") {
    for (const std::string file : {"alphabet.hpp", "alphabet.cpp", "reference.hpp", "reference.cpp",
                                   "reference_kho.cpp", "space.hpp", "space.cpp"}) {
        std::ifstream in(std::string(KEXEC_SIM_SOURCE_DIR) + "/sim/generate/" + file);
        REQUIRE(in);
        for (std::string line; std::getline(in, line);)
            for (const std::string layer : {"luo/", "kho/", "kernel-model/"}) {
                INFO(file << ": " << line);
                CHECK(line.find("#include \"" + layer) == std::string::npos);
            }
    }
}
