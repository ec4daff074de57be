// Fault points and the injector.
//
// Every place that can fail in reality passes through one call that names the point:
//
//     if (auto fault = machine.faults.visit(FaultPoint::mm_folio_alloc, site)) return fail(fault->error);
//
// The injector counts the visits of every planned fault by itself and answers with the action that is
// due. What is the same for every point (panic, power loss, kill-agent, delay) it carries out itself, by throwing or
// by moving the clock; the caller sees only `fail`, `skip`, `lie`, `drop`, `duplicate` and the
// corruptions. Exploration reads `visits()`.
//
// A plan is data: (point, match, visit, generation, action). Its text form is
// POINT[MATCH]#VISIT=ACTION(ARGUMENTS), as in `luo.subsystem.prepare[iommu]#1=fail(ENOMEM)`.
#pragma once

#include <array>
#include <map>
#include <memory_resource>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "machine/result.hpp"
#include "machine/types.hpp"

namespace kexec_sim {

enum class FaultPoint : u16 {
#define FAULT_POINT(id, name, match, errnos, works, text) id,
#include "machine/fault_points.def"
#undef FAULT_POINT
};

struct FaultPointInfo {
    FaultPoint id;
    std::string_view name, match, errnos;
    std::string_view works;  // what else the point carries out, of skip, lie, drop, …: "skip lie", or ""
    std::string_view description;
};
std::span<const FaultPointInfo> fault_points();
const FaultPointInfo& fault_point_info(FaultPoint point);
std::optional<FaultPoint> fault_point_by_name(std::string_view name);

/// A bit worth flipping in what a point corrupts (and, aligned down, a word worth clearing): exploration tries these.
struct FaultSample {
    u64 offset, bit;
};
std::span<const FaultSample> fault_samples(FaultPoint point);

enum class FaultKind : u8 {
    fail,
    panic,
    power_loss,
    kill_agent,
    delay,
    drop,  // operational where an interrupt is dropped, else corrupting
    flip,
    zero,
    truncate,
    replace,
    misdirect,
    duplicate,
    skip,
    lie,
    swap  // corrupting
};
struct FaultKindInfo {
    FaultKind kind;
    std::string_view name;  // "fail", "power-loss", "kill-agent", …
    bool takes_argument;
};
/// In the order of FaultKind.
std::span<const FaultKindInfo> fault_kinds();
const FaultKindInfo& fault_kind_info(FaultKind kind);
inline std::string_view fault_kind_name(FaultKind kind) { return fault_kind_info(kind).name; }
std::optional<FaultKind> fault_kind_by_name(std::string_view name);
bool fault_is_corrupting(FaultKind kind, FaultPoint point);

struct FaultAction {
    FaultKind kind = FaultKind::fail;
    Errno error = Errno::ok;         // fail, lie
    u64 delay_ns = 0;                // delay
    u64 offset = 0;                  // flip, zero
    u64 bit = 0;                     // flip
    u64 length = 0;                  // zero, truncate
    u64 address = 0;                 // misdirect
    std::string old_text, new_text;  // replace; equal length
};

struct PlannedFault {
    FaultPoint point{};
    std::string match;                     // a glob; empty: any
    u64 visit = 1;                         // 0: every visit
    std::optional<Generation> generation;  // `in`
    FaultAction action;
    /// The text form, canonical: what messages, JSON and the command line show.
    std::string text() const;
};
/// Parses the text form. The error message says what is wrong, without a position.
std::expected<PlannedFault, std::string> parse_fault(std::string_view text);
class TraceRecorder;
class VirtualClock;

/// `*` any run, `?` any one character.
bool glob_matches(std::string_view pattern, std::string_view text);

/// Lives in the arena. The plan is copied into it at the start of a run.
class FaultInjector {
public:
    FaultInjector(VirtualClock& clock, TraceRecorder& trace, std::pmr::memory_resource* memory);
    /// `own`: the first of them that are the scenario's own; they do not count as the fault that a visit comes after.
    void set_plan(std::span<const PlannedFault> plan, std::size_t own = 0);
    /// From here on no fault strikes, and nothing is logged.
    void disarm();
    void set_generation(Generation generation) { generation_ = generation; }

    /// One visit of `point` by `name` (the site, subsystem, … that a match compares with).
    std::optional<FaultAction> visit(FaultPoint point, std::string_view name = {}) {
        if (!watches(point)) return std::nullopt;
        return visit_slow(point, name);
    }
    /// False: a visit of this point is neither planned for nor counted, and may be left out.
    bool watches(FaultPoint point) const { return armed_[static_cast<std::size_t>(point)] || record_visits; }
    /// As `count` visits in a row, but stops at the first that an action is due for and says which
    /// (from 0); the visits after it have not happened.
    struct Hit {
        u64 index;
        FaultAction action;
    };
    std::optional<Hit> visit_many(FaultPoint point, std::string_view name, u64 count);
    /// visit() for the commonest use: `fail` comes back as the errno; an action that means nothing here is ignored.
    Result<> check(FaultPoint point, std::string_view name = {}) {
        if (auto action = visit(point, name); action && action->kind == FaultKind::fail) return fail(action->error);
        return {};
    }
    /// visit() of a point at which nothing but `skip` (or `drop`, of a message) means anything: true if it is planned.
    bool skips(FaultPoint point, std::string_view name = {}) {
        const auto action = visit(point, name);
        return action && (action->kind == FaultKind::skip || action->kind == FaultKind::drop);
    }
    /// check() for a run of alike visits: how many go well before the first that fails (`count` if none does).
    struct Run {
        u64 good;
        Errno error;
    };
    Run check_many(FaultPoint point, std::string_view name, u64 count);

