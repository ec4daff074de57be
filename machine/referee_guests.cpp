// Guests: registers that come back as they left, words that stay where they were stored; and pages of SNP.
//
//   leaves(R) … enters(R')     R' must be R, in whatever generation; the VMM may add pending interrupts and devices
//   stored(gpa, w) … loaded    the word at gpa is w still; 0 where nothing was stored since the guest was made
//
// A guest is known by the label that the bench gave it. It is remembered over a jump if its VM file was promised, and
// its words if the files of its memory were, too; it is forgotten when it is made anew or when such a promise is lost.
//
// A page that a device wrote in the blackout holds what the device wrote, so words there are taken as they are.
// A guest that does not run is no violation.
//
// Cost: one hashed look-up a store or load.
#include "machine/referee_device_books.hpp"

namespace kexec_sim {

// --- Words -------------------------------------------------------------------------------------------------------

/// The slot of `key`, or the empty one where it belongs.
std::size_t WordBook::slot(u64 key) const {
    const std::size_t mask = table_.size() - 1;
    std::size_t at = static_cast<std::size_t>((key * 0x9e37'79b9'7f4a'7c15) >> 20) & mask;
    while (table_[at].key && table_[at].key != key) at = (at + 1) & mask;
    return at;
}

void WordBook::set(u64 address, u64 word) {
    if (count_ * 2 >= table_.size()) {
        std::pmr::vector<Entry> old(table_.get_allocator());
        old.swap(table_);
        table_.resize(std::max<std::size_t>(1024, old.size() * 2));
        for (const Entry& entry : old)
            if (entry.key) table_[slot(entry.key)] = entry;
    }
    Entry& entry = table_[slot(address | 1)];
    if (!entry.key) ++count_;
    entry = {address | 1, word};
}

const u64* WordBook::find(u64 address) const {
    if (table_.empty()) return nullptr;
    const Entry& entry = table_[slot(address | 1)];
    return entry.key ? &entry.word : nullptr;
}

// --- Guests ------------------------------------------------------------------------------------------------------

GuestBook& DeviceReferee::Books::guest(std::string_view name) {
    if (last_guest && last_guest_name == name) return *last_guest;
    auto known = guests.find(name);
    if (known == guests.end()) known = guests.emplace(std::pmr::string(name, memory), GuestBook(memory)).first;
    last_guest_name = known->first;
    return *(last_guest = &known->second);
}

void DeviceReferee::guest_created(std::string_view guest, u64 vm_file_id) {
    if (!books_->machine.referee.attached) return;
    const MachineEntry entry;
    GuestBook& book = books_->guest(guest);
    book.forget();
    book.files.clear();
    book.tokens.clear();
    book.memory_tokens.clear();
    book.outgoing.reset();
    book.incoming.reset();
    book.claimed = false;
    book.vm_file = vm_file_id;
}

void DeviceReferee::guest_retrieved(std::string_view guest, u64 vm_file_id) {
    if (!books_->machine.referee.attached) return;
    const MachineEntry entry;
    books_->guest(guest).vm_file = vm_file_id;
}

void DeviceReferee::guest_memory(std::string_view guest, u64 file_id) {
    if (!books_->machine.referee.attached) return;
    const MachineEntry entry;
    GuestBook& book = books_->guest(guest);
    if (std::find(book.files.begin(), book.files.end(), file_id) != book.files.end()) return;
    std::optional<u64> promised_as;
    for (const auto& [token, promise] : books_->promises)
        if (promise.file_id == file_id) promised_as = token;
    book.files.push_back(file_id);
    book.tokens.push_back(promised_as);
}

void DeviceReferee::Books::guests_jump() {
    last_guest = nullptr;
    for (auto known = guests.begin(); known != guests.end();) {
        GuestBook& book = known->second;
        if (!book.outgoing) {
            known = guests.erase(known);
            continue;
        }
        book.incoming = book.outgoing;
        book.outgoing.reset();
        book.claimed = false;
        book.vm_file.reset();
        for (const std::optional<u64>& token : book.tokens)
            if (!token) book.words.clear();
        book.memory_tokens.assign(book.tokens.begin(), book.tokens.end());
        book.files.clear();
        book.tokens.clear();
        book.context_before = book.context;
        book.context.reset();
        ++known;
    }
}

void DeviceReferee::Books::guests_lose(u64 token) {
    for (auto& [name, book] : guests) {
        if (book.incoming == token) {
            book.incoming.reset();
            book.forget();
        }
        for (const std::optional<u64>& of_memory : book.memory_tokens)
            if (of_memory == token) book.words.clear();
    }
}

// --- Running -----------------------------------------------------------------------------------------------------

void DeviceReferee::guest_enters(std::string_view guest, unsigned vcpu, const GuestRegisters& registers) {
    if (!books_->machine.referee.attached) return;
    const MachineEntry entry;
    Books& books = *books_;
    GuestBook& book = books.guest(guest);
    book.ran = true;
    GuestBook::Vcpu& known = book.vcpus[vcpu];
    const GuestRegisters& left = known.registers;
    const auto differs = [&](std::string_view what, u64 before, u64 now) {
        books.referee.report(InvariantId::guest_progress, CheckId::m2, guest, {},
                             "vCPU {} of guest {} left with {} {:#x}; it is entered with {:#x}", vcpu, guest, what,
                             before, now);
    };
    if (known.known) {
        if (registers.steps != left.steps) differs("steps", left.steps, registers.steps);
        if (registers.accumulator != left.accumulator)
            differs("accumulator", left.accumulator, registers.accumulator);
        if (registers.tsc_ns != left.tsc_ns) differs("tsc", left.tsc_ns, registers.tsc_ns);
        if (left.pending_irq & ~registers.pending_irq)
            differs("pending interrupts", left.pending_irq, registers.pending_irq);
        for (std::size_t i = 0; i < left.devices.size(); ++i) {
            const GuestRegisters::Device &before = left.devices[i], &now = registers.devices[i];
            if (now.seen != before.seen) differs("completions seen", before.seen, now.seen);
            if (now.interrupts != before.interrupts) differs("interrupts taken", before.interrupts, now.interrupts);
            if (!before.entries || !now.entries) continue;  // the VMM plugs or unplugs it
            if (now.ring_gpa != before.ring_gpa) differs("a ring at", before.ring_gpa, now.ring_gpa);
            if (now.entries != before.entries) differs("ring entries", before.entries, now.entries);
        }
    }
    known.registers = registers;
    known.known = false;  // it is in the CPU now
    for (DeviceBook* device : books.devices)
        if (device && device->guest == guest && !books.held_still(*device)) device->guest_ran = true;
}

void DeviceReferee::guest_programmed(std::string_view guest, unsigned vcpu, const GuestRegisters& registers) {
    if (!books_->machine.referee.attached) return;
    const MachineEntry entry;
    GuestBook::Vcpu& known = books_->guest(guest).vcpus[vcpu];
    known.registers = registers;
    known.known = true;
}

std::string DeviceReferee::guest_complaint(std::string_view guest, std::span<const FileExtent> memory) const {
    const MachineEntry entry;
    for (const Finding& finding : books_->machine.referee.findings())
        if (finding.invariant == InvariantId::guest_progress && finding.resource == guest) return finding.message;
    const auto known = books_->guests.find(guest);
    if (known == books_->guests.end()) return {};
    const PhysicalMemory& ram = books_->machine.ram;
    u64 first = ~u64{0}, stored = 0, held = 0;
    known->second.words.visit([&](u64 gpa, u64 word) {
        const auto extent = std::ranges::upper_bound(memory, gpa >> page_shift, {},
                                                     [](const FileExtent& one) { return one.index + one.pages; });
        if (gpa > first || extent == memory.end() || extent->index > gpa >> page_shift) return;
        const Pfn pfn = extent->pfn + ((gpa >> page_shift) - extent->index);
        if (books_->machine.snp.owner(pfn) == RmpOwner::guest) return;  // encrypted
        const u64 now = ram.read<u64>(pfn.phys() + (gpa & (page_bytes - 1)));
        if (now == word || written_by_device(pfn)) return;
        first = gpa;
        stored = word;
        held = now;
    });
    if (first == ~u64{0}) return {};
    return fmt::format("guest {} stored {:#x} at {:#x}; its memory holds {:#x} there", guest, stored, first, held);
}

void DeviceReferee::guest_leaves(std::string_view guest, unsigned vcpu, const GuestRegisters& registers) {
    if (!books_->machine.referee.attached) return;
    const MachineEntry entry;
    Books& books = *books_;
    GuestBook::Vcpu& known = books.guest(guest).vcpus[vcpu];
    const GuestRegisters& entered = known.registers;
    if (registers.steps < entered.steps || registers.tsc_ns < entered.tsc_ns)
        books.referee.report(InvariantId::guest_progress, CheckId::m2, guest, {},
                             "vCPU {} of guest {} was entered at step {}, tsc {}; it left at step {}, tsc {}", vcpu,
                             guest, entered.steps, entered.tsc_ns, registers.steps, registers.tsc_ns);
    else
        books.guest_steps += registers.steps - entered.steps;
    for (DeviceBook* device : books.devices) {
        if (!device || device->guest != guest || device->guest_device >= registers.devices.size()) continue;
        const unsigned at = device->guest_device;
        if (registers.devices[at].interrupts > entered.devices[at].interrupts) device->forget_interrupts();
    }
    known.registers = registers;
    known.known = true;
}

void DeviceReferee::guest_stored(std::string_view guest, u64 gpa, PhysAddr, u64 word) {
    if (!books_->machine.referee.attached) return;
    const MachineEntry entry;
    books_->guest(guest).words.set(gpa, word);
}

void DeviceReferee::guest_loaded(std::string_view guest, u64 gpa, PhysAddr phys, u64 word) {
    if (!books_->machine.referee.attached) return;
    const MachineEntry entry;
    Books& books = *books_;
    GuestBook& book = books.guest(guest);
    const u64* stored = book.words.find(gpa);
    const u64 due = stored ? *stored : 0;
    if (word == due) return;
    if (written_by_device(phys.pfn())) return book.words.set(gpa, word);
    FrameList frames;
    frames.add(pfn_range(phys.pfn(), 1));
    books.referee.report(InvariantId::guest_progress, CheckId::m1, guest, frames,
                         "guest {} {} {:#x} at {:#x}; it reads {:#x} there, in frame {:#x}", guest,
                         stored ? "stored" : "stored nothing, so it has", due, gpa, word, frames.first[0]);
    book.words.set(gpa, word);  // it goes on from what it read
}

void DeviceReferee::guest_faulted(std::string_view guest, u64 gpa) {
    if (!books_->machine.referee.attached) return;
    const MachineEntry entry;
    if (!books_->guest(guest).ran) return;
    books_->referee.report(InvariantId::guest_progress, guest, {},
                           "guest {} goes on at {:#x}; there is no memory behind that address", guest, gpa);
}

// --- SNP ---------------------------------------------------------------------------------------------------------

void DeviceReferee::reverse_map_violation(PfnRange frames, std::string_view who, std::string_view owner) {
    if (!books_->machine.referee.attached) return;
    const MachineEntry entry;
    FrameList list;
    list.add(frames);
    books_->referee.report(InvariantId::snp_reverse_map, who, list,
                           "{} touched frame {:#x}; the reverse map says that it is {}'s", who, frames.begin.raw,
                           owner);
}

void DeviceReferee::snp_context(std::string_view guest, Pfn page) {
    if (!books_->machine.referee.attached) return;
    const MachineEntry entry;
    GuestBook& book = books_->guest(guest);
    if (book.context_before && *book.context_before != page) {
        FrameList frames;
        frames.add(pfn_range(page, 1));
        books_->referee.report(InvariantId::snp_reverse_map, guest, frames,
                               "the context page of guest {} was frame {:#x}; it is said to be frame {:#x} now",
                               guest, book.context_before->raw, page.raw);
    }
    book.context = page;
    book.context_before.reset();
}

/// At finish: a guest that was claimed has its context page.
void DeviceReferee::Books::judge_contexts() {
    for (auto& [name, book] : guests) {
        if (!book.incoming || !book.claimed || !book.context_before) continue;
        FrameList frames;
        frames.add(pfn_range(*book.context_before, 1));
        referee.report(InvariantId::snp_reverse_map, name, frames,
                       "the context page of guest {} was frame {:#x}; the guest was claimed, and at finish nobody "
                       "knows of that page",
                       name, frames.first[0]);
        book.context_before.reset();
    }
}

}  // namespace kexec_sim
