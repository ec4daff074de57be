#include "machine/fault.hpp"

#include <charconv>
#include <fmt/format.h>

#include "machine/arena.hpp"
#include "machine/clock.hpp"
#include "machine/trace.hpp"

namespace kexec_sim {
namespace {

constexpr FaultPointInfo point_table[] = {
#define FAULT_POINT(id, name, match, errnos, works, text) {FaultPoint::id, name, match, errnos, works, text},
#include "machine/fault_points.def"
#undef FAULT_POINT
};

constexpr FaultKindInfo kind_table[] = {
    {FaultKind::fail, "fail", true},
    {FaultKind::panic, "panic", false},
    {FaultKind::power_loss, "power-loss", false},
    {FaultKind::kill_agent, "kill-agent", false},
    {FaultKind::delay, "delay", true},
    {FaultKind::drop, "drop", false},
    {FaultKind::flip, "flip", true},
    {FaultKind::zero, "zero", true},
    {FaultKind::truncate, "truncate", true},
    {FaultKind::replace, "replace", true},
    {FaultKind::misdirect, "misdirect", true},
    {FaultKind::duplicate, "duplicate", false},
    {FaultKind::skip, "skip", false},
    {FaultKind::lie, "lie", true},
    {FaultKind::swap, "swap", false},
};
static_assert(std::size(kind_table) == static_cast<std::size_t>(FaultKind::swap) + 1);

// Flattened trees: magic, size, offsets of the blocks, version; the first tags and lengths of the structure block.
constexpr FaultSample tree_samples[] = {{0x0, 3},  {0x7, 0},  {0xb, 3},  {0xf, 2},  {0x17, 0}, {0x27, 4},
                                        {0x3b, 1}, {0x43, 5}, {0x4b, 0}, {0x50, 6}, {0x5f, 7}, {0x64, 2}};
// Chunks of the map: next, order and count, then physical addresses of bitmaps; bitmaps: any bit.
constexpr FaultSample map_samples[] = {{0x0, 0},  {0x2, 4},  {0x7, 6},  {0x8, 0},  {0x9, 2},
                                       {0x10, 1}, {0x12, 4}, {0x18, 0}, {0x1a, 5}, {0x20, 3}};
// The scratch array and the setup_data entry: addresses and lengths.
constexpr FaultSample address_samples[] = {{0x0, 0}, {0x2, 4},  {0x5, 7},  {0x8, 0},
                                           {0xa, 3}, {0x10, 0}, {0x12, 5}, {0x18, 1}};
// A table entry: rights, large page, address, reserved.
constexpr FaultSample entry_samples[] = {{0, 0}, {0, 1}, {0, 7}, {1, 4}, {3, 2}, {6, 7}};
// A word, or a record of a few: version or address, flags, count.
constexpr FaultSample word_samples[] = {{0x0, 0}, {0x3, 5}, {0x8, 1}, {0x10, 0}};
constexpr FaultSample data_samples[] = {{0, 0}, {7, 5}};

}  // namespace

std::span<const FaultSample> fault_samples(FaultPoint point) {
    switch (point) {
    case FaultPoint::handover_fdt:
    case FaultPoint::handover_luo: return tree_samples;
    case FaultPoint::handover_map: return map_samples;
    case FaultPoint::handover_scratch:
    case FaultPoint::handover_setup_data: return address_samples;
    case FaultPoint::iommu_walk: return entry_samples;
    case FaultPoint::handover_read: return word_samples;
    case FaultPoint::dma_read:
    case FaultPoint::dma_write: return data_samples;
    default: return {};
    }
}

std::span<const FaultPointInfo> fault_points() { return point_table; }
const FaultPointInfo& fault_point_info(FaultPoint point) { return point_table[static_cast<std::size_t>(point)]; }
std::optional<FaultPoint> fault_point_by_name(std::string_view name) {
    for (const FaultPointInfo& info : point_table)
        if (info.name == name) return info.id;
    return std::nullopt;
}

std::span<const FaultKindInfo> fault_kinds() { return kind_table; }
const FaultKindInfo& fault_kind_info(FaultKind kind) { return kind_table[static_cast<std::size_t>(kind)]; }
std::optional<FaultKind> fault_kind_by_name(std::string_view name) {
    for (const FaultKindInfo& info : kind_table)
        if (info.name == name) return info.kind;
    return std::nullopt;
}
bool fault_is_corrupting(FaultKind kind, FaultPoint point) {
    if (kind == FaultKind::fail)
        return point == FaultPoint::iommu_walk;  // the access is lost, as if it had been dropped
    return kind >= FaultKind::flip || (kind == FaultKind::drop && point != FaultPoint::irq_deliver);
}

bool glob_matches(std::string_view pattern, std::string_view text) {
    std::size_t p = 0, t = 0, star = std::string_view::npos, retry = 0;
    while (t < text.size()) {
        if (p < pattern.size() && pattern[p] == '*') {
            star = p++;
            retry = t;
        } else if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == text[t])) {
            ++p;
            ++t;
        } else if (star != std::string_view::npos) {
            p = star + 1;
            t = ++retry;
        } else {
            return false;
        }
    }
    while (p < pattern.size() && pattern[p] == '*') ++p;
    return p == pattern.size();
}

