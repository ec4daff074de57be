// The referee: an observer that keeps its own books and never asks the code under test.
//
// What was *intended* it learns at the boundary: the public entry (ioctl dispatcher, exported function) reports a call
// that returned success, with its arguments. What *happened* it finds out by itself: the content of RAM, what the
// page allocator hands out and takes back, state changes and callbacks as the instruments see them.
//
//   intent --(finalize | prepare | the call itself)--> promise --(jump)--> carried --(restore, finish, …)--> ended
//
// A finding has an invariant's id, virtual time, generation, the frames (at most 16, and their number) or the resource,
// and two facts that contradict each other. The invariants are listed in machine/invariants.def.
//
// Books:
//   owners    interval map frame -> {site, class, generation}; from the allocator's boundary
//   promises  by resource: frames, content hash at the jump, file size and position, state
//   carried   interval map frame -> promise, valid in the successor until it ends
//   scratch   the areas as announced
//   update    what LUO, KHO and handlers allocated for this update (for frame.accounted)
//   luo       state, callbacks of each subsystem in order, finalized or not (for luo.legal, luo.rollback)
//
// Instruments take ranges: one call for a file's folios is one interval. Everything lives in the arena.
#pragma once

#include <map>
#include <memory_resource>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "machine/ram.hpp"
#include "machine/types.hpp"

namespace kexec_sim {

class TraceRecorder;
class VirtualClock;
class FaultInjector;
class DeviceReferee;

enum class InvariantId : u8 {
#define INVARIANT_ID(id, name, severity, text) id,
#include "machine/invariants.def"
#undef INVARIANT_ID
};
struct InvariantInfo {
    InvariantId id;
    std::string_view name, severity, description;
};
std::span<const InvariantInfo> invariants();
std::optional<InvariantId> invariant_by_name(std::string_view name);

/// Checks of devices: what part of its invariant a finding violates (docs/devices/oracle.md).
enum class CheckId : u8 {
    none,
#define DEVICE_CHECK(id, name) id,
#include "machine/device_checks.def"
#undef DEVICE_CHECK
};
std::string_view check_name(CheckId check);  // "D1"; "" for none
std::optional<CheckId> check_by_name(std::string_view name);

struct Finding {
    InvariantId invariant;
    bool by_fault;  // class "by-fault": a corrupting fault had fired; else "violation"
    Generation generation;
    u64 virtual_ns;
    std::string message;      // what was violated: the two facts that contradict each other
    std::vector<u64> frames;  // at most 16
    u64 frame_count;
    std::string resource;
    CheckId check;
};

/// What a frame was handed out for. Decides what frame.accounted counts.
enum class FrameClass : u8 {
    kernel,     // page tables, kexec source pages, … : the kernel's own, for its life
    slab,       // caches; not counted
    file,       // page cache of shmem; belongs to the file
    agent,      // user memory of agents
    kho,        // bitmaps, chunks, root tree of the outgoing side: overhead of KHO itself
    luo,        // trees of LUO
    handler,    // metadata of a file handler
    subsystem,  // pages of a (scripted or module) subsystem
    bench,      // kho.alloc and its like
    overhead,   // what an edition's literal protocol never returns: counted, never a finding
};
std::string_view frame_class_name(FrameClass frame_class);

/// The running kernel as the boundary knows it; set once a boot.
struct KernelTraits {
    enum class PromiseAt : u8 { finalize, prepare, call };
    std::string_view edition;  // "linux-6.16", "luo-v3", …
    PromiseAt promise_at = PromiseAt::finalize;
    bool has_luo = false;  // an orchestrator exists and is on
    /// Bytes of one bitmap of the map: kernels that differ in it misread each other's. 0: not known.
    u64 map_bitmap_bytes = 0;
    bool strict = false;
};

/// A run of a file's folios: `pages` frames from `pfn` hold the file's pages from `index`.
struct FileExtent {
    u64 index = 0;
    Pfn pfn;
    u64 pages = 0;
};
/// A file as user space sees it. `id` is one object of one generation.
struct FileView {
    u64 id = 0;
    u64 size = 0, pos = 0;
    std::span<const FileExtent> extents;
};

enum class LuoState : u8 { undefined, normal, prepared, frozen, updated };
std::string_view luo_state_name(LuoState state);
enum class LuoEvent : u8 { prepare, freeze, finish, cancel };
enum class LuoCallback : u8 { prepare, freeze, boot, cancel, finish };
std::string_view luo_callback_name(LuoCallback callback);

/// Why a generation ended.
enum class KernelEnd : u8 { kexec, panic, reset, power_loss, scenario };

class Referee {
public:
    Referee(PhysicalMemory& ram, VirtualClock& clock, TraceRecorder& trace, FaultInjector& faults,
            std::pmr::memory_resource* memory);
    ~Referee();
    /// Off: nothing is booked or judged (benchmarks of the bare codec).
    bool attached = true;
    /// KEXEC_SIM_MUTE: findings of that id are dropped. Tests use it to show that a check matters.
    void mute(InvariantId id);
    void mute(CheckId check);

