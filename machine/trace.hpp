// The event stream: the one source of everything that is shown.
//
// An event has a virtual time, a generation, a layer, a dotted stable name and fields. It is encoded once, as a binary
// record, and hashed always; nobody formats text unless somebody listens. Callbacks are spans (begin, end); a resource
// carries one `flow` number from preserve to restore.
//
//   record: u32 bytes | u64 time_ns | u32 generation | u8 layer | u8 phase | u8 name_len | name | u8 fields |
//           { u8 type | u8 key_len | key | value: u64, or u32 length and bytes } …
//
// Names in use are listed with their fields in docs/reference/trace.md. Nothing of the host (addresses, pids, paths,
// isolation) may be a field.
//
// Preserve calls come in millions. preserve_range() coalesces neighbours into one event of a range; the event is
// emitted before the next other one. A device whose events come in millions keeps its own run and is a HeldRun: it is
// asked for its event before the next other one.
#pragma once

#include <functional>
#include <initializer_list>
#include <memory_resource>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "machine/ram.hpp"
#include "machine/result.hpp"
#include "machine/types.hpp"

namespace kexec_sim {

enum class Layer : u8 { machine, kernel, kho, luo, sim };
std::string_view layer_name(Layer layer);
enum class Phase : u8 { instant, begin, end };

struct TraceField {
    enum class Type : u8 { decimal, hex, signed_decimal, text };
    std::string_view key;
    Type type = Type::decimal;
    u64 number = 0;
    std::string_view text;

    TraceField(std::string_view k, u64 value) : key(k), number(value) {}
    TraceField(std::string_view k, u32 value) : key(k), number(value) {}
    TraceField(std::string_view k, i32 value)
        : key(k),
          type(Type::signed_decimal),
          number(static_cast<u64>(static_cast<i64>(value))) {}
    TraceField(std::string_view k, i64 value) : key(k), type(Type::signed_decimal), number(static_cast<u64>(value)) {}
    TraceField(std::string_view k, std::string_view value) : key(k), type(Type::text), text(value) {}
    TraceField(std::string_view k, const char* value) : key(k), type(Type::text), text(value) {}
    TraceField(std::string_view k, const std::string& value) : key(k), type(Type::text), text(value) {}
    TraceField(std::string_view k, PhysAddr phys) : key(k), type(Type::hex), number(phys.raw) {}
    TraceField(std::string_view k, Pfn pfn) : key(k), type(Type::hex), number(pfn.raw) {}
    TraceField(std::string_view k, Order order) : key(k), number(order.raw) {}
};
inline TraceField hex_field(std::string_view key, u64 value) {
    TraceField field(key, value);
    field.type = TraceField::Type::hex;
    return field;
}
/// `result`: 0 or a negative errno, as the kernel would return it.
inline TraceField result_field(const Result<>& result) {
    return {"result", result ? i32{0} : -static_cast<i32>(result.error())};
}

/// A decoded record, for the views. It owns its text.
struct TraceEvent {
    struct Field {
        std::string key;
        TraceField::Type type;
        u64 number;
        std::string text;
    };
    u64 time_ns = 0;
    Generation generation = 0;
    Layer layer = Layer::machine;
    Phase phase = Phase::instant;
    std::string name;
    std::vector<Field> fields;
    const Field* field(std::string_view key) const;
    u64 number(std::string_view key, u64 otherwise = 0) const;
    std::string text(std::string_view key) const;
};
/// Decodes one record at the start of `bytes` and drops it from there.
TraceEvent decode_trace_record(std::span<const std::byte>& bytes);
std::vector<std::byte> encode_trace_record(const TraceEvent& event);

class VirtualClock;
class TraceRecorder;

/// A source that holds back a run of alike events and makes one of them. Lives in the arena.
class HeldRun {
public:
    /// Emits the run; it is empty from now on.
    virtual void emit_held(TraceRecorder& trace) = 0;

protected:
    ~HeldRun() = default;

private:
    friend class TraceRecorder;
    HeldRun* next_held_ = nullptr;
    bool held_ = false;
};

class TraceRecorder {
public:
    TraceRecorder(const VirtualClock& clock, std::pmr::memory_resource* memory);
    void set_generation(Generation generation) {
        flush();
        generation_ = generation;
    }

    void emit(Layer layer, std::string_view name, std::initializer_list<TraceField> fields,
              Phase phase = Phase::instant);
    /// One event `name` for `count` consecutive folios of `order` from `pfn`; adjacent calls become one event.
    void range(Layer layer, std::string_view name, Pfn pfn, Order order, u64 count, std::string_view who);
    /// `run` has begun to hold something back: emit_held() is called before the next event that is not of a held run,
    /// in order of hold().
    void hold(HeldRun& run);
    /// Emits what range() and held runs still hold back.
    void flush() {
        if (pending_.count || first_held_) flush_slow();
    }

    /// Records waiting for the listener; empty unless `keep`.
    bool keep = true;
    /// Off: nothing is recorded or hashed (benchmarks of the bare codec).
    bool attached = true;
    void drain(const std::function<void(TraceEvent&&)>& listener);
    RamHash hash();
    u64 events() const { return events_; }
    /// Where the running code is: the spans that were begun and not ended, outermost first, as "step kexec > luo.ioctl >
    /// luo.subsystem.freeze kvm" (each with the first word of its text).
    void where(std::pmr::string& out) const;

private:
    void note_span(std::string_view name, std::span<const TraceField> fields, Phase phase);

    void record(Layer layer, std::string_view name, std::span<const TraceField> fields, Phase phase);
    void flush_slow();
    void flush_range();

    const VirtualClock& clock_;
    Generation generation_ = 0;
    u64 events_ = 0;
    std::pmr::vector<std::byte> scratch_, waiting_;
    std::pmr::vector<std::byte> hash_state_;
    struct Pending {
        Layer layer;
        Order order;
        u64 pfn = 0, count = 0;
    } pending_;
    std::pmr::string pending_name_, pending_who_;
    struct OpenSpan {
        std::pmr::string name, word;
    };
    std::pmr::vector<OpenSpan> open_spans_;  // the first `open_` are in use; their strings are used again
    std::size_t open_ = 0;
    HeldRun* first_held_ = nullptr;
    HeldRun* last_held_ = nullptr;
};

}  // namespace kexec_sim
