// A scenario file, read and checked: the machine, its kernels, the steps, the faults, what is expected.
//
//     text ──yaml_reader──> Node tree ──${…}──> parser ──> Scenario ──names checked──> runner
//                                              └─ step registry (step_spec.hpp)
//
// Everything that can be known to be wrong without running is an error here, at its line and column:
// what is unknown, misspelt, duplicated, of the wrong type, out of range, or a name that nothing binds. A
// Scenario that exists is therefore complete: every default is filled in, every file name resolved.
//
// `repeat` stays a loop, in `program`; `each` is unrolled while loading, because its name is replaced
// in the text of its steps. `steps` holds each step once for every unrolling:
//
//     steps:                                     steps    program
//       - luo.open:                              0 open   step 0
//       - repeat: {times: 3, steps: [            1 a      repeat_begin(times 3, partner 4)
//           luo.prepare:, luo.cancel: ]}         2 b      step 1, step 2
//       - luo.close:                             3 close  repeat_end(partner 1), step 3
//
// Not checked here: whether a step makes sense at its place (the kernel says so with an errno) and
// whether a file exists that only the run needs (images, modules).
#pragma once

#include <array>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "kernel-model/mutants.hpp"
#include "machine/fault.hpp"
#include "machine/machine.hpp"
#include "machine/types.hpp"
#include "sim/profiles.hpp"
#include "sim/source.hpp"
#include "sim/step_spec.hpp"
#include "sim/values.hpp"

namespace kexec_sim::sim {

/// A stretch of a virtual machine's memory or of a file, whose name is the text of the field's value.
struct BufferField {
    SourcePos pos;  // of the name
    bool of_vm = false;
    u64 offset = 0, length = 0;
};

/// The value of one field of a step. Which member holds it follows from the type of the field.
struct FieldValue {
    const FieldSpec* field = nullptr;
    SourcePos pos;
    bool given = false;  // written in the file; false: the default
    std::string text;    // as written, ${…} replaced; of `bytes` the raw bytes, of `file` the path
    u64 number = 0;      // size, duration, number, pfn, event, boolean
    Fill fill;
    std::vector<std::string> list;
    std::map<u64, u64> orders;
    BufferField buffer;
};

struct Step {
    const StepSpec* spec = nullptr;
    StepId id{};
    SourcePos pos;
    u32 index = 0;                // in `steps`
    std::string expected = "ok";  // "ok", an errno name, "panic", "deadlock", "blocked", "dead", "exit N"
    SourcePos expected_pos;
    std::string note;
    std::string text;                // the step in flow style, as narrated: memfd.create: {name: a, size: 4096}
    std::vector<FieldValue> values;  // given ones and defaults

