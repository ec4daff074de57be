// Registers that must hold still, resets, and interrupts of the blackout.
//
// From freeze until its driver has claimed it, these may not change, at a device or at a bridge above it:
//
//   at the device      BARs, sizing included       at both      memory decode and bus master (command bits 1, 2),
//   at a bridge        bus numbers, windows                     ACS control, ARI forwarding, power state
//   at the device      MSI-X on and masked
//
// and the requester id with which its requests leave. A bridge that has no preserved device below keeps its bus numbers
// too, from the jump on: they are parts of what the numbers of others follow from. A reset of a preserved device (to finish) is a finding whoever asks for it.
//
// Interrupts. One that a device raises from freeze until it is claimed and that ends nowhere (MSI-X off, the APIC
// off, a fault of remapping, dropped) is unheard, until somebody makes up for it: the driver polls, a later one is
// delivered to the driver that claimed the device, or the handler of the guest that it is wired to runs. A VMM turns
// the interrupts of its guest off before freeze: for these devices the blackout begins there, once they are promised.
// A pending bit is not lost: unmasking delivers it; what is lost on that way is unheard, too.
//
//   finish             still unheard: irq.delivered, unless the guest has not run since the claim (it still may hear)
//   next freeze, end   still unheard: irq.delivered
#include "machine/referee_device_books.hpp"

