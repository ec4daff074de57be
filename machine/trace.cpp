#include "machine/trace.hpp"

#include <cstring>
#include <utility>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "machine/arena.hpp"
#include "machine/clock.hpp"

namespace kexec_sim {
namespace {

template <typename T> void put(std::pmr::vector<std::byte>& out, T value) {
    const std::size_t at = out.size();
    out.resize(at + sizeof value);
    std::memcpy(out.data() + at, &value, sizeof value);
}
void put_text(std::pmr::vector<std::byte>& out, std::string_view text) {
    if (text.empty()) return;
    const std::size_t at = out.size();
    out.resize(at + text.size());
    std::memcpy(out.data() + at, text.data(), text.size());
}
template <typename T> T take(std::span<const std::byte>& in) {
    INVARIANT(in.size() >= sizeof(T));
    T value;
    std::memcpy(&value, in.data(), sizeof value);
    in = in.subspan(sizeof value);
    return value;
}
std::string take_text(std::span<const std::byte>& in, std::size_t count) {
    INVARIANT(in.size() >= count);
    std::string text(reinterpret_cast<const char*>(in.data()), count);
    in = in.subspan(count);
    return text;
}

XXH3_state_t* hash_state(std::pmr::vector<std::byte>& storage) {
    return reinterpret_cast<XXH3_state_t*>(align_up(reinterpret_cast<u64>(storage.data()), 64));
}

struct Header {
    u64 time_ns;
    Generation generation;
    Layer layer;
    Phase phase;
};

void encode(std::pmr::vector<std::byte>& out, const Header& header, std::string_view name,
            std::span<const TraceField> fields) {
    const std::size_t start = out.size();
    put<u32>(out, 0);
    put(out, header.time_ns);
    put(out, header.generation);
    put(out, static_cast<u8>(header.layer));
    put(out, static_cast<u8>(header.phase));
    put(out, static_cast<u8>(name.size()));
    put_text(out, name);
    put(out, static_cast<u8>(fields.size()));
    for (const TraceField& field : fields) {
        put(out, static_cast<u8>(field.type));
        put(out, static_cast<u8>(field.key.size()));
        put_text(out, field.key);
        if (field.type == TraceField::Type::text) {
            put(out, static_cast<u32>(field.text.size()));
            put_text(out, field.text);
        } else {
            put(out, field.number);
        }
    }
    const u32 bytes = static_cast<u32>(out.size() - start);
    std::memcpy(out.data() + start, &bytes, sizeof bytes);
}

}  // namespace

std::string_view layer_name(Layer layer) {
    switch (layer) {
    case Layer::machine: return "machine";
    case Layer::kernel: return "kernel";
    case Layer::kho: return "kho";
    case Layer::luo: return "luo";
    case Layer::sim: return "sim";
    }
    return "?";
}

const TraceEvent::Field* TraceEvent::field(std::string_view key) const {
    for (const Field& entry : fields)
        if (entry.key == key) return &entry;
    return nullptr;
}
u64 TraceEvent::number(std::string_view key, u64 otherwise) const {
    const Field* entry = field(key);
    return entry ? entry->number : otherwise;
}
std::string TraceEvent::text(std::string_view key) const {
    const Field* entry = field(key);
    return entry ? entry->text : std::string();
}

TraceEvent decode_trace_record(std::span<const std::byte>& bytes) {
    TraceEvent event;
    take<u32>(bytes);
    event.time_ns = take<u64>(bytes);
    event.generation = take<u32>(bytes);
    event.layer = static_cast<Layer>(take<u8>(bytes));
    event.phase = static_cast<Phase>(take<u8>(bytes));
    event.name = take_text(bytes, take<u8>(bytes));
    const u8 count = take<u8>(bytes);
    for (u8 i = 0; i < count; ++i) {
        TraceEvent::Field field{};
        field.type = static_cast<TraceField::Type>(take<u8>(bytes));
        field.key = take_text(bytes, take<u8>(bytes));
        if (field.type == TraceField::Type::text)
            field.text = take_text(bytes, take<u32>(bytes));
        else
            field.number = take<u64>(bytes);
        event.fields.push_back(std::move(field));
    }
    return event;
}

std::vector<std::byte> encode_trace_record(const TraceEvent& event) {
    std::vector<TraceField> fields;
    for (const TraceEvent::Field& field : event.fields) {
        TraceField copy(field.key, field.number);
        copy.type = field.type;
        copy.text = field.text;
        fields.push_back(copy);
    }
    std::pmr::vector<std::byte> out;
    encode(out, {event.time_ns, event.generation, event.layer, event.phase}, event.name, fields);
    return {out.begin(), out.end()};
}

TraceRecorder::TraceRecorder(const VirtualClock& clock, std::pmr::memory_resource* memory)
    : clock_(clock),
      scratch_(memory),
      waiting_(memory),
      hash_state_(sizeof(XXH3_state_t) + 64, memory),
      pending_(),
      pending_name_(memory),
      pending_who_(memory),
      open_spans_(memory) {
    XXH3_128bits_reset(hash_state(hash_state_));
}

void TraceRecorder::emit(Layer layer, std::string_view name, std::initializer_list<TraceField> fields, Phase phase) {
    if (!attached) return;
    const MachineEntry entry;
    flush();
    if (phase != Phase::instant) note_span(name, std::span(fields.begin(), fields.size()), phase);
    record(layer, name, std::span(fields.begin(), fields.size()), phase);
}

void TraceRecorder::note_span(std::string_view name, std::span<const TraceField> fields, Phase phase) {
    if (phase == Phase::end) {
        // Spans inside it whose code never came back end with it.
        for (std::size_t i = open_; i > 0; --i)
            if (open_spans_[i - 1].name == name) {
                open_ = i - 1;
                break;
            }
        return;
    }
    if (open_ == open_spans_.size()) {
        std::pmr::memory_resource* memory = open_spans_.get_allocator().resource();
        open_spans_.push_back({std::pmr::string(memory), std::pmr::string(memory)});
    }
    OpenSpan& span = open_spans_[open_++];
    span.name.assign(name);
    span.word.clear();
    for (const TraceField& field : fields) {
        if (field.type != TraceField::Type::text) continue;
        span.word.assign(field.text.substr(0, field.text.find_first_of(": ")));
        break;
    }
}

void TraceRecorder::where(std::pmr::string& out) const {
    out.clear();
    for (std::size_t i = 0; i < open_; ++i) {
        const OpenSpan& span = open_spans_[i];
        out += out.empty() ? "" : " > ";
        out += span.name;
        if (!span.word.empty()) out += ' ';
        out += span.word;
    }
}

void TraceRecorder::range(Layer layer, std::string_view name, Pfn pfn, Order order, u64 count, std::string_view who) {
    if (!attached) return;
    const MachineEntry entry;
    if (pending_.count && pending_.order == order && pending_.pfn + (pending_.count << order.raw) == pfn.raw &&
        pending_.layer == layer && pending_name_ == name && pending_who_ == who) {
        pending_.count += count;
        return;
    }
    flush();
    pending_ = {layer, order, pfn.raw, count};
    pending_name_.assign(name);
    pending_who_.assign(who);
}

void TraceRecorder::hold(HeldRun& run) {
    if (!attached || run.held_) return;
    const MachineEntry entry;
    flush_range();
    run.held_ = true;
    run.next_held_ = nullptr;
    (last_held_ ? last_held_->next_held_ : first_held_) = &run;
    last_held_ = &run;
}

void TraceRecorder::flush_slow() {
    const MachineEntry entry;
    flush_range();
    // The list is taken first: a run emits its event by emit(), which flushes too.
    HeldRun* run = std::exchange(first_held_, nullptr);
    last_held_ = nullptr;
    while (run) {
        HeldRun* next = run->next_held_;
        run->held_ = false;
        run->emit_held(*this);
        run = next;
    }
}

void TraceRecorder::flush_range() {
    if (!pending_.count) return;
    const TraceField fields[] = {hex_field("phys", pending_.pfn << page_shift),
                                 {"order", pending_.order},
                                 {"count", pending_.count},
                                 {"who", std::string_view(pending_who_)}};
    pending_.count = 0;
    record(pending_.layer, pending_name_, fields, Phase::instant);
}

void TraceRecorder::record(Layer layer, std::string_view name, std::span<const TraceField> fields, Phase phase) {
    ++events_;
    scratch_.clear();
    encode(scratch_, {clock_.now_ns(), generation_, layer, phase}, name, fields);
    XXH3_128bits_update(hash_state(hash_state_), scratch_.data(), scratch_.size());
    if (keep) waiting_.insert(waiting_.end(), scratch_.begin(), scratch_.end());
}

void TraceRecorder::drain(const std::function<void(TraceEvent&&)>& listener) {
    flush();
    std::span<const std::byte> rest(waiting_);
    while (!rest.empty()) listener(decode_trace_record(rest));
    waiting_.clear();
}

RamHash TraceRecorder::hash() {
    flush();
    const XXH128_hash_t digest = XXH3_128bits_digest(hash_state(hash_state_));
    return {digest.low64, digest.high64};
}

}  // namespace kexec_sim
