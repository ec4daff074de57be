// --dump-fdt DIR: the trees of a handover as files, read from RAM as the next kernel will find them.
#pragma once

#include <string>

#include "sim/run_state.hpp"

namespace kexec_sim::sim {

/// Writes DIR/gen<N>-root.dtb, gen<N>-<sub-tree>.dtb …; each is as long as its header says. UserError if DIR cannot be
/// written.
void dump_handover(const Machine& machine, const RunState& state, const std::string& dir);

}  // namespace kexec_sim::sim