    std::string_view name() const { return spec->name; }
    /// Written in the file; a default does not count.
    bool has(std::string_view field) const;
    /// These return the default where the field is absent; to ask for one that is absent and has none,
    /// or that the step does not have, is a bug of the caller.
    u64 get_u64(std::string_view field) const;
    bool get_bool(std::string_view field) const;
    const std::string& get_text(std::string_view field) const;
    const std::string& get_name(std::string_view field) const { return get_text(field); }
    const Fill& get_fill(std::string_view field) const;
    const std::vector<std::string>& get_list(std::string_view field) const;
    const std::map<u64, u64>& get_orders(std::string_view field) const;
    /// get_text() of the same field is the name of the virtual machine or descriptor.
    const BufferField& get_buffer(std::string_view field) const;
    /// nullopt where the field is absent and has no default.
    std::optional<u64> find_u64(std::string_view field) const;
    const FieldValue* find(std::string_view field) const;
};

struct ProgramOp {
    enum class Kind : u8 { step, repeat_begin, repeat_end };
    Kind kind = Kind::step;
    u32 step = 0;     // step: index into `steps`
    u32 partner = 0;  // repeat_begin: index of its repeat_end in `program`; repeat_end: of its repeat_begin
    u64 times = 0;    // repeat_begin; 0 skips the body
};

struct KernelSpec {
    SourcePos pos;
    Profile profile = Profile::luo_v3;
    std::string release;
    std::string cmdline;
    u64 image_bytes = 16 * MiB, initrd_bytes = 8 * MiB;
    bool strict_defects = false;    // `defects: strict`
    MutantSet mutants;              // historical defects that this kernel has: KB-05
    std::set<std::string> without;  // components that this kernel was built without: "memfd"
    bool debug = false;
    bool numa = true;
    bool preserve_devices = false;  // `devices: preserve`; by default where there is an orchestrator
    CostModel cost;                 // `fast`, `typical`, or `fast` with figures of the scenario's own
};

struct MachineSpec {
    SourcePos pos;
    u64 memory_bytes = 0;                      // 0 where the machine starts from an image
    std::vector<u64> node_bytes;               // by node, in order of address; 0: memoryless
    std::filesystem::path image, boot_params;  // a machine that starts from a handover
    bool iommu = false, iommu_never_evicts = false;
    std::vector<PciDeviceConfig> devices;  // as in the file, but each bridge before what is behind it
    bool from_handover() const { return !image.empty(); }
    /// Its state is more than RAM: it cannot be resumed from a file.
    bool has_devices() const { return iommu || !devices.empty(); }
};

struct FindingsSpec {
    enum class Kind : u8 { none, exactly, any_of };
    Kind kind = Kind::none;
    std::vector<std::string> ids;  // exactly: all of these; any_of: at least one of these (if not empty)
    std::vector<std::string> may;  // any_of: these may appear as well
    bool may_any = false;
};

struct ExpectSpec {
    FindingsSpec findings;
    std::vector<std::string> log, no_log;
};

struct UnderFaults {
    std::vector<Step> steps;
    std::vector<ProgramOp> program;
    std::vector<std::string> accept;
};

/// Where a reproduction comes from.
struct Reproduces {
    std::string scenario;
    u64 seed = 1;
    std::vector<PlannedFault> plan;
    std::string trace_hash;  // 32 hex digits
};

struct Scenario {
    std::filesystem::path path;  // as the user named it
    u64 format = 1;
    std::string name, summary;
    u64 seed = 1;
    MachineSpec machine;
    std::vector<KernelSpec> kernels;                             // at least one; the last one repeats
    std::map<std::string, std::string, std::less<>> parameters;  // after overrides
    std::vector<std::filesystem::path> modules;
    std::vector<PlannedFault> faults;
    std::vector<Step> steps;
    std::vector<ProgramOp> program;
    ExpectSpec expect;
    std::optional<UnderFaults> under_faults;
    std::optional<Reproduces> reproduces;

    const KernelSpec& kernel(std::size_t boot) const {
        return kernels[boot < kernels.size() ? boot : kernels.size() - 1];
    }
};

struct LoadOptions {
    std::map<std::string, std::string> overrides;  // --set
    std::optional<u64> seed;                       // --seed
    bool strict = false;                           // --strict: each kernel has `defects: strict`
    /// Names of bench objects and marks that hold as bound, beside those that steps bind.
    std::set<std::string> extra_names;
    /// Whether modules must be there and look like modules; tests of the parser have none.
    bool check_files = false;
    /// Asked for a machine that starts from a handover: the bench objects that its boot-params file names.
    std::function<std::set<std::string>(const std::filesystem::path& boot_params, const std::filesystem::path& image)>
        bench_names;
};

/// Throws UserError: FILE:LINE:COL: error: …
Scenario load_scenario(const std::filesystem::path& path, const LoadOptions& options = {});
/// The same for text in memory; relative file names are relative to the folder of `path`.
Scenario parse_scenario(std::string_view text, const std::filesystem::path& path, const LoadOptions& options = {});

/// What is wrong with a fault that is well formed but cannot be carried out at its point; empty: nothing.
/// For `faults:` and for `--fault`.
std::string fault_problem(const PlannedFault& fault);

/// The ids of invariants that a scenario may expect, in the order of the referee's list.
std::span<const std::string_view> invariant_names();

}  // namespace kexec_sim::sim
