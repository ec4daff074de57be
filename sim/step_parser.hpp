// From the `steps` of a file to Step instances and the program that runs them.
//
// A step is a map with one key, its name, beside which only `expect` and `note` may stand. Its value is
// read by the step's row in the registry. `repeat` becomes two operations around its steps; `each`
// is read once for every value. While reading, the parser notes which names are bound and which are
// used, with positions; check_names() compares them once the whole file has been read.
//
// Bounds: `each` in `each` multiplies, so a file has at most `steps_max` step instances. Every
// unrolling makes at least one step (empty lists are refused), so the bound holds for the work too.
#pragma once

#include <array>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "sim/scalars.hpp"
#include "sim/scenario.hpp"

namespace kexec_sim::sim {

inline constexpr std::size_t steps_max = 100'000;

/// Which names a file binds and uses.
class NameBook {
public:
    void bind(NameKind kind, const std::string& name) { bound_[static_cast<std::size_t>(kind)].insert(name); }
    void use(NameKind kind, std::string name, SourcePos pos) { uses_.push_back({kind, std::move(name), pos}); }
    /// Throws at the first use, in the order of the file, of a name that nothing binds.
    void check(const SourceFile& file) const;

private:
    struct Use {
        NameKind kind;
        std::string name;
        SourcePos pos;
    };
    std::array<std::set<std::string>, name_kinds> bound_;  // by NameKind
    std::vector<Use> uses_;
};

struct StepContext {
    std::filesystem::path folder;  // file names are relative to it
    std::size_t kernel_count = 0;  // for `kexec.load: {kernel: N}`
    NameBook& names;
};

struct StepScript {
    std::vector<Step> steps;
    std::vector<ProgramOp> program;
};

/// Reads a list of steps; `what` is the key that holds it.
StepScript parse_steps(const Node& node, std::string_view what, const Scalars& scalars, StepContext context);

}  // namespace kexec_sim::sim
