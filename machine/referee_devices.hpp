// The referee's eyes on devices: who may write where, and whether a device that was preserved kept its promise.
//
// Two kinds of calls come in. What the *hardware* saw (a config write, a reset, a DMA write with the address that it
// ended at, a completion, an interrupt, the entry of a guest) is reported by machine/. What was *intended* (a file
// opened on a device, a mapping made, a domain attached) is reported by the kernel model at its public entry after it
// returned success, from its arguments; never by a codec.
//
// The shadow map. From intents the referee knows, for each device, what every page of its IOVA space is meant to be:
//
//     iommufd.map(domain, iova, frames of a memfd)      domain ──► iova page ──► frame
//     attach(domain, device)                            device ──► domain
//
// A DMA write to IOVA x must end in exactly the frame that x is meant to be (dma.contained), by day and by night: a
// device keeps its domain over the jump if its file was promised, and loses it if not.
//
// The oracle. A DMA engine is started with an interval and a ring; from then on the referee knows at which virtual time
// which sequence number is due. A preserved engine that skips one, repeats one or stops has broken dma.continuous. The
// last trailer of each ring slot is kept and compared with RAM when somebody finishes, and at the end. A device may have
// several engines; each is judged by itself.
//
// Tables. The referee walks the tables of promised devices itself, from the root pointer that the unit was given: each
// page of them must be preserved at the jump, must not be handed out afterwards, and the tree's hash must be what it
// was until the device is attached to another domain (iommu.tables).
//
// Its findings go to the books of the Referee of the same machine, which must be made before it and tells it of
// promises, jumps and frames. What a scenario resets (reset, power loss) is told by kernel_ended() before devices are
// reset.
//
// Everything lives in the arena. Promises follow those of the files (referee.hpp): a device is *preserved* from the
// promise of its file until finish, or until the promise ends otherwise.
#pragma once

#include <memory_resource>
#include <optional>
#include <span>
#include <string_view>

#include "machine/pci/function.hpp"
#include "machine/referee.hpp"

namespace kexec_sim {

struct Machine;
struct GuestRegisters;

class DeviceReferee {
public:
    DeviceReferee(Machine& machine, std::pmr::memory_resource* memory);
    ~DeviceReferee();
    DeviceReferee(const DeviceReferee&) = delete;
    DeviceReferee& operator=(const DeviceReferee&) = delete;

    // --- hardware ------------------------------------------------------------------------------------------------
    /// After it took effect. `bits` are those that really changed.
    void config_changed(const PciFunction& function, u16 offset, unsigned bytes, u32 old_value, u32 new_value);
    void function_reset(const PciFunction& function, ResetKind kind);
    void requester_id_changed(const PciFunction& function, Bdf from, Bdf to);
    /// A device's write was carried out: at `iova` as sent, at `phys` as it ended (RAM), or in another device's BAR.
    void dma_written(const PciFunction& device, u64 iova, PhysRange phys);
    void dma_written_to_peer(const PciFunction& device, u64 iova, const PciFunction& target);
    void dma_read(const PciFunction& device, u64 iova, PhysRange phys);

    struct EngineStart {
        u64 ring_base, interval_ns, first_sequence;
        u32 entries;
        bool circular;
    };
    static constexpr unsigned engines_max = 2;  // of a device
    void engine_started(const PciFunction& device, unsigned engine, const EngineStart& start);
    void engine_stopped(const PciFunction& device, unsigned engine);  // by its control register
    /// The tick of `sequence` is over: it completed and wrote this trailer (16 bytes, as they should be) to the IOVA
    /// `dst`, or (status) it is lost; without `dst`, before it had a descriptor that says where to.
    void engine_tick(const PciFunction& device, unsigned engine, u64 sequence, u32 slot, std::optional<u64> dst,
                     std::span<const std::byte> trailer, BusStatus status);
    void engine_dry(const PciFunction& device, unsigned engine, bool dry);

    enum class InterruptFate : u8 { delivered, pending, unheard, lost, dropped };
    void interrupt(const PciFunction& device, u16 vector, InterruptFate fate);
    void translation_switched(u32 segment, bool on);
    void root_table_set(u32 segment, PhysAddr root);
    /// The unit has dropped entries of a cache: all of them, those of a domain id, or (contexts) those of the sources
    /// that match in all bits but `ignored`. An invalidation of single pages is not told of.
    struct Invalidation {
        bool contexts = false;
        std::optional<u16> domain_id;
        std::optional<Bdf> source;
        u16 ignored = 0;
    };
    void cache_invalidated(u32 segment, const Invalidation& what);
    /// A kernel, a device or a guest touched a page that the reverse map denies it.
    void reverse_map_violation(PfnRange frames, std::string_view who, std::string_view owner);

