// The referee's eyes on devices: the life of a preserved device, from the promise of its file to finish; results.
#include "machine/referee_devices.hpp"

#include "machine/referee_device_books.hpp"

namespace kexec_sim {

DeviceReferee::Books::Books(Machine& machine_, RefereeBooks& referee_, std::pmr::memory_resource* memory_)
    : machine(machine_),
      referee(referee_),
      memory(memory_),
      devices(memory_),
      opened(memory_),
      claims(memory_),
      promises(memory_),
      shared(memory_),
      domains(memory_),
      mapped(memory_),
      estranged(memory_),
      written(memory_),
      iommus(memory_),
      table_frames(memory_),
      guests(memory_) {
    written.resize((machine.ram.bytes_max() >> page_shift >> chunk_shift) + 1);
}

DeviceReferee::DeviceReferee(Machine& machine, std::pmr::memory_resource* memory)
    : books_(new (memory->allocate(sizeof(Books), alignof(Books))) Books(machine, *machine.referee.books_, memory)) {
    books_->referee.devices = this;
}

DeviceReferee::~DeviceReferee() {
    std::pmr::memory_resource* memory = books_->memory;
    books_->referee.devices = nullptr;
    for (DeviceBook* book : books_->devices) {
        if (!book) continue;
        book->~DeviceBook();
        memory->deallocate(book, sizeof(DeviceBook), alignof(DeviceBook));
    }
    for (Books::Chunk* chunk : books_->written)
        if (chunk) memory->deallocate(chunk, sizeof(Books::Chunk), alignof(Books::Chunk));
    books_->~Books();
    memory->deallocate(books_, sizeof(Books), alignof(Books));
}

DeviceBook& DeviceReferee::Books::add_device(const PciFunction& function) {
    if (function.index >= devices.size()) devices.resize(function.index + std::size_t{1});
    DeviceBook* book = new (memory->allocate(sizeof(DeviceBook), alignof(DeviceBook))) DeviceBook(function, memory);
    return *(devices[function.index] = book);
}

bool DeviceReferee::Books::any_preserved() const {
    for (const DeviceBook* book : devices)
        if (book && book->preserved()) return true;
    return false;
}

// --- Files of devices --------------------------------------------------------------------------------------------

void DeviceReferee::device_opened(u64 file_id, const PciFunction& device) {
    if (!books_->machine.referee.attached) return;
    const MachineEntry entry;
    books_->opened.insert_or_assign(file_id, &books_->device(device));
    // A file may be shown before or after it is known which promise it keeps.
    if (const auto claim = books_->claims.find(file_id); claim != books_->claims.end())
        books_->check_claim(claim->second, file_id);
}

void DeviceReferee::device_closed(u64 file_id) {
    if (!books_->machine.referee.attached) return;
    const MachineEntry entry;
    const auto file = books_->opened.find(file_id);
    const auto claim = books_->claims.find(file_id);
    // Whoever claimed it may do with it what he likes: with its file the promise ends.
    if (file != books_->opened.end() && claim != books_->claims.end() && file->second->incoming == claim->second) {
        DeviceBook& book = *file->second;
        book.incoming.reset();
        book.forget_interrupts();
        if (book.holds && book.holds->carried) book.holds = nullptr;
        books_->end_preservation(book);
    }
    books_->opened.erase(file_id);
    books_->claims.erase(file_id);
}

// --- Promises ----------------------------------------------------------------------------------------------------

void DeviceReferee::promised(u64 token, std::string_view compatible, u64 file_id) {
    if (!books_->machine.referee.attached) return;
    const MachineEntry entry;
    books_->promises.insert_or_assign(token, Books::Promise{file_id, compatible.starts_with("iommufd")});
    for (ShadowDomain& domain : books_->domains)
        if (domain.iommufd == file_id && !domain.carried) domain.token = token;
    for (auto& [name, guest] : books_->guests) {
        if (guest.vm_file == file_id) guest.outgoing = token;
        for (std::size_t i = 0; i < guest.files.size(); ++i)
            if (guest.files[i] == file_id) guest.tokens[i] = token;
    }
    const auto file = books_->opened.find(file_id);
    if (file == books_->opened.end()) return;
    DeviceBook& device = *file->second;
    device.outgoing = token;
    device.was_preserved = true;
    // The map of a device that is claimed and promised on is that of its own domain; the old tables are history.
    if (!device.incoming || device.hotswapped) books_->read_tree(device, device.tree);
}

void DeviceReferee::Books::end_preservation(DeviceBook& book) {
    if (book.preserved()) return;
    book.claimed = false;
    book.forget_tables();
    rebuild_table_frames();
}

void DeviceReferee::promise_ended(u64 token) {
    if (!books_->machine.referee.attached) return;
    const MachineEntry entry;
    books_->promises.erase(token);
    for (ShadowDomain& domain : books_->domains)
        if (domain.token == token && !domain.carried) domain.token.reset();
    for (auto& [name, guest] : books_->guests) {
        if (guest.outgoing == token) guest.outgoing.reset();
        for (std::optional<u64>& of_memory : guest.tokens)
            if (of_memory == token) of_memory.reset();
    }
    for (DeviceBook* book : books_->devices) {
        if (!book || book->outgoing != token) continue;
        book->outgoing.reset();
        books_->end_preservation(*book);
    }
}

void DeviceReferee::carried_lost(u64 token) {
    if (!books_->machine.referee.attached) return;
    const MachineEntry entry;
    for (DeviceBook* book : books_->devices) {
        if (!book) continue;
        const bool of_domain = book->holds && book->holds->carried && book->holds->token == token;
        if (book->incoming != token && !of_domain) continue;
        if (book->holds && book->holds->carried) book->holds = nullptr;
        if (book->incoming == token) {
            book->incoming.reset();
            book->forget_interrupts();
        }
        // Nobody keeps the tables of a map that is lost.
        book->forget_tables();
        books_->end_preservation(*book);
    }
    books_->forget_windows();
    books_->rebuild_table_frames();
    books_->guests_lose(token);
}

// --- Freeze and jump ---------------------------------------------------------------------------------------------

void DeviceReferee::frozen() {
    if (!books_->machine.referee.attached) return;
    const MachineEntry entry;
    books_->freeze();
}

/// What was not made up for by now never will be; interrupts from here on belong to the next blackout.
void DeviceReferee::Books::freeze() {
    if (frozen) return;
    judge_interrupts("the next freeze", false);
    frozen = true;
    if (referee.kernel->luo.state == LuoState::frozen) check_list();
}

void DeviceReferee::thawed() {
    if (!books_->machine.referee.attached) return;
    const MachineEntry entry;
    books_->frozen = false;
    for (DeviceBook* book : books_->devices) {
        if (!book) continue;
        book->unheard_early = false;
        if (book->guest.empty()) book->forget_interrupts();  // the driver is back, and looks; a guest must be told
    }
}

void DeviceReferee::before_jump() {
    if (!books_->machine.referee.attached) return;
    const MachineEntry entry;
    books_->freeze();
    books_->forget_written();
    books_->judge_engines("the jump");
    for (DeviceBook* book : books_->devices) {
        if (!book || !book->outgoing) continue;
        books_->compare_tree(*book, "when its promise was made", "at the jump", true);
        books_->read_tree(*book, book->tree);
        books_->check_kept(*book);
        books_->check_leaves(*book);
    }
    if (books_->referee.kernel->luo.state != LuoState::frozen) return;
    books_->check_dependencies();
    books_->check_shared();
}

void DeviceReferee::jumped() {
    if (!books_->machine.referee.attached) return;
    const MachineEntry entry;
    Books& books = *books_;
    books.judge_engines("the jump");
    books.check_unpreserved_entries();
    // What the kernel that is gone had been handed itself is over: claimed, or reported as lost.
    for (DeviceBook* book : books.devices) {
        if (!book) continue;
        if (book->outgoing) books.compare_tree(*book, "before the jump", "after it", true);
        const bool carries = book->outgoing && book->holds && book->holds->token;
        if (!carries) book->holds = nullptr;
        book->incoming = book->outgoing;
        book->outgoing.reset();
        book->claimed = book->hotswapped = book->matched = false;
        book->listed = 0;
        book->left.clear();
        book->context_dropped = book->iotlb_dropped = false;
        if (!book->incoming) book->tree.clear();
        book->unheard_early = false;
        if (!book->incoming) book->forget_interrupts();
        books.note_path(*book);
    }
    books.keep_held_domains();
    books.opened.clear();
    books.claims.clear();
    books.promises.clear();
    books.rebuild_table_frames();
    books.guests_jump();
    books.frozen = false;
}

/// Domains that a device still holds outlive their kernel; the numbers of all are free.
void DeviceReferee::Books::keep_held_domains() {
    for (auto domain = domains.begin(); domain != domains.end();) {
        bool held = false;
        for (const DeviceBook* book : devices) held = held || (book && book->holds == &*domain);
        domain->carried = true;
        domain->iommufd.reset();
        domain = held ? std::next(domain) : domains.erase(domain);
    }
    rebuild_mapped();
    forget_windows();
}

void DeviceReferee::kernel_boots() {
    if (!books_->machine.referee.attached) return;
    const MachineEntry entry;
    for (DeviceBook* book : books_->devices) {
        if (!book) continue;
        book->strayed = 0;
        book->read_reported = book->stuck_reported = false;
    }
}

void DeviceReferee::user_space_reached() {
    if (!books_->machine.referee.attached) return;
    const MachineEntry entry;
    if (books_->blackout) books_->settle_blackout();
    books_->blackout = false;
    books_->judge_silence("when user space was reached");
    for (DeviceBook* book : books_->devices) {
        if (!book || !book->incoming || book->claimed) continue;
        books_->check_path(*book);
        books_->compare_tree(*book, "at the jump", "when user space was reached", true);
    }
    books_->check_matched();
}

// --- The blackout, for the counters ------------------------------------------------------------------------------

void DeviceReferee::blackout_begins() {
    if (!books_->machine.referee.attached) return;
    const MachineEntry entry;
    books_->blackout = true;
    for (DeviceBook* book : books_->devices)
        for (unsigned i = 0; book && i < engines_max; ++i)
            book->engines[i].blackout_from = book->engines[i].counters.completions;
}

void DeviceReferee::blackout_called_off() {
    if (!books_->machine.referee.attached) return;
    const MachineEntry entry;
    books_->blackout = false;
    for (DeviceBook* book : books_->devices)
        for (unsigned i = 0; book && i < engines_max; ++i) book->engines[i].blackout_from.reset();
}

void DeviceReferee::guest_goes_on() {
    if (!books_->machine.referee.attached) return;
    const MachineEntry entry;
    books_->settle_blackout();
}

// --- Claim and finish --------------------------------------------------------------------------------------------

void DeviceReferee::claimed(u64 token, u64 file_id) {
    if (!books_->machine.referee.attached) return;
    const MachineEntry entry;
    books_->claims.insert_or_assign(file_id, token);
    for (auto& [name, guest] : books_->guests)
        if (guest.incoming == token) {
            guest.claimed = true;
            guest.vm_file = file_id;
        }
    if (books_->opened.contains(file_id)) books_->check_claim(token, file_id);
}

void DeviceReferee::Books::check_claim(u64 token, u64 file_id) {
    DeviceBook& got = *opened.at(file_id);
    for (DeviceBook* book : devices) {
        if (!book || book->incoming != token || book->claimed) continue;
        if (book != &got)
            report(InvariantId::pci_stable, CheckId::d1, *book, {},
                   "file {:#x} was promised for {}; generation {} restored it with {}", token, book->name(),
                   referee.kernel->generation, got.name());
        book->claimed = true;
        book->guest_ran = book->guest.empty();
    }
}

void DeviceReferee::finished() {
    if (!books_->machine.referee.attached) return;
    const MachineEntry entry;
    Books& books = *books_;
    books.judge_engines("finish");
    books.judge_interrupts("finish", true);
    books.judge_contexts();
    for (DeviceBook* book : books.devices) {
        if (!book || !book->incoming) continue;
        // Whoever claimed it and stays on the tables that came with it keeps them; what was discarded keeps nothing.
        const bool stays = book->claimed && book->holds && book->holds->carried;
        if (!book->claimed && book->holds && book->holds->carried) book->holds = nullptr;
        if (!book->claimed) book->forget_interrupts();  // nobody is left to hear of it
        book->incoming.reset();
        book->claimed = false;
        if (!stays) book->left.clear();
        if (!stays && !book->outgoing) book->forget_tables();
    }
    for (auto& [name, guest] : books.guests) guest.incoming.reset();
    books.judge_shared();
    books.forget_windows();
    books.rebuild_table_frames();
}

// --- The end -----------------------------------------------------------------------------------------------------

void DeviceReferee::Books::drop_everything() {
    for (DeviceBook* book : devices) {
        if (!book) continue;
        book->outgoing.reset();
        book->incoming.reset();
        book->claimed = book->hotswapped = book->matched = false;
        book->listed = 0;
        book->holds = nullptr;
        for (EngineBook& engine : book->engines) engine.running = engine.dry = false;
        book->forget_interrupts();
        book->forget_tables();
        book->was_preserved = false;
        book->guest.clear();
        book->guest_ran = true;
    }
    domains.clear();
    opened.clear();
    claims.clear();
    promises.clear();
    shared.clear();
    mapped.clear();
    estranged.clear();
    table_frames.clear();
    iommus.clear();
    guests.clear();
    last_guest = nullptr;
    forget_windows();
    forget_written();
}

void DeviceReferee::kernel_ended(KernelEnd end) {
    if (!books_->machine.referee.attached) return;
    const MachineEntry entry;
    Books& books = *books_;
    switch (end) {
    case KernelEnd::kexec: return;  // before_jump and jumped have judged
    case KernelEnd::scenario: return scenario_ends();
    case KernelEnd::reset:
    case KernelEnd::power_loss: books.drop_everything(); break;
    case KernelEnd::panic:
        // Devices run on. What the dead kernel had mapped stays theirs: nobody hands its memory out but a crash
        // kernel, which has memory of its own, or the next one after a reset.
        for (DeviceBook* book : books.devices) {
            if (!book) continue;
            book->outgoing.reset();
            book->incoming.reset();
            book->claimed = book->hotswapped = book->matched = false;
            book->listed = 0;
            book->forget_interrupts();
            book->forget_tables();
            if (book->holds) book->holds->token.reset();
        }
        books.keep_held_domains();
        books.opened.clear();
        books.claims.clear();
        books.promises.clear();
        books.shared.clear();
        books.rebuild_table_frames();
        books.guests.clear();
        books.last_guest = nullptr;
        break;
    }
    if (books.blackout) books.settle_blackout();
    books.frozen = books.blackout = false;
}

void DeviceReferee::scenario_ends() {
    if (!books_->machine.referee.attached) return;
    const MachineEntry entry;
    books_->judge_engines("the end");
    books_->judge_interrupts("the end", false);
}

// --- Results -----------------------------------------------------------------------------------------------------

DeviceReferee::EngineCounters DeviceReferee::engine(std::string_view device, std::optional<unsigned> number) const {
    EngineCounters sum;
    for (const DeviceBook* book : books_->devices) {
        if (!book || book->name() != device) continue;
        for (unsigned i = 0; i < engines_max; ++i) {
            if (number && *number != i) continue;
            const EngineBook& engine = book->engines[i];
            sum.completions += engine.counters.completions;
            sum.lost += engine.counters.lost;
            sum.repeated += engine.counters.repeated;
            sum.dry_ns += engine.counters.dry_ns;
            if (engine.dry) sum.dry_ns += books_->machine.clock.now_ns() - engine.dry_since_ns;
            sum.completions_in_blackouts += engine.counters.completions_in_blackouts;
            if (books_->blackout && engine.blackout_from)
                sum.completions_in_blackouts += engine.counters.completions - *engine.blackout_from;
        }
    }
    return sum;
}

DeviceReferee::Totals DeviceReferee::totals() const {
    Totals totals;
    for (const DeviceBook* book : books_->devices) {
        if (!book) continue;
        const EngineCounters counters = engine(book->name());
        totals.completions += counters.completions;
        totals.gaps += counters.lost + counters.repeated;
        totals.dry_ns += counters.dry_ns;
    }
    totals.interrupts_lost = books_->interrupts_lost;
    totals.guest_steps = books_->guest_steps;
    return totals;
}

}  // namespace kexec_sim
