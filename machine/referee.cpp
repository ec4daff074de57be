// The referee: life of kernels, sanity of kernels, results. The books are kept in referee_*.cpp beside:
//
//   referee_frames    owners of frames                referee_luo     states, callbacks, rollback
//   referee_kho       preserved memory, reserve_mem   referee_files   files by token
//   referee_promises  from intent to the jump         referee_losses  how promises end badly
//   referee_report    wording                         referee_text    promises as text
//
// Devices and guests are judged by the DeviceReferee (referee_devices.hpp), which is told from here of promises, jumps
// and frames.
#include "machine/referee.hpp"

#include "machine/arena.hpp"
#include "machine/referee_books.hpp"

namespace kexec_sim {

KernelBooks::KernelBooks(std::pmr::memory_resource* memory)
    : luo_declined(memory),
      owners(memory),
      pool(memory),
      inherited(memory),
      leaked(memory),
      kept(memory),
      sources(memory),
      names(memory),
      areas(memory),
      asked_single(memory),
      scratch(memory),
      reserves(memory),
      files(memory),
      claimers(memory),
      luo(memory) {}

RefereeBooks::RefereeBooks(PhysicalMemory& ram_, VirtualClock& clock_, TraceRecorder& trace_, FaultInjector& faults_,
                           std::pmr::memory_resource* memory_)
    : ram(ram_),
      clock(clock_),
      trace(trace_),
      faults(faults_),
      memory(memory_),
      names(memory_),
      carried(memory_),
      staged(memory_),
      findings(memory_),
      ends(memory_),
      run_who(memory_) {
    kernel.emplace(memory);
}

Referee::Referee(PhysicalMemory& ram, VirtualClock& clock, TraceRecorder& trace, FaultInjector& faults,
                 std::pmr::memory_resource* memory)
    : books_(new (memory->allocate(sizeof(Books), alignof(Books))) Books(ram, clock, trace, faults, memory)) {}

Referee::~Referee() {
    std::pmr::memory_resource* memory = books_->memory;
    books_->~Books();
    memory->deallocate(books_, sizeof(Books), alignof(Books));
}

void Referee::mute(InvariantId id) { books_->muted_ids |= u64{1} << static_cast<unsigned>(id); }

void Referee::mute(CheckId check) { books_->muted_checks |= u64{1} << static_cast<unsigned>(check); }

// --- Life of kernels ---------------------------------------------------------------------------------------------

void Referee::kernel_boots(Generation generation, const KernelTraits& traits) {
    if (!attached) return;
    const MachineEntry entry;
    RefereeBooks& books = *books_;
    books.run.end = ~u64{0};
    books.last_source = 0;
    books.kernel.emplace(books.memory);
    KernelBooks& kernel = *books.kernel;
    kernel.generation = generation;
    kernel.edition = books.names.id(traits.edition);
    kernel.promise_at = traits.promise_at;
    kernel.has_luo = traits.has_luo;
    kernel.strict = traits.strict;
    kernel.map_bitmap_bytes = traits.map_bitmap_bytes;
    books.last_generation = generation;
    if (books.devices) books.devices->kernel_boots();
}

void Referee::kernel_has_luo(bool on) {
    if (!attached) return;
    const MachineEntry entry;
    books_->kernel->has_luo = on;
}

void Referee::luo_declined(std::string_view why) {
    if (!attached) return;
    const MachineEntry entry;
    books_->kernel->luo_declined.assign(why);
}

void Referee::claimer_present(std::string_view compatible) {
    if (!attached) return;
    const MachineEntry entry;
    books_->kernel->claimers.emplace(books_->names.id(compatible), books_->kernel->user_space);
}

// --- Sanity ------------------------------------------------------------------------------------------------------

void Referee::kernel_warned(std::string_view text, bool named) {
    if (!attached || named) return;
    const MachineEntry entry;
    books_->report(InvariantId::kernel_sane, text, {}, "generation {} warned: {}; its edition names no such warning",
                   books_->kernel->generation, text);
}

void Referee::kernel_insane(std::string_view text, std::optional<PfnRange> frames) {
    if (!attached) return;
    const MachineEntry entry;
    FrameList list;
    if (frames) list.add(*frames);
    books_->report(InvariantId::kernel_sane, text, list, "the books of generation {} contradict themselves: {}",
                   books_->kernel->generation, text);
}

void Referee::wild_access(u64 address, std::string_view what) {
    if (!attached) return;
    const MachineEntry entry;
    books_->report(InvariantId::abi_bounded, what, {},
                   "generation {} followed what was handed over to {:#x} ({}); there is no RAM there",
                   books_->kernel->generation, address, what);
}

void Referee::read_beyond(PhysRange range, PhysAddr address, std::string_view what) {
    if (!attached) return;
    const MachineEntry entry;
    books_->report(InvariantId::abi_bounded, what, {},
                   "generation {} reads {} at {:#x}; it ends at {:#x}, and what lies behind belongs to somebody else",
                   books_->kernel->generation, what, range.begin.raw, address.raw);
}

// --- Results -----------------------------------------------------------------------------------------------------

std::vector<Finding> Referee::findings() const {
    std::vector<Finding> result;
    for (const RefereeBooks::Entry& entry : books_->findings) {
        const u64 shown = std::min<u64>(entry.frames.count, entry.frames.first.size());
        result.push_back(
            {entry.invariant,
             entry.by_fault,
             entry.generation,
             entry.virtual_ns,
             std::string(entry.message),
             {entry.frames.first.begin(), entry.frames.first.begin() + static_cast<std::ptrdiff_t>(shown)},
             entry.frames.count,
             std::string(entry.resource),
             entry.check});
    }
    return result;
}

Referee::Counters Referee::counters() const { return books_->counters; }

}  // namespace kexec_sim