    struct Status {
        std::string plan;
        u64 visits;
        bool fired;
        bool corrupting;
        u64 fired_ns = 0;  // when, first
        Generation fired_in = 0;
        std::string where = {};  // the spans that were open then (TraceRecorder::where)
        bool own = false;        // the scenario's
        std::string phase = {};  // of the update, when it fired first
    };
    std::vector<Status> status() const;
    bool any_fired() const;
    bool corrupting_fired() const;

    /// `kill-agent` fired: the calling agent dies on its way back to user space. The kernel model takes the flag.
    /// The action that visit() returned last found nothing to do where it was aimed: it counts as not fired.
    void missed(std::string_view name);
    /// Where in an update the machine is, told by those who know; names are literals. It is the stage of a kernel's life
    /// ("boot", "shutdown", "jump") if it is in one, else what it is doing ("prepare"), else its state ("prepared").
    void set_stage(std::string_view stage);
    void set_update_state(std::string_view state) { update_state_ = state; }
    class Doing {
    public:
        /// Part of something greater that is being done, it is no phase of its own.
        Doing(FaultInjector& faults, std::string_view what) : faults_(faults), before_(faults.doing_) {
            if (faults.doing_.empty()) faults.doing_ = what;
        }
        ~Doing() { faults_.doing_ = before_; }
        Doing(const Doing&) = delete;
        Doing& operator=(const Doing&) = delete;

    private:
        FaultInjector& faults_;
        std::string_view before_;
    };
    bool doing() const { return !doing_.empty(); }
    std::string_view phase() const { return !stage_.empty() ? stage_ : !doing_.empty() ? doing_ : update_state_; }

    bool agent_kill_pending() const { return agent_kill_; }
    bool take_agent_kill() { return std::exchange(agent_kill_, false); }

    /// Told of each visit before it is carried out, where it is set (exploration forks there); `record_visits` must be on.
    class VisitHook {
    public:
        virtual void visited(FaultPoint point, std::string_view name) = 0;

    protected:
        ~VisitHook() = default;
    };
    VisitHook* hook = nullptr;
    /// The visit that the hook is told of is to be the one that `fault` means: added to the plan as if it had been part of
    /// it from the start.
    void plan_now(const PlannedFault& fault);

    /// The log of visits, for exploration: in order, alike ones in a row as one entry. A planned fault that fires, but for
    /// the scenario's own, begins a new one (`after_fault`), so that what follows it can be told from what led to it.
    bool record_visits = false;
    struct Visits {
        FaultPoint point;
        std::string name;
        u64 count;
        Generation generation;
        bool after_fault;
        std::string phase = {};
    };
    std::vector<Visits> visits() const;

private:
    struct Entry {
        FaultPoint point;
        std::pmr::string match;
        u64 visit;
        i64 generation;  // -1: any
        FaultKind kind;
        Errno error;
        u64 delay_ns, offset, bit, length, address;
        std::pmr::string old_text, new_text, text;
        u64 visits = 0;
        bool fired = false;
        u64 fired_ns = 0;
        Generation fired_in = 0;
        std::pmr::string where;
        bool own = false;
        std::string_view phase = {};
    };
    struct LogEntry {
        FaultPoint point;
        u32 name;  // index into names_
        u64 count;
        Generation generation;
        bool after_fault;
        std::string_view phase;
    };
    void add_entry(const PlannedFault& fault, u64 visits);
    void log_visit(FaultPoint point, std::string_view name);
    std::optional<FaultAction> visit_slow(FaultPoint point, std::string_view name);
    std::optional<FaultAction> fire(Entry& entry, std::string_view name);

    VirtualClock& clock_;
    TraceRecorder& trace_;
    Generation generation_ = 0;
    bool agent_kill_ = false;
    Entry* last_fired_ = nullptr;  // in `plan_`
    std::array<bool, 256> armed_{};
    std::pmr::vector<Entry> plan_;
    std::pmr::vector<LogEntry> log_;
    std::pmr::map<std::pmr::string, u32, std::less<>> name_ids_;
    std::pmr::vector<const std::pmr::string*> names_;
    bool fault_fired_ = false;
    std::string_view stage_, doing_, update_state_ = "normal";
};

/// The work of a call under its fault point: a planned `skip` returns success without it, `lie` does it and returns an
/// errno.
template <typename Work>
Result<> under_fault(FaultInjector& faults, FaultPoint point, std::string_view name, Work&& work) {
    const auto action = faults.visit(point, name);
    if (!action) [[likely]]
        return work();
    switch (action->kind) {
    case FaultKind::fail: return fail(action->error);
    case FaultKind::skip: return {};
    case FaultKind::lie: TRY(work()); return fail(action->error);
    default: return work();
    }
}

}  // namespace kexec_sim