FaultInjector::FaultInjector(VirtualClock& clock, TraceRecorder& trace, std::pmr::memory_resource* memory)
    : clock_(clock),
      trace_(trace),
      plan_(memory),
      log_(memory),
      name_ids_(memory),
      names_(memory) {}

void FaultInjector::set_plan(std::span<const PlannedFault> plan, std::size_t own) {
    plan_.clear();
    last_fired_ = nullptr;
    fault_fired_ = false;
    armed_ = {};
    for (const PlannedFault& fault : plan) add_entry(fault, 0);
    for (Entry& entry : std::span(plan_).first(own)) entry.own = true;
}

void FaultInjector::disarm() {
    armed_ = {};
    record_visits = false;
    hook = nullptr;
}

void FaultInjector::plan_now(const PlannedFault& fault) { add_entry(fault, fault.visit ? fault.visit - 1 : 0); }

void FaultInjector::add_entry(const PlannedFault& fault, u64 visits) {
    const std::string words = fault.text();  // made outside the guard: it lives on the host's heap
    const MachineEntry guard;
    std::pmr::memory_resource* memory = plan_.get_allocator().resource();
    const auto text = [&](std::string_view value) { return std::pmr::string(value, memory); };
    const FaultAction& action = fault.action;
    last_fired_ = nullptr;  // entries may move
    plan_.push_back({fault.point, text(fault.match), fault.visit, fault.generation ? i64{*fault.generation} : i64{-1},
                     action.kind, action.error, action.delay_ns, action.offset, action.bit, action.length,
                     action.address, text(action.old_text), text(action.new_text), text(words), visits, false, 0, 0,
                     text({})});
    armed_[static_cast<std::size_t>(fault.point)] = true;
}

void FaultInjector::set_stage(std::string_view stage) {
    stage_ = stage;
    if (stage != "boot") return;
    doing_ = {};  // a kernel that died was in the middle of it
    update_state_ = "normal";
}

void FaultInjector::log_visit(FaultPoint point, std::string_view name) {
    if (!log_.empty()) {
        LogEntry& last = log_.back();
        if (last.point == point && last.generation == generation_ && last.after_fault == fault_fired_ &&
            last.phase == phase() && *names_[last.name] == name) {
            ++last.count;
            return;
        }
    }
    auto known = name_ids_.find(name);
    if (known == name_ids_.end()) {
        known =
            name_ids_
                .emplace(std::pmr::string(name, plan_.get_allocator().resource()), static_cast<u32>(names_.size()))
                .first;
        names_.push_back(&known->first);
    }
    log_.push_back({point, known->second, 1, generation_, fault_fired_, phase()});
}

