// PCI over a live update: which functions are preserved, and how the next kernel knows.
//
// The unit is a function that a driver preserves through its file; every bridge above it is preserved with it, by
// reference count.
//
//   preserve(nic0):   nic0 1 ── sw0.0 1 ── sw0 1 ── rp0 1          preserve(gpu0), behind the same switch:
//                     gpu0 1 ── sw0.1 1 ── sw0 2 ── rp0 2
//
// Old kernel: 1. preserve() writes a slot for the function and one for each bridge, into pages that are made with the
// first and go with the last. 2. shutdown leaves bus mastering on for all of them. New kernel: 3. the subsystem is
// given its list before PCI is scanned, and has the core adopt what is in it. 4. finish(function), when its driver is
// done: the slot is freed, and with the last one the pages.
//
// Unhappy paths: 1. EBUSY: the function is preserved already. 2. EINVAL: shutdown has begun. 3. ENOMEM, in the middle of
// the path: the bridges done before are taken back. 4. The subsystem is not to be had (registered too late): ENODEV.
// 5. The list's version is another: panic, since devices may be writing to memory already. 6. A block outside RAM, or
// more blocks than a machine can have functions for: the rest of the list is left out, with a log line. 7. A preserved
// function is removed: unpreserved, or finished.
//
// Invariants: P1 a bridge's count is the number of preserved endpoints below it. P2 pages exist exactly while a slot is
// in use. P3 after shutdown nothing changes.
// Source: the series "PCI core support for Live Update", v9.
#pragma once

#include <map>

#include "luo/abi/devices.hpp"
#include "luo/devices/record.hpp"

namespace kexec_sim::luo {

class PciParticipant {
public:
    PciParticipant(Kernel& kernel, kho::Kho& kho, Orchestrator& orchestrator);

    /// At an initcall before the scan, and again when somebody wants to preserve.
    bool ensure_registered() { return subsystem_.ensure_registered(); }

    Result<> preserve(PciDevice& device);
    void unpreserve(PciDevice& device);
    bool preserved(const PciDevice& device) const;

    /// Came from the previous kernel, and is not finished.
    bool incoming(PciAddress address) const;
    void finish(PciDevice& device);

private:
    struct Slot {
        PhysAddr at;
        u16 refcount = 0;
    };
    Result<> take(PciDevice& device);
    void drop(PciDevice& device);
    Result<PhysAddr> free_slot();
    Result<> make_pages();
    void free_pages();
    void write_slot(PciAddress address, const Slot& slot);
    void boot(PhysAddr header);
    bool read_blocks(PhysAddr first);  // false: one could not be restored
    void release_incoming();
    void removed(PciDevice& device);

    Kernel& kernel_;
    RecordPages pages_;
    HandleSubsystem subsystem_;
    // Outgoing.
    PhysAddr header_;
    std::vector<PhysAddr> blocks_;
    std::map<PciAddress, Slot> slots_;
    // Incoming.
    std::vector<PhysAddr> incoming_pages_;
    std::map<PciAddress, Slot> incoming_;
};

}  // namespace kexec_sim::luo
