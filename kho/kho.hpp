// Kexec HandOver (KHO): carries memory from one kernel to the next.
//
// The problem. kexec starts a new kernel in the same RAM, and everything that the old one had in memory is free memory
// to the new one. KHO lets components of the old kernel mark memory as *preserved*; the new kernel keeps it reserved
// until its components *restore* it.
//
// Terms.
//   preserve     mark a folio or a range; nothing is copied, the memory stays where it is
//   tracking     the set of marked blocks, by order, as bitmaps in ordinary kernel memory (kho/tracking.hpp)
//   map          tracking as handed over: a chain of pages that list the bitmaps (kho/serialize.hpp)
//   root tree    one page with a flattened devicetree: where the map is, and one sub-tree for every consumer
//   scratch      areas that never hold preserved memory, for the next image and its first allocations (kho/scratch.hpp)
//   finalize     write map and root tree; nothing may be preserved from then on
//   abort        take that back
//   populate     the next kernel looks at the handover, before it owns any other memory (kho/boot.cpp)
//   revival      the next kernel uses the handover at all
//
//   old kernel                                  | new kernel
//                                               |
//   preserve ──► bitmaps ──► chunks ◄── root ───┼── setup_data ──► populate ──► memory_init ──► restore
//                 (tracking)  (map)      tree   |                  scratch       reserves what   folios with
//                               finalize        | kexec            areas         the map says    refcount 1
//
// Happy path: 1. boot with kho=on reserves scratch areas. 2. Components preserve memory and add sub-trees. 3. finalize.
// 4. kexec_file_load places the image inside scratch. 5. kexec. 6. populate finds tree and scratch areas; early boot
// allocates from scratch only. 7. memory_init reserves every block of the map. 8. Components retrieve their sub-trees
// and restore their memory.
//
// Unhappy paths, each with its message in the kernel log: 1. no memory for scratch: KHO is off for this boot. 2.
// preserve fails (EBUSY once finalized, ENOMEM). 3. finalize fails: "Failed to convert KHO state tree". 4. an image
// does not fit into scratch: EADDRNOTAVAIL. 5. populate refuses the handover: "disabling KHO revival". 6. the map is
// damaged: what follows the damage is not reserved. 7. a block that was not preserved is restored (the edition decides
// what happens).
//
// Kernels differ; kho/edition.hpp says in what. A function that an edition does not export answers EOPNOTSUPP here.
// Source: Linux 6.16 to 6.18, kernel/kexec_handover.c; the LUO series for the editions luo-v2 and luo-v3.
#pragma once

#include <array>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernel-model/kernel.hpp"
#include "kho/edition.hpp"

namespace kexec_sim::kho {

/// `struct kho_vmalloc` decoded: where a preserved vmalloc area is described. 16 bytes in a consumer's tree.
struct VmallocDescriptor {
    PhysAddr first_chunk;
    u32 total_pages = 0;
    u16 flags = 0;
    u16 order = 0;
    std::array<std::byte, 16> bytes() const;
    static VmallocDescriptor from_bytes(std::span<const std::byte, 16> bytes);
};

/// The serialized map, counted: what the next kernel will see.
struct MapStatistics {
    u64 folios = 0;  // set bits
    u64 bytes = 0;
    std::map<unsigned, u64> orders;  // order -> set bits; orders without any are left out
    u64 chunks = 0, bitmaps = 0;
};

enum class NotifierAction : u8 { finalize, abort };
/// What a notifier returns: continue (done, ok), stop (bad: EPERM for the caller, or an encoded errno).
struct NotifyResult {
    bool stop = false;
    Errno error = Errno::ok;
    static NotifyResult done() { return {}; }
    static NotifyResult ok() { return {}; }
    static NotifyResult bad() { return {true, Errno::eperm}; }
    static NotifyResult from(const Result<>& result) {
        return result ? NotifyResult{} : NotifyResult{true, result.error()};
    }
};
using Notifier = std::function<NotifyResult(NotifierAction)>;

class Kho {
public:
    /// Attaches to the kernel's hooks; call before Kernel::boot(). Lives as long as the kernel.
    Kho(Kernel& kernel, const Edition& edition);
    ~Kho();
    Kho(const Kho&) = delete;
    Kho& operator=(const Kho&) = delete;

    const Edition& edition() const;
    Kernel& kernel();
    bool enabled() const;   // kho_is_enabled()
    bool incoming() const;  // is_kho_boot(): this kernel found a valid handover
    bool finalized() const;
    std::vector<PhysRange> scratch_areas() const;

    // --- exported functions (kho/api.cpp) ---------------------------------------------------------------------
    // `who` names the caller for fault points and instruments; `metadata` is false for the content of files.

