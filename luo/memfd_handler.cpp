#include "luo/memfd_handler.hpp"

#include <libfdt.h>

#include <algorithm>
#include <cstring>

#include "kernel-model/abi_write.hpp"
#include "machine/reached.hpp"

namespace kexec_sim::luo {
namespace {

constexpr const char* who = abi::MEMFD_COMPATIBLE;
constexpr const char* site = "memfd.tree";
constexpr u64 file_bytes_max = (u64{1} << 63) - 1;

ShmemFile& shmem(File& file) { return dynamic_cast<ShmemFile&>(file); }

}  // namespace

MemfdHandler::MemfdHandler(Kernel& kernel, kho::Kho& kho, Orchestrator& orchestrator)
    : FileHandler(abi::MEMFD_COMPATIBLE),
      kernel_(kernel),
      kho_(kho),
      orchestrator_(orchestrator) {
    kernel.hooks.initcall[7].push_back([this] { register_late(); });
}

void MemfdHandler::register_late() {
    if (!orchestrator_.enabled() || !kernel_.config.built_with("memfd")) return;
    INVARIANT(orchestrator_.register_file_handler(this));  // nothing is in its way this early
}

bool MemfdHandler::can_preserve(File& file) {
    const auto* memfd = dynamic_cast<const ShmemFile*>(&file);
    return memfd && !memfd->hugetlb;
}

// --- the old kernel
// ------------------------------------------------------------------------------------------------------

Result<> MemfdHandler::prepare(File& file, u64& data) {
    ShmemFile& memfd = shmem(file);
    const auto thaw_and_fail = [&](Errno error) {
        if (!prepared(memfd)) memfd.thaw_mapping();
        return fail(error);
    };
    memfd.freeze_mapping();
    if (page_count(memfd) > abi::memfd_pages_max) {
        REACHED("luo.memfd.too_large");
        return thaw_and_fail(Errno::e2big);
    }
    if (const auto pinned = memfd.pin_all(page_count(memfd)); !pinned) {
        REACHED("luo.memfd.not_pinned");
        return thaw_and_fail(pinned.error());
    }
    if (const auto preserved = preserve_all(memfd, data); !preserved) {
        memfd.unpin_all();
        return thaw_and_fail(preserved.error());
    }
    ++tokens_[memfd.id()];
    return {};
}

u64 MemfdHandler::page_count(const ShmemFile& memfd) const {
    const u64 pages = (memfd.size() + page_bytes - 1) >> page_shift;
    return kernel_.config.mutant(Mutant::kb18) ? static_cast<u32>(pages) : pages;  // KB-18
}

std::vector<ShmemFile::FolioRun> MemfdHandler::runs_of(const ShmemFile& memfd) const {
    std::vector<ShmemFile::FolioRun> runs = memfd.folio_runs();
    const u64 end = page_count(memfd);
    while (!runs.empty() && runs.back().index >= end) runs.pop_back();
    // A large folio may reach beyond the size; one that begins below it is preserved whole.
    if (!runs.empty() && runs.back().order == Order{0} && runs.back().index + runs.back().frames.pages() > end)
        runs.back().frames.end = runs.back().frames.begin + (end - runs.back().index);
    return runs;
}

Result<> MemfdHandler::preserve_all(ShmemFile& memfd, u64& data) {
    TRY(preserve_folios(memfd));
    const auto tree = write_tree(memfd);
    if (!tree) {
        REACHED("luo.memfd.no_tree");
        unpreserve_folios(memfd);
        return fail(tree.error());
    }
    if (const auto preserved = kho_.preserve_folio(*tree, who); !preserved) {
        REACHED("luo.memfd.tree_not_preserved");
        kernel_.pages.free_folio(*tree);
        unpreserve_folios(memfd);
        return preserved;
    }
    data = tree->phys().begin.raw;
    return {};
}

/// `end` gets the frame up to which it went well.
Result<> MemfdHandler::preserve_run(const ShmemFile::FolioRun& run, Pfn& end) {
    end = run.frames.begin;
    if (run.order == Order{0}) {
        u64 done = 0;
        const auto preserved = kho_.preserve_folios(run.frames, who, false, &done);
        end = end + done;
        return preserved;
    }
    for (; end < run.frames.end; end = end + run.order.pages())
        TRY(kho_.preserve_folio({end, run.order}, who, false));
    return {};
}

void MemfdHandler::unpreserve_run(PfnRange frames, Order order) {
    if (order == Order{0}) {
        static_cast<void>(kho_.unpreserve_folios(frames, who));
        return;
    }
    for (Pfn at = frames.begin; at < frames.end; at = at + order.pages())
        static_cast<void>(kho_.unpreserve_folio({at, order}, who));
}

Result<> MemfdHandler::preserve_folios(const ShmemFile& memfd) {
    const auto runs = runs_of(memfd);
    for (std::size_t at = 0; at < runs.size(); ++at) {
        Pfn end;
        const auto preserved = preserve_run(runs[at], end);
        if (preserved) continue;
        REACHED("luo.memfd.page_not_preserved");
        if (prepared(memfd)) return preserved;  // they belong to the other token
        unpreserve_run({runs[at].frames.begin, end}, runs[at].order);
        while (at-- != 0) unpreserve_run(runs[at].frames, runs[at].order);
        return preserved;
    }
    return {};
}

/// Not before the last token goes.
void MemfdHandler::unpreserve_folios(const ShmemFile& memfd) {
    if (prepared(memfd)) return;
    for (const ShmemFile::FolioRun& run : runs_of(memfd)) unpreserve_run(run.frames, run.order);
}

Result<Folio> MemfdHandler::write_tree(const ShmemFile& memfd) {
    u64 folios = 0;
    for (const ShmemFile::FolioRun& run : runs_of(memfd)) folios += run.frames.pages() >> run.order.raw;
    if (folios > abi::memfd_folios_max) return fail(Errno::enomem);  // no block of that order
    const Order order = order_for_bytes(abi::memfd_tree_bytes(folios));
    const Folio tree =
        TRY(kernel_.pages.alloc_folio({.order = order, .site = site, .frame_class = FrameClass::handler}));
    if (const auto filled = fill_tree(memfd, tree.phys(), folios); !filled) {
        kernel_.pages.free_folio(tree);
        return fail(filled.error());
    }
    return tree;
}

Result<> MemfdHandler::fill_tree(const ShmemFile& memfd, PhysRange where, u64 folios) {
    PhysicalMemory& ram = kernel_.machine.ram;
    kho::FdtWriter writer(ram, where, site);
    int code = writer.create();
    code |= writer.begin_node("");
    if (TRY(fdt_write_permitted(kernel_.machine, abi::MEMFD_PROP_POS)))
        code |= writer.property_u64(abi::MEMFD_PROP_POS, memfd.pos);
    if (TRY(fdt_write_permitted(kernel_.machine, abi::MEMFD_PROP_SIZE)))
        code |= writer.property_u64(abi::MEMFD_PROP_SIZE, memfd.size());
    PhysAddr at;
    if (TRY(fdt_write_permitted(kernel_.machine, abi::MEMFD_PROP_FOLIOS))) {
        code |= writer.placeholder(abi::MEMFD_PROP_FOLIOS, folios * sizeof(abi::MemfdFolio), at);
        if (code == 0) write_folios(memfd, at);
    }
    code |= writer.end_node();
    code |= writer.finish();
    if (code) return fail(kho::fdt_errno(code));
    return {};
}

void MemfdHandler::write_folios(const ShmemFile& memfd, PhysAddr at) {
    for (const ShmemFile::FolioRun& run : runs_of(memfd)) {
        std::vector<abi::MemfdFolio> array;
        array.reserve(run.frames.pages() >> run.order.raw);
        for (u64 page = 0; page < run.frames.pages(); page += run.order.pages()) {
            u64 flags = abi::PRESERVED_FLAG_DIRTY | abi::PRESERVED_FLAG_UPTODATE;
            // KB-15: as it is now; nobody looks again when the page is used later.
            if (kernel_.config.mutant(Mutant::kb15) && !memfd.up_to_date(run.index + page))
                flags &= ~u64{abi::PRESERVED_FLAG_UPTODATE};
            array.push_back({(run.frames.begin + page).raw << page_shift | flags, run.index + page});
        }
        const auto bytes = std::as_bytes(std::span(array));
        abi_write_bytes(kernel_.machine.ram, at, bytes, "memfd.tree.folios");
        at = at + bytes.size();
    }
}

Result<> MemfdHandler::freeze(File& file, u64& data) {
    const Folio tree = tree_at(data);
    if (!TRY(fdt_write_permitted(kernel_.machine, abi::MEMFD_PROP_POS))) return {};
    kho::FdtEditor editor(kernel_.machine.ram, tree.phys(), site);
    const int code = editor.set_property_u64_in_place(kho::FdtReader::root, abi::MEMFD_PROP_POS, shmem(file).pos);
    if (code) return fail(kho::fdt_errno(code));
    return {};
}

Folio MemfdHandler::tree_at(u64 data) const {
    const PageMap::Block block = kernel_.pages.block(PhysAddr{data}.pfn());
    return {block.head, block.meta.order};
}

void MemfdHandler::cancel(File& file, u64 data) {
    if (data == 0) return;  // never prepared
    ShmemFile& memfd = shmem(file);
    const auto tokens = tokens_.find(memfd.id());
    if (tokens != tokens_.end() && --tokens->second == 0) tokens_.erase(tokens);
    if (!prepared(memfd)) memfd.thaw_mapping();
    memfd.unpin_all();
    const Folio tree = tree_at(data);
    const auto give_up = [this, id = memfd.id(), runs = runs_of(memfd), tree] {
        if (!tokens_.contains(id))  // prepared under another token, or again
            for (const ShmemFile::FolioRun& run : runs) unpreserve_run(run.frames, run.order);
        static_cast<void>(kho_.unpreserve_folio(tree, who));
        kernel_.pages.free_folio(tree);
    };
    // KHO takes nothing back until it is aborted (LUO-D7, and a failed freeze): then.
    if (kho_.finalized() && orchestrator_.strict()) return orchestrator_.after_abort(give_up);
    give_up();
}

// --- the new kernel
// ------------------------------------------------------------------------------------------------------

Result<MemfdHandler::Content> MemfdHandler::read_tree(Folio tree) const {
    const PhysicalMemory& ram = kernel_.machine.ram;
    const auto reader = kho::FdtReader::open(kernel_.machine, tree.phys().begin, tree.phys().bytes());
    if (!reader) return fail(Errno::einval);
    const auto folios = reader->property(kho::FdtReader::root, abi::MEMFD_PROP_FOLIOS);
    const auto size = reader->property_u64(kho::FdtReader::root, abi::MEMFD_PROP_SIZE);
    const auto pos = reader->property_u64(kho::FdtReader::root, abi::MEMFD_PROP_POS);
    if (!folios || folios->size() % sizeof(abi::MemfdFolio) != 0 || !size || !pos) return fail(Errno::einval);
    if (*size > file_bytes_max || *pos > file_bytes_max) return fail(Errno::einval);

    Content content{*pos, *size, {}};
    for (u64 at = 0; at < folios->size(); at += sizeof(abi::MemfdFolio)) {
        abi::MemfdFolio folio{};
        std::memcpy(&folio, folios->data() + at, sizeof folio);
        if (folio.foliodesc == 0) continue;
        const Pfn pfn{folio.foliodesc >> page_shift};
        if (folio.index > file_bytes_max >> page_shift) return fail(Errno::einval);
        // KHO has no such page to restore: the kernel's function returns NULL.
        if (pfn.raw >= ram.bytes_max() >> page_shift || !ram.contains(pfn.phys(), page_bytes))
            return fail(Errno::enoent);
        Content::Run* last = content.runs.empty() ? nullptr : &content.runs.back();
        const bool up_to_date = folio.foliodesc & abi::PRESERVED_FLAG_UPTODATE;
        const bool ahead =
            last && last->up_to_date == up_to_date && pfn > last->pfn && folio.index - last->index == pfn - last->pfn;
        const u64 distance = ahead ? pfn - last->pfn : 0;
        if (ahead && last->count == 1) {
            last->step = distance;
            last->count = 2;
        } else if (ahead && distance == last->count * last->step) {
            ++last->count;
        } else {
            content.runs.push_back({folio.index, pfn});
            content.runs.back().up_to_date = up_to_date;
        }
    }
    return content;
}

Result<FileRef> MemfdHandler::retrieve(u64 data) {
    const auto tree = kho_.restore_folio(PhysAddr{data}, who, FrameClass::handler);
    if (!tree) {
        REACHED("luo.memfd.tree_lost");
        return fail(Errno::enoent);
    }
    auto file = retrieve_from(*tree);
    kernel_.pages.free_folio(*tree);
    if (!file) REACHED("luo.memfd.not_restored");
    return file;
}

Result<FileRef> MemfdHandler::retrieve_from(Folio tree) {
    const Content content = TRY(read_tree(tree));
    // An anonymous file without a name, unsealed and sealable. If it goes before it is complete, its pages go with it.
    auto file = kernel_.vfs.make_file<ShmemFile>(kernel_, kernel_.vfs.next_file_id(), std::string());
    file->seals = 0;
    file->pos = content.pos;
    for (const Content::Run& run : content.runs) {
        u64 done = 0;
        const auto restored = run.pages() ? restore_pages(*file, run.index, pfn_range(run.pfn, run.count), done)
                                          : restore_folios(*file, run, done);
        if (restored) continue;
        if (kernel_.config.mutant(Mutant::kb16)) put_folios(content, run, done);
        // KB-19: the error of this folio is not the one that is returned; that was set before the first.
        if (kernel_.config.mutant(Mutant::kb19) && !file->extents().empty()) break;
        return fail(restored.error());
    }
    for (const Content::Run& run : content.runs) clear_unused(run);
    file->set_size(content.size);
    return FileRef(std::move(file));
}

/// What kernels do since 7.0 with the folios behind one that could not be restored.
void MemfdHandler::put_folios(const Content& content, const Content::Run& failed, u64 done) {
    for (const Content::Run* run = &failed; run != content.runs.data() + content.runs.size(); ++run, done = 0)
        for (u64 at = run == &failed ? done + 1 : 0; at < run->count; ++at) {
            // KB-16: a frame number where an address is wanted.
            const PhysAddr phys{(run->pfn + at * run->step).raw};
            if (const auto folio = kho_.restore_folio(phys, who, FrameClass::file)) kernel_.pages.free_folio(*folio);
        }
}

/// A page that is not up to date is cleared when it is first used. Nobody can do so before the file is his: here.
void MemfdHandler::clear_unused(const Content::Run& run) {
    if (run.up_to_date) return;
    for (u64 at = 0; at < run.count; ++at) {
        const PageMap::Block block = kernel_.pages.block(run.pfn + at * run.step);
        kernel_.machine.ram.zero(pfn_range(block.head, block.meta.order.pages()).phys());
    }
}

/// The page cache, then the accounts of the inode. On failure the frames are the caller's.
Result<> MemfdHandler::insert(ShmemFile& file, u64 index, PfnRange frames) {
    TRY(file.insert_pages(index, frames));
    const auto accounted = file.account_pages(frames.pages());
    // KB-17: what the caller frees stays in the page cache.
    if (!accounted && !kernel_.config.mutant(Mutant::kb17)) file.take_out_pages(index, frames.pages());
    return accounted;
}

/// LUO-D8, corrected: never success without a file.
Result<> MemfdHandler::restore_pages(ShmemFile& file, u64 index, PfnRange frames, u64& restored) {
    const auto result = kho_.restore_folios_run(frames, who, FrameClass::file, &restored);
    const PfnRange ours = pfn_range(frames.begin, restored);
    const auto inserted = ours.empty() ? Result<>() : insert(file, index, ours);
    if (!inserted) kernel_.pages.free_pages(ours);
    if (result && inserted) return {};
    // Records carry no order: the last one of a run may be a large folio.
    const auto large = !result && result.error() == Errno::einval ? folio_around(ours.end) : std::nullopt;
    if (large && inserted && large->pfn == ours.end && ours.end + 1 == frames.end)
        return insert_folio(file, index + restored, *large);
    if (large) kernel_.pages.free_folio(*large);
    return fail(Errno::enoent);
}

Result<> MemfdHandler::restore_folios(ShmemFile& file, const Content::Run& run, u64& restored) {
    for (restored = 0; restored < run.count; ++restored) {
        const u64 done = restored * run.step;
        const auto folio = kho_.restore_folio((run.pfn + done).phys(), who, FrameClass::file);
        if (!folio) return fail(Errno::enoent);
        TRY(insert_folio(file, run.index + done, *folio));
    }
    return {};
}

/// Frees a folio that has no place there. A large one lies at a multiple of its size.
Result<> MemfdHandler::insert_folio(ShmemFile& file, u64 index, Folio folio) {
    if (index % folio.order.pages() == 0 && insert(file, index, folio.frames())) return {};
    kernel_.pages.free_folio(folio);
    return fail(Errno::enoent);
}

void MemfdHandler::finish(File* file, u64 data, bool reclaimed) {
    if (reclaimed || file) return;
    const auto tree = kho_.restore_folio(PhysAddr{data}, who, FrameClass::handler);
    if (!tree) return;
    if (const auto content = read_tree(*tree))
        for (const Content::Run& run : content->runs) discard(run);
    kernel_.pages.free_folio(*tree);
}

/// Restores and frees what can be restored; what cannot is skipped.
void MemfdHandler::discard(const Content::Run& run) {
    if (run.pages()) return discard_pages(pfn_range(run.pfn, run.count));
    for (u64 done = 0; done < run.count * run.step; done += run.step)
        if (const auto folio = kho_.restore_folio((run.pfn + done).phys(), who, FrameClass::file))
            kernel_.pages.free_folio(*folio);
}

void MemfdHandler::discard_pages(PfnRange frames) {
    while (!frames.empty()) {
        u64 restored = 0;
        const auto result = kho_.restore_folios_run(frames, who, FrameClass::file, &restored);
        kernel_.pages.free_pages(pfn_range(frames.begin, restored));
        if (result) return;
        frames.begin = frames.begin + restored;
        const auto large = result.error() == Errno::einval ? folio_around(frames.begin) : std::nullopt;
        if (large) kernel_.pages.free_folio(*large);
        frames.begin = large ? large->frames().end : frames.begin + 1;
    }
}

/// What came back where a single page was expected.
std::optional<Folio> MemfdHandler::folio_around(Pfn pfn) const {
    const PageMap::Block block = kernel_.pages.block(pfn);
    if (block.meta.state != PageState::folio) return std::nullopt;
    return Folio{block.head, block.meta.order};
}

}  // namespace kexec_sim::luo
