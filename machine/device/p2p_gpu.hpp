// The model `p2p-gpu`: an endpoint with memory that other devices write to.
//
//   BAR0 (32 bits, 16 KiB)   00 control: bit 1 reset; 08 writes received, 64 bits; 10 bytes received, 64 bits;
//                            18 last word received, 64 bits; MSI-X table 2000, pending bits 3000
//   BAR2 (64 bits, prefetchable, 1 MiB)   device memory
//
// It does nothing by itself. What other devices write to its memory it counts; what a CPU stores there it does not. A
// reset, by its control register or of the function, clears memory and counters.
// Simplified: device memory answers in its first 64 KiB; what is beyond reads as zeros and counts all the same.
#pragma once

#include "machine/pci/function.hpp"

namespace kexec_sim {

namespace gpu {
inline constexpr u64 CONTROL = 0x00, WRITES = 0x08, BYTES = 0x10, LAST_WORD = 0x18;
inline constexpr u64 bar0_bytes = 16 * KiB, memory_bytes = MiB, backed_bytes = 64 * KiB;
inline constexpr u64 msix_table_at = 0x2000, msix_pba_at = 0x3000;
inline constexpr unsigned registers_bar = 0, memory_bar = 2;
inline constexpr u16 msix_vectors = 2;
}  // namespace gpu

class P2pGpu final : public PciFunction {
public:
    P2pGpu(PciFabric& fabric, u16 index, std::string_view name, u8 devfn, std::pmr::memory_resource* memory);

    u64 mmio_read(unsigned bar, u64 offset, unsigned bytes) override;
    void mmio_write(unsigned bar, u64 offset, unsigned bytes, u64 value) override;
    void memory_write(unsigned bar, u64 offset, std::span<const std::byte> bytes, const PciFunction& from) override;
    void memory_read(unsigned bar, u64 offset, std::span<std::byte> bytes) override;
    void model_reset() override;

    u64 writes_received() const { return writes_; }

private:
    u64 writes_ = 0, bytes_ = 0, last_word_ = 0;
    std::pmr::vector<std::byte> memory_;
};

}  // namespace kexec_sim
