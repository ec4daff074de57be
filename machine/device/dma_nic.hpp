// The model `dma-nic`: an endpoint with two DMA engines (dma_engine.hpp), which run side by side, and a mailbox.
// Engine 0 moves the data of a network; engine 1, with the same registers, is free to write to other devices meanwhile.
//
//   BAR0 (32 bits, 16 KiB)                            BAR2 (64 bits, prefetchable, 64 KiB)
//   0000 registers of engine 0                        a mailbox, which other devices write to; its first page keeps
//   0040 registers of engine 1                        what is written, the rest reads as zeros
//   2000 MSI-X table, 4 vectors for both engines
//   3000 pending bits
//
// Registers take writes of 4 or 8 bytes; reads may be of any size. A reset of the function resets both engines and the
// mailbox; the control register of an engine resets that engine alone.
//
// Everything lives in the arena.
#pragma once

#include <array>

#include "machine/device/dma_engine.hpp"

namespace kexec_sim {

namespace nic {
inline constexpr unsigned engines = 2;
inline constexpr u64 engine_stride = engine_register_bytes;
inline constexpr u64 bar0_bytes = 16 * KiB, msix_table_at = 0x2000, msix_pba_at = 0x3000, mailbox_bytes = 64 * KiB;
inline constexpr unsigned registers_bar = 0, mailbox_bar = 2;
inline constexpr u16 msix_vectors = 4;
}  // namespace nic

class DmaNic final : public PciFunction {
public:
    DmaNic(PciFabric& fabric, u16 index, std::string_view name, u8 devfn, std::pmr::memory_resource* memory);

    u64 mmio_read(unsigned bar, u64 offset, unsigned bytes) override;
    void mmio_write(unsigned bar, u64 offset, unsigned bytes, u64 value) override;
    void memory_write(unsigned bar, u64 offset, std::span<const std::byte> bytes, const PciFunction& from) override;
    void memory_read(unsigned bar, u64 offset, std::span<std::byte> bytes) override;
    void model_reset() override;

    const DmaEngine& engine(unsigned number) const { return engines_[number]; }

private:
    u32 read_word(u64 offset) const;
    void write_word(u64 offset, u32 value);

    std::array<DmaEngine, nic::engines> engines_;
    std::array<std::byte, 4096> mailbox_{};
};

}  // namespace kexec_sim
