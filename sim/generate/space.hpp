// A small step space: all sequences of up to N letters, each with the steps that close it, as a scenario.
//
//   opening                 letters               closing
//   memfds a and b          preserve-a-1          the state, and what every open memfd holds
//                           prepare               restore, verify, finish; prepare; kexec; restore, verify, finish
//
// Every step carries what the reference expects of it, so a case needs nothing but the runner: it passes where the
// simulator agrees. The closing steps bring whatever is preserved through an update and compare it; what would only
// repeat a known defect (one file under two tokens) they undo first.
//
// Sequences are in a fixed order: shorter ones first, then by the order of the alphabet. Left out is
//
//   1  what is the same but for names: memfds and subsystems are named in the order in which a sequence mentions them,
//      and a sequence with one token has token 1 (two tokens are not exchanged: files are called in their order);
//   2  a sequence that takes a subsystem back which no letter of it registers: a scenario file cannot name it;
//   3  what begins with a sequence whose last letter has a result that is not specified, and that sequence itself.
//
// With `symmetry` off, 1 is not left out.
#pragma once

#include <vector>

#include "sim/generate/reference.hpp"

namespace kexec_sim::sim::generate {

struct SpaceOptions {
    std::vector<const Group*> alphabet;
    unsigned length = 1;
    bool symmetry = true;
    /// Letters before every sequence: from which situation on it is judged.
    std::vector<Letter> opening;
    /// What the opening is called, for names and summaries; empty: there is none.
    std::string from;
};

/// Indexes into the letters of the alphabet.
using Sequence = std::vector<u8>;

struct Space {
    std::vector<Letter> letters;
    std::vector<Sequence> sequences;
    u64 renamed = 0, unspecified = 0;  // left out, as 1 and 3 above (without what begins with them)
};
/// Throws SimulatorBug: more letters than an index holds.
Space enumerate(const Reference& reference, const SpaceOptions& options);

struct CaseStep {
    std::string text;  // of the step, as Letter::text()
    std::string expected;
    std::string before;    // the state before it, in a word or two: "prepared"
    std::string_view why;  // where not ok is expected: the reference's condition
};
struct Case {
    std::string name, summary;
    std::vector<CaseStep> steps;
    std::vector<std::string> findings;

    /// Of a scenario file. `comment`: lines at its top, without their '#'.
    std::string text(const Edition& edition, const std::string& comment = {}) const;
};
Case make_case(const Reference& reference, const SpaceOptions& options, const std::vector<Letter>& letters);
std::vector<Letter> letters_of(const Space& space, const Sequence& sequence);

/// Where `--from` can begin: normal, preserved, prepared, frozen, updated.
struct Opening {
    std::string_view name, description;
    std::vector<Letter> letters;
};
std::span<const Opening> openings();

}  // namespace kexec_sim::sim::generate
