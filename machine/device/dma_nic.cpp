#include "machine/device/dma_nic.hpp"

#include <algorithm>
#include <cstring>

namespace kexec_sim {

using namespace nic;

DmaNic::DmaNic(PciFabric& fabric, u16 index_, std::string_view name, u8 devfn, std::pmr::memory_resource* memory)
    : PciFunction(fabric, index_, name, PciModel::dma_nic, devfn, memory),
      engines_{{{*this, 0}, {*this, 1}}} {
    implement_bar(registers_bar, {bar0_bytes, false, false});
    implement_bar(mailbox_bar, {mailbox_bytes, true, true});
    implement_msix(registers_bar, nic::msix_vectors, msix_table_at, msix_pba_at);
}

void DmaNic::model_reset() {
    for (DmaEngine& engine : engines_) engine.reset();
    mailbox_.fill(std::byte{0});
}

// --- registers -----------------------------------------------------------------------------------------------------

u32 DmaNic::read_word(u64 offset) const {
    const u64 engine = offset / engine_stride;
    return engine < engines_.size() ? engines_[engine].read_register(offset % engine_stride) : 0;
}

void DmaNic::write_word(u64 offset, u32 value) {
    const u64 engine = offset / engine_stride;
    if (engine < engines_.size()) engines_[engine].write_register(offset % engine_stride, value);
}

u64 DmaNic::mmio_read(unsigned bar, u64 offset, unsigned bytes) {
    u64 value = 0;
    if (msix_mmio_read(bar, offset, bytes, value)) return value;
    if (bar == mailbox_bar) {
        memory_read(bar, offset, std::as_writable_bytes(std::span(&value, 1)).first(bytes));
        return value;
    }
    const u64 word = align_down(offset, 4);
    value = read_word(word);
    if (bytes == 8) return value | u64{read_word(word + 4)} << 32;
    value >>= 8 * (offset - word);
    return value & ((u64{1} << (8 * bytes)) - 1);
}

void DmaNic::mmio_write(unsigned bar, u64 offset, unsigned bytes, u64 value) {
    if (msix_mmio_write(bar, offset, bytes, value)) return;
    if (bar == mailbox_bar) return memory_write(bar, offset, std::as_bytes(std::span(&value, 1)).first(bytes), *this);
    if (bytes < 4) return;
    write_word(offset, static_cast<u32>(value));
    if (bytes == 8) write_word(offset + 4, static_cast<u32>(value >> 32));
}

// --- mailbox -------------------------------------------------------------------------------------------------------

void DmaNic::memory_write(unsigned bar, u64 offset, std::span<const std::byte> bytes, const PciFunction& from) {
    if (bar != mailbox_bar) return PciFunction::memory_write(bar, offset, bytes, from);
    if (offset >= mailbox_.size()) return;
    std::memcpy(&mailbox_[offset], bytes.data(), std::min<u64>(bytes.size(), mailbox_.size() - offset));
}

void DmaNic::memory_read(unsigned bar, u64 offset, std::span<std::byte> bytes) {
    if (bar != mailbox_bar) return PciFunction::memory_read(bar, offset, bytes);
    std::fill(bytes.begin(), bytes.end(), std::byte{0});
    if (offset >= mailbox_.size()) return;
    std::memcpy(bytes.data(), &mailbox_[offset], std::min<u64>(bytes.size(), mailbox_.size() - offset));
}

}  // namespace kexec_sim
