// The referee's book of owners: what the page allocator hands out and takes back.
//
// A frame is in the pool once the allocator got it, and free while it has no owner. Three questions are answered
// here: does a frame get a second owner, or one while it is promised (frame.exclusive); what is left over when no
// update is open (frame.accounted); what is in use (expect.memory_in_use).
//
// Frames that the successor's boot reserved because the map says so are `inherited`: neither in the pool nor owned
// until somebody restores or frees them.
#include <algorithm>

#include "machine/arena.hpp"
#include "machine/referee_books.hpp"

namespace kexec_sim {
namespace {

constexpr u64 pageblock_bytes = 2 * MiB;

bool in_use_class(FrameClass frame_class) {
    switch (frame_class) {
    case FrameClass::agent:
    case FrameClass::luo:
    case FrameClass::handler:
    case FrameClass::subsystem:
    case FrameClass::bench: return true;
    case FrameClass::kernel:
    case FrameClass::slab:
    case FrameClass::file:
    case FrameClass::kho:
    case FrameClass::overhead: break;
    }
    return false;
}

}  // namespace

FrameList RefereeBooks::free_frames(PfnRange frames) const {
    FrameList list;
    kernel->pool.visit(frames, [&](PfnRange part, const Member&) {
        kernel->owners.visit_gaps(part, [&](PfnRange gap) { list.add(gap); });
    });
    return list;
}

FrameList RefereeBooks::shared_frames(PfnRange frames) const {
    FrameList list;
    kernel->owners.visit(frames, [&](PfnRange part, const Owner& owner) {
        if (owner.site != no_name) list.add(part);  // none: only a class was given to it
    });
    return list;
}

bool RefereeBooks::overhead(const Source& source) const {
    return source.origin == Origin::kho || source.origin == Origin::reserve_mem ||
           (source.origin == Origin::luo && !kernel->strict);
}

std::string_view RefereeBooks::overhead_name() {
    return names.text(names.id(text("overhead:{}", names.text(kernel->edition))));
}

void RefereeBooks::handed_out(PfnRange frames, const Owner& owner) {
    std::pmr::map<u32, FrameList> promised(memory);
    carried.frames.visit(frames, [&](PfnRange part, const Kept& kept) {
        const Source& source = carried.sources[kept.source];
        if (!source.promised || source.state != PromiseState::open || source.origin == Origin::kho) return;
        carried.restored.visit_gaps(part, [&](PfnRange gap) { promised[kept.source].add(gap); });
    });
    const std::string_view site = names.text(owner.site);
    for (const auto& [index, list] : promised) {
        const NameId* name = carried.names.find(Pfn{list.first[0]});
        const Source& source = carried.sources[index];
        report(
            InvariantId::frame_exclusive, resource_of(source, name ? *name : no_name), list,
            "frame {:#x} was promised to {} by generation {} and is not restored; generation {}'s allocator handed "
            "it out to {}",
            list.first[0], described(source, name ? *name : no_name), carried.by, kernel->generation, site);
    }
    std::pmr::map<u32, FrameList> kept_here(memory);
    if (!kernel->sources.empty())
        kept().visit(frames, [&](PfnRange part, const Kept& entry) {
            const Source& source = kernel->sources[entry.source];
            if (source.promised && !source.suspended && source.origin >= Origin::handler)
                kept_here[entry.source].add(part);
        });
    for (const auto& [index, list] : kept_here)
        report(InvariantId::frame_exclusive, resource_of(kernel->sources[index]), list,
               "frame {:#x} is promised to the next kernel for {}; the allocator handed it out to {}", list.first[0],
               described(kernel->sources[index]), site);
    const FrameList shared = kept_here.empty() ? shared_frames(frames) : FrameList{};
    if (!shared.empty()) {
        const Owner* other = kernel->owners.find(Pfn{shared.first[0]});
        report(InvariantId::frame_exclusive, site, shared,
               "frame {:#x} belongs to {}; the allocator handed it out to {}", shared.first[0],
               other ? names.text(other->site) : std::string_view("?"), site);
    }
    kernel->owners.assign(frames, owner);
}

void RefereeBooks::returned(PfnRange frames) {
    const FrameList twice = free_frames(frames);
    if (!twice.empty())
        report(InvariantId::kernel_sane, "allocator", twice,
               "frame {:#x} is free; it was given back to the allocator again", twice.first[0]);
    kernel->owners.erase(frames);
    kernel->pool.assign(frames, {});
}

template <typename Call> void RefereeBooks::visit_unclaimed(Call&& call) {
    kernel->inherited.visit_all([&](PfnRange all, const Member&) {
        carried.restored.visit_gaps(all, [&](PfnRange kept_back) {
            kernel->pool.visit_gaps(kept_back, [&](PfnRange not_freed) {
                kernel->owners.visit_gaps(not_freed, [&](PfnRange part) {
                    carried.frames.visit(part, [&](PfnRange known, const Kept& kept) { call(known, &kept); });
                    carried.frames.visit_gaps(part, [&](PfnRange unknown) { call(unknown, nullptr); });
                });
            });
        });
    });
}

template <typename Call> void RefereeBooks::visit_in_use(Call&& call) {
    kernel->owners.visit_all([&](PfnRange part, const Owner& owner) {
        const bool is_overhead = owner.frame_class == FrameClass::overhead;
        call(part, is_overhead ? overhead_name() : names.text(owner.site), owner.frame_class);
    });
    visit_unclaimed([&](PfnRange part, const Kept* kept) {
        if (!kept) return;
        const Source& source = carried.sources[kept->source];
        if (overhead(source)) return call(part, overhead_name(), FrameClass::overhead);
        FrameClass frame_class = FrameClass::bench;
        if (source.origin == Origin::subsystem) frame_class = FrameClass::subsystem;
        if (source.origin == Origin::luo) frame_class = FrameClass::luo;
        if (source.origin == Origin::handler) frame_class = kept->metadata ? FrameClass::handler : FrameClass::file;
        call(part, names.text(source.who), frame_class);
    });
}

/// What is left over, by owner; each frame is found once a generation.
class RefereeBooks::Leftovers {
public:
    explicit Leftovers(RefereeBooks& books) : books_(books), lists_(books.memory), fresh_(books.memory) {}
    void note(std::string_view resource, PfnRange frames) {
        books_.kernel->leaked.visit_gaps(frames, [&](PfnRange part) {
            lists_[books_.names.id(resource)].add(part);
            fresh_.push_back(part);
        });
    }
    template <typename Say> void say(Say&& say_one) {
        for (const auto& [resource, list] : lists_) say_one(books_.names.text(resource), list);
        for (const PfnRange part : fresh_) books_.kernel->leaked.assign(part, {});
    }

private:
    RefereeBooks& books_;
    std::pmr::map<NameId, FrameList> lists_;
    std::pmr::vector<PfnRange> fresh_;
};

void RefereeBooks::judge_accounts(std::string_view moment) {
    judge_inherited(moment);
    judge_allocated(moment);
    Leftovers left(*this);
    kept().visit_all([&](PfnRange part, const Kept& entry) {
        const Source& source = kernel->sources[entry.source];
        if (source.excused || (source.origin != Origin::handler && source.origin != Origin::subsystem)) return;
        kernel->pool.visit(part, [&](PfnRange pooled, const Member&) {
            kernel->owners.visit_gaps(pooled, [&](PfnRange gap) { left.note(resource_of(source), gap); });
        });
    });
    left.say([&](std::string_view resource, const FrameList& list) {
        report(InvariantId::frame_accounted, resource, list,
               "frame {:#x} is preserved for {}; after {} it is free memory of the allocator", list.first[0],
               resource, moment);
    });
}

void RefereeBooks::judge_inherited(std::string_view moment) {
    Leftovers left(*this);
    visit_unclaimed([&](PfnRange part, const Kept* kept) {
        if (!kept) {
            if (carried.known) left.note("handover", part);
            return;
        }
        const Source& source = carried.sources[kept->source];
        if (overhead(source) || source.state == PromiseState::over) return;
        if (source.promised && source.state == PromiseState::open) return;
        // What a restore was told of as not there stays reserved: lost, and said to be.
        carried.refused.visit_gaps(part, [&](PfnRange gap) { left.note(resource_of(source), gap); });
    });
    left.say([&](std::string_view resource, const FrameList& list) {
        report(InvariantId::frame_accounted, resource, list,
               "frame {:#x} of {} came from generation {}; after {} it is neither restored nor freed nor part of an "
               "open promise",
               list.first[0], resource, carried.by, moment);
    });
}

/// What the map made this kernel keep must be what its predecessor had tracked for somebody. Not judged where the map may
/// be misread, or was damaged.
void RefereeBooks::judge_map() {
    if (!carried.known || !kernel->handover_accepted || carried.map_bitmap_bytes == 0) return;
    if (carried.map_bitmap_bytes != kernel->map_bitmap_bytes || !carried.said.empty()) return;
    if (corrupted_before || faults.corrupting_fired()) return;
    FrameList stray;
    kernel->inherited.visit_all([&](PfnRange part, const Member&) {
        carried.frames.visit_gaps(part, [&](PfnRange gap) {
            stray.add(gap);
            kernel->leaked.assign(gap, {});
        });
    });
    if (!stray.empty())
        report(InvariantId::frame_accounted, "handover", stray,
               "frame {:#x} is kept reserved by generation {}, because the map of generation {} says so; nobody had "
               "preserved it",
               stray.first[0], kernel->generation, carried.by);
}

void RefereeBooks::judge_allocated(std::string_view moment) {
    const IntervalMap<Kept>& tracked = kept();
    // A file that was prepared alone, by its own event, stays prepared while the machine is in normal state.
    const auto kept_for_single_file = [&](const Kept& entry) {
        const Source& source = kernel->sources[entry.source];
        const auto file = source.has_token ? kernel->files.find(source.token) : kernel->files.end();
        return source.intent && file != kernel->files.end() && file->second.by_event && file->second.prepared;
    };
    Leftovers left(*this);
    kernel->owners.visit_all([&](PfnRange part, const Owner& owner) {
        if (!owner.of_update || owner.restored || !in_use_class(owner.frame_class)) return;
        const std::string_view site = names.text(owner.site);
        tracked.visit_gaps(part, [&](PfnRange gap) { left.note(site, gap); });
        tracked.visit(part, [&](PfnRange here, const Kept& entry) {
            if (!kept_for_single_file(entry)) left.note(site, here);
        });
    });
    left.say([&](std::string_view resource, const FrameList& list) {
        report(InvariantId::frame_accounted, resource, list,
               "frame {:#x} was allocated by {} for an update; after {} no update is open and it is still allocated",
               list.first[0], resource, moment);
    });
}

void RefereeBooks::become_overhead_after_failed_freeze() {
    // As written, a failed freeze leaves trees and metadata behind that no later call gives back.
    std::pmr::vector<std::pair<PfnRange, Owner>> left(memory);
    kernel->owners.visit_all([&](PfnRange part, const Owner& owner) {
        if (owner.of_update && !owner.restored && in_use_class(owner.frame_class)) left.emplace_back(part, owner);
    });
    for (auto& [part, owner] : left) {
        owner.frame_class = FrameClass::overhead;
        kernel->owners.assign(part, owner);
    }
}

// --- The allocator's boundary ------------------------------------------------------------------------------------

void Referee::frames_to_allocator(PfnRange frames) {
    if (!attached) return;
    const MachineEntry entry;
    // Whoever had them from memblock (a scratch area) gives them up by this.
    books_->kernel->owners.erase(frames);
    books_->kernel->pool.assign(frames, {});
    if (books_->devices) books_->devices->frames_returned(frames);
}

void Referee::frames_handed_out(PfnRange frames, std::string_view site, FrameClass frame_class) {
    if (!attached || frames.empty()) return;
    const MachineEntry entry;
    RefereeBooks& books = *books_;
    const LuoBook& luo = books.kernel->luo;
    Owner owner{books.names.id(site), frame_class};
    // LUO allocates for nothing but updates; the pages of others count if a callback took them to save its state.
    const bool saving = (luo.running != no_name || luo.file_running) &&
                        (luo.running_in == LuoCallback::prepare || luo.running_in == LuoCallback::freeze);
    if (frame_class == FrameClass::luo)
        owner.of_update = books.kernel->user_space;
    else if (frame_class != FrameClass::agent)
        owner.of_update = saving && in_use_class(frame_class);
    books.handed_out(frames, owner);
    if (books.devices) books.devices->frames_handed_out(frames, site);
}

void Referee::frames_returned(PfnRange frames) {
    if (!attached || frames.empty()) return;
    const MachineEntry entry;
    books_->returned(frames);
    if (books_->devices) books_->devices->frames_returned(frames);
}

void Referee::frames_become(PfnRange frames, FrameClass frame_class) {
    if (!attached) return;
    const MachineEntry entry;
    RefereeBooks& books = *books_;
    std::pmr::vector<std::pair<PfnRange, Owner>> changed(books.memory);
    books.kernel->owners.visit(frames, [&](PfnRange part, const Owner& owner) { changed.emplace_back(part, owner); });
    books.kernel->owners.visit_gaps(frames, [&](PfnRange gap) { changed.emplace_back(gap, Owner{}); });
    for (auto& [part, owner] : changed) {
        owner.frame_class = frame_class;
        books.kernel->owners.assign(part, owner);
    }
}

void Referee::scratch_areas(std::span<const PhysRange> areas) {
    if (!attached) return;
    const MachineEntry entry;
    books_->kernel->scratch.assign(areas.begin(), areas.end());
    // The next kernel treats pageblocks as a whole: what shares one with a scratch area is in it as well.
    for (const PhysRange& area : areas)
        if (!area.empty() && (area.begin.raw % pageblock_bytes || area.end.raw % pageblock_bytes))
            books_->report(
                InvariantId::kernel_sane, "scratch", {},
                "generation {} announces a scratch area {:#x}-{:#x}; a pageblock at its edge is half scratch",
                books_->kernel->generation, area.begin.raw, area.end.raw);
}

void Referee::frames_inherited(PfnRange frames) {
    if (!attached) return;
    const MachineEntry entry;
    books_->kernel->inherited.assign(frames, {});
}

bool Referee::update_under_way() const {
    const KernelBooks& kernel = *books_->kernel;
    if (kernel.luo.state == LuoState::undefined) return kernel.kho_finalized;
    return kernel.luo.state == LuoState::prepared || kernel.luo.state == LuoState::frozen;
}

u64 Referee::frames_in_use() const {
    u64 count = 0;
    books_->visit_in_use([&](PfnRange part, std::string_view, FrameClass frame_class) {
        if (in_use_class(frame_class)) count += part.pages();
    });
    return count;
}

u64 Referee::frames_of(std::string_view owner) const {
    u64 count = 0;
    books_->visit_in_use([&](PfnRange part, std::string_view site, FrameClass frame_class) {
        if (glob_matches(owner, site) || glob_matches(owner, frame_class_name(frame_class))) count += part.pages();
    });
    return count;
}

}  // namespace kexec_sim
