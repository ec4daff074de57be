// How a promise ends badly, and when that is noticed.
//
//   the handover is refused               every promise; announced by the log line
//   the successor reaches user space      what no component could ever claim; reserve_mem that was not named
//   finish                                files whose restore failed
//   the successor's own next jump         what was never claimed: a promise is good for one jump
//   a panic                               everything that is open; the panic is the announcement
//   the end of the scenario               what cannot be claimed any more
//
// A loss is announced (loss.reported) if a log line or an errno said so, else silent (loss.silent). Power loss and
// reset are not the kernel's fault and end promises without a finding.
#include "machine/arena.hpp"
#include "machine/referee_books.hpp"

namespace kexec_sim {
namespace {

bool lost_on_its_own(const Source& source) {
    return source.promised && source.state == PromiseState::open &&
           (source.origin == Origin::direct || source.origin == Origin::subsystem);
}

}  // namespace

bool RefereeBooks::can_try_again(Errno error) {
    return error == Errno::ok || error == Errno::emfile || error == Errno::enfile || error == Errno::ebusy ||
           error == Errno::eagain || error == Errno::eintr;
}

void RefereeBooks::close_file(Carried& from, u64 token, PromiseState state) {
    for (Source& source : from.sources)
        if (source.has_token && source.token == token) source.state = state;
}

void RefereeBooks::lose_file(Carried& from, u64 token, CarriedFile& file, const Loss& loss) {
    FrameList frames;
    for (const FileExtent& extent : file.extents) frames.add(pfn_range(extent.pfn, extent.pages));
    file.state = PromiseState::over;
    close_file(from, token, PromiseState::over);
    if (devices && &from == &carried) devices->carried_lost(token);
    report(loss.said ? InvariantId::loss_reported : InvariantId::loss_silent, text("file {:#x}", token), frames,
           "{} was promised by generation {}; {}{}", described(token, file.compatible), from.by, loss.why,
           loss.said ? "" : ", and nobody said so");
}

void RefereeBooks::lose_source(Carried& from, u32 index, const Loss& loss) {
    Source& source = from.sources[index];
    // By the names of the objects in it. What the running kernel has promised anew is not lost.
    std::pmr::map<NameId, FrameList> lost(memory);
    const auto note = [&](PfnRange frames) {
        from.names.visit(frames, [&](PfnRange part, NameId name) { lost[name].add(part); });
        from.names.visit_gaps(frames, [&](PfnRange gap) { lost[no_name].add(gap); });
    };
    const IntervalMap<Kept>& again = kept();
    from.frames.visit_all([&](PfnRange part, const Kept& entry) {
        if (entry.source != index) return;
        from.restored.visit_gaps(part, [&](PfnRange left) {
            from.retrieved.visit_gaps(left, [&](PfnRange gap) {
                if (&from == &staged) return note(gap);
                again.visit_gaps(gap, note);
                again.visit(gap, [&](PfnRange here, const Kept& anew) {
                    if (!kernel->sources[anew.source].promised) note(here);
                });
            });
        });
    });
    source.state = PromiseState::over;
    for (const auto& [name, frames] : lost)
        report(loss.said ? InvariantId::loss_reported : InvariantId::loss_silent, resource_of(source, name), frames,
               "frame {:#x} of {} was promised by generation {}; {}{}", frames.first[0], described(source, name),
               from.by, loss.why, loss.said ? "" : ", and nobody said so");
}

void RefereeBooks::lose_reserve(Carried& from, NameId name, CarriedReserve& reserve, const Loss& loss) {
    reserve.state = PromiseState::over;
    FrameList frames;
    frames.add({reserve.range.begin.pfn(), PhysAddr{reserve.range.end.raw + page_bytes - 1}.pfn()});
    report(loss.said ? InvariantId::loss_reported : InvariantId::loss_silent,
           text("reserve_mem {}", names.text(name)), frames, "reserve_mem {} was promised by generation {}; {}{}",
           names.text(name), from.by, loss.why, loss.said ? "" : ", and nobody said so");
}

void RefereeBooks::lose(Carried& from, const Loss& loss) {
    for (auto& [token, file] : from.files)
        if (file.state == PromiseState::open) lose_file(from, token, file, loss);
    for (u32 index = 0; index < from.sources.size(); ++index)
        if (lost_on_its_own(from.sources[index])) lose_source(from, index, loss);
    for (auto& [name, reserve] : from.reserves)
        if (reserve.state == PromiseState::open) lose_reserve(from, name, reserve, loss);
    for (Source& source : from.sources) source.state = PromiseState::over;
}

RefereeBooks::Loss RefereeBooks::announced(const Carried& from, std::string_view why, std::pmr::string& storage) {
    if (from.said.empty()) return {false, why};
    storage = text("{}; the log said: {}", why, from.said);
    return {true, storage};
}

/// A file ends for `why`: announced if its restore failed with an errno or the handover was said to be damaged.
void RefereeBooks::settle_file(Carried& from, u64 token, CarriedFile& file, std::string_view why) {
    if (!can_try_again(file.told)) {
        const std::pmr::string told = text("its restore failed with {}", errno_name(file.told));
        return lose_file(from, token, file, {true, told});
    }
    std::pmr::string storage(memory);
    lose_file(from, token, file, announced(from, why, storage));
}

void RefereeBooks::settle_source(Carried& from, u32 index, std::string_view why) {
    std::pmr::string storage(memory);
    Loss loss = announced(from, why, storage);
    from.frames.visit_all([&](PfnRange part, const Kept& entry) {
        if (entry.source != index || !from.refused.touches(part)) return;
        storage = text("{}; KHO had told {} that it is not there", why, names.text(from.sources[index].who));
        loss = {true, storage};
    });
    lose_source(from, index, loss);
}

void RefereeBooks::judge_user_space() {
    if (!carried.known) return;
    std::pmr::string why(memory), storage(memory);
    if (!kernel->handover_accepted) {
        why = text("generation {} reached user space without having looked at the handover", kernel->generation);
        return lose(carried, announced(carried, why, storage));
    }
    const bool luo_has_it = kernel->has_luo && kernel->luo.state == LuoState::updated;
    Loss loss{false, {}};
    if (!kernel->has_luo) {
        // What the log says about the map does not announce this: only LUO's own word does.
        loss.said = !kernel->luo_declined.empty();
        why = text("generation {} reached user space without a live update orchestrator{}{}", kernel->generation,
                   loss.said ? ": " : "", kernel->luo_declined);
        loss.why = why;
    } else if (!luo_has_it) {
        why = text("generation {} reached user space in state {}, with nothing to restore from", kernel->generation,
                   luo_state_name(kernel->luo.state));
        loss = announced(carried, why, storage);
    }
    for (auto& [token, file] : carried.files) {
        if (file.state != PromiseState::open) continue;
        if (!luo_has_it) {
            lose_file(carried, token, file, loss);
        } else if (!file.late_handler && !kernel->claimers.contains(file.compatible)) {
            why = text("generation {} reached user space without a handler for it", kernel->generation);
            lose_file(carried, token, file, announced(carried, why, storage));
        }
    }
    for (u32 index = 0; index < carried.sources.size(); ++index)
        if (!luo_has_it && lost_on_its_own(carried.sources[index]) &&
            carried.sources[index].origin == Origin::subsystem)
            lose_source(carried, index, loss);
    why = text("generation {} did not ask for it", kernel->generation);
    for (auto& [name, reserve] : carried.reserves)
        if (reserve.state == PromiseState::open) lose_reserve(carried, name, reserve, {false, why});
}

void RefereeBooks::judge_next_jump() {
    const std::pmr::string why = text("generation {} jumped on without having claimed it", kernel->generation);
    std::pmr::string storage(memory);
    for (auto& [token, file] : carried.files) {
        if (file.state != PromiseState::open) continue;
        if (file.discarded)
            file.state = PromiseState::claimed;
        else
            settle_file(carried, token, file, why);
    }
    for (u32 index = 0; index < carried.sources.size(); ++index)
        if (lost_on_its_own(carried.sources[index])) settle_source(carried, index, why);
    for (auto& [name, reserve] : carried.reserves)
        if (reserve.state == PromiseState::open)
            lose_reserve(carried, name, reserve, announced(carried, why, storage));
}

void RefereeBooks::judge_finish() {
    for (auto& [token, file] : carried.files) {
        if (file.state != PromiseState::open) continue;
        if (!can_try_again(file.told)) {
            settle_file(carried, token, file, "");
            continue;
        }
        if (!file.discarded && !lacks(file.compatible, LuoCallback::finish))
            report(InvariantId::luo_resource, text("file {:#x}", token), {},
                   "{} was not restored; finish ended the update without telling its handler to discard it",
                   described(token, file.compatible));
        file.state = PromiseState::claimed;
        close_file(carried, token, PromiseState::claimed);
    }
    for (Source& source : carried.sources)
        if (source.state == PromiseState::open && source.origin != Origin::direct &&
            source.origin != Origin::reserve_mem)
            source.state = PromiseState::claimed;
}

/// Frames that the successor has given to its allocator are not kept for anybody any more.
bool RefereeBooks::out_of_reach(const Carried& from, u64 token, const CarriedFile& file) const {
    for (const FileExtent& extent : file.extents)
        if (kernel->pool.touches(pfn_range(extent.pfn, extent.pages))) return true;
    bool gone = false;
    from.frames.visit_all([&](PfnRange part, const Kept& entry) {
        const Source& source = from.sources[entry.source];
        if (source.has_token && source.token == token && source.promised) gone = gone || kernel->pool.touches(part);
    });
    return gone;
}

void RefereeBooks::judge_end() {
    const std::pmr::string why = text("generation {} did not keep its memory reserved", kernel->generation);
    for (auto& [token, file] : carried.files) {
        if (file.state != PromiseState::open || file.discarded) continue;
        if (!can_try_again(file.told) || out_of_reach(carried, token, file)) settle_file(carried, token, file, why);
    }
    for (u32 index = 0; index < carried.sources.size(); ++index) {
        if (!lost_on_its_own(carried.sources[index])) continue;
        bool gone = false;
        carried.frames.visit_all([&](PfnRange part, const Kept& entry) {
            if (entry.source != index || gone) return;
            carried.restored.visit_gaps(part, [&](PfnRange left) {
                carried.retrieved.visit_gaps(left, [&](PfnRange gap) {
                    gone = gone || kernel->pool.touches(gap) || carried.refused.touches(gap);
                });
            });
        });
        if (gone) settle_source(carried, index, why);
    }
}

// --- Moments -----------------------------------------------------------------------------------------------------

void Referee::user_space_reached() {
    if (!attached) return;
    const MachineEntry entry;
    books_->judge_map();
    books_->judge_user_space();
    books_->kernel->user_space = true;
    if (books_->devices) books_->devices->user_space_reached();
}

void Referee::handover_accepted() {
    if (!attached) return;
    const MachineEntry entry;
    books_->kernel->handover_accepted = true;
}

void Referee::handover_refused(std::string_view why) {
    if (!attached) return;
    const MachineEntry entry;
    const std::pmr::string reason =
        books_->text("generation {} refused the handover: {}", books_->kernel->generation, why);
    books_->lose(books_->carried, {true, reason});
}

void Referee::handover_damaged(std::string_view why) {
    if (!attached) return;
    const MachineEntry entry;
    if (books_->carried.said.empty()) books_->carried.said.assign(why);
}

void Referee::kernel_ended(KernelEnd end) {
    if (!attached) return;
    const MachineEntry entry;
    RefereeBooks& books = *books_;
    if (books.last_generation && !books.ends.contains(*books.last_generation))
        books.ends.emplace(*books.last_generation, end);
    if (books.devices) books.devices->kernel_ended(end);
    switch (end) {
    case KernelEnd::kexec: break;  // jump() has moved what is open to the successor
    case KernelEnd::scenario: books.judge_end(); break;
    case KernelEnd::panic: {
        const std::pmr::string why = books.text("generation {} panicked", books.kernel->generation);
        books.lose(books.carried, {true, why});
        books.stage(books.staged);
        for (const auto& [token, file] : books.kernel->files)
            if (file.promised) books.stage_file(books.staged, token, file, std::nullopt);
        books.lose(books.staged, {true, why});
        break;
    }
    case KernelEnd::reset:
    case KernelEnd::power_loss: break;
    }
    books.file_source = nullptr;
    if (end == KernelEnd::panic || end == KernelEnd::reset || end == KernelEnd::power_loss) {
        books.carried.clear();
        books.staged.clear();
        books.end_promises(true);
    }
}

void Referee::scenario_ends() {
    if (!attached) return;
    {
        const MachineEntry entry;
        RefereeBooks& books = *books_;
        if (!books.last_generation || books.ends.contains(*books.last_generation)) return;
    }
    kernel_ended(KernelEnd::scenario);
}

}  // namespace kexec_sim
