// shmem: memfds and other anonymous shared-memory files.
//
// The page cache of a file is a list of extents, index -> frames (folios in RAM, movable until pinned). Indexes without
// a frame are holes and read as zeros; a write allocates. Folios have order 0, and where transparent_hugepage_shmem says
// so order 9: at a multiple of 2 MiB, for a hole that lies below the size as a whole; where there is none, single pages
// do. A part of a large folio that leaves the file is filled with zeros, and goes with the rest of it. A mapping can be
// frozen (a plain kernel concept here): while it is, the size cannot change and holes cannot be made.
//
//   index   0    1    2    3    4            size 18 KiB
//   frame   |A0  |A1  | -- |B7  |B8 (partly beyond the size: zero)
//
// A write goes page chunk by page chunk, as generic_perform_write() does: from its offset to the end of that page, then
// whole pages, then the rest. What ends it in the middle (a chunk that is refused, no memory) leaves the chunks before
// it written: a short write. If there is none before it, the errno is the result. All pages that a write needs are
// allocated in one go.
//
// Unhappy paths:
//   1. frozen mapping: truncate to any size EPERM; fallocate of any mode EPERM; a chunk that ends beyond the size EPERM
//   2. seals: write and future_write against any chunk, grow against one that ends beyond the size: EPERM; shrink and
//      grow against truncate: EPERM; write and future_write against making holes: EPERM; any seal on a file sealed with
//      `seal`: EPERM, the write seal on pinned pages EBUSY
//   3. no memory: ENOMEM. Pages that a failed pin_all() put into holes belong to the file and stay
//   4. hugetlbfs: no content; write EINVAL
//
// Invariants: extents are ascending, disjoint, and neighbours in index and frame are one extent; bytes of the last page
// beyond the size are zero.
//
// Cost: a binary search an operation, and what it touches. Simplified: no swap, no quota, no mmap; pages of the
// whole file are pinned, never a part of it; adding the write seal does not wait for pins to go. Large folios are never
// split, and not movable, so that none lies in CMA.
// Source: Linux 6.16, mm/shmem.c, mm/memfd.c, mm/gup.c; the frozen mapping from the LUO series.
#pragma once

#include <span>
#include <vector>

#include "kernel-model/frame_set.hpp"
#include "kernel-model/page_alloc.hpp"
#include "kernel-model/vfs.hpp"

namespace kexec_sim {

inline constexpr u32 F_SEAL_SEAL_BIT = 0x1, F_SEAL_SHRINK_BIT = 0x2, F_SEAL_GROW_BIT = 0x4, F_SEAL_WRITE_BIT = 0x8,
                     F_SEAL_FUTURE_WRITE_BIT = 0x10, F_SEAL_EXEC_BIT = 0x20;

struct MemfdFlags {
    bool cloexec = false, allow_sealing = false, hugetlb = false, noexec_seal = false, exec = false;
};

class ShmemFile final : public File {
public:
    ShmemFile(Kernel& kernel, u64 id, std::string name);
    ~ShmemFile() override;
    std::string_view kind() const override { return hugetlb ? "hugetlbfs" : "memfd"; }

    u64 size() const { return size_; }
    u64 pos = 0;
    u32 seals = F_SEAL_SEAL_BIT;
    bool hugetlb = false;
    /// Mode bits 0111. An executable file gets all write seals together with F_SEAL_EXEC.
    bool executable = true;
    const std::string& name() const { return name_; }

    /// pwrite: returns bytes written, which may be short; the errno only if nothing was.
    Result<u64> write(u64 offset, std::span<const std::byte> data);
    Result<u64> read(u64 offset, std::span<std::byte> out) const;
    Result<> truncate(u64 size);
    Result<> punch_hole(u64 offset, u64 length);
    /// EPERM if F_SEAL_SEAL is set; EINVAL: unknown bits; EBUSY: write seal while pinned.
    Result<> add_seals(u32 more);
    u64 allocated_bytes() const;  // what st_blocks says

