// Findings: how they are worded, merged and shown.
#include "machine/clock.hpp"
#include "machine/referee_books.hpp"
#include "machine/trace.hpp"

namespace kexec_sim {
namespace {

constexpr InvariantInfo invariant_table[] = {
#define INVARIANT_ID(id, name, severity, text) {InvariantId::id, name, severity, text},
#include "machine/invariants.def"
#undef INVARIANT_ID
};

}  // namespace

std::span<const InvariantInfo> invariants() { return invariant_table; }
std::optional<InvariantId> invariant_by_name(std::string_view name) {
    for (const InvariantInfo& info : invariant_table)
        if (info.name == name) return info.id;
    return std::nullopt;
}

std::string_view check_name(CheckId check) {
    switch (check) {
    case CheckId::none: return "";
#define DEVICE_CHECK(id, name) \
    case CheckId::id:          \
        return name;
#include "machine/device_checks.def"
#undef DEVICE_CHECK
    }
    return "?";
}

std::optional<CheckId> check_by_name(std::string_view name) {
#define DEVICE_CHECK(id, id_name) \
    if (name == id_name) return CheckId::id;
#include "machine/device_checks.def"
#undef DEVICE_CHECK
    return std::nullopt;
}

std::string_view frame_class_name(FrameClass frame_class) {
    switch (frame_class) {
    case FrameClass::kernel: return "kernel";
    case FrameClass::slab: return "slab";
    case FrameClass::file: return "file";
    case FrameClass::agent: return "agent";
    case FrameClass::kho: return "kho";
    case FrameClass::luo: return "luo";
    case FrameClass::handler: return "handler";
    case FrameClass::subsystem: return "subsystem";
    case FrameClass::bench: return "bench";
    case FrameClass::overhead: return "overhead";
    }
    return "?";
}

std::string_view luo_state_name(LuoState state) {
    switch (state) {
    case LuoState::undefined: return "undefined";
    case LuoState::normal: return "normal";
    case LuoState::prepared: return "prepared";
    case LuoState::frozen: return "frozen";
    case LuoState::updated: return "updated";
    }
    return "?";
}

std::string_view luo_callback_name(LuoCallback callback) {
    switch (callback) {
    case LuoCallback::prepare: return "prepare";
    case LuoCallback::freeze: return "freeze";
    case LuoCallback::boot: return "boot";
    case LuoCallback::cancel: return "cancel";
    case LuoCallback::finish: return "finish";
    }
    return "?";
}

Names::Names(std::pmr::memory_resource* memory) : memory_(memory), ids_(memory), texts_(memory) { id(""); }

NameId Names::id(std::string_view text) {
    if (!texts_.empty() && *texts_[last_] == text) return last_;
    auto known = ids_.find(text);
    if (known == ids_.end()) {
        known = ids_.emplace(std::pmr::string(text, memory_), static_cast<NameId>(texts_.size())).first;
        texts_.push_back(&known->first);
    }
    return last_ = known->second;
}

void RefereeBooks::add_finding(InvariantId id, CheckId check, std::string_view resource, const FrameList& frames,
                               std::string_view message) {
    const Generation generation = kernel->generation;
    for (Entry& entry : findings) {
        if (entry.invariant != id || entry.check != check || entry.generation != generation) continue;
        if (entry.resource != resource) continue;
        // The same judgement once more says nothing new; other frames belong to the same finding.
        entry.frames.merge(frames);
        return;
    }
    const bool by_fault = corrupted_before || faults.corrupting_fired();
    findings.push_back({id, by_fault, generation, clock.now_ns(), frames, std::pmr::string(resource, memory),
                        std::pmr::string(message, memory), check});
    trace.emit(Layer::machine, "referee.finding",
               {{"invariant", invariant_table[static_cast<std::size_t>(id)].name},
                {"message", message},
                {"resource", resource},
                {"frames", frames.count},
                hex_field("first_frame", frames.first[0])});
}

std::pmr::string RefereeBooks::resource_of(const Source& source, NameId name) {
    if (source.has_token) return text("file {:#x}", source.token);
    const std::string_view who = names.text(source.who);
    switch (source.origin) {
    case Origin::subsystem: return text("subsystem {}", who);
    case Origin::direct: return name ? text("{} {}", who, names.text(name)) : text("{}", who);
    case Origin::kho:
    case Origin::luo:
    case Origin::reserve_mem:
    case Origin::handler: break;
    }
    return text("{}", who);
}

std::pmr::string RefereeBooks::described(const Source& source, NameId name) {
    if (source.has_token) return described(source.token, source.who);
    return resource_of(source, name);
}

std::pmr::string RefereeBooks::described(u64 token, NameId compatible) {
    return text("file {:#x} ({})", token, names.text(compatible));
}

}  // namespace kexec_sim
