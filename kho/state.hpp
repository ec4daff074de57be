// What one kernel's KHO knows, and the steps that its source files share.
//
//   kho/boot.cpp               parameters, populate, memory_init, late init
//   kho/api.cpp                exported functions: the boundary where faults enter and the instruments are told
//   kho/preserve.cpp           preserve and unpreserve behind that boundary
//   kho/restore.cpp            restore and retrieve behind it
//   kho/vmalloc.cpp            preserved vmalloc areas
//   kho/control.cpp            finalize, abort, notifiers, sub-trees
//   kho/debugfs.cpp            pseudo files
//   kho/load.cpp               what kexec_file_load asks
//   kho/memblock_consumer.cpp  reserve_mem, the first consumer
//   kho/corrupt.cpp            planned damage to what is handed over
//
// Only these files include this header.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "kho/fdt.hpp"
#include "kho/kho.hpp"
#include "kho/scratch.hpp"
#include "kho/serialize.hpp"
#include "kho/tracking.hpp"

namespace kexec_sim::kho {

inline constexpr std::string_view kho_who = "kho", root_site = "kho.root";

struct Kho::State {
    State(Kho& owner, Kernel& kernel_, const Edition& edition_);

    Kho& kho;
    Kernel& kernel;
    Machine& machine;
    const Edition edition;  // checks for overlap only in a kernel with debug checks

    // --- boot (kho/boot.cpp) ---
    const bool configured;  // built with KHO; without, every function is EOPNOTSUPP or NULL
    bool enabled = false;
    ScratchParams scratch_params;
    std::vector<PhysRange> scratch;  // the areas, inherited or reserved by this kernel
    PhysRange scratch_array;
    struct Incoming {
        PhysAddr fdt;
        u64 fdt_bytes = 0;
    };
    std::optional<Incoming> in;  // a handover that was accepted
    void attach_boot();
    /// The setup_data entry of a handover, if there is one.
    const SetupData* passed_data() const;
    /// What a kernel built without KHO says to it.
    void ignore_handover();
    void populate();
    void memory_init();
    void late_init();
    void give_up();

    // --- tracking (kho/preserve.cpp) ---
    Tracking tracking;
    /// EINVAL with a WARN where the edition refuses to preserve in scratch.
    Result<> check_overlap(PhysRange range);
    Result<> preserve_block(Folio folio);
    Result<> preserve_range(PfnRange range);
    /// As preserve_block() for each page of the run; how many went well.
    Tracking::Run preserve_run(PfnRange run);

    // --- restore (kho/restore.cpp) ---
    // Orders above 0 that a marker of 6.16 still tells after the block was restored: restoring it again goes unnoticed.
    std::map<Pfn, Order> stale_markers;
    bool warned_about_marker = false;
    /// What the marker of the page says; ENOENT where the kernel would return NULL.
    Result<Order> marker_order(Pfn pfn);
    /// How restored pages are set up.
    PageAllocator::Adoption adoption() const;
    Result<Folio> restore_block(Pfn pfn, std::string_view who, FrameClass frame_class);
    /// Single preserved pages, each with its visit of the fault point; `next` gets the first that was not restored.
    Result<> restore_singles(PfnRange pages, std::string_view who, FrameClass frame_class, Pfn& next);
    Result<PfnRange> restore_range(PfnRange range, std::string_view who, FrameClass frame_class);
    std::optional<FdtReader> incoming_tree() const;

    // --- vmalloc (kho/vmalloc.cpp) ---
    Result<VmallocDescriptor> describe_vmalloc(const VmallocArea& area, std::vector<Pfn>& chunks);
    void forget_vmalloc(const VmallocArea& area, std::span<const Pfn> chunks);
    /// Tells the referee which blocks nobody will ask for again.
    void tell_lost_vmalloc(const VmallocDescriptor& descriptor, std::string_view who);
    Result<const VmallocArea*> rebuild_vmalloc(const VmallocDescriptor& descriptor, std::string_view who,
                                               FrameClass frame_class);

    // --- control (kho/control.cpp) ---
    bool finalized = false;
    PhysAddr root;  // the outgoing page, 0 while KHO is off
    SerializedMap map;
    struct Subtree {
        std::string name;
        PhysAddr fdt;
    };
    std::vector<Subtree> subtrees;  // exported control: the list; notifier chain: what the last finalize wrote
    struct ChainEntry {
        u64 ticket;
        int priority;
        Notifier notifier;
    };
    std::vector<ChainEntry> chain;  // highest priority first
    u64 next_ticket = 1;
    std::optional<FdtWriter> writer;  // while finalize writes the root tree
    bool in_finalize_notification = false;
    Result<> finalize();
    Result<> abort();
    Result<> write_root();
    Result<> write_subtree(const std::string& name, PhysAddr fdt);
    Result<> call_chain(NotifierAction action);
    /// Visits kho.fdt_write[name]; a planned failure stands for the code that libfdt would return.
    Result<> write_fdt(std::string_view name, const std::function<int()>& write);
    Result<> abort_steps();
    void withdraw_subtrees();

    // --- debugfs (kho/debugfs.cpp) ---
    /// The folders, which may fail (ENOMEM); publish_debugfs() fills them.
    Result<> make_debugfs();
    void publish_debugfs();
    void publish_outgoing();
    void publish_subtree(const Subtree& subtree);
    void withdraw_subtree(const std::string& name);
    void publish_incoming();

    // --- loading an image (kho/load.cpp) ---
    void attach_load();

    // --- reserve_mem (kho/memblock_consumer.cpp) ---
    PhysAddr memblock_tree;
    void attach_memblock_consumer();
    void memblock_late_init();
    Result<> build_memblock_tree();
    Result<> preserve_memblock_tree();
    std::optional<PhysRange> revive(const ReserveMem::Entry& entry);
};

}  // namespace kexec_sim::kho
