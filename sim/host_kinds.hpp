// The two kinds of host; make_host() chooses.
#pragma once

#include "sim/host.hpp"

namespace kexec_sim::sim {

std::unique_ptr<KernelHost> make_process_host(Machine& machine, RunState& state, const Scenario& scenario);
std::unique_ptr<KernelHost> make_inline_host(Machine& machine, RunState& state, const Scenario& scenario);

}  // namespace kexec_sim::sim
