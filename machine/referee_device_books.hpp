// The books of the referee's eyes on devices. Internal to machine/referee_*.cpp; everything lives in the arena.
//
//   referee_devices   the life of a preserved device      referee_tables   page tables of the IOMMUs
//   referee_dma       the shadow map                      referee_pci      registers, resets, interrupts
//   referee_engine    the oracle of DMA engines           referee_guests   guests and SNP
//   referee_shared    what files share and need
//
// A device's life as the referee sees it:
//
//   bound ──promised──► outgoing ──frozen, jump──► incoming ──claimed──► incoming, claimed ──finish──► bound
//             ▲            │ promise_ended            │ carried_lost
//             └────────────┘                          └──► bound, and may write nowhere
//
// It is `preserved` while outgoing or incoming, and `held still` (its registers may not change) from freeze until it is
// claimed.
#pragma once

#include <array>
#include <list>
#include <map>
#include <memory_resource>
#include <optional>
#include <string>
#include <vector>

#include "machine/guest_cpu.hpp"
#include "machine/interval_map.hpp"
#include "machine/iommu/registers.hpp"
#include "machine/machine.hpp"
#include "machine/referee_books.hpp"
#include "machine/referee_devices.hpp"

namespace kexec_sim {

// --- The shadow map ----------------------------------------------------------------------------------------------

/// What IOVA pages are meant to be. For frames: frame = page + offset (modulo 2^64), so that a run is one value.
struct Meaning {
    u64 offset = 0;
    u16 peer = 0;
    bool is_peer = false;
    bool operator==(const Meaning&) const = default;
};

struct ShadowDomain {
    explicit ShadowDomain(std::pmr::memory_resource* memory) : map(memory) {}
    u64 id = 0;
    IntervalMap<Meaning> map;    // by IOVA page
    std::optional<u64> iommufd;  // the file that it belongs to, in the kernel that runs
    std::optional<u64> token;    // of that file's promise
    bool carried = false;        // came over the jump with a device
};

/// A run of IOVA whose accesses were right: physical = iova + offset.
struct Window {
    u64 begin = 0, bytes = 0, offset = 0;
};

// --- The oracle --------------------------------------------------------------------------------------------------

inline constexpr std::size_t trailer_max = 16;

struct EngineSlot {
    u64 dst = 0;
    u64 stamp = 0;  // order of all trailers of all devices; 0: none was written
    u64 sequence = 0;
    std::array<std::byte, trailer_max> trailer{};
};

struct EngineBook {
    EngineBook(std::string_view device, unsigned number, std::pmr::memory_resource* memory);
    std::pmr::string name;  // in findings: "nic0", "engine 1 of nic0"
    bool running = false, dry = false;
    bool rebase = false;  // the ring was dry: the next tick says when the interval begins anew
    u64 interval_ns = 1;
    u64 next = 0, due_ns = 0;  // the next sequence number and when it is due
    u64 dry_since_ns = 0;
    std::pmr::vector<EngineSlot> slots;
    DeviceReferee::EngineCounters counters;
    std::optional<u64> blackout_from;  // completions that are settled: those before the blackout, or counted as in it
};

// --- Tables ------------------------------------------------------------------------------------------------------

/// What an IOMMU walks for one requester id, as it stood at some moment.
struct TableTree {
    explicit TableTree(std::pmr::memory_resource* memory) : pages(memory) {}
    bool known = false;
    u32 segment = 0;
    Bdf source;
    PhysAddr root;
    vtd::RootEntry root_entry;
    vtd::ContextEntry context;
    std::pmr::vector<PageHash> pages;  // of the page tables, ascending; those of the root and context tables are
                                       // shared with other devices, so only this device's entries count there
    std::optional<u64> outside;        // an entry points here, where there is no RAM
    void clear() {
        known = false;
        pages.clear();
        outside.reset();
    }
    void swap(TableTree& other) {
        std::swap(known, other.known);
        std::swap(segment, other.segment);
        std::swap(source, other.source);
        std::swap(root, other.root);
        std::swap(root_entry, other.root_entry);
        std::swap(context, other.context);
        pages.swap(other.pages);
        std::swap(outside, other.outside);
    }
};

struct IommuBook {
    bool on = false;
    PhysAddr root;
};

// --- Devices -----------------------------------------------------------------------------------------------------

struct DeviceBook {
    DeviceBook(const PciFunction& f, std::pmr::memory_resource* memory)
        : function(f),
          engines{{{f.name(), 0, memory}, {f.name(), 1, memory}}},
          tree(memory),
          left(memory),
          bridges(memory),
          guest(memory) {}

