// The DMA engine of the model `dma-nic`: an endpoint that moves data by descriptors, on its own, off the event clock.
//
// It runs whatever kernel is up, or none. Every `interval` of virtual time it takes the next descriptor of its ring,
// reads the source, and writes a trailer of 16 bytes at the end of the destination: `cookie ^ sequence` and the 64-bit
// hash (XXH3) of the source. The trailer stands for the whole payload; nothing else of the destination changes.
//
//   ring (in RAM, behind the IOMMU)            one descriptor, 32 bytes
//   head ──► |0|1|2|3|…|n-1|                   src u64 | dst u64 | len u32 | flags u32 | cookie u64
//            tail ──┘
//
// Registers, BAR0:
//   00 control      bit 0 enable; bit 1 reset (reads 0); bit 2 circular: descriptors are used again without a driver
//   04 status       bit 0 running; bit 1 dry (head = tail); bit 2 stopped by an error
//   08 ring base    IOVA, 64 bits        10 ring entries (a power of two not needed; at most 65536)
//   14 head         index that the device uses next; read-only
//   18 tail         one past the last descriptor that the driver has filled, modulo 2 * entries (so that full and
//                   empty differ); head counts likewise
//   1c interval     virtual ns between completions, at least 1
//   20 MSI-X vector 28 completed counter, 64 bits        30 fault counter, 64 bits
//   38 sequence     64 bits, read-only: the number that the next tick uses
// BAR0 also holds the MSI-X table (2000) and the pending bits (3000). BAR2 (64 bits, prefetchable, 64 KiB) is a
// mailbox, which other devices write to.
//
// A tick. 1. Ring not circular and head = tail: dry, nothing is consumed; the time until the driver moves the tail is
// counted as dry. 2. The sequence number is consumed. 3. Descriptor, source: read; trailer, flags: written. 4. head
// moves on, the completed counter too; the interrupt is raised if the descriptor asks for one. Any access that fails
// counts: a translation fault in the fault counter, what a closed bus master gate drops nowhere but in the fabric's
// count. The tick is lost then, the descriptor is skipped, and the engine goes on.
//
// Fault points: dma.read[name] and dma.write[name], once a tick each (source; trailer): `drop` loses the access,
// `misdirect` sends the write to a physical address of its own, `duplicate` does the tick's write twice with the
// sequence number of the one before, `flip` changes what is written.
//
// Simplified: no reordering, a tick takes no time, transfers of at most 4 KiB.
#pragma once

#include "machine/clock.hpp"
#include "machine/pci/function.hpp"

namespace kexec_sim {

namespace nic {
inline constexpr u64 CONTROL = 0x00, STATUS = 0x04, RING_BASE = 0x08, RING_ENTRIES = 0x10, HEAD = 0x14, TAIL = 0x18,
                     INTERVAL = 0x1c, MSIX_VECTOR = 0x20, COMPLETED = 0x28, FAULTS = 0x30, SEQUENCE = 0x38;
inline constexpr u32 CONTROL_ENABLE = 1, CONTROL_RESET = 2, CONTROL_CIRCULAR = 4;
inline constexpr u32 STATUS_RUNNING = 1, STATUS_DRY = 2, STATUS_ERROR = 4;
inline constexpr u64 bar0_bytes = 16 * KiB, msix_table_at = 0x2000, msix_pba_at = 0x3000, mailbox_bytes = 64 * KiB;
inline constexpr unsigned registers_bar = 0, mailbox_bar = 2;
inline constexpr u16 msix_vectors = 4;
inline constexpr u32 ring_entries_max = 65536, transfer_bytes_max = 4096, trailer_bytes = 16;

struct Descriptor {
    u64 src = 0, dst = 0;
    u32 len = 0, flags = 0;
    u64 cookie = 0;
};
static_assert(sizeof(Descriptor) == 32);
/// The device owns it; raise an interrupt; the destination is a peer's BAR; done; failed.
inline constexpr u32 DESC_OWNER = 1, DESC_IRQ = 2, DESC_P2P = 4, DESC_DONE = 8, DESC_ERROR = 16;
}  // namespace nic

class DmaEngine final : public PciFunction, private EventHandler {
public:
    DmaEngine(PciFabric& fabric, u16 index, std::string_view name, u8 devfn, std::pmr::memory_resource* memory);

    u64 mmio_read(unsigned bar, u64 offset, unsigned bytes) override;
    void mmio_write(unsigned bar, u64 offset, unsigned bytes, u64 value) override;
    void memory_write(unsigned bar, u64 offset, std::span<const std::byte> bytes, const PciFunction& from) override;
    void model_reset() override;

    struct State {
        u32 control = 0, entries = 0, head = 0, tail = 0, interval_ns = 0, vector = 0;
        u64 ring_base = 0, completed = 0, faults = 0, sequence = 0;
    };
    /// As the registers stand.
    const State& state() const { return state_; }
    bool running() const { return running_; }

private:
    void event_due(u64 now_ns, u64 argument) override;
    void tick(u64 now_ns);
    void start();
    void stop();

    State state_;
    bool running_ = false, dry_ = false;
    u64 dry_since_ns_ = 0;
    VirtualClock::Ticket ticket_{};
    std::array<std::byte, 4096> mailbox_{};  // BAR2 answers in its first page; the rest reads as zeros
};

}  // namespace kexec_sim
