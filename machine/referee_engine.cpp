// The oracle: what a DMA engine should have done by now, computed from how it was started.
//
//   started at t, interval i, first sequence s:   s is due at t + i, s+1 at t + 2i, …
//   the ring runs dry                             the clock of the engine stands still until it is filled again
//
// Of a preserved device (from the promise of its file to finish):
//
//   1. a tick that is due completes                    well
//   2. it is lost: the status says why                 dma.continuous ("bus master off", a translation fault, …)
//   3. sequence numbers are left out, or come again    dma.continuous
//   4. nothing happens at all                          dma.continuous, when somebody looks: the jump, user space,
//                                                      finish, the end
//   5. it completes, but the trailer is not where it
//      should be                                       dma.continuous, at the jump, finish and the end
//
// Each engine of a device has its own book. The first finding of a device in a generation stands for those that follow.
// Losses are counted for all devices.
//
// Trailers. The last one of each ring slot is kept. Where slots share a destination, also of several devices, the one
// written last counts. A destination that no domain of the device maps now is not looked at: nobody owns it. Nor is one
// in another device's BAR: whether the write was meant to go there, the shadow map says.
#include "machine/referee_device_books.hpp"

namespace kexec_sim {
namespace {

constexpr u32 entries_max = 65536;

u64 word(std::span<const std::byte> bytes) {
    u64 value = 0;
    std::memcpy(&value, bytes.data(), std::min(bytes.size(), sizeof value));
    return value;
}

}  // namespace

EngineBook::EngineBook(std::string_view device, unsigned number, std::pmr::memory_resource* memory)
    : name(memory),
      slots(memory) {
    if (number > 0) (name = "engine ").append(1, static_cast<char>('0' + number)).append(" of ");
    name += device;
}

EngineBook& DeviceReferee::Books::engine(const PciFunction& function, unsigned number) {
    INVARIANT(number < engines_max);
    return device(function).engines[number];
}

void DeviceReferee::Books::rest(EngineBook& engine) {
    if (engine.dry) engine.counters.dry_ns += machine.clock.now_ns() - engine.dry_since_ns;
    engine.running = engine.dry = false;
}

void DeviceReferee::engine_started(const PciFunction& device, unsigned number, const EngineStart& start) {
    if (!books_->machine.referee.attached) return;
    const MachineEntry entry;
    const u64 now = books_->machine.clock.now_ns();
    DeviceBook& book = books_->device(device);
    EngineBook& engine = books_->engine(device, number);
    if (books_->held_still(book))
        books_->stuck(book, "{} was promised to go on as it was; its control register started it anew at {} ns",
                      engine.name, now);
    books_->rest(engine);
    engine.running = true;
    engine.rebase = false;
    engine.interval_ns = std::max<u64>(start.interval_ns, 1);
    engine.next = start.first_sequence;
    engine.due_ns = now + engine.interval_ns;
    engine.slots.assign(std::min(start.entries, entries_max), EngineSlot{});
}

void DeviceReferee::engine_stopped(const PciFunction& device, unsigned number) {
    if (!books_->machine.referee.attached) return;
    const MachineEntry entry;
    Books& books = *books_;
    DeviceBook& book = books.device(device);
    EngineBook& engine = books.engine(device, number);
    if (!engine.running) return;
    if (books.held_still(book))
        books.stuck(book, "{} was promised to go on; its control register stopped it at {} ns, before tick {}",
                    engine.name, books.machine.clock.now_ns(), engine.next);
    books.rest(engine);
}

void DeviceReferee::engine_dry(const PciFunction& device, unsigned number, bool dry) {
    if (!books_->machine.referee.attached) return;
    const MachineEntry entry;
    EngineBook& engine = books_->engine(device, number);
    if (engine.dry == dry) return;
    const u64 now = books_->machine.clock.now_ns();
    engine.dry = dry;
    if (dry) {
        engine.dry_since_ns = now;
        return;
    }
    engine.counters.dry_ns += now - engine.dry_since_ns;
    // It goes on at once, or an interval from now.
    engine.rebase = true;
    engine.due_ns = now + engine.interval_ns;
}

void DeviceReferee::engine_tick(const PciFunction& device, unsigned number, u64 sequence, u32 slot,
                                std::optional<u64> dst, std::span<const std::byte> trailer, BusStatus status) {
    if (!books_->machine.referee.attached) return;
    const MachineEntry entry;
    Books& books = *books_;
    DeviceBook& book = books.device(device);
    INVARIANT(number < engines_max);
    EngineBook& engine = book.engines[number];
    const u64 now = books.machine.clock.now_ns();
    if (!engine.running) {  // it was started before anybody looked
        engine.running = true;
        engine.next = sequence;
        engine.due_ns = now;
    }
    if (engine.dry) {  // not any more
        engine.counters.dry_ns += now - engine.dry_since_ns;
        engine.dry = false;
        engine.rebase = true;
    }
    if (sequence < engine.next) {
        ++engine.counters.repeated;
        books.stuck(book, "tick {} of {} was over already; it came again at {} ns, when tick {} was due", sequence,
                    engine.name, now, engine.next);
        return;
    }
    if (sequence > engine.next) {
        const u64 missing = sequence - engine.next;
        engine.counters.lost += missing;
        books.stuck(book, "tick {} of {} was due at {} ns; what came was tick {}", engine.next, engine.name,
                    engine.due_ns, sequence);
        engine.due_ns += missing * engine.interval_ns;
    }
    if (now > engine.due_ns && !engine.rebase) {
        engine.counters.lost += (now - engine.due_ns) / engine.interval_ns;
        books.stuck(book, "tick {} of {} was due at {} ns; it came at {} ns", sequence, engine.name, engine.due_ns,
                    now);
    }
    engine.rebase = false;
    engine.next = sequence + 1;
    engine.due_ns = now + engine.interval_ns;
    if (status != BusStatus::ok) {
        ++engine.counters.lost;
        if (slot < engine.slots.size()) engine.slots[slot].stamp = 0;
        if (!dst)
            books.stuck(book, "tick {} of {} was due at {} ns; it is lost before it had a descriptor: {}", sequence,
                        engine.name, now, bus_status_name(status));
        else
            books.stuck(book, "tick {} of {} was due at {} ns and should have written to IOVA {:#x}; it is lost: {}",
                        sequence, engine.name, now, *dst, bus_status_name(status));
        return;
    }
    ++engine.counters.completions;
    books.keep_trailer(engine, sequence, slot, dst.value_or(0), trailer);
}

void DeviceReferee::Books::keep_trailer(EngineBook& engine, u64 sequence, u32 slot, u64 dst,
                                        std::span<const std::byte> trailer) {
    if (slot >= engine.slots.size() || trailer.size() != trailer_max) return;
    EngineSlot& kept = engine.slots[slot];
    kept.dst = dst;
    kept.sequence = sequence;
    kept.stamp = ++last_stamp;
    std::memcpy(kept.trailer.data(), trailer.data(), trailer_max);
}

// --- Looking -----------------------------------------------------------------------------------------------------

void DeviceReferee::Books::judge_silence(std::string_view moment) {
    const u64 now = machine.clock.now_ns();
    for (DeviceBook* book : devices) {
        if (!book || !book->preserved()) continue;
        for (EngineBook& engine : book->engines) {
            // What is due at this very moment may still come.
            if (!engine.running || engine.dry || engine.due_ns >= now) continue;
            const u64 missing = (now - engine.due_ns - 1) / engine.interval_ns + 1;
            stuck(*book, "tick {} of {} was due at {} ns; until {}, at {} ns, nothing came", engine.next, engine.name,
                  engine.due_ns, moment, now);
            engine.counters.lost += missing;
            engine.due_ns += missing * engine.interval_ns;
        }
    }
}

namespace {

struct Trailer {
    u64 phys = 0, stamp = 0;
    DeviceBook* book = nullptr;
    const EngineBook* engine = nullptr;
    const EngineSlot* slot = nullptr;
};

}  // namespace

void DeviceReferee::Books::judge_trailers(std::string_view moment) {
    std::pmr::vector<Trailer> trailers(memory);
    const auto add = [&](DeviceBook& book, const EngineBook& engine, const EngineSlot& slot) {
        if (!slot.stamp) return;
        const Meaning* meaning = book.holds->map.find(Pfn{slot.dst >> page_shift});
        // What went to a peer lies in its BAR, where nobody looks.
        if (!meaning || meaning->is_peer) return;
        const u64 phys = slot.dst + (meaning->offset << page_shift);
        // One that lies in two pages would have to be compared in two parts; no driver aligns buffers so.
        if ((phys & (page_bytes - 1)) > page_bytes - trailer_max) return;
        if (estranged.find(PhysAddr{phys}.pfn()) || !machine.ram.contains(PhysAddr{phys}, trailer_max)) return;
        trailers.push_back({phys, slot.stamp, &book, &engine, &slot});
    };
    for (DeviceBook* book : devices) {
        if (!book || !book->holds) continue;
        for (const EngineBook& engine : book->engines)
            for (const EngineSlot& slot : engine.slots) add(*book, engine, slot);
    }
    std::sort(trailers.begin(), trailers.end(), [](const Trailer& a, const Trailer& b) {
        return a.phys != b.phys ? a.phys < b.phys : a.stamp < b.stamp;
    });
    // Of those that overlap only the last one written is whole.
    const auto overwritten = [&](std::size_t at) {
        for (std::size_t i = at + 1; i < trailers.size() && trailers[i].phys < trailers[at].phys + trailer_max; ++i)
            if (trailers[i].stamp > trailers[at].stamp) return true;
        for (std::size_t i = at; i-- > 0 && trailers[i].phys + trailer_max > trailers[at].phys;)
            if (trailers[i].stamp > trailers[at].stamp) return true;
        return false;
    };
    std::pmr::map<u16, std::pair<FrameList, const Trailer*>> wrong(memory);
    for (std::size_t at = 0; at < trailers.size(); ++at) {
        const Trailer& trailer = trailers[at];
        const DeviceBook& book = *trailer.book;
        if (!book.preserved() && !(book.was_preserved && trailer.engine->running)) continue;
        std::array<std::byte, trailer_max> found;
        machine.ram.read_bytes(PhysAddr{trailer.phys}, found);
        if (found == trailer.slot->trailer || overwritten(at)) continue;
        auto& [frames, first] = wrong[book.function.index];
        if (!first) first = &trailer;
        frames.add(pfn_range(PhysAddr{trailer.phys}.pfn(), 1));
    }
    for (const auto& [index, entry] : wrong) {
        const auto& [frames, first] = entry;
        std::array<std::byte, trailer_max> found;
        machine.ram.read_bytes(PhysAddr{first->phys}, found);
        const std::span<const std::byte> due(first->slot->trailer), there(found);
        report(
            InvariantId::dma_continuous, CheckId::m1, *first->book, frames,
            "{} completed tick {} into IOVA {:#x}, frame {:#x}, and should have left {:#018x} {:#018x}; at {} there "
            "is {:#018x} {:#018x}",
            first->engine->name, first->slot->sequence, first->slot->dst, frames.first[0], word(due),
            word(due.subspan(8)), moment, word(there), word(there.subspan(8)));
    }
}

}  // namespace kexec_sim