    const PciFunction& function;
    std::string_view name() const { return function.name(); }

    std::optional<u64> outgoing, incoming;  // tokens of the promises of its file
    bool claimed = false;
    bool was_preserved = false;
    bool preserved() const { return outgoing || incoming; }
    u32 listed = 0;        // references on the list of what is preserved, of the kernel that runs
    bool matched = false;  // on the list of the kernel before, and found

    ShadowDomain* holds = nullptr;                   // what it may reach now, by intent
    bool hotswapped = false;                         // incoming, and attached to a domain of this kernel
    std::array<std::array<Window, 4>, 2> windows{};  // of reads, of writes
    std::array<u8, 2> next_window{};
    u32 strayed = 0;  // findings of dma.contained in this generation
    bool read_reported = false;

    std::array<EngineBook, DeviceReferee::engines_max> engines;
    bool stuck_reported = false;  // dma.continuous, in this generation

    TableTree tree;  // at promise, then at the jump
    /// The tables that it came with, once it is attached to others, until the unit has forgotten them.
    TableTree left;
    const TableTree& inherited_tables() const { return left.known ? left : tree; }
    /// Since its context entry became another one, the unit has dropped what it had cached of the old one, and of its
    /// translations.
    bool context_dropped = false, iotlb_dropped = false;
    bool unit_forgot() const { return context_dropped && iotlb_dropped; }
    void forget_tables() {
        tree.clear();
        left.clear();
        context_dropped = iotlb_dropped = false;
    }
    /// Secondary and subordinate bus numbers of the bridges above, and the requester id, as at the jump.
    struct Bridge {
        const PciFunction* function;
        u8 secondary, subordinate;
    };
    std::pmr::vector<Bridge> bridges;
    Bdf requester;

    u64 unheard = 0;        // interrupts of the blackout that nobody has made up for
    u64 unheard_at_ns = 0;  // the first of them
    u16 unheard_vector = 0;
    std::string_view unheard_why;
    bool unheard_early = false;  // the first of them came before freeze: of the blackout that is about to begin
    bool held_back = false;      // an interrupt of the blackout is pending in it, and has been heard by nobody yet
    void forget_interrupts() {
        unheard = 0;
        unheard_early = held_back = false;
    }
    std::pmr::string guest;  // whose handler hears its interrupts
    unsigned guest_device = 0;
    bool guest_ran = true;  // since the device was claimed; true: there is none
};

// --- Guests ------------------------------------------------------------------------------------------------------

/// Words by address: open addressing. An address has its lowest bit set as a mark.
class WordBook {
public:
    explicit WordBook(std::pmr::memory_resource* memory) : table_(memory) {}
    void set(u64 address, u64 word);
    const u64* find(u64 address) const;
    /// In no order.
    template <typename F> void visit(F&& visitor) const {
        for (const Entry& entry : table_)
            if (entry.key) visitor(entry.key & ~u64{1}, entry.word);
    }
    void clear() {
        table_.clear();
        count_ = 0;
    }

private:
    struct Entry {
        u64 key, word;  // key 0: empty
    };
    std::size_t slot(u64 key) const;
    std::pmr::vector<Entry> table_;
    std::size_t count_ = 0;
};

struct GuestBook {
    explicit GuestBook(std::pmr::memory_resource* memory)
        : vcpus(memory),
          words(memory),
          files(memory),
          tokens(memory),
          memory_tokens(memory) {}
    struct Vcpu {
        GuestRegisters registers;
        bool known = false;  // `registers` are those that it left with
    };
    std::pmr::map<unsigned, Vcpu> vcpus;
    WordBook words;
    bool ran = false;
    std::optional<u64> vm_file;
    std::optional<u64> outgoing, incoming;
    bool claimed = false;
    /// Its memory: files of this kernel, the tokens that they are promised under, and those of the kernel before.
    std::pmr::vector<u64> files;
    std::pmr::vector<std::optional<u64>> tokens, memory_tokens;
    std::optional<Pfn> context, context_before;
    void forget() {
        vcpus.clear();
        words.clear();
        ran = false;
        context.reset();
        context_before.reset();
    }
};

// --- All of it ---------------------------------------------------------------------------------------------------

struct DeviceReferee::Books {
    Books(Machine& machine_, RefereeBooks& referee_, std::pmr::memory_resource* memory_);

