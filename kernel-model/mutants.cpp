#include "kernel-model/mutants.hpp"

namespace kexec_sim {
namespace {

constexpr MutantInfo table[] = {
#define MUTANT(id, name, fixed_in, mechanism, later, title, symptom) \
    {Mutant::id, name, fixed_in, mechanism, later, title, symptom},
#include "kernel-model/mutants.def"
#undef MUTANT
};
static_assert(std::size(table) <= 64, "a MutantSet has 64 bits");

}  // namespace

std::span<const MutantInfo> mutants() { return table; }

std::optional<Mutant> mutant_by_name(std::string_view name) {
    for (const MutantInfo& info : table)
        if (info.name == name) return info.id;
    return std::nullopt;
}

const MutantInfo& mutant_info(Mutant mutant) { return table[static_cast<std::size_t>(mutant)]; }

}  // namespace kexec_sim
