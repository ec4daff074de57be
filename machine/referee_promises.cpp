// From intent to promise to what is carried over the jump.
//
//   preserve, FD_PRESERVE, reserve_mem=  -> intent
//   finalize | PREPARE | the call itself -> promise     (abort, cancel, a failed freeze end it)
//   before_jump                          -> staged      contents hashed, scratch and stale pointers looked at
//   jump                                 -> carried     what the successor must find, until it claims or loses it
//
// Contents are hashed before anything that is handed over can be corrupted, one 64-bit hash for a frame that is not
// all zero: a restore can then say which frames differ, and untouched memory costs nothing.
#include "machine/arena.hpp"
#include "machine/referee_books.hpp"

namespace kexec_sim {

Carried::Carried(std::pmr::memory_resource* memory)
    : frames(memory),
      sources(memory),
      files(memory),
      reserves(memory),
      hashes(memory),
      names(memory),
      areas(memory),
      restored(memory),
      retrieved(memory),
      refused(memory),
      said(memory) {}

void Carried::clear() {
    known = false;
    map_bitmap_bytes = 0;
    by = 0;
    frames.clear();
    sources.clear();
    files.clear();
    reserves.clear();
    hashes.clear();
    names.clear();
    areas.clear();
    restored.clear();
    retrieved.clear();
    refused.clear();
    said.clear();
}

void Carried::swap(Carried& other) {
    std::swap(known, other.known);
    std::swap(map_bitmap_bytes, other.map_bitmap_bytes);
    std::swap(by, other.by);
    frames.swap(other.frames);
    sources.swap(other.sources);
    files.swap(other.files);
    reserves.swap(other.reserves);
    hashes.swap(other.hashes);
    names.swap(other.names);
    areas.swap(other.areas);
    restored.swap(other.restored);
    retrieved.swap(other.retrieved);
    refused.swap(other.refused);
    said.swap(other.said);
}

void RefereeBooks::promise(bool direct_only) {
    flush_run();
    for (Source& source : kernel->sources) {
        const bool of_luo =
            source.origin == Origin::luo || source.origin == Origin::handler || source.origin == Origin::subsystem;
        if (!source.intent || (direct_only && of_luo)) continue;
        source.promised = true;
        source.suspended = false;
    }
    for (auto& [name, reserve] : kernel->reserves) reserve.promised = true;
    if (!direct_only)
        for (auto& [token, file] : kernel->files) set_promised(token, file, true);
    check_scratch(kernel->kept, kernel->sources);
}

void RefereeBooks::end_promises(bool direct_too) {
    for (Source& source : kernel->sources) {
        const bool of_luo =
            source.origin == Origin::luo || source.origin == Origin::handler || source.origin == Origin::subsystem;
        if (!of_luo && !direct_too) continue;
        source.promised = false;
        source.suspended = false;
    }
    for (auto& [token, file] : kernel->files) set_promised(token, file, false);
    if (direct_too)
        for (auto& [name, reserve] : kernel->reserves) reserve.promised = false;
}

void RefereeBooks::suspend(NameId who, bool has_token, u64 token) {
    flush_run();
    for (Source& source : kernel->sources) {
        if (source.has_token != has_token || (has_token ? source.token != token : source.who != who)) continue;
        source.suspended = true;
        source.excused = source.excused || kernel->kho_finalized;
    }
}

// --- Staging -----------------------------------------------------------------------------------------------------

void RefereeBooks::stage(Carried& out) {
    flush_run();
    out.clear();
    out.known = true;
    out.by = kernel->generation;
    if (kernel->kho_finalized) {
        out.map_bitmap_bytes = kernel->map_bitmap_bytes;
        out.areas = kernel->areas;
    }
    out.sources.assign(kernel->sources.begin(), kernel->sources.end());
    kernel->kept.visit_all([&](PfnRange part, const Kept& kept) {
        // What is tracked is carried once KHO is finalized, promised or not: a leak then has an owner.
        if (kernel->kho_finalized || out.sources[kept.source].promised) out.frames.assign(part, kept);
    });
    Source kho;
    kho.who = names.id("kho");
    kho.origin = Origin::kho;
    out.sources.push_back(kho);
    const Kept by_kho{static_cast<u32>(out.sources.size() - 1), -1, true};
    kernel->owners.visit_all([&](PfnRange part, const Owner& owner) {
        if (owner.frame_class != FrameClass::kho) return;
        if (!out.frames.touches(part)) out.frames.assign(part, by_kho);
    });
    kernel->names.visit_all([&](PfnRange part, NameId name) {
        if (out.frames.touches(part)) out.names.assign(part, name);
    });
    for (const auto& [name, reserve] : kernel->reserves)
        if (reserve.promised) out.reserves.emplace(name, CarriedReserve{reserve.range, PromiseState::open});
}

void RefereeBooks::stage_file(Carried& out, u64 token, const OutgoingFile& file,
                              const std::optional<FileView>& view) {
    CarriedFile& carried_file = out.files.emplace(token, CarriedFile(memory)).first->second;
    carried_file.compatible = file.compatible;
    carried_file.late_handler = file.late_handler;
    if (!view) return;
    carried_file.has_view = true;
    carried_file.size = view->size;
    carried_file.pos = file.pos ? *file.pos : view->pos;
    carried_file.extents.assign(view->extents.begin(), view->extents.end());

    // Pages that nobody preserved are promised all the same: the promise is the file.
    std::pmr::vector<PfnRange> bare(memory);
    for (const FileExtent& extent : carried_file.extents) {
        const PfnRange frames = pfn_range(extent.pfn, extent.pages);
        out.frames.visit_gaps(frames, [&](PfnRange gap) { bare.push_back(gap); });
        out.frames.visit(frames, [&](PfnRange part, const Kept& kept) {
            if (!out.sources[kept.source].promised) bare.push_back(part);
        });
    }
    if (bare.empty()) return;
    Source source;
    source.who = file.compatible;
    source.origin = Origin::handler;
    source.has_token = true;
    source.token = token;
    source.promised = true;
    out.sources.push_back(source);
    for (const PfnRange part : bare) out.frames.assign(part, {static_cast<u32>(out.sources.size() - 1), -1, false});
}

PfnRange RefereeBooks::in_ram(PfnRange frames) const {
    const Pfn end{std::min(frames.end.raw, ram.bytes_max() >> page_shift)};
    return {std::min(frames.begin, end), end};
}

void RefereeBooks::check_scratch(const IntervalMap<Kept>& frames, const std::pmr::vector<Source>& sources) {
    std::pmr::map<u32, FrameList> inside(memory);
    for (const PhysRange& area : kernel->scratch) {
        const PfnRange area_frames{area.begin.pfn(), PhysAddr{area.end.raw + page_bytes - 1}.pfn()};
        frames.visit(area_frames, [&](PfnRange part, const Kept& kept) {
            if (sources[kept.source].promised) inside[kept.source].add(part);
        });
    }
    for (const auto& [index, list] : inside)
        report(InvariantId::frame_scratch, resource_of(sources[index]), list,
               "frame {:#x} is promised for {}; it lies in a scratch area, where the next kernel will be put",
               list.first[0], described(sources[index]));
}

/// FDT_PROP, big-endian, as a little-endian machine reads it.
constexpr u64 fdt_property_tag = 0x0300'0000;

void RefereeBooks::check_pointers(const Carried& out, u64 seed) {
    u64 slots = 0;
    for (Generation generation = 0; generation <= kernel->generation && generation < direct_map_slots; ++generation)
        slots |= u64{1} << direct_map_slot(seed, generation);
    if (kernel->generation >= direct_map_slots) slots = (u64{1} << direct_map_slots) - 1;
    const auto stale = [&](u64 word) {
        if (word < direct_map_base || word >= direct_map_address(direct_map_slots)) return false;
        // Two 32-bit numbers side by side, as flattened trees have them, can look like a pointer: the index of a page
        // behind the high half of an address, or the length of a property behind its tag. The low half tells them
        // from pointers.
        const u64 low = word & 0xffff'ffff;
        if (low < page_bytes || low == fdt_property_tag) return false;
        const u64 slot = (word - direct_map_base) / direct_map_slot_bytes;
        return ((slots >> slot) & 1) && ram.contains(PhysAddr{(word - direct_map_base) % direct_map_slot_bytes}, 1);
    };
    struct Found {
        FrameList frames;
        u64 word = 0, at = 0;
    };
    std::pmr::map<u32, Found> found(memory);
    out.frames.visit_all([&](PfnRange part, const Kept& kept) {
        if (!kept.metadata) return;
        const PfnRange there = in_ram(part);
        for (Pfn pfn = ram.next_written(there.begin, there.end); pfn < there.end;
             pfn = ram.next_written(pfn + 1, there.end)) {
            const std::byte* page = ram.readable(pfn);
            for (u64 at = 0; at < page_bytes; at += sizeof(u64)) {
                u64 word;
                std::memcpy(&word, page + at, sizeof word);
                if (!stale(word)) continue;
                Found& entry = found[kept.source];
                if (entry.frames.empty()) entry.word = word, entry.at = pfn.phys().raw + at;
                entry.frames.add(pfn_range(pfn, 1));
                break;
            }
        }
    });
    for (const auto& [index, entry] : found)
        report(InvariantId::abi_pointer, resource_of(out.sources[index]), entry.frames,
               "the word at {:#x}, preserved by {}, is {:#x}, a pointer into the direct map of generation {} or an "
               "earlier "
               "one; the next kernel's direct map lies elsewhere",
               entry.at, described(out.sources[index]), entry.word, kernel->generation);
}

void RefereeBooks::hash_promised(Carried& out) {
    IntervalMap<Member> promised(memory);
    out.frames.visit_all([&](PfnRange part, const Kept& kept) {
        if (out.sources[kept.source].promised && out.sources[kept.source].origin != Origin::kho)
            promised.assign(part, {});
    });
    for (const auto& [name, reserve] : out.reserves)
        promised.assign({reserve.range.begin.pfn(), PhysAddr{reserve.range.end.raw + page_bytes - 1}.pfn()}, {});
    promised.visit_all([&](PfnRange part, const Member&) {
        const PfnRange there = in_ram(part);
        for (Pfn pfn = ram.next_written(there.begin, there.end); pfn < there.end;
             pfn = ram.next_written(pfn + 1, there.end))
            if (const u64 hash = ram.hash_range(pfn_range(pfn, 1))) out.hashes.push_back({pfn.raw, hash});
    });
}

void RefereeBooks::count(const Carried& out) {
    counters = {};
    out.frames.visit_all([&](PfnRange part, const Kept& kept) {
        if (out.sources[kept.source].origin == Origin::kho) return;
        counters.preserved_bytes += part.pages() << page_shift;
        if (kept.order >= 0) {
            counters.preserved_folios += part.pages() >> kept.order;
            return;
        }
        // A range is tracked as the largest aligned blocks that fit.
        for (u64 pfn = part.begin.raw; pfn < part.end.raw; ++counters.preserved_folios) {
            const int fits = std::bit_width(part.end.raw - pfn) - 1;
            pfn += u64{1} << (pfn ? std::min(fits, std::countr_zero(pfn)) : fits);
        }
    });
    kernel->owners.visit_all([&](PfnRange part, const Owner& owner) {
        if (owner.frame_class == FrameClass::kho || owner.frame_class == FrameClass::overhead)
            counters.overhead_pages += part.pages();
    });
    for (const auto& [token, file] : kernel->files) counters.luo_files += file.promised ? 1 : 0;
}

void RefereeBooks::look_at(Carried& out, u64 seed) {
    check_scratch(out.frames, out.sources);
    check_pointers(out, seed);
    hash_promised(out);
}

// --- The jump ----------------------------------------------------------------------------------------------------

void Referee::before_jump(u64 seed) {
    if (!attached) return;
    RefereeBooks& books = *books_;
    {
        const MachineEntry entry;
        books.judge_next_jump();
        books.stage(books.staged);
        books.count(books.staged);
    }
    for (const auto& [token, file] : books.kernel->files) {
        if (!file.promised) continue;
        // The source is code of the kernel: what it does is not the machine's doing, so it runs unguarded.
        std::optional<FileView> view;
        if (books.file_source) view = books.file_source(books.file_source_context, file.file_id);
        const MachineEntry entry;
        books.stage_file(books.staged, token, file, view);
    }
    const MachineEntry entry;
    books.look_at(books.staged, seed);
    if (books.devices) books.devices->before_jump();
}

void Referee::jump(bool handover_passed) {
    if (!attached) return;
    const MachineEntry entry;
    RefereeBooks& books = *books_;
    if (books.kernel->luo.state == LuoState::prepared)
        books.report(InvariantId::luo_legal, "LUO", {},
                     "generation {} jumped in state prepared; a handover is frozen before the jump",
                     books.kernel->generation);
    books.carried.clear();
    books.carried.swap(books.staged);
    if (books.devices) books.devices->jumped();
    books.end_promises(true);  // of the kernel that is gone; they are the successor's to keep now
    if (!handover_passed) {
        const std::pmr::string why = books.text("generation {} handed nothing over", books.kernel->generation);
        books.lose(books.carried, {false, why});
    }
}

}  // namespace kexec_sim
