#include "machine/device/dma_engine.hpp"

#include <algorithm>
#include <cstring>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "machine/machine.hpp"
#include "machine/reached.hpp"

namespace kexec_sim {

using namespace nic;

namespace {

bool is_valid(const Descriptor& descriptor) {
    return (descriptor.flags & DESC_OWNER) && descriptor.len >= trailer_bytes && descriptor.len <= transfer_bytes_max;
}

/// Failures that the device sees as such; what a gate or a planned fault drops just never comes back.
bool counts_as_fault(BusStatus status) {
    return status == BusStatus::translation || status == BusStatus::reverse_map || status == BusStatus::unsupported;
}

}  // namespace

// --- life ----------------------------------------------------------------------------------------------------------

void DmaEngine::start() {
    error_ = state_.entries == 0 || state_.entries > ring_entries_max || state_.interval_ns == 0 ||
             state_.tail >= 2 * state_.entries;
    if (error_) {
        REACHED("dma.start.refused");
        return;
    }
    Machine& machine = fabric().machine();
    running_ = true;
    next_tick_ns_ = machine.clock.now_ns() + state_.interval_ns;
    machine.trace.emit(Layer::machine, "dma.start",
                       {{"device", name()},
                        {"engine", number_},
                        hex_field("ring_base", state_.ring_base),
                        {"entries", state_.entries},
                        {"interval_ns", state_.interval_ns},
                        {"circular", u32{circular()}},
                        {"first_sequence", state_.sequence}});
    machine.device_referee.engine_started(
        function_, number_, {state_.ring_base, state_.interval_ns, state_.sequence, state_.entries, circular()});
    schedule_tick();
}

void DmaEngine::stop(std::string_view by) {
    if (!running_) return;
    Machine& machine = fabric().machine();
    if (scheduled_) machine.clock.cancel(ticket_);
    running_ = dry_ = scheduled_ = false;
    machine.trace.emit(Layer::machine, "dma.stop",
                       {{"device", name()},
                        {"engine", number_},
                        {"by", by},
                        {"sequence", state_.sequence},
                        {"completed", state_.completed}});
}

void DmaEngine::reset() {
    stop("reset");
    state_ = {};
    error_ = false;
}

void DmaEngine::schedule_tick() {
    if (in_event_ || scheduled_ || !running_ || dry_) return;
    ticket_ = fabric().machine().clock.schedule(next_tick_ns_, this, 0);
    scheduled_ = true;
}

void DmaEngine::event_due(u64, u64) {
    scheduled_ = false;
    // The next tick is scheduled however this one ends: a planned panic kills a kernel and no device.
    struct InEvent {
        explicit InEvent(DmaEngine& engine_) : engine(engine_) { engine.in_event_ = true; }
        ~InEvent() {
            engine.in_event_ = false;
            engine.schedule_tick();
        }
        DmaEngine& engine;
    } const in_event(*this);
    VirtualClock& clock = fabric().machine().clock;
    do tick();
    while (running_ && !dry_ && clock.run_on(next_tick_ns_));
}

void DmaEngine::run_dry() {
    Machine& machine = fabric().machine();
    dry_ = true;
    dry_since_ns_ = machine.clock.now_ns();
    machine.trace.emit(Layer::machine, "dma.dry",
                       {{"device", name()}, {"engine", number_}, {"sequence", state_.sequence}});
    machine.device_referee.engine_dry(function_, number_, true);
}

void DmaEngine::wake() {
    if (!running_ || !dry_ || empty()) return;
    Machine& machine = fabric().machine();
    dry_ = false;
    next_tick_ns_ = machine.clock.now_ns();
    machine.trace.emit(Layer::machine, "dma.resume",
                       {{"device", name()},
                        {"engine", number_},
                        {"sequence", state_.sequence},
                        {"dry_ns", next_tick_ns_ - dry_since_ns_}});
    machine.device_referee.engine_dry(function_, number_, false);
    schedule_tick();
}

// --- a tick --------------------------------------------------------------------------------------------------------

void DmaEngine::tick() {
    if (empty()) return run_dry();
    next_tick_ns_ += state_.interval_ns;
    Tick now;
    now.sequence = state_.sequence++;
    now.slot = state_.head < state_.entries ? state_.head : state_.head - state_.entries;
    if (++state_.head == 2 * state_.entries) state_.head = 0;

    const BusStatus status = process(now);
    const std::size_t trailer_bytes_written = status == BusStatus::ok ? now.trailer.size() : 0;
    fabric().machine().device_referee.engine_tick(function_, number_, now.sequence, now.slot,
                                                  now.has_descriptor ? std::optional(now.trailer_at) : std::nullopt,
                                                  std::span(now.trailer).first(trailer_bytes_written), status);
    note(now.sequence, status);
    if (!running_) return;  // its own write, or a peer's, has reset it
    if (status == BusStatus::ok) {
        ++state_.completed;
        if (now.interrupt) function_.raise_interrupt(static_cast<u16>(std::min<u32>(state_.vector, 0xffff)));
    } else if (counts_as_fault(status)) {
        ++state_.faults;
    }
}

BusStatus DmaEngine::process(Tick& tick) {
    const u64 at = state_.ring_base + u64{tick.slot} * sizeof(Descriptor);
    const bool keeps_owner = circular();
    // Config space and the IOMMU's registers are out of a device's reach: what is open now is so until the end.
    const PciFabric::Route route = fabric().route_of(function_);
    Descriptor descriptor;
    BusStatus status = fabric().dma_read(route, at, std::as_writable_bytes(std::span(&descriptor, 1)));
    if (status != BusStatus::ok) {
        REACHED("dma.tick.no_descriptor");
        return status;
    }
    status = transfer(route, descriptor, tick);
    tick.interrupt = (descriptor.flags & DESC_IRQ) != 0;
    u32 flags = descriptor.flags & ~(DESC_DONE | DESC_ERROR);
    flags |= status == BusStatus::ok ? DESC_DONE : DESC_ERROR;
    if (!keeps_owner) flags &= ~DESC_OWNER;
    const BusStatus flags_status =
        fabric().dma_write(route, at + offsetof(Descriptor, flags), std::as_bytes(std::span(&flags, 1)));
    return status == BusStatus::ok ? flags_status : status;
}

BusStatus DmaEngine::transfer(const PciFabric::Route& route, const Descriptor& descriptor, Tick& tick) {
    if (!is_valid(descriptor)) {
        REACHED("dma.tick.bad_descriptor");
        return BusStatus::unsupported;
    }
    tick.trailer_at = descriptor.dst + descriptor.len - trailer_bytes;
    tick.has_descriptor = true;
    u64 hash = 0;
    const BusStatus status = hash_source(route, descriptor, tick, hash);
    if (status != BusStatus::ok) return status;
    std::memcpy(tick.trailer.data() + 8, &hash, sizeof hash);
    return write_trailer(route, tick, descriptor.cookie);
}

BusStatus DmaEngine::hash_source(const PciFabric::Route& route, const Descriptor& descriptor, Tick& tick, u64& hash) {
    FaultInjector& faults = fabric().machine().faults;
    const auto fault = faults.visit(FaultPoint::dma_read, name());
    if (fault && fault->kind == FaultKind::drop) {
        REACHED("dma.tick.read_lost");
        return BusStatus::lost;
    }
    std::array<std::byte, transfer_bytes_max> buffer;  // NOLINT: only what is read into it is looked at
    const PciFabric::InPlace source =
        fabric().dma_read_in_place(route, descriptor.src, {buffer.data(), descriptor.len});
    if (source.status != BusStatus::ok) return source.status;
    const std::byte* bytes = source.bytes;
    if (fault && fault->kind == FaultKind::flip) {
        if (fault->offset < descriptor.len) {
            hash = XXH3_64bits(bytes, descriptor.len);
            if (bytes != buffer.data()) std::memcpy(buffer.data(), bytes, descriptor.len);
            buffer[fault->offset] ^= std::byte{1} << (fault->bit & 7);
            tick.misread_hash = XXH3_64bits(buffer.data(), descriptor.len);
            return BusStatus::ok;
        } else {
            faults.missed(name());
        }
    }
    hash = XXH3_64bits(bytes, descriptor.len);
    return BusStatus::ok;
}

BusStatus DmaEngine::write_trailer(const PciFabric::Route& route, Tick& tick, u64 cookie) {
    if (const auto fault = fabric().machine().faults.visit(FaultPoint::dma_write, name())) [[unlikely]]
        return write_trailer_under_fault(route, tick, cookie, *fault);
    const u64 word = cookie ^ tick.sequence;
    std::memcpy(tick.trailer.data(), &word, sizeof word);
    return fabric().dma_write(route, tick.trailer_at, sent_trailer(tick));
}

/// What leaves the engine.
DmaEngine::Trailer DmaEngine::sent_trailer(const Tick& tick) {
    Trailer sent = tick.trailer;
    if (tick.misread_hash) std::memcpy(sent.data() + 8, &*tick.misread_hash, sizeof(u64));
    return sent;
}

BusStatus DmaEngine::write_trailer_under_fault(const PciFabric::Route& route, Tick& tick, u64 cookie,
                                               const FaultAction& fault) {
    Machine& machine = fabric().machine();
    const bool repeats = fault.kind == FaultKind::duplicate && tick.sequence > 0;
    if (repeats) --tick.sequence;
    const u64 word = cookie ^ tick.sequence;
    std::memcpy(tick.trailer.data(), &word, sizeof word);
    Trailer sent = sent_trailer(tick);
    switch (fault.kind) {
    case FaultKind::drop: REACHED("dma.tick.write_lost"); return BusStatus::lost;
    case FaultKind::misdirect: {
        const PhysAddr elsewhere{fault.address};
        if (!machine.ram.contains(elsewhere, trailer_bytes)) return BusStatus::lost;
        REACHED("dma.tick.misdirected");
        machine.ram.write_bytes(elsewhere, sent);
        machine.device_referee.dma_written(function_, tick.trailer_at, phys_range(elsewhere, trailer_bytes));
        return BusStatus::ok;
    }
    case FaultKind::duplicate: {
        if (!repeats) {
            machine.faults.missed(name());
            break;
        }
        REACHED("dma.tick.duplicated");
        const BusStatus status = fabric().dma_write(route, tick.trailer_at, sent);
        if (status != BusStatus::ok) return status;
        break;
    }
    case FaultKind::flip:
        if (fault.offset < trailer_bytes)
            sent[fault.offset] ^= std::byte{1} << (fault.bit & 7);
        else
            machine.faults.missed(name());
        break;
    default: break;
    }
    return fabric().dma_write(route, tick.trailer_at, sent);
}

// --- trace ---------------------------------------------------------------------------------------------------------

void DmaEngine::note(u64 sequence, BusStatus status) {
    TraceRecorder& trace = fabric().machine().trace;
    if (!trace.attached) return;
    const u64 now_ns = fabric().machine().clock.now_ns();
    if (run_.count && (run_.status != status || run_.first_sequence + run_.count != sequence)) trace.flush();
    if (!run_.count) {
        run_ = {status, sequence, 0, now_ns, now_ns};
        trace.hold(*this);
    }
    ++run_.count;
    run_.last_ns = now_ns;
}

void DmaEngine::emit_held(TraceRecorder& trace) {
    const Run run = std::exchange(run_, {});
    if (run.status == BusStatus::ok)
        trace.emit(Layer::machine, "dma.completions",
                   {{"device", name()},
                    {"engine", number_},
                    {"first_sequence", run.first_sequence},
                    {"count", run.count},
                    {"first_ns", run.first_ns},
                    {"last_ns", run.last_ns}});
    else
        trace.emit(Layer::machine, "dma.lost",
                   {{"device", name()},
                    {"engine", number_},
                    {"first_sequence", run.first_sequence},
                    {"count", run.count},
                    {"status", bus_status_name(run.status)},
                    {"first_ns", run.first_ns},
                    {"last_ns", run.last_ns}});
}

}  // namespace kexec_sim
