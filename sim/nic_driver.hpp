// The driver of a dma-nic in user space or in a guest: lays out a ring in a buffer and starts an engine of the card.
//
//   buffer   | descriptors, 32 bytes each | sources, slot bytes each | destinations, slot bytes each |
//
// A slot has as many bytes as the buffer allows, at most 4096, a multiple of 64. Engine 0 writes to memory, engine 1 to a
// peer's BAR; its sources and descriptors lie at three quarters of guest memory.
//
// Each sixteenth descriptor and the last ask for an interrupt where a guest drives the ring; without a guest none does.
//
// EINVAL: the buffer is not mapped for the device, is too small for its ring, or lies where the guest works itself.
#pragma once

#include "sim/vmm.hpp"

namespace kexec_sim::sim {

struct NicStart {
    u32 interval_ns = 0;
    u32 entries = 64;
    bool circular = true;
    u64 offset = 0, length = 0;  // of the buffer in the guest's memory, or in the file
};

/// The ring is in guest memory, and the guest drives it. EINVAL: the buffer will not do; `why` says so in words.
Result<> start_nic_in_guest(Kernel& kernel, VfioFile& nic, VirtualMachine& vm, const NicStart& start,
                            std::string& why);
/// In memory of an agent, that is mapped in the iommufd which the device is attached to.
Result<> start_nic_in_file(VfioFile& nic, const std::shared_ptr<ShmemFile>& memory, const NicStart& start,
                           std::string& why);
/// Engine 1 writes into the memory of `target`.
Result<> start_p2p(VfioFile& nic, VirtualMachine& vm, PciDevice& target, u32 interval_ns);
Result<> stop_nic(VfioFile& nic, unsigned engine);

}  // namespace kexec_sim::sim