    // referee_devices.cpp
    DeviceBook& device(const PciFunction& function) {
        if (function.index < devices.size() && devices[function.index]) [[likely]]
            return *devices[function.index];
        return add_device(function);
    }
    DeviceBook& add_device(const PciFunction& function);
    bool held_still(const DeviceBook& book) const {
        return (book.outgoing && frozen) || (book.incoming && !book.claimed && !discards(book));
    }
    /// A guest listens to it, and its VMM may turn interrupts off any time now.
    bool guest_prepared(const DeviceBook& book) const { return book.outgoing && !book.guest.empty(); }
    /// Finish runs, and nobody has claimed the device: the kernel may stop it.
    bool discards(const DeviceBook& book) const {
        const LuoBook& luo = referee.kernel->luo;
        const bool finishes = (luo.running != no_name || luo.file_running) && luo.running_in == LuoCallback::finish;
        return finishes && book.incoming && !book.outgoing && !book.claimed;
    }
    bool any_preserved() const;
    template <typename... Args>
    void report(InvariantId id, CheckId check, const DeviceBook& book, const FrameList& frames,
                fmt::format_string<Args...> format, const Args&... args) {
        referee.report(id, check, book.name(), frames, format, args...);
    }
    void end_preservation(DeviceBook& book);
    void check_claim(u64 token, u64 file_id);
    void freeze();
    void drop_everything();
    void keep_held_domains();

    // referee_dma.cpp
    ShadowDomain& domain(u64 id);
    ShadowDomain* find_domain(u64 id);
    void forget_windows();
    void note_mapped(PfnRange frames);
    void lose_frames(PfnRange frames, std::string_view site);
    void dma(const PciFunction& function, u64 iova, PhysRange phys, bool write);
    void dma_slow(DeviceBook& book, u64 iova, PhysRange phys, bool write);
    bool meant(const DeviceBook& book, u64 iova, u64 phys, Window& window) const;
    void stray(DeviceBook& book, u64 iova, u64 phys, bool write);
    std::pmr::string meaning_of(const DeviceBook& book, u64 iova);
    std::pmr::string owner_of(Pfn pfn);
    std::pmr::string name_of(const ShadowDomain& domain);
    std::pmr::string text_of(std::string_view words) { return std::pmr::string(words, memory); }
    void mark_written(PhysRange phys);
    void forget_written();
    void check_leaves(DeviceBook& book);
    void check_superset(DeviceBook& book, const ShadowDomain& next);
    void attach(DeviceBook& book, u64 id);
    void rebuild_mapped();

