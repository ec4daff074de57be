// The referee's book of files: preserved by token, promised, retrieved once, equal to what they were.
//
// A file is compared as user space sees it, page by page of the file, wherever its pages lie: a hole and a page of
// zeros are the same. Size and position are compared too; the position as the handler read it last, in prepare or
// freeze.
#include "machine/arena.hpp"
#include "machine/referee_books.hpp"

namespace kexec_sim {

// --- Outgoing ----------------------------------------------------------------------------------------------------

void Referee::set_file_source(FileSource source, void* context) {
    books_->file_source = source;
    books_->file_source_context = context;
}

void Referee::file_preserved(u64 token, std::string_view compatible, u64 file_id) {
    if (!attached) return;
    const MachineEntry entry;
    RefereeBooks& books = *books_;
    OutgoingFile file;
    file.compatible = books.names.id(compatible);
    file.file_id = file_id;
    const auto claimer = books.kernel->claimers.find(file.compatible);
    file.late_handler = claimer != books.kernel->claimers.end() && claimer->second;
    OutgoingFile& kept = books.kernel->files.insert_or_assign(token, file).first->second;
    if (books.kernel->promise_at == KernelTraits::PromiseAt::call) books.set_promised(token, kept, true);
}

void RefereeBooks::set_promised(u64 token, OutgoingFile& file, bool promised) {
    if (file.promised == promised) return;
    file.promised = promised;
    if (!devices) return;
    if (promised)
        devices->promised(token, names.text(file.compatible), file.file_id);
    else
        devices->promise_ended(token);
}

void Referee::file_unpreserved(u64 token) {
    if (!attached) return;
    const MachineEntry entry;
    RefereeBooks& books = *books_;
    books.flush_run();
    if (const auto file = books.kernel->files.find(token); file != books.kernel->files.end()) {
        books.set_promised(token, file->second, false);
        books.kernel->files.erase(file);
    }
    for (Source& source : books.kernel->sources) {
        if (!source.has_token || source.token != token) continue;
        source.intent = source.promised = false;
        source.excused = source.excused || books.kernel->kho_finalized;
    }
}

void RefereeBooks::check_file_order(u64 token, LuoCallback callback) {
    LuoBook& luo = kernel->luo;
    if (luo.running == no_name) return;  // an event for this file alone
    if (luo.file_pass != callback) {
        luo.file_pass = callback;
        luo.next_token = 0;
    }
    if (token < luo.next_token)
        report(InvariantId::luo_legal, text("file {:#x}", token), {},
               "the {} callback of file {:#x} runs after that of file {:#x}; files come by ascending token",
               luo_callback_name(callback), token, luo.next_token - 1);
    luo.next_token = token + 1;
}

void RefereeBooks::file_begins(u64 token, NameId compatible, LuoCallback callback) {
    flush_run();
    LuoBook& luo = kernel->luo;
    luo.file_running = true;
    luo.running_in = callback;
    luo.file_token = token;
    check_file_order(token, callback);
    const std::pmr::string what = text("file {:#x}", token);
    const auto outgoing = kernel->files.find(token);
    if (callback == LuoCallback::finish) {
        check_phase(what, callback);
        return;
    }
    if (outgoing == kernel->files.end()) {
        report(InvariantId::luo_legal, what, {}, "the {} callback of {} runs; no file is preserved under that token",
               luo_callback_name(callback), described(token, compatible));
        return;
    }
    OutgoingFile& file = outgoing->second;
    const bool unprepared = file.saw_prepare && !file.prepared;
    if (callback == LuoCallback::prepare && file.prepared)
        report(InvariantId::luo_legal, what, {}, "the prepare callback of {} runs; it is prepared already",
               described(token, compatible));
    if ((callback == LuoCallback::freeze || callback == LuoCallback::cancel) && unprepared)
        report(InvariantId::luo_legal, what, {}, "the {} callback of {} runs; it is not prepared",
               luo_callback_name(callback), described(token, compatible));
    if (callback == LuoCallback::cancel) {
        suspend(compatible, true, token);
        // Cancelled alone, by its own event, it is promised no more; in a pass that happens when the caller is told.
        if (luo.running == no_name) {
            set_promised(token, file, false);
            for (Source& source : kernel->sources)
                if (source.has_token && source.token == token) source.promised = false;
        }
    }
}

void RefereeBooks::file_ends(u64 token, LuoCallback callback, const Result<>& result) {
    flush_run();
    LuoBook& luo = kernel->luo;
    luo.file_running = false;
    if (callback == LuoCallback::finish) {
        const auto incoming = carried.files.find(token);
        if (incoming != carried.files.end()) incoming->second.discarded = true;
        return;
    }
    const auto outgoing = kernel->files.find(token);
    if (outgoing == kernel->files.end()) return;
    OutgoingFile& file = outgoing->second;
    if (callback == LuoCallback::prepare) {
        file.saw_prepare = true;
        file.prepared = result.has_value();
        file.by_event = luo.running == no_name;
    }
    if (callback == LuoCallback::freeze) file.frozen = result.has_value();
    if (callback != LuoCallback::freeze) file.frozen = false;
    if (callback == LuoCallback::cancel) {
        file.prepared = file.by_event = false;
        file.pos.reset();
    }
    // What a cancelled or failed prepare left behind belongs to nobody's next attempt.
    if (!file.prepared)
        for (Source& source : kernel->sources)
            if (source.has_token && source.token == token) source.intent = false;
}

void Referee::file_callback(u64 token, std::string_view compatible, LuoCallback callback,
                            std::optional<Result<>> result) {
    if (!attached) return;
    RefereeBooks& books = *books_;
    u64 file_id = 0;
    bool reads_position = false;
    {
        const MachineEntry entry;
        if (!result) return books.file_begins(token, books.names.id(compatible), callback);
        books.file_ends(token, callback, *result);
        const auto file = books.kernel->files.find(token);
        reads_position = *result && file != books.kernel->files.end() && books.file_source &&
                         (callback == LuoCallback::prepare || callback == LuoCallback::freeze);
        if (reads_position) file_id = file->second.file_id;
    }
    if (!reads_position) return;
    const std::optional<FileView> view =
        books.file_source(books.file_source_context, file_id);  // kernel code: no guard
    if (view) books.kernel->files.at(token).pos = view->pos;
}

// --- Incoming ----------------------------------------------------------------------------------------------------

namespace {

struct FilePage {
    u64 index, hash;
    Pfn pfn;
    bool operator<(const FilePage& other) const { return index < other.index; }
};

}  // namespace

void RefereeBooks::compare_file(u64 token, CarriedFile& file, const FileView& view) {
    if (!file.has_view) return;
    const std::pmr::string resource = text("file {:#x}", token);
    if (view.size != file.size || view.pos != file.pos)
        report(InvariantId::frame_intact, resource, {},
               "{} had size {} and position {} in generation {}; restored it has size {} and position {}",
               described(token, file.compatible), file.size, file.pos, carried.by, view.size, view.pos);
    std::pmr::vector<FilePage> before(memory), now(memory);
    for (const FileExtent& extent : file.extents) {
        auto page = std::lower_bound(carried.hashes.begin(), carried.hashes.end(), extent.pfn.raw,
                                     [](const PageHash& entry, u64 pfn) { return entry.pfn < pfn; });
        for (; page != carried.hashes.end() && page->pfn < extent.pfn.raw + extent.pages; ++page)
            before.push_back({extent.index + (page->pfn - extent.pfn.raw), page->hash, Pfn{page->pfn}});
    }
    for (const FileExtent& extent : view.extents) {
        const PfnRange frames = in_ram(pfn_range(extent.pfn, extent.pages));
        for (Pfn pfn = ram.next_written(frames.begin, frames.end); pfn < frames.end;
             pfn = ram.next_written(pfn + 1, frames.end))
            if (const u64 hash = ram.hash_range(pfn_range(pfn, 1)))
                now.push_back({extent.index + (pfn - extent.pfn), hash, pfn});
    }
    // What a device wrote in the blackout, as it was allowed to, is judged by the trailers that it left.
    const auto by_device = [&](const FilePage& page) { return written_by_device(page.pfn); };
    std::erase_if(before, by_device);
    std::erase_if(now, by_device);
    std::sort(before.begin(), before.end());
    std::sort(now.begin(), now.end());
    FrameList changed;
    u64 first_index = 0;
    const auto differs = [&](const FilePage& page) {
        if (changed.empty()) first_index = page.index;
        changed.add(pfn_range(page.pfn, 1));
    };
    auto old_page = before.begin();
    auto new_page = now.begin();
    while (old_page != before.end() || new_page != now.end()) {
        if (new_page == now.end() || (old_page != before.end() && old_page->index < new_page->index)) {
            differs(*old_page++);
        } else if (old_page == before.end() || new_page->index < old_page->index) {
            differs(*new_page++);
        } else {
            if (old_page->hash != new_page->hash) differs(*new_page);
            ++old_page, ++new_page;
        }
    }
    if (!changed.empty())
        report(InvariantId::frame_intact, resource, changed,
               "page {} of {}, in frame {:#x}, has other content than it had when generation {} jumped", first_index,
               described(token, file.compatible), changed.first[0], carried.by);
}

/// The pages of a restored file belong to it; a page that is free belongs to the allocator as well.
void RefereeBooks::own_file(u64 token, const FileView& view) {
    Owner owner{names.id(text("file {:#x}", token)), FrameClass::file};
    owner.restored = true;
    FrameList free;
    std::pmr::vector<PfnRange> owned(memory);
    for (const FileExtent& extent : view.extents) {
        const PfnRange frames = pfn_range(extent.pfn, extent.pages);
        kernel->pool.visit(frames, [&](PfnRange part, const Member&) {
            kernel->owners.visit_gaps(part, [&](PfnRange gap) { free.add(gap); });
        });
        kernel->owners.visit_gaps(frames, [&](PfnRange gap) { owned.push_back(gap); });
        kernel->owners.visit(frames, [&](PfnRange part, const Owner& other) {
            if (other.restored) owned.push_back(part);
        });
        carried.frames.visit(frames, [&](PfnRange part, const Kept&) { carried.restored.assign(part, {}); });
    }
    for (const PfnRange part : owned) kernel->owners.assign(part, owner);
    if (!free.empty())
        report(InvariantId::frame_exclusive, text("file {:#x}", token), free,
               "frame {:#x} is free memory of generation {}'s allocator; file {:#x} was restored with it",
               free.first[0], kernel->generation, token);
}

void Referee::file_restored(u64 token, const FileView& view) {
    if (!attached) return;
    const MachineEntry entry;
    RefereeBooks& books = *books_;
    const std::pmr::string resource = books.text("file {:#x}", token);
    const auto known = books.carried.files.find(token);
    if (known == books.carried.files.end()) {
        if (books.carried.known)
            books.report(InvariantId::luo_resource, resource, {},
                         "file {:#x} was restored in generation {}; generation {} had not promised it", token,
                         books.kernel->generation, books.carried.by);
        return;
    }
    CarriedFile& file = known->second;
    if (file.state == PromiseState::over) return;
    if (file.state == PromiseState::claimed || file.discarded) {
        books.report(InvariantId::luo_resource, resource, {}, "{} was {} already; generation {} restored it again",
                     books.described(token, file.compatible), file.discarded ? "discarded by finish" : "restored",
                     books.kernel->generation);
        return;
    }
    books.compare_file(token, file, view);
    books.own_file(token, view);
    file.state = PromiseState::claimed;
    file.told = Errno::ok;
    books.close_file(books.carried, token, PromiseState::claimed);
    if (books.devices) books.devices->claimed(token, view.id);
}

void Referee::file_restore_failed(u64 token, Errno error) {
    if (!attached) return;
    const MachineEntry entry;
    const auto known = books_->carried.files.find(token);
    if (known == books_->carried.files.end() || known->second.state != PromiseState::open) return;
    if (!RefereeBooks::can_try_again(error)) known->second.told = error;
}

}  // namespace kexec_sim