namespace kexec_sim {
namespace {

/// One register that must hold still.
struct Register {
    u16 offset, bytes;
    u32 mask;
    bool of_bridge, of_device;
    std::string_view name;
    CheckId check;
};
constexpr Register still_registers[] = {
    {pci::COMMAND, 2, pci::COMMAND_MASTER, true, true, "bus master bit", CheckId::d4},
    {pci::COMMAND, 2, pci::COMMAND_MEMORY, true, true, "memory decode bit", CheckId::d5},
    {pci::PRIMARY_BUS, 1, 0xff, true, false, "primary bus number", CheckId::d3},
    {pci::SECONDARY_BUS, 1, 0xff, true, false, "secondary bus number", CheckId::d3},
    {pci::SUBORDINATE_BUS, 1, 0xff, true, false, "subordinate bus number", CheckId::d3},
    {pci::MEMORY_BASE, 2, 0xffff, true, false, "memory window's base", CheckId::d5},
    {pci::MEMORY_LIMIT, 2, 0xffff, true, false, "memory window's limit", CheckId::d5},
    {pci::PREF_MEMORY_BASE, 2, 0xffff, true, false, "prefetchable window's base", CheckId::d5},
    {pci::PREF_MEMORY_LIMIT, 2, 0xffff, true, false, "prefetchable window's limit", CheckId::d5},
    {pci::PREF_BASE_UPPER32, 4, ~u32{0}, true, false, "prefetchable window's upper base", CheckId::d5},
    {pci::PREF_LIMIT_UPPER32, 4, ~u32{0}, true, false, "prefetchable window's upper limit", CheckId::d5},
    {pci::BASE_ADDRESS_0, 4, ~u32{0}, false, true, "BAR0", CheckId::d5},
    {pci::BASE_ADDRESS_0 + 4, 4, ~u32{0}, false, true, "BAR1", CheckId::d5},
    {pci::BASE_ADDRESS_0 + 8, 4, ~u32{0}, false, true, "BAR2", CheckId::d5},
    {pci::BASE_ADDRESS_0 + 12, 4, ~u32{0}, false, true, "BAR3", CheckId::d5},
    {pci::BASE_ADDRESS_0 + 16, 4, ~u32{0}, false, true, "BAR4", CheckId::d5},
    {pci::BASE_ADDRESS_0 + 20, 4, ~u32{0}, false, true, "BAR5", CheckId::d5},
    {pci::acs_cap_at + pci::ACS_CTRL, 2, 0xffff, true, true, "ACS control", CheckId::d5},
    {pci::express_cap_at + pci::EXP_DEVCTL2, 2, pci::EXP_DEVCTL2_ARI, true, true, "ARI forwarding bit", CheckId::d5},
    {pci::pm_cap_at + pci::PM_CTRL, 2, pci::PM_CTRL_STATE_MASK, true, true, "power state", CheckId::d5},
    {pci::msix_cap_at + pci::MSIX_FLAGS, 2, pci::MSIX_FLAGS_ENABLE | pci::MSIX_FLAGS_MASKALL, false, true,
     "MSI-X control", CheckId::none},
};
/// Every bridge keeps these while any device that came with the handover is not claimed.
constexpr std::size_t numbers_begin = 2, numbers_end = 5;
static_assert(still_registers[numbers_begin].offset == pci::PRIMARY_BUS &&
              still_registers[numbers_end - 1].offset == pci::SUBORDINATE_BUS);

/// The part of a register that an access covers, moved to where the register has it.
u32 covered(const Register& reg, u16 offset, unsigned bytes, u32 value) {
    u32 result = 0;
    for (unsigned i = 0; i < bytes; ++i) {
        const unsigned at = offset + i;
        if (at < reg.offset || at >= unsigned{reg.offset} + reg.bytes) continue;
        result |= ((value >> (8 * i)) & 0xff) << (8 * (at - reg.offset));
    }
    return result & reg.mask;
}

bool is_above(const PciFunction& bridge, const PciFunction& device) {
    for (const PciFunction* above = device.parent; above; above = above->parent)
        if (above == &bridge) return true;
    return false;
}

std::string_view fate_name(DeviceReferee::InterruptFate fate) {
    switch (fate) {
    case DeviceReferee::InterruptFate::delivered: return "delivered";
    case DeviceReferee::InterruptFate::pending: return "pending";
    case DeviceReferee::InterruptFate::unheard: return "MSI-X is off";
    case DeviceReferee::InterruptFate::lost: return "nobody takes its message";
    case DeviceReferee::InterruptFate::dropped: return "the message was dropped";
    }
    return "?";
}

}  // namespace

// --- Registers ---------------------------------------------------------------------------------------------------

void DeviceReferee::config_changed(const PciFunction& function, u16 offset, unsigned bytes, u32 old_value,
                                   u32 new_value) {
    if (!books_->machine.referee.attached) return;
    const MachineEntry entry;
    Books& books = *books_;
    const DeviceBook* arrived = nullptr;  // and not claimed
    bool above = false;
    for (DeviceBook* book : books.devices) {
        if (!book || !books.held_still(*book)) continue;
        if (book->incoming && !book->claimed) arrived = book;
        above = above || is_above(function, book->function);
        const bool itself = &book->function == &function;
        if (!itself && !is_above(function, book->function)) continue;
        for (const Register& reg : still_registers) {
            if (!(itself ? reg.of_device : reg.of_bridge)) continue;
            const u32 before = covered(reg, offset, bytes, old_value), now = covered(reg, offset, bytes, new_value);
            if (before == now) continue;
            books.report(InvariantId::pci_stable, reg.check, *book, {},
                         "the {} of {} changed from {:#x} to {:#x}; {}{} is preserved and not claimed yet", reg.name,
                         function.name(), before, now, itself ? "" : "below it ", book->name());
        }
    }
    if (!arrived || above || !function.is_bridge()) return;
    for (std::size_t i = numbers_begin; i < numbers_end; ++i) {
        const Register& reg = still_registers[i];
        const u32 before = covered(reg, offset, bytes, old_value), now = covered(reg, offset, bytes, new_value);
        if (before != now)
            books.report(InvariantId::pci_stable, CheckId::d3, books.device(function), {},
                         "the {} of {} changed from {:#x} to {:#x}; {} came with the handover, so every bridge keeps "
                         "its numbers",
                         reg.name, function.name(), before, now, arrived->name());
    }
}

void DeviceReferee::function_reset(const PciFunction& function, ResetKind kind) {
    if (!books_->machine.referee.attached) return;
    const MachineEntry entry;
    Books& books = *books_;
    DeviceBook& book = books.device(function);
    if (book.preserved() && !books.discards(book) && kind != ResetKind::power_on) {
        books.report(InvariantId::pci_stable, CheckId::d6, book, {},
                     "{} is preserved and must not be reset; there was a reset: {}", book.name(),
                     reset_kind_name(kind));
        for (const EngineBook& engine : book.engines)
            if (engine.running)
                books.stuck(book, "tick {} of {} was due at {} ns; the device was reset ({}) and its engine is off",
                            engine.next, engine.name, engine.due_ns, reset_kind_name(kind));
    }
    for (EngineBook& engine : book.engines) books.rest(engine);
}

void DeviceReferee::requester_id_changed(const PciFunction& function, Bdf from, Bdf to) {
    if (!books_->machine.referee.attached) return;
    const MachineEntry entry;
    Books& books = *books_;
    DeviceBook& book = books.device(function);
    if (from == to || !books.held_still(book)) return;
    books.report(InvariantId::pci_stable, CheckId::i8, book, {},
                 "{} is preserved; its requests came from {:02x}:{:02x}.{}, now they come from {:02x}:{:02x}.{}",
                 book.name(), from.bus(), from.device(), from.function(), to.bus(), to.device(), to.function());
}

void DeviceReferee::Books::note_path(DeviceBook& book) {
    book.bridges.clear();
    if (!book.incoming) return;
    book.requester = book.function.requester_id();
    for (const PciFunction* bridge = book.function.parent; bridge; bridge = bridge->parent)
        book.bridges.push_back({bridge, static_cast<u8>(bridge->config.read(pci::SECONDARY_BUS, 1)),
                                static_cast<u8>(bridge->config.read(pci::SUBORDINATE_BUS, 1))});
}

void DeviceReferee::Books::check_path(DeviceBook& book) {
    if (book.function.requester_id() != book.requester)
        report(InvariantId::pci_stable, CheckId::i8, book, {},
               "{} sent its requests as {:#06x} at the jump; when user space was reached it sends them as {:#06x}",
               book.name(), book.requester.raw, book.function.requester_id().raw);
    for (const DeviceBook::Bridge& bridge : book.bridges) {
        const auto secondary = static_cast<u8>(bridge.function->config.read(pci::SECONDARY_BUS, 1)),
                   subordinate = static_cast<u8>(bridge.function->config.read(pci::SUBORDINATE_BUS, 1));
        if (secondary != bridge.secondary || subordinate != bridge.subordinate)
            report(InvariantId::pci_stable, CheckId::d3, book, {},
                   "{}, above {}, led to buses {:#x} to {:#x} at the jump; when user space was reached it leads to "
                   "{:#x} to {:#x}",
                   bridge.function->name(), book.name(), bridge.secondary, bridge.subordinate, secondary,
                   subordinate);
    }
}

// --- Interrupts --------------------------------------------------------------------------------------------------

void DeviceReferee::interrupt(const PciFunction& device, u16 vector, InterruptFate fate) {
    if (!books_->machine.referee.attached) return;
    const MachineEntry entry;
    Books& books = *books_;
    DeviceBook& book = books.device(device);
    switch (fate) {
    case InterruptFate::delivered:
        if (!books.held_still(book)) book.forget_interrupts();
        return;
    case InterruptFate::pending: book.held_back |= books.held_still(book) || books.guest_prepared(book); return;
    case InterruptFate::unheard:
    case InterruptFate::lost:
    case InterruptFate::dropped: break;
    }
    ++books.interrupts_lost;
    const bool in_blackout = books.held_still(book) || book.held_back;
    const bool turned_off = fate == InterruptFate::unheard && books.guest_prepared(book);
    if (!in_blackout && !turned_off) return;
    if (book.unheard++ == 0) {
        book.unheard_early = !in_blackout;
        book.unheard_at_ns = books.machine.clock.now_ns();
        book.unheard_vector = vector;
        book.unheard_why = fate_name(fate);
    }
}

void DeviceReferee::device_polled(const PciFunction& device) {
    if (!books_->machine.referee.attached) return;
    const MachineEntry entry;
    books_->device(device).forget_interrupts();
}

void DeviceReferee::guest_interrupt_wired(const PciFunction& device, std::string_view guest, unsigned guest_device) {
    if (!books_->machine.referee.attached) return;
    const MachineEntry entry;
    DeviceBook& book = books_->device(device);
    book.guest.assign(guest);
    book.guest_device = guest_device;
}

void DeviceReferee::Books::judge_interrupts(std::string_view moment, bool at_finish) {
    for (DeviceBook* book : devices) {
        if (!book || !book->unheard || book->unheard_early || held_still(*book)) continue;
        if (at_finish && (!book->claimed || !book->guest_ran)) continue;
        report(InvariantId::irq_delivered, CheckId::none, *book, {},
               "{} raised interrupt {} at {} ns, which nobody heard ({}), and {} in all; until {} nobody made up for "
               "it",
               book->name(), book->unheard_vector, book->unheard_at_ns, book->unheard_why, book->unheard, moment);
        book->forget_interrupts();
    }
}

}  // namespace kexec_sim
