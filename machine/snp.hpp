// SEV-SNP: the reverse map table, and the firmware's side of confidential guests.
//
// Each frame has an owner: the hypervisor (every frame while SNP is off), a guest (by address-space id and guest
// address), or the firmware (context pages). The hardware checks every access by it:
//
//   who                     hypervisor's    guest's own     guest's other    firmware's
//   kernel                  ok              reverse-map fault (a kernel panic) …
//   device                  ok              refused (BusStatus::reverse_map)   …
//   the guest itself        shared page     private page    refused          refused
//
// A private page's content is encrypted by a key of its guest and the physical address of each 8 bytes: read through
// another address, or with another key, it is noise. Taking a page away from a guest (rmp_update to hypervisor) does
// not decrypt it.
//
// The firmware keeps a guest's key in its context page, which lies in RAM, is owned by the firmware and recognised by
// its physical address: a page with the same bytes elsewhere is no context page.
//
// `shutdown()` is what today's kernels do on their way into kexec: every assigned page becomes the hypervisor's, every
// context is dropped, SNP is off.
//
// Invariants: S1 a frame has one owner. S2 no two live contexts have the same ASID.
// Cost: a check O(log assigned intervals); nothing while SNP is off.
// Simplified: pages of 4 KiB only, no VMPLs, no attestation; the table itself takes no RAM; launch does not measure.
#pragma once

#include <memory_resource>

#include "machine/interval_map.hpp"
#include "machine/result.hpp"

namespace kexec_sim {

struct Machine;

enum class RmpOwner : u8 { hypervisor, guest, firmware };

class SnpFirmware {
public:
    SnpFirmware(Machine& machine, std::pmr::memory_resource* memory);

    bool enabled() const { return enabled_; }
    void enable();    // SNP_INIT; does nothing where it is on already
    void shutdown();  // SNP_SHUTDOWN
    void reset();     // of the machine

    /// Makes `page` the context page of a new guest; its key is drawn from the machine's seed. EBUSY: the ASID is
    /// taken, or the page is assigned; EINVAL: SNP is off, ASID 0.
    Result<> create_context(Pfn page, u16 asid);
    /// Does the firmware know this page as a context page? ENOENT. (What a kernel that was handed one must ask.)
    Result<u16> context_asid(Pfn page) const;
    /// The page is the hypervisor's again; its guest's pages lose their key. ENOENT.
    Result<> destroy_context(Pfn page);

    /// RMPUPDATE. EBUSY: owned by another guest or the firmware; EINVAL: SNP off, no such guest.
    Result<> assign(PfnRange frames, u16 asid, u64 first_gfn);
    Result<> reclaim(PfnRange frames);  // to the hypervisor; firmware pages are refused: EPERM

    // --- hardware ---
    RmpOwner owner(Pfn frame) const;
    /// A kernel's access to RAM. Throws KernelPanic ("RMP fault"), after telling the referee. PhysicalMemory asks it
    /// while `enabled()` and nobody inside machine/ makes the access.
    void check_host(PhysRange range, bool write) const;
    bool allows_device(PhysRange range) const;
    /// The guest's own access: translated by its key. EFAULT: the page is neither shared nor its own at that gfn.
    Result<> guest_read(u16 asid, u64 gfn, PhysAddr phys, std::span<std::byte> out) const;
    Result<> guest_write(u16 asid, u64 gfn, PhysAddr phys, std::span<const std::byte> in);

private:
    struct Assigned {
        u16 asid = 0;        // 0: the firmware's
        u64 gfn_offset = 0;  // gfn = pfn - gfn_offset (modulo 2^64), so that a run is one value
        bool operator==(const Assigned&) const = default;
    };
    struct Context {
        u16 asid;
        u64 key;
    };
    Machine& machine_;
    bool enabled_ = false;
    IntervalMap<Assigned> assigned_;
    std::pmr::map<u64, Context> contexts_;  // by pfn
};

}  // namespace kexec_sim
