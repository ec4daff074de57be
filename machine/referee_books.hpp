// The referee's books. Internal to machine/referee*.cpp; everything lives in the arena.
//
// Two lives are kept apart:
//
//   KernelBooks   of the running kernel: who owns which frame, what it has preserved, registered and promised.
//                 Begun anew at every boot.
//   Carried       what generation g promised, as it stood at the jump: frames, content hashes, files. `staged` while
//                 g is about to jump, `carried` while its successor runs, gone at the successor's own jump.
//
// A Source is somebody who preserves memory: one KHO user, or one file of a handler. Frames point at their source,
// and the source says whether they are promised, so that a promise is made or ended in one place however many frames
// it has.
#pragma once

#include <algorithm>
#include <array>
#include <cstring>
#include <fmt/format.h>
#include <map>
#include <memory_resource>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "machine/fault.hpp"
#include "machine/interval_map.hpp"
#include "machine/ram.hpp"
#include "machine/referee.hpp"
#include "machine/referee_devices.hpp"

namespace kexec_sim {

using NameId = u32;
inline constexpr NameId no_name = 0;

/// Strings by number, so that books compare numbers.
class Names {
public:
    explicit Names(std::pmr::memory_resource* memory);
    NameId id(std::string_view text);
    std::string_view text(NameId id) const { return *texts_[id]; }

private:
    std::pmr::memory_resource* memory_;
    std::pmr::map<std::pmr::string, NameId, std::less<>> ids_;
    std::pmr::vector<const std::pmr::string*> texts_;
    NameId last_ = no_name;
};

/// Frames of a finding: the first sixteen and how many.
struct FrameList {
    std::array<u64, 16> first{};
    u64 count = 0;
    void add(PfnRange frames) {
        for (u64 i = 0; count + i < first.size() && i < frames.pages(); ++i) first[count + i] = frames.begin.raw + i;
        count += frames.pages();
    }
    bool empty() const { return count == 0; }
    /// Those of `others` that are not in here already, as far as the first sixteen of each tell.
    void merge(const FrameList& others) {
        const u64 known = std::min<u64>(count, first.size()),
                  theirs = std::min<u64>(others.count, others.first.size());
        u64 fresh = 0;
        for (u64 i = 0; i < theirs; ++i) {
            const u64 frame = others.first[i];
            if (std::find(first.begin(), first.begin() + static_cast<i64>(known), frame) !=
                first.begin() + static_cast<i64>(known))
                continue;
            if (count + fresh < first.size()) first[count + fresh] = frame;
            ++fresh;
        }
        // Longer lists are taken for the same run of frames where they begin alike.
        const u64 rest = others.count - theirs;
        count = std::max(count + fresh + (fresh == theirs ? rest : 0), others.count);
    }
};

/// Who a source is: decides how its promise can end.
enum class Origin : u8 {
    kho,          // the root page; no promise of its own
    luo,          // trees of LUO: promised, but the loss of what they describe is what counts
    reserve_mem,  // judged by the entry's name
    handler,      // a file's frames: judged with the file
    subsystem,
    direct,  // bench, modules: whoever calls KHO by himself
};

enum class PromiseState : u8 {
    open,
    claimed,  // restored, retrieved, discarded at finish: what is left of it may still be a leak
    over,     // lost, and reported: nothing looks at its frames any more
};

struct Source {
    NameId who = no_name;
    Origin origin = Origin::direct;
    bool has_token = false;
    u64 token = 0;
    bool intent = true;  // its owner still wants it kept
    bool promised = false;
    bool suspended = false;  // its cancel callback has begun: its frames may go, the promise still stands
    bool excused = false;    // given up while KHO was finalized: it could not be unpreserved
    PromiseState state = PromiseState::open;
};

/// Frames that KHO tracks. `order`: of the folios in it, -1 for a range without folios.
struct Kept {
    u32 source = 0;
    i32 order = -1;
    bool metadata = true;
    bool operator==(const Kept&) const = default;
};

struct Owner {
    NameId site = no_name;
    FrameClass frame_class = FrameClass::kernel;
    bool of_update = false;  // allocated for an update: leaked if it outlives it
    bool restored = false;   // came from the previous kernel
    bool operator==(const Owner&) const = default;
};

struct PageHash {
    u64 pfn, hash;
};

struct CarriedFile {
    explicit CarriedFile(std::pmr::memory_resource* memory) : extents(memory) {}
    NameId compatible = no_name;
    bool has_view = false;  // the kernel could show the file at the jump
    u64 size = 0, pos = 0;
    std::pmr::vector<FileExtent> extents;
    PromiseState state = PromiseState::open;
    Errno told = Errno::ok;     // a restore failed with it
    bool discarded = false;     // its handler was told to finish
    bool late_handler = false;  // its handler came after user space was reached: it may do so again
};

struct CarriedReserve {
    PhysRange range;
    PromiseState state = PromiseState::open;
};

/// Frames of scattered areas in the order of their addresses, by the frame of the descriptor.
using Areas = std::pmr::map<u64, std::pmr::vector<PfnRange>>;

struct Carried {
    explicit Carried(std::pmr::memory_resource* memory);
    void clear();
    void swap(Carried& other);

