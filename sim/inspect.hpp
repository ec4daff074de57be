// `kexec-sim inspect FILE`: what lies in a RAM image or a flattened devicetree.
#pragma once

#include <optional>
#include <string>

#include "machine/types.hpp"

namespace kexec_sim::sim {

struct InspectOptions {
    std::string file;             // a RAM image (offset = address) or an FDT
    std::string boot_params;      // --boot-params: where the handover is; empty: not given
    std::optional<u64> fdt_addr;  // --fdt: physical address of the root tree
    bool map = false;             // --map: memory by owner
    std::string json_file;        // --json; "-": standard output; empty: none
    bool color = false;
};

/// The exit code. UserError: exit 2.
int run_inspect(const InspectOptions& options);

}  // namespace kexec_sim::sim