    // --- for handlers that preserve the file ---
    void freeze_mapping() { frozen_ = true; }
    void thaw_mapping() { frozen_ = false; }
    bool frozen() const { return frozen_; }
    /// memfd_pin_folios(): fills holes below the size, moves pages out of CMA and pins all. EINVAL for size 0; ENOMEM.
    /// Pins nest: a file preserved under two tokens is pinned twice, and unpin_all() takes back the older pin.
    /// `pages_max`: no page from there on.
    Result<> pin_all(u64 pages_max = ~u64{0});
    void unpin_all();
    bool pinned() const { return !pins_.empty(); }
    std::span<const FileExtent> extents() const { return extents_; }  // ascending by index
    /// The frames behind whole pages of [offset, offset + bytes), in order of their index; holes are left out.
    std::vector<PfnRange> frames(u64 offset, u64 bytes) const;
    /// The extents, cut where the order of the folios changes.
    struct FolioRun {
        u64 index;
        PfnRange frames;
        Order order;
    };
    std::vector<FolioRun> folio_runs() const;
    FileView view() const { return {id(), size_, pos, extents_}; }
    /// Puts frames that already are folios of ours at `index` (a restored file). EEXIST if something is there.
    Result<> insert_pages(u64 index, PfnRange frames);
    /// Blocks that insert_pages() has added are charged to the inode. Fault point mm.shmem_account.
    Result<> account_pages(u64 pages);
    /// Takes pages out of the file again; they stay the caller's.
    void take_out_pages(u64 index, u64 pages);
    /// Whether the page was ever written, or only put into a hole by pin_all(): not "up to date" as long as nobody does.
    bool up_to_date(u64 index) const { return unused_.next_member({Pfn{index}, Pfn{index + 1}}) != Pfn{index}; }
    /// Sets the size without touching pages (a restored file).
    void set_size(u64 size) { size_ = size; }
    /// Drops every page (the file's end).
    void drop_pages();
    void release() override { drop_pages(); }

private:
    /// How many of `bytes` from `offset` on seals and freezing let through, in whole chunks.
    u64 permitted_bytes(u64 offset, u64 bytes) const;

    // The page cache (shmem_pages.cpp). Indexes are half-open: [begin, end).
    struct Filled {
        u64 end;
        Errno error;
    };
    /// Allocates what is missing in [begin, end). On failure `end` is the first index that stayed a hole.
    Filled fill_holes(u64 begin, u64 end);
    void fill_with_large_folios(u64 begin, u64 end);
    std::vector<FileExtent> holes(u64 begin, u64 end) const;  // pfn unused
    /// First extent that ends after `index`.
    std::vector<FileExtent>::const_iterator first_after(u64 index) const;
    /// Adds extents that are ascending and overlap nothing.
    void add_extents(std::span<const FileExtent> fresh);
    void remove_pages(u64 begin, u64 end);
    void zero_in_page(u64 begin, u64 end);
    /// The part of [begin, end) of an extent that consists of whole folios; the rest of it is filled with zeros.
    std::pair<u64, u64> whole_folios(const FileExtent& extent, u64 begin, u64 end);
    void release_folios(PfnRange frames);
    void free_frames(PfnRange frames);
    Result<u64> migrate();  // pages moved

    Kernel& kernel_;
    std::string name_;
    u64 size_ = 0;
    bool frozen_ = false;
    std::vector<FileExtent> extents_;
    /// Indexes of pages that are not up to date.
    FrameSet unused_;
    /// What each pin_all() that is not yet undone pinned, oldest first.
    std::vector<std::vector<PfnRange>> pins_;
    /// Frames that left the file while pinned: freed when the last pin goes.
    std::vector<PfnRange> detached_;
};

/// memfd_create(2) and ftruncate(2). EINVAL: a name of more than 249 bytes, both exec and noexec_seal, a size beyond
/// 2^63 - 1.
Result<std::shared_ptr<ShmemFile>> memfd_create_file(Kernel& kernel, const std::string& name, u64 size,
                                                     MemfdFlags flags);

}  // namespace kexec_sim
