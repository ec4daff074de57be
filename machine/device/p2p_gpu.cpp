#include "machine/device/p2p_gpu.hpp"

#include <algorithm>
#include <cstring>

namespace kexec_sim {

using namespace gpu;

namespace {
constexpr u32 control_reset = 2;
}

P2pGpu::P2pGpu(PciFabric& fabric, u16 index_, std::string_view name, u8 devfn, std::pmr::memory_resource* memory)
    : PciFunction(fabric, index_, name, PciModel::p2p_gpu, devfn, memory),
      memory_(backed_bytes, memory) {
    implement_bar(registers_bar, {bar0_bytes, false, false});
    implement_bar(memory_bar, {memory_bytes, true, true});
    implement_msix(registers_bar, gpu::msix_vectors, msix_table_at, msix_pba_at);
}

u64 P2pGpu::mmio_read(unsigned bar, u64 offset, unsigned bytes) {
    u64 value = 0;
    if (msix_mmio_read(bar, offset, bytes, value)) return value;
    if (bar == memory_bar) {
        memory_read(bar, offset, std::as_writable_bytes(std::span(&value, 1)).first(bytes));
        return value;
    }
    switch (align_down(offset, 8)) {
    case WRITES: value = writes_; break;
    case BYTES: value = bytes_; break;
    case LAST_WORD: value = last_word_; break;
    default: break;
    }
    value >>= 8 * (offset % 8);
    return bytes == 8 ? value : value & ((u64{1} << (8 * bytes)) - 1);
}

void P2pGpu::mmio_write(unsigned bar, u64 offset, unsigned bytes, u64 value) {
    if (msix_mmio_write(bar, offset, bytes, value)) return;
    if (bar == memory_bar) {
        if (offset >= memory_.size()) return;
        std::memcpy(&memory_[offset], &value, std::min<u64>(bytes, memory_.size() - offset));
    } else if (offset == CONTROL && (value & control_reset)) {
        model_reset();
    }
}

void P2pGpu::memory_write(unsigned bar, u64 offset, std::span<const std::byte> bytes, const PciFunction& from) {
    if (bar != memory_bar) return PciFunction::memory_write(bar, offset, bytes, from);
    ++writes_;
    bytes_ += bytes.size();
    const std::size_t last = std::min<std::size_t>(bytes.size(), sizeof last_word_);
    last_word_ = 0;
    std::memcpy(&last_word_, bytes.data() + (bytes.size() - last), last);
    if (offset >= memory_.size()) return;
    std::memcpy(&memory_[offset], bytes.data(), std::min<u64>(bytes.size(), memory_.size() - offset));
}

void P2pGpu::memory_read(unsigned bar, u64 offset, std::span<std::byte> bytes) {
    if (bar != memory_bar) return PciFunction::memory_read(bar, offset, bytes);
    std::fill(bytes.begin(), bytes.end(), std::byte{0});
    if (offset >= memory_.size()) return;
    std::memcpy(bytes.data(), &memory_[offset], std::min<u64>(bytes.size(), memory_.size() - offset));
}

void P2pGpu::model_reset() {
    writes_ = bytes_ = last_word_ = 0;
    std::fill(memory_.begin(), memory_.end(), std::byte{0});
}

}  // namespace kexec_sim