    /// The CPU is about to run the guest with these registers; it has run it. A guest's handler ran for a device.
    void guest_enters(std::string_view guest, unsigned vcpu, const GuestRegisters& registers);
    void guest_leaves(std::string_view guest, unsigned vcpu, const GuestRegisters& registers);
    /// The guest stored to its own memory: the word at `gpa`, in `phys`.
    void guest_stored(std::string_view guest, u64 gpa, PhysAddr phys, u64 word);
    /// It loaded a word: what it stored there last must still be there (0 where it never stored).
    void guest_loaded(std::string_view guest, u64 gpa, PhysAddr phys, u64 word);
    void guest_faulted(std::string_view guest, u64 gpa);

    // --- intents -----------------------------------------------------------------------------------------------------
    /// A file of a device, an iommufd, a VM: opened by an agent, or retrieved.
    void device_opened(u64 file_id, const PciFunction& device);
    void device_closed(u64 file_id);  // before the kernel does anything to the device for it
    /// Mapping extents of memory in a domain. `domain` is unique in the generation: the id of the iommufd file.
    void domain_mapped(u64 domain, u64 iova, std::span<const PfnRange> frames);
    void domain_mapped_peer(u64 domain, u64 iova, u64 bytes, const PciFunction& target);
    void domain_unmapped(u64 domain, u64 iova, u64 bytes);
    void domain_belongs(u64 domain, u64 iommufd_file_id);
    void domain_attached(u64 domain, const PciFunction& device);
    void domain_detached(const PciFunction& device);
    void domain_destroyed(u64 domain);
    void device_polled(const PciFunction& device);  // its driver looked for completions by itself
    void snp_context(std::string_view guest, Pfn page);
    /// A VM was made anew under this name (nothing is known of its memory and registers), or came with the handover.
    void guest_created(std::string_view guest, u64 vm_file_id);
    void guest_retrieved(std::string_view guest, u64 vm_file_id);
    /// The VMM wrote registers of this vCPU on purpose (it told the guest's driver of a ring).
    void guest_programmed(std::string_view guest, unsigned vcpu, const GuestRegisters& registers);
    /// What is wrong with a guest, in words; empty: nothing. Its memory is `memory`, by guest address: each word that it
    /// ever stored there must be what it was (but in private memory, which nobody can read); and nothing was found wrong
    /// with it before.
    std::string guest_complaint(std::string_view guest, std::span<const FileExtent> memory) const;
    /// Memory of this file is the guest's: what it stored there is lost with the file.
    void guest_memory(std::string_view guest, u64 file_id);
    void guest_interrupt_wired(const PciFunction& device, std::string_view guest, unsigned guest_device);
    /// On the PCI core's list of what is preserved this function has now so many references; 0: it is off the list. Of
    /// the kernel that runs, for the next one.
    void function_listed(const PciFunction& function, u32 references);
    /// It was on the list of the kernel before, and the PCI core has found it.
    void function_matched(const PciFunction& function);
    /// What the files of several devices share (the list of functions: "pci"; units and domains: "iommu"). Of the kernel
    /// that runs: made with the first, gone with the last. Of the kernel before: read once, finished once.
    enum class SharedRecord : u8 { made, gone, read, finished };
    void shared_record(std::string_view subsystem, SharedRecord event);

    // --- from the referee itself ---------------------------------------------------------------------------------
    void kernel_boots();
    /// The blackout as the kernel counts it, for the counters. It ends when user space is reached, or when the last
    /// guest of those that come back goes on.
    void blackout_begins();
    void blackout_called_off();
    void guest_goes_on();
    /// A file of this kernel is promised; that promise ended (unpreserve, cancel, a failed freeze).
    void promised(u64 token, std::string_view compatible, u64 file_id);
    void promise_ended(u64 token);
    /// What the kernel before had promised is lost.
    void carried_lost(u64 token);
    void frozen();
    void thawed();  // frozen no more, without a jump
    void before_jump();
    void jumped();
    void user_space_reached();
    void claimed(u64 token, u64 file_id);
    void finished();
    void kernel_ended(KernelEnd end);
    void scenario_ends();
    void frames_handed_out(PfnRange frames, std::string_view site);
    void frames_returned(PfnRange frames);
    /// A device wrote to this frame since before_jump(), as it was allowed to: its content is not judged by the jump's
    /// hash, but by the trailers of the oracle.
    bool written_by_device(Pfn pfn) const;

    // --- results -------------------------------------------------------------------------------------------------
    struct EngineCounters {
        u64 completions = 0, lost = 0, repeated = 0, dry_ns = 0;
        u64 completions_in_blackouts = 0;
    };
    /// Of all engines of a device, or of one; zeros for one that never ran.
    EngineCounters engine(std::string_view device, std::optional<unsigned> number = {}) const;
    struct Totals {
        u64 completions = 0, gaps = 0 /* lost and repeated */, dry_ns = 0, interrupts_lost = 0, guest_steps = 0;
    };
    Totals totals() const;

    struct Books;  // machine/referee_device_books.hpp

private:
    Books* books_;
};

}  // namespace kexec_sim
