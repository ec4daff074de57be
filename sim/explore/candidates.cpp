#include "sim/explore/candidates.hpp"

#include <algorithm>
#include <bit>
#include <fmt/format.h>
#include <map>
#include <set>

#include "sim/scenario.hpp"
#include "sim/terminal_text.hpp"
#include "sim/values.hpp"

namespace kexec_sim::sim {
namespace {

constexpr u64 visits_in_full = 64;
constexpr FaultKind operational_kinds[] = {FaultKind::fail,       FaultKind::panic, FaultKind::kill_agent,
                                           FaultKind::power_loss, FaultKind::delay, FaultKind::drop};
constexpr FaultKind corrupting_kinds[] = {
    FaultKind::flip,      FaultKind::zero, FaultKind::truncate, FaultKind::replace, FaultKind::misdirect,
    FaultKind::duplicate, FaultKind::swap, FaultKind::skip,     FaultKind::lie,     FaultKind::drop};

std::vector<Errno> errnos_of(const FaultPointInfo& info) {
    std::vector<Errno> errnos;
    for (std::string_view words = info.errnos; !words.empty();) {
        const std::size_t end = std::min(words.find(' '), words.size());
        errnos.push_back(errno_by_name(words.substr(0, end)));
        words.remove_prefix(std::min(end + 1, words.size()));
    }
    return errnos;
}

/// Which of the visits 1 … count of a site are tried.
bool is_tried(u64 visit, u64 count, bool all) {
    return all || visit <= visits_in_full || visit == count || std::has_single_bit(visit);
}

struct CallSite {
    FaultPoint point;
    std::string_view name;
    Generation generation;
    auto operator<=>(const CallSite&) const = default;
};

struct Visit {
    CallSite site;
    u64 at_site;  // from 1
    u64 number;   // as a plan counts: over the whole run, by point and name
    unsigned tier;
};

/// What the point publishes, or (flip:all, zero:all) a bit of each word of the first KiB, where the structure is.
std::vector<FaultSample> bits_of(FaultPoint point, bool every_word) {
    const auto samples = fault_samples(point);
    std::vector<FaultSample> bits(samples.begin(), samples.end());
    if (!every_word || bits.empty()) return bits;
    bits.clear();
    for (u64 offset = 0; offset < KiB; offset += sizeof(u32)) bits.push_back({offset, offset / sizeof(u32) % 8});
    return bits;
}

}  // namespace

ActionChoice ActionChoice::operational() {
    ActionChoice choice;
    for (const FaultKind kind : operational_kinds) choice.entries.push_back({kind});
    return choice;
}

std::expected<ActionChoice, std::string> ActionChoice::parse(std::string_view list) {
    ActionChoice choice;
    const auto add = [&](FaultKind kind, bool every) {
        const auto known = std::ranges::find(choice.entries, kind, &Entry::kind);
        if (known != choice.entries.end())
            known->every_sample |= every;
        else
            choice.entries.push_back({kind, every});
    };
    while (true) {
        const std::size_t end = std::min(list.find(','), list.size());
        std::string_view word = list.substr(0, end);
        const bool every = word.ends_with(":all");
        if (every) word.remove_suffix(4);
        if (word == "operational" || word == "all")
            for (const FaultKind kind : operational_kinds) add(kind, every);
        if (word == "corrupting" || word == "all")
            for (const FaultKind kind : corrupting_kinds) add(kind, every);
        if (const auto kind = fault_kind_by_name(word)) {
            add(*kind, every);
        } else if (word != "operational" && word != "corrupting" && word != "all") {
            std::vector<std::string_view> names{"operational", "corrupting", "all"};
            for (const FaultKindInfo& info : fault_kinds()) names.push_back(info.name);
            return std::unexpected(fmt::format("unknown action '{}'{}", word, did_you_mean(word, names)));
        }
        if (end == list.size()) return choice;
        list.remove_prefix(end + 1);
    }
}

std::vector<FaultAction> action_samples(FaultPoint point, const ActionChoice::Entry& entry) {
    std::vector<FaultAction> samples;
    const auto add = [&](auto&& fill) {
        FaultAction action;
        action.kind = entry.kind;
        fill(action);
        samples.push_back(action);
    };
    switch (entry.kind) {
    case FaultKind::fail:
    case FaultKind::lie:
        for (const Errno error : errnos_of(fault_point_info(point))) {
            add([&](FaultAction& action) { action.error = error; });
            if (!entry.every_sample) break;
        }
        break;
    case FaultKind::delay:
        for (const u64 delay : {1'000'000, 10'000, 100'000'000}) {
            add([&](FaultAction& action) { action.delay_ns = delay; });
            if (!entry.every_sample) break;
        }
        break;
    case FaultKind::flip:
        for (const FaultSample& sample : bits_of(point, entry.every_sample))
            add([&](FaultAction& action) {
                action.offset = sample.offset;
                action.bit = sample.bit;
            });
        break;
    case FaultKind::zero:
        for (const FaultSample& sample : bits_of(point, entry.every_sample))
            add([&](FaultAction& action) {
                action.offset = align_down(sample.offset, sizeof(u64));
                action.length = sizeof(u64);
            });
        break;
    case FaultKind::truncate:
        for (const u64 length : {0, 8, 40, 72}) add([&](FaultAction& action) { action.length = length; });
        break;
    case FaultKind::replace:
        for (const auto& [old_text, new_text] :
             {std::pair{"kho-v1", "kho-v2"}, std::pair{"luo-v1", "luo-v9"}, std::pair{"memfd-v1", "memfd-v0"}})
            add([&](FaultAction& action) {
                action.old_text = old_text;
                action.new_text = new_text;
            });
        break;
    case FaultKind::misdirect:
        for (const u64 address : {u64{0x1000}, u64{0x7000000}, u64{1} << 46})
            add([&](FaultAction& action) { action.address = address; });
        break;
    default: add([](FaultAction&) {}); break;
    }
    std::erase_if(samples, [&](const FaultAction& action) {
        return !fault_problem({point, {}, 1, std::nullopt, action}).empty();
    });
    return samples;
}

Candidates candidate_faults(const std::vector<FaultInjector::Visits>& log, const CandidateOptions& options,
                            bool after_fault) {
    Candidates result;
    std::map<CallSite, u64> totals;
    for (const auto& run : log)
        if (run.after_fault == after_fault) totals[{run.point, run.name, run.generation}] += run.count;

    std::vector<Visit> visits;
    std::map<CallSite, u64> at_site;
    std::map<std::pair<FaultPoint, std::string_view>, u64> by_name;
    std::map<FaultPoint, u64> by_point;
    std::set<FaultPoint> seen;
    for (const auto& run : log) {
        const CallSite site{run.point, run.name, run.generation};
        u64& number = run.name.empty() ? by_point[run.point] : by_name[{run.point, run.name}];
        if (!run.name.empty()) by_point[run.point] += run.count;
        const u64 before = std::exchange(number, number + run.count);
        if (run.after_fault != after_fault || !glob_matches(options.points, fault_point_info(run.point).name))
            continue;
        result.visits += run.count;
        const u64 count = totals[site];
        for (u64 i = 1; i <= run.count; ++i) {
            const u64 nth = ++at_site[site];
            if (!is_tried(nth, count, options.all_visits)) {
                result.thinned = true;
                continue;
            }
            const unsigned tier = seen.insert(run.point).second ? 0 : nth == 1 ? 1 : 2;
            visits.push_back({site, nth, before + i, tier});
        }
    }
    std::ranges::stable_sort(visits, {}, &Visit::tier);
    std::map<FaultPoint, std::vector<FaultAction>> actions;
    for (const Visit& visit : visits) {
        auto known = actions.find(visit.site.point);
        if (known == actions.end()) {
            known = actions.emplace(visit.site.point, std::vector<FaultAction>()).first;
            for (const ActionChoice::Entry& entry : options.actions.entries)
                std::ranges::copy(action_samples(visit.site.point, entry), std::back_inserter(known->second));
        }
        for (const FaultAction& action : known->second)
            result.faults.push_back(
                {visit.site.point, std::string(visit.site.name), visit.number, std::nullopt, action});
    }
    return result;
}

}  // namespace kexec_sim::sim
