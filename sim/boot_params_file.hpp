// The boot-params file: what the next kernel of a stopped run gets, beside RAM.
//
//     kexec-sim run s.yaml --stop-at jump:1 --ram R --boot-params B        machine: {image: R, boot-params: B}
//
// JSON. `setup_data` {type, fdt_addr, fdt_size, scratch_addr, scratch_size} is what KHO hands over, null without. The
// rest is optional: `memory_map`, `nodes`, `boot_page` (where the parameters lie in RAM), and for the instruments,
// seen by no kernel, `generation`, `clock`, `blackout_start`, `bench`, `marks`, `counters`, `referee`.
#pragma once

#include <array>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "kernel-model/boot_params.hpp"
#include "kernel-model/kexec.hpp"
#include "sim/run_state.hpp"

namespace kexec_sim::sim {

struct BootParamsFile {
    u64 image_bytes = 0;
    std::optional<std::vector<std::byte>> kho_payload;  // of setup_data type 10
    std::vector<MemoryMapEntry> memory_map;
    std::vector<NodeRange> nodes;
    unsigned node_count = 1;
    PhysRange boot_page{};  // empty: not in RAM
    std::vector<PhysRange> scratch;
    Generation generation = 1;
    u64 clock_ns = 0;
    std::optional<u64> blackout_start_ns;
    std::map<std::string, BenchObject> bench;
    std::map<std::string, u64> marks;
    std::string referee;
    /// Counters of the jump: map pages, folios, bytes, overhead pages, files.
    std::array<u64, 5> counters{};
};

/// UserError with file and reason.
BootParamsFile read_boot_params_file(const std::filesystem::path& path, const std::filesystem::path& image);
/// Writes what the stopped run hands to the kernel of the next generation.
void write_boot_params_file(const std::string& path, const Machine& machine, const RunState& state);
/// The parameters as the kernel sees them: from the boot page in RAM where the file names it, else made from the file
/// with the image placed as a loader would.
BootParams boot_params_of(const BootParamsFile& file, Machine& machine, const KexecRequest& request);
/// The names of the bench objects and marks, for the scenario's check of names.
std::set<std::string> bench_names_of(const std::filesystem::path& path, const std::filesystem::path& image);

}  // namespace kexec_sim::sim