    // referee_engine.cpp
    template <typename... Args>
    void stuck(DeviceBook& book, fmt::format_string<Args...> format, const Args&... args) {
        if (!book.preserved() || book.stuck_reported || discards(book)) return;
        book.stuck_reported = true;
        report(InvariantId::dma_continuous, CheckId::none, book, {}, format, args...);
    }
    EngineBook& engine(const PciFunction& function, unsigned number);
    void keep_trailer(EngineBook& engine, u64 sequence, u32 slot, u64 dst, std::span<const std::byte> trailer);
    void settle_blackout(EngineBook& engine) const {
        if (!engine.blackout_from) return;
        engine.counters.completions_in_blackouts += engine.counters.completions - *engine.blackout_from;
        engine.blackout_from = engine.counters.completions;
    }
    void settle_blackout() {
        for (DeviceBook* book : devices)
            for (unsigned i = 0; book && i < engines_max; ++i) settle_blackout(book->engines[i]);
    }
    void judge_silence(std::string_view moment);
    /// It runs no more, for whatever reason.
    void rest(EngineBook& engine);
    void judge_trailers(std::string_view moment);
    void judge_engines(std::string_view moment) {
        judge_silence(moment);
        judge_trailers(moment);
    }

    // referee_tables.cpp
    class Walk;
    void read_tree(const DeviceBook& book, TableTree& out);
    void compare_tree(DeviceBook& book, std::string_view since, std::string_view moment, bool entries_too);
    void check_kept(DeviceBook& book);
    void check_unpreserved_entries();
    void check_domain_id(DeviceBook& book);
    void rebuild_table_frames();
    void table_frames_gone(PfnRange frames, std::string_view site, bool returned);
    void leave_tables(DeviceBook& book);
    std::optional<vtd::ContextEntry> context_entry(u32 segment, Bdf source) const;

    // referee_pci.cpp
    void note_path(DeviceBook& book);
    void check_path(DeviceBook& book);
    void judge_interrupts(std::string_view moment, bool at_finish);

    // referee_shared.cpp
    void check_list();
    void check_matched();
    void check_shared();
    void check_dependencies();
    void judge_shared();

    // referee_guests.cpp
    GuestBook& guest(std::string_view name);
    void guests_jump();
    void guests_lose(u64 token);
    void judge_contexts();

    Machine& machine;
    RefereeBooks& referee;
    std::pmr::memory_resource* memory;

    std::pmr::vector<DeviceBook*> devices;   // by PciFunction::index; nullptr: never seen
    std::pmr::map<u64, DeviceBook*> opened;  // by file
    std::pmr::map<u64, u64> claims;          // file -> token
    struct Promise {
        u64 file_id;
        bool iommufd;
    };
    std::pmr::map<u64, Promise> promises;  // by token: files of the running kernel that are promised
    struct SharedBook {
        bool made = false;           // by the running kernel, for the next one
        u32 read = 0, finished = 0;  // of what the kernel before handed over
    };
    std::pmr::map<NameId, SharedBook> shared;  // by subsystem

    std::pmr::list<ShadowDomain> domains;
    IntervalMap<Member> mapped;     // frames that some domain maps, or did
    IntervalMap<NameId> estranged;  // of those: handed out to somebody else since, or (no_name) free
    /// Frames that devices wrote since before_jump(): a bitmap in chunks of 4 KiB.
    static constexpr u64 chunk_shift = 15, chunk_words = (u64{1} << chunk_shift) / 64;
    using Chunk = std::array<u64, chunk_words>;
    std::pmr::vector<Chunk*> written;

    std::pmr::map<u32, IommuBook> iommus;  // by segment
    IntervalMap<u16> table_frames;         // of carried tables that a device still walks; its index

    std::pmr::map<std::pmr::string, GuestBook, std::less<>> guests;
    GuestBook* last_guest = nullptr;
    std::string_view last_guest_name;

    bool frozen = false;
    bool blackout = false;
    u64 last_stamp = 0;
    u64 interrupts_lost = 0, guest_steps = 0;
};

}  // namespace kexec_sim
