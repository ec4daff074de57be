// What files of devices share, and need of each other.
//
//   the list of functions     changes by prepare and cancel; once LUO is frozen it stands (check D7), with every bridge
//                             above a promised device (check D2); the next kernel finds what is on it (check D1)
//   shared records            exist exactly while a promised file needs them; read once and finished once by the next
//                             kernel (check F1)
//   files that need others    device -> its iommufd, iommufd -> the device whose BAR it maps, VM -> its memory: promised
//                             together, or freeze must refuse (check F2)
//
// Which file needs what, the referee knows from the intents: what was attached to what, and mapped where.
#include "machine/referee_device_books.hpp"

namespace kexec_sim {

void DeviceReferee::function_listed(const PciFunction& function, u32 references) {
    if (!books_->machine.referee.attached) return;
    const MachineEntry entry;
    Books& books = *books_;
    DeviceBook& book = books.device(function);
    const u32 before = std::exchange(book.listed, references);
    const LuoBook& luo = books.referee.kernel->luo;
    // Taken back by LUO itself, which gives up: that is how it thaws.
    const bool cancels = (luo.running != no_name || luo.file_running) && luo.running_in == LuoCallback::cancel;
    if (!books.frozen || function.is_bridge() || (cancels && references < before)) return;
    books.report(InvariantId::pci_stable, CheckId::d7, book, {},
                 "{} was {} the list of preserved devices; LUO is frozen, and the list stands", function.name(),
                 references > before ? "put on" : "taken off");
}

void DeviceReferee::function_matched(const PciFunction& function) {
    if (!books_->machine.referee.attached) return;
    const MachineEntry entry;
    books_->device(function).matched = true;
}

/// LUO is frozen: bridges above promised devices are on the list, once for each device below (check D2).
void DeviceReferee::Books::check_list() {
    for (const DeviceBook* book : devices) {
        if (!book || !book->outgoing) continue;
        if (!book->listed) {
            report(InvariantId::pci_stable, CheckId::d2, *book, {},
                   "{} is promised; it is not on the list of what is preserved", book->name());
            continue;
        }
        for (const PciFunction* bridge = book->function.parent; bridge; bridge = bridge->parent) {
            u32 below = 0;
            for (const DeviceBook* other : devices) {
                if (!other || !other->outgoing || !other->listed) continue;
                for (const PciFunction* above = other->function.parent; above; above = above->parent)
                    below += above == bridge;
            }
            const DeviceBook& above = device(*bridge);
            if (above.listed != below)
                report(
                    InvariantId::pci_stable, CheckId::d2, above, {},
                    "{} leads to {} preserved device(s), {} among them; on the list of what is preserved it has {} "
                    "reference(s)",
                    bridge->name(), below, book->name(), above.listed);
        }
    }
}

/// User space is reached: what was promised must have been found by now (check D1).
void DeviceReferee::Books::check_matched() {
    for (const DeviceBook* book : devices) {
        if (!book || !book->incoming || book->claimed || book->matched) continue;
        report(InvariantId::pci_stable, CheckId::d1, *book, {},
               "{} was handed over by generation {}; generation {} has reached user space, and has not found it, or "
               "does not know that it is preserved",
               book->name(), referee.carried.by, referee.kernel->generation);
    }
}

void DeviceReferee::shared_record(std::string_view subsystem, SharedRecord event) {
    if (!books_->machine.referee.attached) return;
    const MachineEntry entry;
    RefereeBooks& referee = books_->referee;
    Books::SharedBook& book = books_->shared[referee.names.id(subsystem)];
    const std::pmr::string what = referee.text("subsystem {}", subsystem);
    switch (event) {
    case SharedRecord::made: book.made = true; return;
    case SharedRecord::gone: book.made = false; return;
    case SharedRecord::read:
        if (book.read++)
            referee.report(InvariantId::luo_resource, CheckId::f1, what, {},
                           "what {} was handed is read a second time{}", what,
                           book.finished ? ", after it was finished" : "");
        return;
    case SharedRecord::finished:
        if (book.finished++ || !book.read)
            referee.report(InvariantId::luo_resource, CheckId::f1, what, {}, "{} finishes what it was handed; {}",
                           what, book.read ? "it has done so before" : "it never read it");
        return;
    }
}

/// At the jump (check F1).
void DeviceReferee::Books::check_shared() {
    bool functions = false, tables = false;
    for (const DeviceBook* book : devices) {
        functions = functions || (book && book->outgoing);
        tables = tables || (book && book->outgoing && book->holds);
    }
    for (const auto& [token, promise] : promises) tables = tables || promise.iommufd;
    const auto check = [&](std::string_view subsystem, bool wanted, std::string_view of) {
        SharedBook& book = shared[referee.names.id(subsystem)];
        if (book.made != wanted)
            referee.report(InvariantId::luo_resource, CheckId::f1, referee.text("subsystem {}", subsystem), {},
                           "subsystem {} has {} to hand over at the jump; {} {} is promised", subsystem,
                           book.made ? "a record" : "nothing", wanted ? "a" : "no", of);
        book = {};
    };
    check("pci", functions, "file of a device");
    check("iommu", tables, "page table of devices");
}

/// At the jump (check F2).
void DeviceReferee::Books::check_dependencies() {
    for (const DeviceBook* book : devices) {
        if (!book || !book->outgoing || !book->holds || book->holds->carried) continue;
        if (!book->holds->token) {
            report(InvariantId::luo_resource, CheckId::f2, *book, {},
                   "{} is promised, the iommufd that it is attached to is not; freeze has not refused", book->name());
            continue;
        }
        const DeviceBook* peer = nullptr;
        book->holds->map.visit_all([&](PfnRange, const Meaning& meaning) {
            if (!meaning.is_peer || peer || meaning.peer >= devices.size() || !devices[meaning.peer]) return;
            if (!devices[meaning.peer]->outgoing) peer = devices[meaning.peer];
        });
        if (peer)
            report(InvariantId::luo_resource, CheckId::f2, *book, {},
                   "{} is promised, {}, whose BAR it writes to, is not; freeze has not refused", book->name(),
                   peer->name());
    }
    for (const auto& [name, guest] : guests) {
        if (!guest.outgoing) continue;
        for (const std::optional<u64>& token : guest.tokens)
            if (!token)
                referee.report(InvariantId::luo_resource, CheckId::f2, referee.text("guest {}", name), {},
                               "guest {} is promised, memory of it is not; freeze has not refused", name);
    }
}

/// FINISH is over: no file of the kernel before is left that needs what it shared (check F1).
void DeviceReferee::Books::judge_shared() {
    for (auto& [name, book] : shared) {
        if (book.read && !book.finished)
            referee.report(InvariantId::luo_resource, CheckId::f1,
                           referee.text("subsystem {}", referee.names.text(name)), {},
                           "the update is finished; subsystem {} has not finished what generation {} handed to it",
                           referee.names.text(name), referee.carried.by);
        book.read = book.finished = 0;
    }
}

}  // namespace kexec_sim
