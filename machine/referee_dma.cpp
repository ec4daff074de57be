// The shadow map: what every page of IOVA space is meant to be, and whether accesses of devices end there.
//
//   device ──holds──► domain ──► IOVA page ──► frame, or another device's BAR
//
// A device may reach what the domain that it holds maps, by intent:
//
//   1. attached                        the domain's map, as it is changed while attached
//   2. the jump, both files promised   the map as it stood
//   3. attached in the new kernel      the new domain's, which must hold all that the old one did (or dma.contained)
//   4. anything else                   nothing: detached, a file that was not promised, a promise that was lost
//
// What is carried over a jump must be preserved there, every frame of it.
//
// A page whose frame was given back or handed out again since it was mapped is `estranged`: whatever the domain says,
// the frame is somebody else's.
//
// Cost: the last runs that were right are kept for each device, so that a hit looks at four windows and sets a bit; a
// miss is O(log intervals). Nothing is allocated but for a finding and the first write to 128 MiB of memory.
#include "machine/referee_device_books.hpp"

namespace kexec_sim {
namespace {

constexpr u32 findings_max = 4096;  // a device that runs wild: what comes later in its generation is not looked at

PfnRange pages_of(u64 iova, u64 bytes) {
    return {Pfn{iova >> page_shift}, Pfn{(iova + bytes + page_bytes - 1) >> page_shift}};
}

}  // namespace

// --- Frames that devices wrote -----------------------------------------------------------------------------------

void DeviceReferee::Books::mark_written(PhysRange phys) {
    if (phys.empty() || phys.end.raw > machine.ram.bytes_max()) return;
    for (u64 pfn = phys.begin.pfn().raw; pfn <= (phys.end.raw - 1) >> page_shift; ++pfn) {
        Chunk*& chunk = written[pfn >> chunk_shift];
        if (!chunk) chunk = new (memory->allocate(sizeof(Chunk), alignof(Chunk))) Chunk{};
        (*chunk)[(pfn >> 6) % chunk_words] |= u64{1} << (pfn & 63);
    }
}

void DeviceReferee::Books::forget_written() {
    for (Chunk* chunk : written)
        if (chunk) chunk->fill(0);
}

bool DeviceReferee::written_by_device(Pfn pfn) const {
    const u64 index = pfn.raw >> Books::chunk_shift;
    if (index >= books_->written.size() || !books_->written[index]) return false;
    return ((*books_->written[index])[(pfn.raw >> 6) % Books::chunk_words] >> (pfn.raw & 63)) & 1;
}

// --- Accesses ----------------------------------------------------------------------------------------------------

void DeviceReferee::Books::dma(const PciFunction& function, u64 iova, PhysRange phys, bool write) {
    DeviceBook& book = device(function);
    const u64 bytes = phys.bytes();
    for (const Window& window : book.windows[write])
        if (iova - window.begin < window.bytes && bytes <= window.bytes - (iova - window.begin) &&
            iova + window.offset == phys.begin.raw) {
            if (write) mark_written(phys);
            return;
        }
    dma_slow(book, iova, phys, write);
}

/// Is `iova` meant to be `phys`? If so, `window` is a run around it of which the same is true.
bool DeviceReferee::Books::meant(const DeviceBook& book, u64 iova, u64 phys, Window& window) const {
    if (!book.holds) return false;
    const Pfn page{iova >> page_shift};
    PfnRange run;
    const Meaning* meaning = book.holds->map.find(page, run);
    if (!meaning || meaning->is_peer) return false;
    const PfnRange frames{run.begin + meaning->offset, run.end + meaning->offset};
    if (estranged.touches(frames)) {
        if (estranged.find(page + meaning->offset)) return false;
        run = pfn_range(page, 1);
    }
    window = {run.begin.raw << page_shift, run.pages() << page_shift, meaning->offset << page_shift};
    return iova + window.offset == phys;
}

void DeviceReferee::Books::dma_slow(DeviceBook& book, u64 iova, PhysRange phys, bool write) {
    for (u64 at = 0, bytes = phys.bytes(); at < bytes;) {
        const u64 here = std::min(bytes - at, page_bytes - ((iova + at) & (page_bytes - 1)));
        Window window;
        if (meant(book, iova + at, phys.begin.raw + at, window)) {
            book.windows[write][book.next_window[write]++ % book.windows[write].size()] = window;
            if (write) mark_written(phys_range(phys.begin + at, here));
        } else {
            stray(book, iova + at, phys.begin.raw + at, write);
        }
        at += here;
    }
}

void DeviceReferee::dma_written(const PciFunction& device, u64 iova, PhysRange phys) {
    if (!books_->machine.referee.attached) return;
    const MachineEntry entry;
    books_->dma(device, iova, phys, true);
}

void DeviceReferee::dma_read(const PciFunction& device, u64 iova, PhysRange phys) {
    if (!books_->machine.referee.attached) return;
    const MachineEntry entry;
    books_->dma(device, iova, phys, false);
}

void DeviceReferee::dma_written_to_peer(const PciFunction& device, u64 iova, const PciFunction& target) {
    if (!books_->machine.referee.attached) return;
    const MachineEntry entry;
    Books& books = *books_;
    DeviceBook& book = books.device(device);
    const Meaning* meaning = book.holds ? book.holds->map.find(Pfn{iova >> page_shift}) : nullptr;
    if (meaning && meaning->is_peer && meaning->peer == target.index) return;
    if (book.strayed++ >= findings_max) return;
    books.report(InvariantId::dma_contained, CheckId::none, book, {},
                 "{} wrote to IOVA {:#x}, {}; the write ended in {}", book.name(), iova, books.meaning_of(book, iova),
                 target.name());
}

// --- Findings ----------------------------------------------------------------------------------------------------

void DeviceReferee::Books::stray(DeviceBook& book, u64 iova, u64 phys, bool write) {
    if (write ? book.strayed++ >= findings_max : std::exchange(book.read_reported, true)) return;
    FrameList frames;
    frames.add(pfn_range(PhysAddr{phys}.pfn(), 1));
    report(InvariantId::dma_contained, CheckId::none, book, frames,
           "{} {} IOVA {:#x}, {}; the {} ended at {:#x}, in frame {:#x}, {}", book.name(),
           write ? "wrote to" : "reads", iova, meaning_of(book, iova), write ? "write" : "read", phys,
           frames.first[0], owner_of(PhysAddr{phys}.pfn()));
}

std::pmr::string DeviceReferee::Books::name_of(const ShadowDomain& domain) {
    return domain.carried ? text_of("the domain that it was handed over with")
                          : referee.text("domain {:#x}", domain.id);
}

std::pmr::string DeviceReferee::Books::meaning_of(const DeviceBook& book, u64 iova) {
    if (!book.holds) return text_of("and is attached to no domain: it may reach nothing");
    const Pfn page{iova >> page_shift};
    const Meaning* meaning = book.holds->map.find(page);
    if (!meaning) return referee.text("which {} does not map", name_of(*book.holds));
    if (meaning->is_peer) {
        const DeviceBook* peer = devices[meaning->peer];
        return referee.text("which {} maps to {}", name_of(*book.holds),
                            peer ? peer->name() : std::string_view("another device"));
    }
    const Pfn frame = page + meaning->offset;
    const NameId* other = estranged.find(frame);
    if (!other) return referee.text("which {} maps to frame {:#x}", name_of(*book.holds), frame.raw);
    if (*other == no_name)
        return referee.text("which {} maps to frame {:#x}, given back to the allocator since", name_of(*book.holds),
                            frame.raw);
    return referee.text("which {} maps to frame {:#x}, handed out to {} since", name_of(*book.holds), frame.raw,
                        referee.names.text(*other));
}

/// Whose a frame is, as far as the books of the running kernel tell.
std::pmr::string DeviceReferee::Books::owner_of(Pfn pfn) {
    const KernelBooks& kernel = *referee.kernel;
    for (const PhysRange& area : kernel.scratch)
        if (area.contains(pfn.phys())) return text_of("which lies in a scratch area");
    if (const Owner* owner = kernel.owners.find(pfn); owner && owner->site != no_name)
        return referee.text("which belongs to {}", referee.names.text(owner->site));
    if (const Kept* kept = referee.carried.frames.find(pfn)) {
        const Source& source = referee.carried.sources[kept->source];
        if (source.promised && source.state == PromiseState::open)
            return referee.text("which is promised to {}", referee.described(source));
    }
    if (referee.free_frame(pfn)) return text_of("which is free memory");
    return text_of("which nobody gave to it");
}

// --- Domains -----------------------------------------------------------------------------------------------------

ShadowDomain* DeviceReferee::Books::find_domain(u64 id) {
    for (ShadowDomain& domain : domains)
        if (!domain.carried && domain.id == id) return &domain;
    return nullptr;
}

ShadowDomain& DeviceReferee::Books::domain(u64 id) {
    if (ShadowDomain* known = find_domain(id)) return *known;
    ShadowDomain& made = domains.emplace_back(memory);
    made.id = id;
    return made;
}

void DeviceReferee::Books::forget_windows() {
    for (DeviceBook* book : devices)
        if (book) book->windows = {};
}

void DeviceReferee::Books::note_mapped(PfnRange frames) {
    mapped.assign(frames, {});
    estranged.erase(frames);
}

void DeviceReferee::Books::rebuild_mapped() {
    mapped.clear();
    for (const ShadowDomain& domain : domains)
        domain.map.visit_all([&](PfnRange pages, const Meaning& meaning) {
            if (!meaning.is_peer) mapped.assign({pages.begin + meaning.offset, pages.end + meaning.offset}, {});
        });
    // What was given to others by a kernel that is gone is its business no more.
    estranged.clear();
}

/// Frames get another owner (`site`), or none (empty), while a domain maps them.
void DeviceReferee::Books::lose_frames(PfnRange frames, std::string_view site) {
    if (!mapped.touches(frames)) return;
    const NameId name = site.empty() ? no_name : referee.names.id(site);
    mapped.visit(frames, [&](PfnRange part, const Member&) { estranged.assign(part, name); });
    forget_windows();
}

void DeviceReferee::domain_mapped(u64 domain, u64 iova, std::span<const PfnRange> frames) {
    if (!books_->machine.referee.attached) return;
    const MachineEntry entry;
    ShadowDomain& shadow = books_->domain(domain);
    Pfn page{iova >> page_shift};
    for (const PfnRange range : frames) {
        shadow.map.assign(pfn_range(page, range.pages()), {range.begin.raw - page.raw, 0, false});
        books_->note_mapped(range);
        page = page + range.pages();
    }
    books_->forget_windows();
}

void DeviceReferee::domain_mapped_peer(u64 domain, u64 iova, u64 bytes, const PciFunction& target) {
    if (!books_->machine.referee.attached) return;
    const MachineEntry entry;
    static_cast<void>(books_->device(target));  // so that it has a name
    books_->domain(domain).map.assign(pages_of(iova, bytes), {0, target.index, true});
    books_->forget_windows();
}

void DeviceReferee::domain_unmapped(u64 domain, u64 iova, u64 bytes) {
    if (!books_->machine.referee.attached) return;
    const MachineEntry entry;
    if (ShadowDomain* shadow = books_->find_domain(domain)) shadow->map.erase(pages_of(iova, bytes));
    books_->forget_windows();
}

void DeviceReferee::domain_belongs(u64 domain, u64 iommufd_file_id) {
    if (!books_->machine.referee.attached) return;
    const MachineEntry entry;
    ShadowDomain& shadow = books_->domain(domain);
    shadow.iommufd = iommufd_file_id;
    for (const auto& [token, promise] : books_->promises)
        if (promise.iommufd && promise.file_id == iommufd_file_id) shadow.token = token;
}

void DeviceReferee::domain_attached(u64 domain, const PciFunction& device) {
    if (!books_->machine.referee.attached) return;
    const MachineEntry entry;
    books_->attach(books_->device(device), domain);
}

void DeviceReferee::Books::attach(DeviceBook& book, u64 id) {
    // Of a device that nobody promised, and that runs on after a panic, no tables are known.
    const bool carried = book.holds && book.holds->carried && (book.incoming || book.tree.known);
    if (carried && book.tree.known) {
        // Attached to the domain as it came, which the kernel rebuilt from the tables: nothing changes hands.
        const std::optional<vtd::ContextEntry> now = context_entry(book.tree.segment, book.tree.source);
        const bool same = now && now->low == book.tree.context.low && now->high == book.tree.context.high;
        if (same && !find_domain(id)) return;
        compare_tree(book, "at the jump", "when it was attached elsewhere", false);
    }
    ShadowDomain& next = domain(id);
    if (carried) {
        check_superset(book, next);
        book.hotswapped = true;
        leave_tables(book);
    }
    book.holds = &next;
    book.windows = {};
    check_domain_id(book);
}

/// Before the jump: what the device goes on writing to must be kept for it (check I3).
void DeviceReferee::Books::check_leaves(DeviceBook& book) {
    if (!book.holds || !book.holds->token) return;
    IntervalMap<Member> reserved(memory);
    for (const auto& [name, reserve] : referee.staged.reserves)
        reserved.assign({reserve.range.begin.pfn(), PhysAddr{reserve.range.end.raw + page_bytes - 1}.pfn()}, {});
    FrameList bare;
    const auto add_bare = [&](PfnRange part) { reserved.visit_gaps(part, [&](PfnRange gap) { bare.add(gap); }); };
    book.holds->map.visit_all([&](PfnRange pages, const Meaning& meaning) {
        if (meaning.is_peer) return;
        const PfnRange frames{pages.begin + meaning.offset, pages.end + meaning.offset};
        referee.staged.frames.visit_gaps(frames, add_bare);
        referee.staged.frames.visit(frames, [&](PfnRange part, const Kept& kept) {
            const Source& source = referee.staged.sources[kept.source];
            if (!source.promised || source.suspended) add_bare(part);  // tracked by KHO, and nobody's any more
        });
    });
    if (!bare.empty())
        report(InvariantId::dma_contained, CheckId::i3, book, bare,
               "frame {:#x} is mapped for {}, which goes on over the jump; nobody preserved that frame",
               bare.first[0], book.name());
}

/// The domain that replaces another one must map all that the other did, to the same (check I7).
void DeviceReferee::Books::check_superset(DeviceBook& book, const ShadowDomain& next) {
    FrameList missing;
    std::optional<Pfn> first;
    const auto note = [&](PfnRange pages, const Meaning& meaning) {
        if (!first) first = pages.begin;
        if (!meaning.is_peer) missing.add({pages.begin + meaning.offset, pages.end + meaning.offset});
    };
    book.holds->map.visit_all([&](PfnRange run, const Meaning& meaning) {
        next.map.visit_gaps(run, [&](PfnRange gap) { note(gap, meaning); });
        next.map.visit(run, [&](PfnRange part, const Meaning& now) {
            if (!(now == meaning)) note(part, meaning);
        });
    });
    if (!first) return;
    const std::pmr::string before = meaning_of(book, first->raw << page_shift);
    const Meaning* now = next.map.find(*first);
    std::pmr::string after = text_of("does not map it");
    if (now && now->is_peer) after = text_of("maps it to another device");
    if (now && !now->is_peer) after = referee.text("maps it to frame {:#x}", (*first + now->offset).raw);
    report(InvariantId::dma_contained, CheckId::i7, book, missing,
           "{} was handed over with IOVA {:#x}, {}; {}, which replaces it, {}", book.name(), first->raw << page_shift,
           before, name_of(next), after);
}

void DeviceReferee::domain_detached(const PciFunction& device) {
    if (!books_->machine.referee.attached) return;
    const MachineEntry entry;
    DeviceBook& book = books_->device(device);
    book.holds = nullptr;
    book.windows = {};
}

void DeviceReferee::domain_destroyed(u64 domain) {
    if (!books_->machine.referee.attached) return;
    const MachineEntry entry;
    ShadowDomain* shadow = books_->find_domain(domain);
    if (!shadow) return;
    for (DeviceBook* book : books_->devices)
        if (book && book->holds == shadow) book->holds = nullptr;
    books_->domains.remove_if([&](const ShadowDomain& other) { return &other == shadow; });
    books_->forget_windows();
}

// --- The allocator -----------------------------------------------------------------------------------------------

void DeviceReferee::frames_handed_out(PfnRange frames, std::string_view site) {
    if (!books_->machine.referee.attached) return;
    const MachineEntry entry;
    books_->lose_frames(frames, site);
    books_->table_frames_gone(frames, site, false);
}

void DeviceReferee::frames_returned(PfnRange frames) {
    if (!books_->machine.referee.attached) return;
    const MachineEntry entry;
    books_->lose_frames(frames, {});
    books_->table_frames_gone(frames, {}, true);
}

}  // namespace kexec_sim
