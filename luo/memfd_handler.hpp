// memfds over a live update: the file handler "memfd-v1".
//
// The folios of a memfd stay where they are; what is handed over is a list of them, with size and position, in a small
// tree of its own (luo/abi/trees.hpp). A record says where a folio lies in RAM and in the file; its order is known to
// KHO. Lost on the way: name, seals, holes (they become pages of zeros), owner.
//
//   file   index 0     1     2        512                next kernel
//          |pfn 12  |pfn 13 | (2 … 511) |pfn 1024, order 9|
//   tree   folios = 12 at 0   13 at 1   …  1024 at 512    tree ──► restore each folio ──► insert at its index ──► size
//
// Prepare: 1. Freeze the mapping: no size change, no holes. 2. More than 2^32 - 1 pages: E2BIG. 3. Pin all pages; that
// moves them out of CMA, hence out of scratch. 4. Preserve each folio. 5. Write and preserve the tree. Freeze: the
// position once more. Cancel: all of it backwards. Retrieve: tree, file, folios, size; the tree is freed. Finish without
// retrieve: everything is restored and freed.
//
// One file may have several tokens, each with a tree and a pin. The mapping is thawed, and the folios are given up,
// with the last of them.
//
// Unhappy paths: 1. empty file: EINVAL from the pin. 2. ENOMEM: pages for holes, the tree, a tree of more than 4 MiB
// (above 261888 folios). 3. KHO refuses a folio or the tree. After any of them the file is as before, but for holes
// that were filled. 4. In retrieve: no tree ENOENT; malformed properties EINVAL; a folio that cannot be restored, or
// does not fit where it is to go, ENOENT (LUO-D8, corrected).
//
// Source: the LUO series, mm/memfd_luo.c. Simplified: the flags of folios are always dirty and up to date.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
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
        /// Folios at the same distance in file and RAM. Distance 1: single pages, but for the last, which can be of any
        /// order.
        struct Run {
            u64 index;
            Pfn pfn;
            u64 count = 1, step = 1;
            bool up_to_date = true;
            bool pages() const { return count > 1 && step == 1; }
        };
        std::vector<Run> runs;
    };
    /// Pages of the file, as far as they are handed over.
    u64 page_count(const ShmemFile& memfd) const;
    std::vector<ShmemFile::FolioRun> runs_of(const ShmemFile& memfd) const;
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
    /// `restored`: how many of the run's folios came back.
    Result<> restore_pages(ShmemFile& file, u64 index, PfnRange frames, u64& restored);
    Result<> restore_folios(ShmemFile& file, const Content::Run& run, u64& restored);
    void put_folios(const Content& content, const Content::Run& failed, u64 done);
    void clear_unused(const Content::Run& run);
    Result<> insert(ShmemFile& file, u64 index, PfnRange frames);
    Result<> insert_folio(ShmemFile& file, u64 index, Folio folio);
    void discard(const Content::Run& run);
    void discard_pages(PfnRange frames);
    std::optional<Folio> folio_around(Pfn pfn) const;
    /// Under one token at least.
    bool prepared(const ShmemFile& memfd) const { return tokens_.contains(memfd.id()); }
    void register_late();

    Kernel& kernel_;
    kho::Kho& kho_;
    Orchestrator& orchestrator_;
    std::map<u64, u64> tokens_;  // how many a file is prepared under, by its id
};

}  // namespace kexec_sim::luo