    /// EBUSY once finalized; ENOMEM; EINVAL: in scratch (6.18).
    Result<> preserve_folio(Folio folio, std::string_view who, bool metadata = true);
    /// Exactly as preserve_folio for each order-0 folio of the run, ascending. Stops at the first failure and undoes
    /// nothing; `preserved` gets how many were done.
    Result<> preserve_folios(PfnRange run, std::string_view who, bool metadata = true, u64* preserved = nullptr);
    /// 6.16, luo-*. EBUSY; EINVAL not page aligned; ENOMEM. A failed call leaves nothing set.
    Result<> preserve_phys(PhysAddr phys, u64 bytes, std::string_view who, bool metadata = true);
    /// 6.18. A failed call leaves nothing set.
    Result<> preserve_pages(Pfn pfn, u64 count, std::string_view who, bool metadata = true);
    /// 6.18. Preserves the area's blocks and a list of them.
    Result<VmallocDescriptor> preserve_vmalloc(const VmallocArea& area, std::string_view who, bool metadata = true);

    /// luo-*. EBUSY once finalized. A folio that was preserved with another order stays preserved.
    Result<> unpreserve_folio(Folio folio, std::string_view who);
    Result<> unpreserve_folios(PfnRange run, std::string_view who);
    Result<> unpreserve_phys(PhysAddr phys, u64 bytes, std::string_view who);

    /// ENOENT where the kernel's function returns NULL.
    Result<Folio> restore_folio(PhysAddr phys, std::string_view who, FrameClass frame_class);
    /// restore_folio for each order-0 folio of the run, ascending; stops at the first failure. EINVAL: a block came
    /// back with another order than 0; it is restored. `restored` gets the number of order-0 folios that were.
    Result<> restore_folios_run(PfnRange run, std::string_view who, FrameClass frame_class, u64* restored = nullptr);
    /// 6.18. `count` order-0 pages.
    Result<PfnRange> restore_pages(PhysAddr phys, u64 count, std::string_view who, FrameClass frame_class);
    /// 6.18. ENOENT: wrong flags, counts that differ, not preserved, no memory.
    Result<const VmallocArea*> restore_vmalloc(const VmallocDescriptor& descriptor, std::string_view who,
                                               FrameClass frame_class);

    /// 6.16, 6.18: only inside a finalize notification (EINVAL else). luo-*: at any time. The caller preserves the
    /// page itself. An errno may be a libfdt code (3: no space).
    Result<> add_subtree(const std::string& name, PhysAddr fdt);
    Result<> remove_subtree(PhysAddr fdt);                       // luo-*. ENOENT: no such sub-tree
    Result<PhysAddr> retrieve_subtree(const std::string& name);  // ENOENT, EINVAL; the address is unchecked

    /// luo-*: kho_finalize()/kho_abort(), EOPNOTSUPP with KHO off. 6.16, 6.18: a write to debugfs, ENOENT with KHO off.
    /// EEXIST already finalized; abort: ENOENT not finalized.
    Result<> finalize();
    Result<> abort();

    /// 6.16, 6.18. Higher priority first, then in order of registration.
    Result<u64> register_notifier(int priority, Notifier notifier);
    Result<> unregister_notifier(u64 ticket);  // ENOENT

    // --- facts for instruments and steps ------------------------------------------------------------------------
    /// The map as serialized. ENOENT: not finalized.
    Result<MapStatistics> map_statistics() const;
    u64 preserved_folios() const;  // bits set in tracking now
    u64 preserved_bytes() const;
    u64 map_pages() const;       // pages of chunks and bitmaps in use now
    PhysAddr root_tree() const;  // the outgoing page; 0 without
    /// The blobs of the outgoing handover by name: "root", then each sub-tree. Empty while not finalized.
    struct Blob {
        std::string name;
        PhysRange range;
    };
    std::vector<Blob> outgoing_blobs() const;

    /// Planned faults on what is handed over (handover.fdt, .map, .scratch), applied to RAM. Call after relocation,
    /// with the parameters that the next kernel gets.
    void corrupt_handover(const BootParams& passed);

    struct State;
    State& state() { return *state_; }

private:
    Result<> preserve_folio_slowly(Folio folio, std::string_view who, bool metadata);
    Result<> tell_preserved(Folio folio, std::string_view who, bool metadata);  // always succeeds

    std::unique_ptr<State> state_;
};

/// Applies a corrupting action (flip, zero, truncate, replace) to a blob in RAM. Others mean nothing here.
/// False: it is aimed at nothing that is there (an offset beyond the blob, a text that is not in it).
bool apply_corruption(PhysicalMemory& ram, PhysRange blob, const FaultAction& action);
/// One visit of a handover.* point: damages the blob if that is planned. `by_meaning`: what misdirect, duplicate and swap
/// do to it; false where they mean nothing.
void visit_blob(Machine& machine, FaultPoint point, std::string_view name, PhysRange blob,
                const std::function<bool(const FaultAction&)>& by_meaning);

}  // namespace kexec_sim::kho