    bool known = false;  // false: the machine started from an image whose promises nobody told
    /// As the kernel that jumped had it, if it had finalized; 0: its map is not to be judged.
    u64 map_bitmap_bytes = 0;
    Generation by = 0;
    IntervalMap<Kept> frames;
    std::pmr::vector<Source> sources;
    std::pmr::map<u64, CarriedFile> files;
    std::pmr::map<NameId, CarriedReserve> reserves;
    std::pmr::vector<PageHash> hashes;  // ascending; frames that are all zero have none
    IntervalMap<NameId> names;
    Areas areas;
    // What the successor did with it.
    IntervalMap<Member> restored, retrieved, refused;
    std::pmr::string said;  // a log line about damage: what is lost now is announced
};

struct OutgoingFile {
    NameId compatible = no_name;
    u64 file_id = 0;
    bool promised = false;
    bool prepared = false, by_event = false;  // by_event: prepared alone, not in a pass over all files
    bool frozen = false;
    bool saw_prepare = false;
    bool late_handler = false;
    std::optional<u64> pos;  // as the handler read it last
};

/// What LUO does, for luo.legal and luo.rollback.
struct LuoBook {
    explicit LuoBook(std::pmr::memory_resource* memory) : subsystems(memory), left(memory), absent(memory) {}
    struct Subsystem {
        NameId name;
        bool prepared;
        u8 called;  // callbacks that ran in this request, a bit each
    };
    LuoState state = LuoState::undefined;
    LuoState before = LuoState::undefined;  // when the last request had ended
    bool finalized_in_request = false;
    std::pmr::vector<Subsystem> subsystems;  // in registration order
    std::pmr::set<NameId> left;              // unregistered
    std::pmr::set<std::pair<NameId, LuoCallback>> absent;
    // The pass over subsystems, or over the files of one subsystem's callback, that goes on.
    std::optional<LuoCallback> pass, file_pass;
    std::size_t next_index = 0;
    u64 next_token = 0;
    bool rolling_back_allowed = false;  // a prepare or freeze pass has begun in this request
    std::optional<std::size_t> failed_index;
    NameId last_called = no_name, failed_name = no_name;  // whose the two indexes were; they may have left since
    LuoCallback failed_in = LuoCallback::prepare;
    NameId running = no_name;  // subsystem whose callback runs
    LuoCallback running_in = LuoCallback::boot;
    bool file_running = false;
    u64 file_token = 0;
};

struct KernelBooks {
    struct Reserve {
        PhysRange range;
        bool promised;
    };
    explicit KernelBooks(std::pmr::memory_resource* memory);

