// Decoding what devices, IOMMUs and VMs hand over: the records of luo/abi/devices.hpp, for people.
//
// Whatever a record says is followed only inside RAM and once; what cannot be is a problem with its address.
#pragma once

#include "sim/inspect_decode.hpp"

namespace kexec_sim::sim {

/// The subsystem with this name, if it is one of devices. `data`: its handle.
void decode_device_subsystem(const PhysicalMemory& ram, Inspected& out, std::string_view name, PhysAddr data);
/// The same of a file, if its handler is one of devices.
void decode_device_file(const PhysicalMemory& ram, Inspected& out, const Inspected::MemoryFile& file);

}  // namespace kexec_sim::sim
