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
// another address, or with another key, it is noise. A page becomes a guest's with the content that it has (assign() is
// RMPUPDATE and launch in one, so the content is encrypted in place): a page of zeros reads as zeros in the guest.
// Taking a page away from a guest (reclaim()) does not decrypt it, and giving it back encrypts once more:
//
//   RAM   P ──assign──► E(P) ──reclaim──► E(P) ──assign──► E(E(P))       what the guest reads at the end is E(P): noise
//
// The firmware keeps a guest's key in its context page, which lies in RAM, is owned by the firmware and recognised by
// its physical address: a page with the same bytes elsewhere is no context page, nor is one whose bytes have changed.
//
// `shutdown()` is what today's kernels do on their way into kexec: every assigned page becomes the hypervisor's, every
// context is dropped, SNP is off.
//
// What is checked. PhysicalMemory asks check_host() for every access that is made through its functions by code outside
// machine/. Pointers that it gave out before, and the direct map, are not watched.
//
// Invariants: S1 a frame has one owner. S2 no two live contexts have the same ASID.
// Cost: a check O(log assigned intervals); nothing while SNP is off. A page that was never written is encrypted when
// the guest first writes to it.
// Simplified: pages of 4 KiB only, no VMPLs, no attestation; the table itself takes no RAM; launch does not measure;
// the cipher is a stream that only looks like noise; a kernel's read of a private page, which real hardware answers
// with the encrypted bytes, is a fault like its write; frames need no page state of their own for the IOMMU.
#pragma once

#include <array>
#include <memory_resource>
#include <optional>
#include <span>
#include <string_view>

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
    /// taken, or the page is assigned; EINVAL: SNP is off, ASID 0, no RAM.
    Result<> create_context(Pfn page, u16 asid);
    /// Does the firmware know this page as a context page? ENOENT. (What a kernel that was handed one must ask.)
    Result<u16> context_asid(Pfn page) const;
    /// The page is the hypervisor's again; its guest's pages lose their key. ENOENT.
    Result<> destroy_context(Pfn page);

    /// Gives hypervisor's frames to a guest, their content encrypted in place; frames that are the guest's at that gfn
    /// already stay as they are. EBUSY, and nothing done: owned by the firmware, another guest, or this one at another
    /// gfn. EINVAL: SNP off, no such guest, no RAM.
    Result<> assign(PfnRange frames, u16 asid, u64 first_gfn);
    /// To the hypervisor, content as it is. EPERM, and nothing done: a page of the firmware.
    Result<> reclaim(PfnRange frames);

    // --- hardware ---
    RmpOwner owner(Pfn frame) const;
    /// The ASID whose guest has all of these frames, as its pages from `first_gfn` on; nullopt: none has.
    std::optional<u16> guest_of(PfnRange frames, u64 first_gfn) const;
    /// A kernel's access to RAM. Throws KernelPanic ("RMP fault"), after telling the referee. PhysicalMemory asks it
    /// while `enabled()` and nobody inside machine/ makes the access.
    void check_host(PhysRange range, bool write) const;
    /// Whoever asks for a device tells the referee of the violation.
    bool allows_device(PhysRange range) const { return !enabled_ || assigned_.empty() || !touches(range); }
    /// The guest's own access, inside the page `gfn`: by its key where the page is private. EFAULT, and the referee is
    /// told: the page is neither shared nor its own at that gfn; EFAULT too where its context is gone, or there is no
    /// RAM.
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
    using ContextWords = std::array<u64, 4>;

    bool touches(PhysRange range) const;
    const Context* context_of(u16 asid) const;
    ContextWords context_words(Pfn page, const Context& context) const;
    /// Whose a private page is to a guest: the key to use, nullopt for a shared page, or EFAULT.
    Result<std::optional<u64>> key_for(u16 asid, u64 gfn, Pfn frame) const;
    void violation(PfnRange frames, std::string_view who) const;
    void switch_to(bool enabled);

    Machine& machine_;
    bool enabled_ = false;
    u64 keys_drawn_ = 0;
    IntervalMap<Assigned> assigned_;
    IntervalMap<Member> blank_;             // private, and still zeros in RAM: not encrypted yet
    std::pmr::map<u64, Context> contexts_;  // by pfn
};

}  // namespace kexec_sim