    Generation generation = 0;
    NameId edition = no_name;
    KernelTraits::PromiseAt promise_at = KernelTraits::PromiseAt::finalize;
    bool strict = false;
    bool has_luo = false;
    bool user_space = false;
    bool handover_accepted = false;
    std::pmr::string luo_declined;  // LUO's own word on why it is off
    bool kho_finalized = false;
    IntervalMap<Owner> owners;
    IntervalMap<Member> pool;  // frames that the allocator ever got; free if they have no owner
    IntervalMap<Member> inherited;
    IntervalMap<Member> leaked;  // found already
    IntervalMap<Kept> kept;
    std::pmr::vector<Source> sources;
    IntervalMap<NameId> names;
    Areas areas;
    IntervalMap<Member> asked_single;  // restored as single pages
    u64 map_bitmap_bytes = 0;
    std::pmr::vector<PhysRange> scratch;
    std::pmr::map<NameId, Reserve> reserves;
    std::pmr::map<u64, OutgoingFile> files;
    std::pmr::map<NameId, bool> claimers;  // compatible; true: registered after user space was reached
    LuoBook luo;
};

class RefereeBooks {
public:
    RefereeBooks(PhysicalMemory& ram, VirtualClock& clock, TraceRecorder& trace, FaultInjector& faults,
                 std::pmr::memory_resource* memory);
    struct Entry {
        InvariantId invariant;
        bool by_fault;
        Generation generation;
        u64 virtual_ns;
        FrameList frames;
        std::pmr::string resource, message;
        CheckId check;
    };

    // referee_report.cpp
    template <typename... Args>
    void report(InvariantId id, std::string_view resource, const FrameList& frames,
                fmt::format_string<Args...> format, const Args&... args) {
        if (!muted(id)) add_finding(id, CheckId::none, resource, frames, text(format, args...));
    }
    /// Of a check of devices.
    template <typename... Args>
    void report(InvariantId id, CheckId check, std::string_view resource, const FrameList& frames,
                fmt::format_string<Args...> format, const Args&... args) {
        if (!muted(id) && !(muted_checks >> static_cast<unsigned>(check) & 1))
            add_finding(id, check, resource, frames, text(format, args...));
    }
    template <typename... Args> std::pmr::string text(fmt::format_string<Args...> format, const Args&... args) {
        std::pmr::string out(memory);
        fmt::vformat_to(std::back_inserter(out), format, fmt::make_format_args(args...));
        return out;
    }
    bool muted(InvariantId id) const { return (muted_ids >> static_cast<unsigned>(id)) & 1; }
    void add_finding(InvariantId id, CheckId check, std::string_view resource, const FrameList& frames,
                     std::string_view message);
    /// "file 0x1001", "subsystem kvm", "bench kept": the name of a source, or of its object `name`.
    std::pmr::string resource_of(const Source& source, NameId name = no_name);
    /// The same with what a reader wants to know beside: "file 0x1001 (memfd-v1)".
    std::pmr::string described(const Source& source, NameId name = no_name);
    std::pmr::string described(u64 token, NameId compatible);

    // referee_kho.cpp
    void flush_run();
    IntervalMap<Kept>& kept() {
        flush_run();
        return kernel->kept;
    }
    void begin_run(const Referee::Preserved& preserved);
    u32 source_for(std::string_view who);
    Origin origin_of(std::string_view who) const;
    void restore_part(Folio folio, PfnRange part, const Kept& carried_as, std::string_view who);
    FrameList changed_frames(PfnRange frames) const;
    void judge_content(const Source& source, NameId name, PfnRange part, std::string_view who);
    void revive(NameId name, CarriedReserve& reserve, PhysRange range);

    // referee_frames.cpp
    void handed_out(PfnRange frames, const Owner& owner);
    void returned(PfnRange frames);
    bool free_frame(Pfn pfn) const { return kernel->pool.find(pfn) && !kernel->owners.find(pfn); }
    FrameList free_frames(PfnRange frames) const;
    FrameList shared_frames(PfnRange frames) const;
    class Leftovers;
    void judge_accounts(std::string_view moment);
    void judge_inherited(std::string_view moment);
    void judge_map();
    void judge_allocated(std::string_view moment);
    bool overhead(const Source& source) const;
    std::string_view overhead_name();
    /// Calls `call`(PfnRange, const Kept*) for inherited frames that nobody restored, freed or owns.
    template <typename Call> void visit_unclaimed(Call&& call);
    /// Calls `call`(PfnRange, std::string_view owner, FrameClass) for every frame in use by the books.
    template <typename Call> void visit_in_use(Call&& call);
    void become_overhead_after_failed_freeze();