    // --- Life of kernels -----------------------------------------------------------------------------------
    void kernel_boots(Generation generation, const KernelTraits& traits);
    /// Liveupdate turned out on or off, KHO too (after the command line and boot decided).
    void kernel_has_luo(bool on);
    /// LUO turned itself off with this log line: what only it could claim is lost, and said to be.
    void luo_declined(std::string_view why);
    /// A component (file handler by compatible) that could claim carried resources is registered.
    void claimer_present(std::string_view compatible);
    void user_space_reached();
    /// The last moment before the jump: contents are hashed, scratch and stale pointers are looked at.
    /// `direct_map_base`es of the generations so far are computed from the seed.
    void before_jump(u64 seed);
    /// The first instruction of the successor is about to run (after corruptions of what is handed over).
    void jump(bool handover_passed);
    /// The kernel is gone. kexec: after jump(). Everything open is judged as invariants.md says.
    void kernel_ended(KernelEnd end);
    void scenario_ends();

    // --- Page allocator (frames are counted per running generation) ---------------------------------------
    void frames_to_allocator(PfnRange frames);  // memblock gave them to the allocator at boot
    void frames_handed_out(PfnRange frames, std::string_view site, FrameClass frame_class);
    void frames_returned(PfnRange frames);
    /// The class of frames that stay allocated changes (a tree page becomes overhead, bench folio of a test …).
    void frames_become(PfnRange frames, FrameClass frame_class);
    void scratch_areas(std::span<const PhysRange> areas);

    // --- KHO's exported functions, after success ------------------------------------------------------------
    /// `who`: bench, luo, a handler's compatible, a subsystem's name, reserve_mem:<entry>. `order`: of a folio; none:
    /// a phys range. `metadata`: not file content (abi.pointer looks at it). `counts`: false for KHO's own root page.
    struct Preserved {
        PfnRange frames;
        std::optional<Order> order;
        std::string_view who;
        bool metadata = true;
    };
    void kho_preserved(const Preserved& preserved);
    void kho_unpreserved(PfnRange frames, std::string_view who);
    void kho_finalized();
    /// `forgets`: the edition drops what was tracked (6.16, 6.18).
    void kho_aborted(bool forgets);
    /// `pages`: the caller asked for single pages, not for the folio that they make up together.
    void kho_restored(Folio folio, std::string_view who, bool pages = false);
    /// Page metadata of restored frames as it was left: blocks of `order`; `tails`: with their tail pages. Told by the page
    /// allocator, after kho_restored().
    void pages_adopted(PfnRange frames, Order order, bool tails);
    /// An area of scattered frames, in the order of its addresses: preserved under the address of its first descriptor
    /// page, and mapped again by the successor.
    void area_preserved(Pfn descriptor, std::span<const PfnRange> frames);
    void area_restored(Pfn descriptor, std::span<const PfnRange> frames, std::string_view who);
    /// A sub-tree or other memory was found and read by who had preserved it, and stays where it is.
    void kho_retrieved(PfnRange frames, std::string_view who);
    /// A restore function told its caller that there is nothing (NULL, an errno): what was promised there is lost, and
    /// said to be.
    void kho_restore_failed(Pfn pfn, std::string_view who);
    /// The successor looked at the handover: accepted, or refused with a log line.
    void handover_accepted();
    void handover_refused(std::string_view why);
    /// Something of the handover was skipped with a log line or errno (bad chunk, bad node): `why` quotes it.
    void handover_damaged(std::string_view why);
    /// Frames that the successor's boot reserved because the map says so (leaks are judged against them).
    void frames_inherited(PfnRange frames);

