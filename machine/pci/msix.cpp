// MSI-X of a function: its table, its pending bits, and what becomes of an interrupt.
//
//   raise ──► enabled? ── no ──► nobody hears of it: counted, and gone
//               │ yes
//             masked (entry, or all)? ── yes ──► pending bit; sent when the mask goes
//               │ no
//             posted write of `data` to `address`, as any request: bus mastering gates it
#include "machine/machine.hpp"
#include "machine/reached.hpp"

namespace kexec_sim {

using namespace pci;
using Fate = DeviceReferee::InterruptFate;

void PciFunction::implement_msix(unsigned bar, u16 vectors, u64 table_offset, u64 pba_offset) {
    INVARIANT(vectors > 0);
    INVARIANT(vectors <= msix_max);
    INVARIANT(table_offset % 8 == 0);
    INVARIANT(pba_offset % 8 == 0);
    msix_bar_ = bar;
    msix_count_ = vectors;
    msix_table_offset_ = table_offset;
    msix_pba_offset_ = pba_offset;
    config.declare(express_cap_at, 2, CAP_ID_EXP | msix_cap_at << 8);
    config.declare(msix_cap_at, 2, CAP_ID_MSIX);
    config.declare(msix_cap_at + MSIX_FLAGS, 2, vectors - 1u, MSIX_FLAGS_ENABLE | MSIX_FLAGS_MASKALL);
    config.declare(msix_cap_at + MSIX_TABLE, 4, static_cast<u32>(table_offset) | bar);
    config.declare(msix_cap_at + MSIX_PBA, 4, static_cast<u32>(pba_offset) | bar);
}

void PciFunction::raise_interrupt(u16 vector) {
    DeviceReferee& referee = fabric_.machine().device_referee;
    if (vector >= msix_count_ || !msix_enabled()) {
        REACHED("pci.msix.unheard");
        ++fabric_.counters.interrupts_unheard;
        referee.interrupt(*this, vector, Fate::unheard);
    } else if (msix_masked(vector)) {
        REACHED("pci.msix.pending");
        msix_pending_[vector] = true;
        referee.interrupt(*this, vector, Fate::pending);
    } else {
        send_message(vector);
    }
}

/// What becomes of a message that arrives, the APIC reports; here only one that does not.
void PciFunction::send_message(u16 vector) {
    const MsixEntry entry = msix_[vector];
    if (fabric_.dma_write(*this, entry.address, std::as_bytes(std::span(&entry.data, 1))) == BusStatus::ok) return;
    REACHED("pci.msix.lost");
    fabric_.machine().device_referee.interrupt(*this, vector, Fate::lost);
}

void PciFunction::send_pending() {
    if (!msix_enabled()) return;
    for (u16 vector = 0; vector < msix_count_; ++vector) {
        if (!msix_pending_[vector] || msix_masked(vector)) continue;
        msix_pending_[vector] = false;
        send_message(vector);
    }
}

bool PciFunction::msix_mmio_read(unsigned bar, u64 offset, unsigned bytes, u64& value) const {
    if (bar != msix_bar_ || !msix_count_) return false;
    const u64 table_bytes = msix_count_ * MSIX_ENTRY_BYTES;
    if (offset >= msix_table_offset_ && offset - msix_table_offset_ < table_bytes) {
        const u64 at = offset - msix_table_offset_;
        const MsixEntry& entry = msix_[at / MSIX_ENTRY_BYTES];
        const u64 words[] = {entry.address, entry.data | u64{entry.control} << 32};
        value = words[at % MSIX_ENTRY_BYTES / 8] >> (8 * (at % 8));
    } else if (offset >= msix_pba_offset_ && offset - msix_pba_offset_ < 8) {
        u64 bits = 0;
        for (u16 vector = 0; vector < msix_count_; ++vector) bits |= u64{msix_pending_[vector]} << vector;
        value = bits >> (8 * (offset % 8));
    } else {
        return false;
    }
    if (bytes < 8) value &= (u64{1} << (8 * bytes)) - 1;
    return true;
}

bool PciFunction::msix_mmio_write(unsigned bar, u64 offset, unsigned bytes, u64 value) {
    if (bar != msix_bar_ || !msix_count_) return false;
    if (offset >= msix_pba_offset_ && offset - msix_pba_offset_ < 8) return true;  // read-only
    if (offset < msix_table_offset_ || offset - msix_table_offset_ >= msix_count_ * MSIX_ENTRY_BYTES) return false;
    if (bytes < 4) return true;  // only words of 4 and 8 bytes are taken
    const u64 at = offset - msix_table_offset_;
    MsixEntry& entry = msix_[at / MSIX_ENTRY_BYTES];
    for (unsigned done = 0; done < bytes; done += 4) {
        const u32 word = static_cast<u32>(value >> (8 * done));
        switch ((at + done) % MSIX_ENTRY_BYTES) {
        case 0: entry.address = (entry.address & ~u64{0xffff'ffff}) | (word & ~u32{3}); break;
        case 4: entry.address = (entry.address & 0xffff'ffff) | u64{word} << 32; break;
        case 8: entry.data = word; break;
        default: entry.control = word & MSIX_ENTRY_CTRL_MASKBIT; break;
        }
    }
    send_pending();
    return true;
}

}  // namespace kexec_sim