    // referee_promises.cpp
    void promise(bool direct_only);
    void end_promises(bool direct_too);
    void stage(Carried& out);
    void stage_file(Carried& out, u64 token, const OutgoingFile& file, const std::optional<FileView>& view);
    void look_at(Carried& out, u64 seed);
    void check_scratch(const IntervalMap<Kept>& frames, const std::pmr::vector<Source>& sources);
    void check_pointers(const Carried& out, u64 seed);
    void hash_promised(Carried& out);
    void count(const Carried& out);
    PfnRange in_ram(PfnRange frames) const;

    // referee_losses.cpp
    struct Loss {
        bool said;
        std::string_view why;
    };
    void lose(Carried& from, const Loss& loss);
    void lose_file(Carried& from, u64 token, CarriedFile& file, const Loss& loss);
    void lose_source(Carried& from, u32 source, const Loss& loss);
    void lose_reserve(Carried& from, NameId name, CarriedReserve& reserve, const Loss& loss);
    void settle_file(Carried& from, u64 token, CarriedFile& file, std::string_view why);
    void settle_source(Carried& from, u32 source, std::string_view why);
    void close_file(Carried& from, u64 token, PromiseState state);
    /// An errno that says "not now": the caller may come again.
    static bool can_try_again(Errno error);
    Loss announced(const Carried& from, std::string_view why, std::pmr::string& storage);
    bool out_of_reach(const Carried& from, u64 token, const CarriedFile& file) const;
    void judge_user_space();
    void judge_next_jump();
    void judge_finish();
    void judge_end();

    // referee_luo.cpp
    void request_ended(LuoEvent event, const Result<>& result);
    void judge_completeness(LuoEvent event);
    void judge_rollback(LuoEvent event, const Result<>& result, bool finalized_in_request);
    void subsystem_begins(NameId name, LuoCallback callback);
    void subsystem_ends(NameId name, LuoCallback callback, const Result<>& result);
    void check_phase(std::string_view what, LuoCallback callback);
    void check_order(NameId name, LuoCallback callback);
    void file_begins(u64 token, NameId compatible, LuoCallback callback);
    void file_ends(u64 token, LuoCallback callback, const Result<>& result);
    void check_file_order(u64 token, LuoCallback callback);
    void end_pass();
    bool lacks(NameId name, LuoCallback callback) const { return kernel->luo.absent.contains({name, callback}); }
    void suspend(NameId who, bool has_token, u64 token);

    // referee_files.cpp
    /// `file` is promised to the next kernel from now on, or no more.
    void set_promised(u64 token, OutgoingFile& file, bool promised);
    bool written_by_device(Pfn pfn) const { return devices && devices->written_by_device(pfn); }
    void compare_file(u64 token, CarriedFile& file, const FileView& view);
    void own_file(u64 token, const FileView& view);

    PhysicalMemory& ram;
    VirtualClock& clock;
    TraceRecorder& trace;
    FaultInjector& faults;
    std::pmr::memory_resource* memory;

    Names names;
    std::optional<KernelBooks> kernel;
    Carried carried, staged;
    std::pmr::vector<Entry> findings;
    std::pmr::map<Generation, KernelEnd> ends;
    std::optional<Generation> last_generation;
    u64 muted_ids = 0, muted_checks = 0;
    DeviceReferee* devices = nullptr;  // of the same machine; nullptr: none yet
    bool corrupted_before = false;     // a corrupting fault fired in the run that wrote the image
    Referee::Counters counters;
    Referee::FileSource file_source = nullptr;
    void* file_source_context = nullptr;

    /// The run of preserve calls that goes on: neighbours of the same kind are one interval.
    struct Run {
        u64 begin = 0, end = ~u64{0};
        i32 order = -1;
        bool metadata = true;
        u32 source = 0;
    } run;
    std::pmr::string run_who;
    u32 last_source = 0;
};

struct Referee::Books : RefereeBooks {
    using RefereeBooks::RefereeBooks;
};

}  // namespace kexec_sim