    // --- reserve_mem ------------------------------------------------------------------------------------------
    void reserve_mem_allocated(std::string_view name, PhysRange range);
    void reserve_mem_revived(std::string_view name, PhysRange range);
    /// The running kernel said in its log that it will not hand its entries over.
    void reserve_mem_not_prepared();
    /// The entry is on the new command line but was refused, with this log line.
    void reserve_mem_refused(std::string_view name, std::string_view why);

    // --- The bench's direct promises (vmalloc, sub-trees): a name for frames preserved through KHO ------------
    /// Frames of one bench object, so that messages can say its name.
    void name_frames(PfnRange frames, std::string_view resource);

    // --- LUO's boundary -----------------------------------------------------------------------------------------
    void luo_state(LuoState from, LuoState to);
    void luo_request_begins();
    void luo_request(LuoEvent event, Result<> result);  // what the caller was told
    void subsystem_registered(std::string_view name);
    void subsystem_unregistered(std::string_view name);
    /// Optional: the subsystem, or the file handler of that compatible, has no such callback, so none is missed.
    void callback_absent(std::string_view name, LuoCallback callback);
    /// A callback is about to run (`result` none) or has returned.
    void subsystem_callback(std::string_view name, LuoCallback callback, std::optional<Result<>> result);
    void file_callback(u64 token, std::string_view compatible, LuoCallback callback, std::optional<Result<>> result);
    void file_preserved(u64 token, std::string_view compatible, u64 file_id);  // FD_PRESERVE returned 0
    void file_unpreserved(u64 token);
    /// FD_RESTORE returned 0 (view: the new file, read through the kernel) or an errno of which the caller was told.
    void file_restored(u64 token, const FileView& view);
    void file_restore_failed(u64 token, Errno error);
    /// A self-deadlock or a broken lock rule.
    void lock_violation(std::string_view what);
    /// The kernel model shows the files that are promised, at the jump (content is read from RAM, not from it).
    using FileSource = std::optional<FileView> (*)(void* context, u64 file_id);
    void set_file_source(FileSource source, void* context);

    // --- Sanity ---------------------------------------------------------------------------------------------------
    /// A WARN or BUG of the running kernel. `named`: the edition's specification names it.
    void kernel_warned(std::string_view text, bool named);
    /// The kernel model's own consistency check found something.
    void kernel_insane(std::string_view text, std::optional<PfnRange> frames);
    /// The kernel touched an address that is not RAM (typed access or a host signal) while it used handed-over data.
    void wild_access(u64 address, std::string_view what);
    /// It read `address`, beyond the structure in `range` that was handed over.
    void read_beyond(PhysRange range, PhysAddr address, std::string_view what);

    // --- Results ---------------------------------------------------------------------------------------------------
    std::vector<Finding> findings() const;
    /// An update has begun and can be taken back: LUO is prepared or frozen; without LUO, KHO is finalized.
    bool update_under_way() const;
    /// The books' frames that expect.memory_in_use counts (frame.accounted's set plus agents), and by owner prefix.
    u64 frames_in_use() const;
    u64 frames_of(std::string_view owner) const;  // site or class name, glob
    struct Counters {
        u64 preserved_folios = 0, preserved_bytes = 0;  // promised at the last jump
        u64 overhead_pages = 0;
        u64 luo_files = 0;
    };
    Counters counters() const;
    /// The promises open at the jump, as text of one line each, for a boot-params file; and back.
    std::string save_promises() const;
    void load_promises(std::string_view text);

private:
    friend class DeviceReferee;  // reports into the same books
    struct Books;
    Books* books_;
};

}  // namespace kexec_sim
