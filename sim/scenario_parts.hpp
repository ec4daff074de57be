// The sections of a scenario file beside its steps, one reader each.
#pragma once

#include <string>
#include <vector>

#include "sim/scalars.hpp"
#include "sim/scenario.hpp"

namespace kexec_sim::sim {

/// File names are relative to `folder`.
MachineSpec parse_machine(const Node& node, const Scalars& scalars, const std::filesystem::path& folder);
/// `devices:` of a machine, each bridge before what is behind it.
std::vector<PciDeviceConfig> parse_devices(const Node& node, const Scalars& scalars);
std::vector<KernelSpec> parse_kernels(const Node& node, const Scalars& scalars);
std::vector<PlannedFault> parse_faults(const Node& node, const Scalars& scalars);
ExpectSpec parse_expect(const Node& node, const Scalars& scalars);
Reproduces parse_reproduces(const Node& node, const Scalars& scalars);
/// A list of invariants; what is none is refused.
std::vector<std::string> parse_invariants(const Node& node, std::string_view what, const Scalars& scalars);

}  // namespace kexec_sim::sim
