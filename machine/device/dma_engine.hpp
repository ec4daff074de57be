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
// Base, entries and interval are taken only while the engine stands; a new number of entries sets head to 0. Enabling
// with entries, interval or tail out of bounds is the error of status bit 2. Registers take writes of 4 or 8 bytes.
// BAR0 also holds the MSI-X table (2000) and the pending bits (3000). BAR2 (64 bits, prefetchable, 64 KiB) is a
// mailbox, which other devices write to.
//
// The first tick is one interval after the start. A tick:
//   1. Ring not circular and head = tail: dry, nothing is consumed. The tick waits until the driver moves the tail, and
//      then takes place at once; those after it follow by the interval. So ticks = (time running - time dry) / interval.
//   2. The sequence number and the ring's slot are consumed.
//   3. Descriptor, source: read; trailer, flags: written.
//   4. The completed counter moves on; the interrupt is raised if the descriptor asks for one.
// On completion the flags get DONE and lose ERROR, and OWNER goes back to the driver unless the ring is circular.
//
// Unhappy paths. Any of them loses the tick: the slot is skipped, and the engine goes on.
//   1. An access fails. What a closed bus master gate drops counts nowhere but in PciFunction::dropped; other failures
//      count in the fault counter.
//   2. The descriptor is none: not owned by the device, or a length below 16 or above 4096. As `unsupported`.
//   3. A planned fault drops an access (BusStatus::lost).
// If the descriptor could be read, its flags get ERROR (as far as that write succeeds).
//
// Fault points: dma.read[name] and dma.write[name], once a tick each (source; trailer): `drop` loses the access,
// `misdirect` sends the trailer to a physical address of its own, past the IOMMU, `duplicate` writes, twice, the
// trailer of the sequence number before instead of the tick's own, `flip` changes a bit of the source as it was read,
// or of the trailer.
//
// Trace: ticks are coalesced. A run of completions is one event `dma.completions`, a run of lost ticks of one status
// one event `dma.lost`; both come before the next event of another kind.
//
// Cost: a tick allocates nothing, and takes no way through the clock's queue while no other event is due before it.
// Simplified: no reordering, a tick takes no time, transfers of at most 4 KiB.
#pragma once

#include "machine/clock.hpp"
#include "machine/fault.hpp"
#include "machine/pci/function.hpp"
#include "machine/trace.hpp"

namespace kexec_sim {

namespace nic {
inline constexpr u64 CONTROL = 0x00, STATUS = 0x04, RING_BASE = 0x08, RING_ENTRIES = 0x10, HEAD = 0x14, TAIL = 0x18,
                     INTERVAL = 0x1c, MSIX_VECTOR = 0x20, COMPLETED = 0x28, FAULTS = 0x30, SEQUENCE = 0x38;
inline constexpr u32 CONTROL_ENABLE = 1, CONTROL_RESET = 2, CONTROL_CIRCULAR = 4;
inline constexpr u32 STATUS_RUNNING = 1, STATUS_DRY = 2, STATUS_ERROR = 4;
inline constexpr u64 engine_stride = 0x40;
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
/// The device owns it; raise an interrupt; the destination is a peer's BAR (for the driver: where a write goes, its
/// address decides); done; failed.
inline constexpr u32 DESC_OWNER = 1, DESC_IRQ = 2, DESC_P2P = 4, DESC_DONE = 8, DESC_ERROR = 16;
}  // namespace nic

class DmaEngine final : public PciFunction, private EventHandler, private HeldRun {
public:
    DmaEngine(PciFabric& fabric, u16 index, std::string_view name, u8 devfn, std::pmr::memory_resource* memory);

    u64 mmio_read(unsigned bar, u64 offset, unsigned bytes) override;
    void mmio_write(unsigned bar, u64 offset, unsigned bytes, u64 value) override;
    void memory_write(unsigned bar, u64 offset, std::span<const std::byte> bytes, const PciFunction& from) override;
    void memory_read(unsigned bar, u64 offset, std::span<std::byte> bytes) override;
    void model_reset() override;

    struct State {
        u32 control = 0, entries = 0, head = 0, tail = 0, interval_ns = 0, vector = 0;
        u64 ring_base = 0, completed = 0, faults = 0, sequence = 0;
    };
    /// As the registers stand.
    const State& state() const { return state_; }
    bool running() const { return running_; }

private:
    using Trailer = std::array<std::byte, nic::trailer_bytes>;
    /// What a tick did, as the referee gets it.
    struct Tick {
        u64 sequence = 0;
        u32 slot = 0;
        bool interrupt = false;
        u64 trailer_at = 0;
        Trailer trailer{};
    };
    void event_due(u64 now_ns, u64 argument) override;
    void emit_held(TraceRecorder& trace) override;
    void tick();
    void run_dry();
    /// The tail has moved, or the ring has become circular: a tick that waited takes place now.
    void wake();
    BusStatus process(Tick& tick);
    BusStatus transfer(const nic::Descriptor& descriptor, Tick& tick);
    BusStatus write_trailer(Tick& tick, u64 cookie);
    BusStatus write_trailer_under_fault(Tick& tick, u64 cookie, const FaultAction& fault);
    void note(u64 sequence, BusStatus status);

    u32 register_word(u64 offset) const;
    void write_register(u64 offset, u32 value);
    void write_control(u32 value);
    void start();
    void stop(std::string_view by);
    void schedule_tick();
    bool circular() const { return (state_.control & nic::CONTROL_CIRCULAR) != 0; }
    bool empty() const { return !circular() && state_.head == state_.tail; }

    State state_;
    bool running_ = false, dry_ = false, error_ = false;
    bool in_event_ = false;  // a tick is going on: it schedules the next one itself
    bool scheduled_ = false;
    u64 dry_since_ns_ = 0, next_tick_ns_ = 0;
    VirtualClock::Ticket ticket_{};
    /// Ticks in a row that ended alike, for the trace.
    struct Run {
        BusStatus status = BusStatus::ok;
        u64 first_sequence = 0, count = 0, first_ns = 0, last_ns = 0;
    } run_;
    std::array<std::byte, 4096> mailbox_{};  // BAR2 answers in its first page; the rest reads as zeros
};

}  // namespace kexec_sim
