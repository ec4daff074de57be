// The referee's book of preserved memory: KHO's exported functions and reserve_mem.
//
// Preserve calls come by the million, in address order. The run that goes on is compared first; only where a call
// does not continue it is a book touched at all.
#include "machine/arena.hpp"
#include "machine/referee_books.hpp"

namespace kexec_sim {

// --- Preserving --------------------------------------------------------------------------------------------------

void Referee::kho_preserved(const Preserved& preserved) {
    if (!attached) return;
    const MachineEntry entry;
    RefereeBooks::Run& run = books_->run;
    const i32 order = preserved.order ? static_cast<i32>(preserved.order->raw) : i32{-1};
    if (preserved.frames.begin.raw == run.end && order == run.order && preserved.metadata == run.metadata &&
        preserved.who == books_->run_who) {
        run.end = preserved.frames.end.raw;
        return;
    }
    books_->begin_run(preserved);
}

void RefereeBooks::begin_run(const Referee::Preserved& preserved) {
    flush_run();
    if (preserved.frames.empty()) return;
    run_who.assign(preserved.who);
    run.source = source_for(preserved.who);
    run.order = preserved.order ? static_cast<i32>(preserved.order->raw) : i32{-1};
    run.metadata = preserved.metadata;
    run.begin = preserved.frames.begin.raw;
    run.end = preserved.frames.end.raw;
}

void RefereeBooks::flush_run() {
    if (run.end == ~u64{0}) return;
    kernel->kept.assign({Pfn{run.begin}, Pfn{run.end}}, {run.source, run.order, run.metadata});
    run.end = ~u64{0};
}

Origin RefereeBooks::origin_of(std::string_view who) const {
    // First who runs: a subsystem may be called as it likes, also like one of us.
    const LuoBook& luo = kernel->luo;
    if (luo.running != no_name && names.text(luo.running) == who && who != "file-descriptors")
        return Origin::subsystem;
    if (who == "kho") return Origin::kho;
    if (who == "luo" || who == "LUO" || who == "file-descriptors") return Origin::luo;
    if (who.starts_with("reserve_mem") || who == "memblock") return Origin::reserve_mem;
    if (kernel->luo.file_running) return Origin::handler;
    for (const auto& [compatible, late] : kernel->claimers)
        if (names.text(compatible) == who) return Origin::handler;
    for (const LuoBook::Subsystem& subsystem : kernel->luo.subsystems)
        if (names.text(subsystem.name) == who) return Origin::subsystem;
    return Origin::direct;
}

u32 RefereeBooks::source_for(std::string_view who) {
    const Origin origin = origin_of(who);
    const LuoBook& luo = kernel->luo;
    const bool has_token = luo.file_running && origin == Origin::handler;
    const NameId name = names.id(who);
    const auto same = [&](const Source& source) {
        return source.intent && source.who == name && source.origin == origin && source.has_token == has_token &&
               (!has_token || source.token == luo.file_token);
    };
    if (last_source < kernel->sources.size() && same(kernel->sources[last_source])) return last_source;
    for (last_source = static_cast<u32>(kernel->sources.size()); last_source-- > 0;)
        if (same(kernel->sources[last_source])) return last_source;
    Source source;
    source.who = name;
    source.origin = origin;
    source.has_token = has_token;
    source.token = has_token ? luo.file_token : 0;
    source.promised = kernel->promise_at == KernelTraits::PromiseAt::call;
    kernel->sources.push_back(source);
    return last_source = static_cast<u32>(kernel->sources.size() - 1);
}

void Referee::kho_unpreserved(PfnRange frames, std::string_view) {
    if (!attached) return;
    const MachineEntry entry;
    books_->kept().erase(frames);
}

void Referee::kho_finalized() {
    if (!attached) return;
    const MachineEntry entry;
    RefereeBooks& books = *books_;
    books.kernel->kho_finalized = true;
    books.kernel->luo.finalized_in_request = true;
    // Where LUO drives KHO, its own promises are made when the caller is told that PREPARE succeeded.
    books.promise(books.kernel->promise_at == KernelTraits::PromiseAt::prepare);
}

void Referee::kho_aborted(bool forgets) {
    if (!attached) return;
    const MachineEntry entry;
    RefereeBooks& books = *books_;
    books.flush_run();
    books.kernel->kho_finalized = false;
    books.end_promises(true);
    if (!forgets) return;
    books.kernel->kept.clear();
    books.kernel->areas.clear();
    for (Source& source : books.kernel->sources) source.intent = false;
}

void Referee::name_frames(PfnRange frames, std::string_view resource) {
    if (!attached) return;
    const MachineEntry entry;
    books_->kernel->names.assign(frames, books_->names.id(resource));
}

// --- Restoring ---------------------------------------------------------------------------------------------------

FrameList RefereeBooks::changed_frames(PfnRange frames) const {
    FrameList changed;
    auto expected = std::lower_bound(carried.hashes.begin(), carried.hashes.end(), frames.begin.raw,
                                     [](const PageHash& page, u64 pfn) { return page.pfn < pfn; });
    const PfnRange there = in_ram(frames);
    for (Pfn pfn = there.begin; pfn < there.end; pfn = pfn + 1) {
        u64 hash = 0;
        if (expected != carried.hashes.end() && expected->pfn == pfn.raw) hash = (expected++)->hash;
        const u64 now = ram.written(pfn) ? ram.hash_range(pfn_range(pfn, 1)) : 0;
        if (now != hash && !written_by_device(pfn)) changed.add(pfn_range(pfn, 1));
    }
    return changed;
}

void RefereeBooks::restore_part(Folio folio, PfnRange part, const Kept& as, std::string_view who) {
    const Source& source = carried.sources[as.source];
    if (source.state == PromiseState::over || source.origin == Origin::kho) return;
    const NameId* object = carried.names.find(part.begin);
    const NameId name = object ? *object : no_name;
    FrameList again;
    carried.restored.visit(part, [&](PfnRange before, const Member&) { again.add(before); });
    if (!again.empty()) {
        report(InvariantId::frame_once, resource_of(source, name), again,
               "frame {:#x} of {} was restored already; {} restored it again", again.first[0],
               described(source, name), who);
        return;
    }
    FrameList list;
    list.add(part);
    if (as.order >= 0 && static_cast<unsigned>(as.order) != folio.order.raw)
        report(InvariantId::frame_once, resource_of(source, name), list,
               "frame {:#x} of {} was preserved in a folio of order {}; {} restored it with order {}", list.first[0],
               described(source, name), static_cast<int>(as.order), who, folio.order.raw);
    if (source.promised) judge_content(source, name, part, who);
}

/// What is claimed must be nobody else's, and as it was.
void RefereeBooks::judge_content(const Source& source, NameId name, PfnRange part, std::string_view who) {
    if (const FrameList free = free_frames(part); !free.empty())
        report(InvariantId::frame_exclusive, resource_of(source, name), free,
               "frame {:#x} of {} is free memory of generation {}'s allocator; {} claims it all the same",
               free.first[0], described(source, name), kernel->generation, who);
    if (const FrameList shared = shared_frames(part); !shared.empty()) {
        const Owner* other = kernel->owners.find(Pfn{shared.first[0]});
        report(InvariantId::frame_exclusive, resource_of(source, name), shared,
               "frame {:#x} of {} belongs to {} in generation {}; {} claims it all the same", shared.first[0],
               described(source, name), other ? names.text(other->site) : std::string_view("?"), kernel->generation,
               who);
    }
    if (const FrameList changed = changed_frames(part); !changed.empty())
        report(InvariantId::frame_intact, resource_of(source, name), changed,
               "frame {:#x} of {} has other content than it had when generation {} jumped", changed.first[0],
               described(source, name), carried.by);
}

void Referee::kho_restored(Folio folio, std::string_view who, bool pages) {
    if (!attached) return;
    const MachineEntry entry;
    RefereeBooks& books = *books_;
    books.flush_run();
    const PfnRange frames = folio.frames();
    FrameClass frame_class = FrameClass::bench;
    u64 known = 0;
    books.carried.frames.visit(frames, [&](PfnRange part, const Kept& as) {
        known += part.pages();
        switch (books.carried.sources[as.source].origin) {
        case Origin::kho:
        case Origin::luo:
        case Origin::reserve_mem: frame_class = FrameClass::overhead; break;
        case Origin::handler: frame_class = as.metadata ? FrameClass::handler : FrameClass::file; break;
        case Origin::subsystem: frame_class = FrameClass::subsystem; break;
        case Origin::direct: frame_class = FrameClass::bench; break;
        }
        books.restore_part(folio, part, as, who);
    });
    if (known == 0 && books.carried.known && who != "kho") {
        FrameList list;
        list.add(frames);
        books.report(InvariantId::frame_once, who, list,
                     "frame {:#x} was not handed over by the previous kernel; {} restored it in generation {}",
                     list.first[0], who, books.kernel->generation);
    }
    Owner owner{books.names.id(who), frame_class};
    owner.restored = true;
    books.carried.restored.assign(frames, {});
    if (pages) books.kernel->asked_single.assign(frames, {});
    books.kernel->owners.assign(frames, owner);
}

void Referee::pages_adopted(PfnRange frames, Order order, bool tails) {
    if (!attached || order.raw == 0) return;
    const MachineEntry entry;
    RefereeBooks& books = *books_;
    FrameList compound;
    books.kernel->asked_single.visit(frames, [&](PfnRange part, const Member&) { compound.add(part); });
    if (!compound.empty())
        books.report(
            InvariantId::kernel_sane, "page metadata", compound,
            "frame {:#x} was restored as a single page; the metadata of generation {} makes it part of a compound "
            "page of order {}",
            compound.first[0], books.kernel->generation, static_cast<int>(order.raw));
    if (tails) return;
    FrameList behind;
    behind.add({frames.begin + 1, frames.end});
    books.report(
        InvariantId::kernel_sane, "page metadata", behind,
        "frame {:#x} is the tail page of a restored folio of order {}; its metadata is that of reserved memory, "
        "with a reference and without a head",
        behind.first[0], static_cast<int>(order.raw));
}

// --- Scattered areas ---------------------------------------------------------------------------------------------

void Referee::area_preserved(Pfn descriptor, std::span<const PfnRange> frames) {
    if (!attached) return;
    const MachineEntry entry;
    auto& area = books_->kernel->areas.insert_or_assign(descriptor.raw, std::pmr::vector<PfnRange>(books_->memory))
                     .first->second;
    area.assign(frames.begin(), frames.end());
}

void Referee::area_restored(Pfn descriptor, std::span<const PfnRange> frames, std::string_view who) {
    if (!attached) return;
    const MachineEntry entry;
    RefereeBooks& books = *books_;
    const auto known = books.carried.areas.find(descriptor.raw);
    if (known == books.carried.areas.end()) return;  // that its frames are nobody's was said already
    // Memory stays where it is: page by page the same frames.
    FrameList wrong;
    u64 page = 0, first_page = 0, was = 0, before_at = 0, now_at = 0;
    auto before = known->second.begin();
    auto now = frames.begin();
    while (before != known->second.end() && now != frames.end()) {
        const u64 step = std::min(before->pages() - before_at, now->pages() - now_at);
        const Pfn expected = before->begin + before_at, found = now->begin + now_at;
        if (expected != found) {
            if (wrong.empty()) first_page = page, was = expected.raw;
            wrong.add(pfn_range(found, step));
        }
        page += step;
        if ((before_at += step) == before->pages()) ++before, before_at = 0;
        if ((now_at += step) == now->pages()) ++now, now_at = 0;
    }
    if (!wrong.empty())
        books.report(
            InvariantId::frame_intact, who, wrong,
            "page {} of an area of {} lay in frame {:#x} when generation {} jumped; it was mapped to frame {:#x}",
            first_page, who, was, books.carried.by, wrong.first[0]);
    else if (before != known->second.end() || now != frames.end())
        books.report(
            InvariantId::frame_intact, who, {},
            "an area of {} had another number of pages when generation {} jumped; it was mapped with {} of them", who,
            books.carried.by, page);
}

void Referee::kho_retrieved(PfnRange frames, std::string_view who) {
    if (!attached) return;
    const MachineEntry entry;
    RefereeBooks& books = *books_;
    books.carried.frames.visit(frames, [&](PfnRange part, const Kept& as) {
        const Source& source = books.carried.sources[as.source];
        const NameId* name = books.carried.names.find(part.begin);
        if (source.promised && source.state != PromiseState::over && !books.carried.restored.touches(part))
            books.judge_content(source, name ? *name : no_name, part, who);
        books.carried.retrieved.assign(part, {});
    });
}

void Referee::kho_restore_failed(Pfn pfn, std::string_view) {
    if (!attached) return;
    const MachineEntry entry;
    Carried& carried = books_->carried;
    PfnRange all{};
    const Kept* kept = carried.frames.find(pfn, all);
    if (!kept) return;
    if (kept->order < 0) {
        // A range, not a folio: it is asked for by its first frame.
        carried.refused.assign({pfn, all.end}, {});
        return;
    }
    const Pfn head{pfn.raw & ~((u64{1} << kept->order) - 1)};
    carried.refused.assign(pfn_range(head, u64{1} << kept->order), {});
}

// --- reserve_mem -------------------------------------------------------------------------------------------------

void Referee::reserve_mem_allocated(std::string_view name, PhysRange range) {
    if (!attached) return;
    const MachineEntry entry;
    books_->kernel->reserves.insert_or_assign(books_->names.id(name), KernelBooks::Reserve{range, false});
}

void RefereeBooks::revive(NameId name, CarriedReserve& reserve, PhysRange range) {
    const std::pmr::string resource = text("reserve_mem {}", names.text(name));
    if (reserve.range != range)
        report(InvariantId::luo_resource, resource, {},
               "{} lay at {:#x}-{:#x} in generation {}; it was revived at {:#x}-{:#x}", resource,
               reserve.range.begin.raw, reserve.range.end.raw, carried.by, range.begin.raw, range.end.raw);
    const PfnRange frames{range.begin.pfn(), PhysAddr{range.end.raw + page_bytes - 1}.pfn()};
    if (const FrameList changed = changed_frames(frames); !changed.empty())
        report(InvariantId::frame_intact, resource, changed,
               "frame {:#x} of {} has other content than it had when generation {} jumped", changed.first[0],
               resource, carried.by);
    if (const FrameList free = free_frames(frames); !free.empty())
        report(InvariantId::frame_exclusive, resource, free,
               "frame {:#x} of {} is free memory of generation {}'s allocator; it was revived all the same",
               free.first[0], resource, kernel->generation);
    carried.restored.assign(frames, {});
    reserve.state = PromiseState::claimed;
}

void Referee::reserve_mem_revived(std::string_view name, PhysRange range) {
    if (!attached) return;
    const MachineEntry entry;
    RefereeBooks& books = *books_;
    const NameId id = books.names.id(name);
    const auto known = books.carried.reserves.find(id);
    if (known != books.carried.reserves.end() && known->second.state == PromiseState::open)
        books.revive(id, known->second, range);
    else if (books.carried.known && known == books.carried.reserves.end())
        books.report(InvariantId::luo_resource, books.text("reserve_mem {}", name), {},
                     "reserve_mem {} was revived by generation {}; no kernel before had promised it", name,
                     books.kernel->generation);
    books.kernel->reserves.insert_or_assign(id, KernelBooks::Reserve{range, false});
}

void Referee::reserve_mem_not_prepared() {
    if (!attached) return;
    const MachineEntry entry;
    books_->kernel->reserves.clear();
}

void Referee::reserve_mem_refused(std::string_view name, std::string_view why) {
    if (!attached) return;
    const MachineEntry entry;
    RefereeBooks& books = *books_;
    const NameId id = books.names.id(name);
    const auto known = books.carried.reserves.find(id);
    if (known != books.carried.reserves.end() && known->second.state == PromiseState::open)
        books.lose_reserve(books.carried, id, known->second, {true, why});
}

}  // namespace kexec_sim
