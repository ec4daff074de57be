// The bug zoo: historical defects that a kernel can be given back.
//
// A mutant is a defect that a released kernel once had, kept in one marked place of the code and off unless a scenario
// asks for it: `mutants: [KB-05]` on an entry of `kernels:`. The place is marked with the mutant's name and asks
//
//   if (kernel.config.mutant(Mutant::kb05)) …    // KB-05
//
// which costs one test of a bit. What a mutant does is found by the referee's invariants, never by a check of its own:
// tests/system/zoo_test.cpp runs every mutant against every scenario of scenarios/bugs.
#pragma once

#include <optional>
#include <span>
#include <string_view>

#include "machine/types.hpp"

namespace kexec_sim {

enum class Mutant : u8 {
#define MUTANT(id, name, fixed_in, mechanism, later, title, symptom) id,
#include "kernel-model/mutants.def"
#undef MUTANT
};

struct MutantInfo {
    Mutant id;
    std::string_view name;       // as in a scenario: "KB-05"
    std::string_view fixed_in;   // the release that had it no more
    std::string_view mechanism;  // what it changes
    std::string_view later;      // what the model lacks for it; empty: it is there
    std::string_view title, symptom;
    bool modelled() const { return later.empty(); }
};
std::span<const MutantInfo> mutants();
std::optional<Mutant> mutant_by_name(std::string_view name);
const MutantInfo& mutant_info(Mutant mutant);

/// The mutants of one kernel.
class MutantSet {
public:
    void add(Mutant mutant) { bits_ |= bit(mutant); }
    bool has(Mutant mutant) const { return bits_ & bit(mutant); }
    bool empty() const { return bits_ == 0; }
    bool operator==(const MutantSet&) const = default;

private:
    static constexpr u64 bit(Mutant mutant) { return u64{1} << static_cast<unsigned>(mutant); }
    u64 bits_ = 0;
};

}  // namespace kexec_sim