std::optional<FaultAction> FaultInjector::visit_slow(FaultPoint point, std::string_view name) {
    if (hook) [[unlikely]]
        hook->visited(point, name);
    Entry* due = nullptr;
    {
        const MachineEntry guard;
        if (record_visits) log_visit(point, name);
        for (Entry& entry : plan_) {
            if (entry.point != point || (entry.generation >= 0 && entry.generation != i64{generation_})) continue;
            if (!entry.match.empty() && !glob_matches(entry.match, name)) continue;
            ++entry.visits;
            if (!due && (entry.visit == 0 || entry.visit == entry.visits)) due = &entry;
        }
    }
    return due ? fire(*due, name) : std::nullopt;
}

std::optional<FaultAction> FaultInjector::fire(Entry& entry, std::string_view name) {
    if (!entry.fired) {
        entry.fired_ns = clock_.now_ns();
        entry.fired_in = generation_;
        entry.phase = phase();
        const MachineEntry guard;
        trace_.where(entry.where);
    }
    entry.fired = true;
    fault_fired_ |= !entry.own;
    last_fired_ = &entry;
    trace_.emit(Layer::machine, "fault.fired",
                {{"plan", std::string_view(entry.text)}, {"name", name}, {"visit", entry.visits}});
    switch (entry.kind) {
    case FaultKind::panic: throw KernelPanic(fmt::format("planned fault {}", std::string_view(entry.text)));
    case FaultKind::power_loss: throw PowerLoss();
    case FaultKind::kill_agent: agent_kill_ = true; return std::nullopt;
    case FaultKind::delay: clock_.advance(entry.delay_ns); return std::nullopt;
    default: break;  // the caller carries it out
    }
    return FaultAction{entry.kind,
                       entry.error,
                       entry.delay_ns,
                       entry.offset,
                       entry.bit,
                       entry.length,
                       entry.address,
                       std::string(entry.old_text),
                       std::string(entry.new_text)};
}

void FaultInjector::missed(std::string_view name) {
    INVARIANT(last_fired_ != nullptr);
    last_fired_->fired = false;
    trace_.emit(Layer::machine, "fault.missed", {{"plan", std::string_view(last_fired_->text)}, {"name", name}});
}

std::optional<FaultInjector::Hit> FaultInjector::visit_many(FaultPoint point, std::string_view name, u64 count) {
    const std::size_t index = static_cast<std::size_t>(point);
    if (!armed_[index] && !record_visits) return std::nullopt;
    for (u64 i = 0; i < count; ++i)
        if (auto action = visit_slow(point, name)) return Hit{i, *action};
    return std::nullopt;
}

FaultInjector::Run FaultInjector::check_many(FaultPoint point, std::string_view name, u64 count) {
    for (u64 good = 0; good < count;) {
        const auto hit = visit_many(point, name, count - good);
        if (!hit) break;
        if (hit->action.kind == FaultKind::fail) return {good + hit->index, hit->action.error};
        good += hit->index + 1;
    }
    return {count, Errno::ok};
}

std::vector<FaultInjector::Status> FaultInjector::status() const {
    std::vector<Status> result;
    for (const Entry& entry : plan_)
        result.push_back({std::string(entry.text), entry.visits, entry.fired,
                          fault_is_corrupting(entry.kind, entry.point), entry.fired_ns, entry.fired_in,
                          std::string(entry.where), entry.own, std::string(entry.phase)});
    return result;
}
bool FaultInjector::any_fired() const {
    for (const Entry& entry : plan_)
        if (entry.fired) return true;
    return false;
}
bool FaultInjector::corrupting_fired() const {
    for (const Entry& entry : plan_)
        if (entry.fired && fault_is_corrupting(entry.kind, entry.point)) return true;
    return false;
}
std::vector<FaultInjector::Visits> FaultInjector::visits() const {
    std::vector<Visits> result;
    for (const LogEntry& entry : log_)
        result.push_back({entry.point, std::string(*names_[entry.name]), entry.count, entry.generation,
                          entry.after_fault, std::string(entry.phase)});
    return result;
}

}  // namespace kexec_sim
