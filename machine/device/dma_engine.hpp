// One DMA engine of the model `dma-nic`: it moves data by descriptors, on its own, off the event clock.
//
// It runs whatever kernel is up, or none. Every `interval` of virtual time it takes the next descriptor of its ring,
// reads the source, and writes a trailer of 16 bytes at the end of the destination: `cookie ^ sequence` and the 64-bit
// hash (XXH3) of the source. The trailer stands for the whole payload; nothing else of the destination changes.
//
//   ring (in RAM, behind the IOMMU)            one descriptor, 32 bytes
//   head ──► |0|1|2|3|…|n-1|                   src u64 | dst u64 | len u32 | flags u32 | cookie u64
//            tail ──┘
//
// Registers, from the engine's place in BAR0 (dma_nic.hpp) on:
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
// with entries, interval or tail out of bounds is the error of status bit 2. The bit that resets is this engine's own.
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
// Fault points: dma.read[name] and dma.write[name], once a tick each (source; trailer), by the function's name: `drop`
// loses the access, `misdirect` sends the trailer to a physical address of its own, past the IOMMU, `duplicate` writes,
// twice, the trailer of the sequence number before instead of the tick's own, `flip` changes a bit of the source as it
// was read, or of the trailer.
//
// Trace: ticks are coalesced. A run of completions is one event `dma.completions`, a run of lost ticks of one status
// one event `dma.lost`; both come before the next event of another kind. All events have the function's name and the
// engine's number.
//
// Cost: a tick allocates nothing, takes no way through the clock's queue while no other event is due before it, finds
// its way up the bridges once, and hashes a source that lies in one frame where it lies.
// Simplified: no reordering, a tick takes no time, transfers of at most 4 KiB.
#pragma once

#include "machine/clock.hpp"
#include "machine/fault.hpp"
#include "machine/pci/fabric.hpp"
#include "machine/trace.hpp"

namespace kexec_sim {

namespace nic {
inline constexpr u64 CONTROL = 0x00, STATUS = 0x04, RING_BASE = 0x08, RING_ENTRIES = 0x10, HEAD = 0x14, TAIL = 0x18,
                     INTERVAL = 0x1c, MSIX_VECTOR = 0x20, COMPLETED = 0x28, FAULTS = 0x30, SEQUENCE = 0x38;
inline constexpr u32 CONTROL_ENABLE = 1, CONTROL_RESET = 2, CONTROL_CIRCULAR = 4;
inline constexpr u32 STATUS_RUNNING = 1, STATUS_DRY = 2, STATUS_ERROR = 4;
inline constexpr u64 engine_register_bytes = 0x40;
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

class DmaEngine final : private EventHandler, private HeldRun {
public:
    /// Engine `number` of `function`, whose name, gates and interrupts it uses.
    DmaEngine(PciFunction& function, u32 number) : function_(function), number_(number) {}
    DmaEngine(const DmaEngine&) = delete;
    DmaEngine& operator=(const DmaEngine&) = delete;

    /// The word of registers at a multiple of 4; 0 where there is none.
    u32 read_register(u64 offset) const;
    void write_register(u64 offset, u32 value);
    /// Stops, and forgets everything.
    void reset();

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
        bool has_descriptor = false;      // else `trailer_at` says nothing
        Trailer trailer{};                // as it should be
        std::optional<u64> misread_hash;  // a planned fault: what the engine takes for the source's
    };
    void event_due(u64 now_ns, u64 argument) override;
    void emit_held(TraceRecorder& trace) override;
    void tick();
    void run_dry();
    /// The tail has moved, or the ring has become circular: a tick that waited takes place now.
    void wake();
    BusStatus process(Tick& tick);
    BusStatus transfer(const PciFabric::Route& route, const nic::Descriptor& descriptor, Tick& tick);
    BusStatus hash_source(const PciFabric::Route& route, const nic::Descriptor& descriptor, Tick& tick, u64& hash);
    static Trailer sent_trailer(const Tick& tick);
    BusStatus write_trailer(const PciFabric::Route& route, Tick& tick, u64 cookie);
    BusStatus write_trailer_under_fault(const PciFabric::Route& route, Tick& tick, u64 cookie,
                                        const FaultAction& fault);
    void note(u64 sequence, BusStatus status);

    void write_control(u32 value);
    void start();
    void stop(std::string_view by);
    void schedule_tick();
    bool circular() const { return (state_.control & nic::CONTROL_CIRCULAR) != 0; }
    bool empty() const { return !circular() && state_.head == state_.tail; }
    PciFabric& fabric() { return function_.fabric(); }
    std::string_view name() const { return function_.name(); }

    PciFunction& function_;
    const u32 number_;
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
};

}  // namespace kexec_sim
