// memfds over a live update: the file handler "memfd-v1".
//
// The pages of a memfd stay where they are; what is handed over is a list of them, with size and position, in a small
// tree of its own (luo/abi/trees.hpp). Lost on the way: name, seals, holes (they become pages of zeros), owner.
//
//   file   index 0     1     2                          next kernel
//          |pfn 12  |pfn 13 |pfn 40 |                   tree ──► restore each page ──► insert at its index ──► size
//   tree   folios = 12|flags 0   13|flags 1   40|flags 2
//
// Prepare: 1. Freeze the mapping: no size change, no holes. 2. More than 2^32 - 1 pages: E2BIG. 3. Pin all pages; that
// moves them out of CMA, hence out of scratch. 4. Preserve each page. 5. Write and preserve the tree. Freeze: the
// position once more. Cancel: all of it backwards. Retrieve: tree, file, pages, size; the tree is freed. Finish without
// retrieve: everything is restored and freed.
//
// Unhappy paths: 1. empty file: EINVAL from the pin. 2. ENOMEM: pages for holes, the tree, a tree of more than 4 MiB
// (above 1023 MiB of file). 3. KHO refuses a page or the tree. After any of them the file is as before, but for holes
// that were filled. 4. In retrieve: no tree ENOENT; malformed properties EINVAL; a page that cannot be restored ENOENT
// (LUO-D8, corrected).
//
// Source: the LUO series, mm/memfd_luo.c. Simplified: pages are folios of order 0; their flags are always dirty and up
// to date.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "luo/abi/trees.hpp"
#include "luo/orchestrator.hpp"

namespace kexec_sim::luo {

class MemfdHandler final : public FileHandler {
public:
    /// Attaches to the kernel's hooks; registers itself at its initcall unless the kernel is built without it.
    MemfdHandler(Kernel& kernel, kho::Kho& kho, Orchestrator& orchestrator);

    bool can_preserve(File& file) override;
    Result<> prepare(File& file, u64& data) override;
    Result<> freeze(File& file, u64& data) override;
    void cancel(File& file, u64 data) override;
    void finish(File* file, u64 data, bool reclaimed) override;
    Result<FileRef> retrieve(u64 data) override;

private:
    /// What the tree in RAM says. Hostile when it comes from another kernel.
    struct Content {
        u64 pos = 0, size = 0;
        /// Folios at the same distance in file and RAM. Distance 1: single pages, or one folio of any order.
        struct Run {
            u64 index;
            Pfn pfn;
            u64 count = 1, step = 1;
            bool pages() const { return count > 1 && step == 1; }
        };
        std::vector<Run> runs;
    };
    Result<> preserve_all(ShmemFile& memfd, u64& data);
    Result<> preserve_folios(const ShmemFile& memfd);
    Result<> preserve_run(const ShmemFile::FolioRun& run, Pfn& end);
    void unpreserve_run(PfnRange frames, Order order);
    void unpreserve_folios(const ShmemFile& memfd);
    Result<Folio> write_tree(const ShmemFile& memfd);
    Result<> fill_tree(const ShmemFile& memfd, PhysRange where, u64 folios);
    void write_folios(const ShmemFile& memfd, PhysAddr at);
    Folio tree_at(u64 data) const;
    Result<Content> read_tree(Folio tree) const;
    Result<FileRef> retrieve_from(Folio tree);
    Result<> restore_pages(ShmemFile& file, u64 index, PfnRange frames);
    Result<> restore_folios(ShmemFile& file, const Content::Run& run);
    void discard(const Content::Run& run);
    void discard_pages(PfnRange frames);
    u64 free_odd_block(Pfn pfn);
    void register_late();

    Kernel& kernel_;
    kho::Kho& kho_;
    Orchestrator& orchestrator_;
};

}  // namespace kexec_sim::luo
