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
PfnRange frames_of(const FileExtent& run) { return pfn_range(run.pfn, run.pages); }

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
    if (const auto registered = orchestrator_.register_file_handler(this); !registered) {
        REACHED("luo.memfd.not_registered");
        kernel_.log.err("memfd_luo: failed to register the file handler: {}", -static_cast<int>(registered.error()));
    }
}

bool MemfdHandler::can_preserve(File& file) {
    const auto* memfd = dynamic_cast<const ShmemFile*>(&file);
    return memfd && !memfd->hugetlb;
}

// --- the old kernel
// ------------------------------------------------------------------------------------------------------

Result<> MemfdHandler::prepare(File& file, u64& data) {
    ShmemFile& memfd = shmem(file);
    const bool was_frozen = memfd.frozen();  // under another token
    const auto thaw_and_fail = [&](Errno error) {
        if (!was_frozen) memfd.thaw_mapping();
        return fail(error);
    };
    memfd.freeze_mapping();
    if ((memfd.size() + page_bytes - 1) >> page_shift > abi::memfd_pages_max) return thaw_and_fail(Errno::e2big);
    if (const auto pinned = memfd.pin_all(); !pinned) return thaw_and_fail(pinned.error());
    if (const auto preserved = preserve_all(memfd, data); !preserved) {
        memfd.unpin_all();
        return thaw_and_fail(preserved.error());
    }
    return {};
}

Result<> MemfdHandler::preserve_all(ShmemFile& memfd, u64& data) {
    TRY(preserve_pages(memfd));
    const auto tree = write_tree(memfd);
    if (!tree) {
        unpreserve_pages(memfd);
        return fail(tree.error());
    }
    if (const auto preserved = kho_.preserve_folio(*tree, who); !preserved) {
        kernel_.pages.free_folio(*tree);
        unpreserve_pages(memfd);
        return preserved;
    }
    data = tree->phys().begin.raw;
    return {};
}

Result<> MemfdHandler::preserve_pages(const ShmemFile& memfd) {
    const auto extents = memfd.extents();
    for (std::size_t at = 0; at < extents.size(); ++at) {
        u64 done = 0;
        const auto preserved = kho_.preserve_folios(frames_of(extents[at]), who, false, &done);
        if (preserved) continue;
        static_cast<void>(kho_.unpreserve_folios(pfn_range(extents[at].pfn, done), who));
        while (at-- != 0) static_cast<void>(kho_.unpreserve_folios(frames_of(extents[at]), who));
        return preserved;
    }
    return {};
}

void MemfdHandler::unpreserve_pages(const ShmemFile& memfd) {
    for (const FileExtent& extent : memfd.extents())
        static_cast<void>(kho_.unpreserve_folios(frames_of(extent), who));
}

Result<Folio> MemfdHandler::write_tree(const ShmemFile& memfd) {
    u64 folios = 0;
    for (const FileExtent& extent : memfd.extents()) folios += extent.pages;
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
    for (const FileExtent& extent : memfd.extents()) {
        std::vector<abi::MemfdFolio> array(extent.pages);
        for (u64 page = 0; page < extent.pages; ++page)
            array[page] = {
                (extent.pfn + page).raw << page_shift | abi::PRESERVED_FLAG_DIRTY | abi::PRESERVED_FLAG_UPTODATE,
                extent.index + page};
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
    const Folio tree = tree_at(data);
    memfd.thaw_mapping();
    memfd.unpin_all();
    if (kho_.finalized() && orchestrator_.strict()) {
        // KHO takes nothing back until it is aborted (LUO-D7, and a failed freeze): then.
        const std::vector<FileExtent> extents(memfd.extents().begin(), memfd.extents().end());
        orchestrator_.after_abort([this, extents, tree] {
            for (const FileExtent& extent : extents)
                static_cast<void>(kho_.unpreserve_folios(frames_of(extent), who));
            static_cast<void>(kho_.unpreserve_folio(tree, who));
            kernel_.pages.free_folio(tree);
        });
        return;
    }
    unpreserve_pages(memfd);
    static_cast<void>(kho_.unpreserve_folio(tree, who));
    kernel_.pages.free_folio(tree);
}

// --- the new kernel
// ------------------------------------------------------------------------------------------------------

Result<MemfdHandler::Content> MemfdHandler::read_tree(Folio tree) const {
    const PhysicalMemory& ram = kernel_.machine.ram;
    const auto reader = kho::FdtReader::open(ram, tree.phys().begin, tree.phys().bytes());
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
        FileExtent* last = content.runs.empty() ? nullptr : &content.runs.back();
        if (last && last->pfn + last->pages == pfn && last->index + last->pages == folio.index)
            ++last->pages;
        else
            content.runs.push_back({folio.index, pfn, 1});
    }
    return content;
}

Result<FileRef> MemfdHandler::retrieve(u64 data) {
    const auto tree = kho_.restore_folio(PhysAddr{data}, who, FrameClass::handler);
    if (!tree) return fail(Errno::enoent);
    auto file = retrieve_from(*tree);
    kernel_.pages.free_folio(*tree);
    return file;
}

Result<FileRef> MemfdHandler::retrieve_from(Folio tree) {
    const Content content = TRY(read_tree(tree));
    // An anonymous file without a name, unsealed and sealable. If it goes before it is complete, its pages go with it.
    auto file = kernel_.vfs.make_file<ShmemFile>(kernel_, kernel_.vfs.next_file_id(), std::string());
    file->seals = 0;
    file->pos = content.pos;
    for (const FileExtent& run : content.runs) {
        u64 restored = 0;
        const auto result = kho_.restore_folios_run(frames_of(run), who, FrameClass::file, &restored);
        const auto inserted = file->insert_pages(run.index, pfn_range(run.pfn, restored));
        if (!inserted) kernel_.pages.free_pages(pfn_range(run.pfn, restored));
        if (!result) {
            if (result.error() == Errno::einval) free_odd_block(run.pfn + restored);
            return fail(Errno::enoent);  // LUO-D8, corrected: never success without a file
        }
        if (!inserted) return fail(Errno::enoent);
    }
    file->set_size(content.size);
    return FileRef(std::move(file));
}

void MemfdHandler::finish(File* file, u64 data, bool reclaimed) {
    if (reclaimed || file) return;
    const auto tree = kho_.restore_folio(PhysAddr{data}, who, FrameClass::handler);
    if (!tree) return;
    if (const auto content = read_tree(*tree))
        for (const FileExtent& run : content->runs) discard(frames_of(run));
    kernel_.pages.free_folio(*tree);
}

/// Restores and frees what can be restored; what cannot is skipped.
void MemfdHandler::discard(PfnRange frames) {
    while (!frames.empty()) {
        u64 restored = 0;
        const auto result = kho_.restore_folios_run(frames, who, FrameClass::file, &restored);
        kernel_.pages.free_pages(pfn_range(frames.begin, restored));
        if (result) return;
        frames.begin = frames.begin + restored;
        const u64 skipped = result.error() == Errno::einval ? free_odd_block(frames.begin) : 1;
        frames.begin = frames.begin + skipped;
    }
}

/// A block that came back with another order than 0. The frames it takes, from `pfn` on.
u64 MemfdHandler::free_odd_block(Pfn pfn) {
    const PageMap::Block block = kernel_.pages.block(pfn);
    if (block.meta.state == PageState::folio) kernel_.pages.free_folio({block.head, block.meta.order});
    return block.head.raw + block.meta.order.pages() - pfn.raw;
}

}  // namespace kexec_sim::luo
