#include "kernel-model/shmem.hpp"

#include <algorithm>
#include <cstring>
#include <limits>

#include "kernel-model/kernel.hpp"

namespace kexec_sim {
namespace {

constexpr u64 file_bytes_max = std::numeric_limits<i64>::max();  // MAX_LFS_FILESIZE
constexpr std::size_t name_bytes_max = 249;                      // MFD_NAME_MAX_LEN
constexpr u32 all_seals = F_SEAL_SEAL_BIT | F_SEAL_SHRINK_BIT | F_SEAL_GROW_BIT | F_SEAL_WRITE_BIT |
                          F_SEAL_FUTURE_WRITE_BIT | F_SEAL_EXEC_BIT;
constexpr u32 write_seals = F_SEAL_WRITE_BIT | F_SEAL_FUTURE_WRITE_BIT;

constexpr u64 page_index(u64 offset) { return offset >> page_shift; }
constexpr u64 pages_for(u64 bytes) { return (bytes >> page_shift) + ((bytes & (page_bytes - 1)) != 0); }

}  // namespace

ShmemFile::ShmemFile(Kernel& kernel, u64 id, std::string name) : File(id), kernel_(kernel), name_(std::move(name)) {}

// Pages are freed by release(); where that does not run, the kernel is gone and its allocator with it.
ShmemFile::~ShmemFile() = default;

u64 ShmemFile::permitted_bytes(u64 offset, u64 bytes) const {
    if (seals & write_seals) return 0;
    if (!frozen_ && !(seals & F_SEAL_GROW_BIT)) return bytes;
    if (offset + bytes <= size_) return bytes;
    // The last chunk ends beyond the size; those that end at page boundaries up to it do not.
    const u64 last_boundary = align_down(size_, page_bytes);
    return last_boundary > offset ? last_boundary - offset : 0;
}

Result<u64> ShmemFile::write(u64 offset, std::span<const std::byte> data) {
    if (hugetlb) return fail(Errno::einval);  // hugetlbfs has no write
    if (offset > file_bytes_max) return fail(Errno::einval);
    if (data.empty()) return 0;
    if (offset == file_bytes_max) return fail(Errno::efbig);
    const u64 wanted = std::min<u64>(data.size(), file_bytes_max - offset);
    const u64 permitted = permitted_bytes(offset, wanted);
    if (permitted == 0) return fail(Errno::eperm);

    const u64 begin = page_index(offset);
    const Filled filled = fill_holes(begin, pages_for(offset + permitted));
    if (filled.end == begin) return fail(filled.error);  // ENOMEM, or what a planned fault says
    const u64 end =
        filled.error == Errno::ok ? offset + permitted : std::min(offset + permitted, filled.end << page_shift);

    unused_.erase({Pfn{begin}, Pfn{pages_for(end)}});
    for (u64 at = offset; at < end;) {
        const FileExtent& extent = *first_after(page_index(at));
        const u64 in_extent = at - (extent.index << page_shift);
        const u64 bytes = std::min(end - at, (extent.pages << page_shift) - in_extent);
        kernel_.machine.ram.write_bytes(extent.pfn.phys() + in_extent, data.subspan(at - offset, bytes));
        at += bytes;
    }
    size_ = std::max(size_, end);
    kernel_.machine.trace.emit(Layer::kernel, "file.write",
                               {{"file", id()}, {"offset", offset}, {"bytes", end - offset}});
    return end - offset;
}

Result<u64> ShmemFile::read(u64 offset, std::span<std::byte> out) const {
    if (offset > file_bytes_max) return fail(Errno::einval);
    if (offset >= size_) return 0;
    const u64 end = offset + std::min<u64>(out.size(), size_ - offset);
    auto extent = first_after(page_index(offset));
    for (u64 at = offset; at < end;) {
        const u64 extent_begin = extent == extents_.end() ? end : extent->index << page_shift;
        if (at < extent_begin) {
            const u64 bytes = std::min(end, extent_begin) - at;
            std::memset(out.data() + (at - offset), 0, bytes);
            at += bytes;
            continue;
        }
        const u64 in_extent = at - extent_begin;
        const u64 bytes = std::min(end - at, (extent->pages << page_shift) - in_extent);
        kernel_.machine.ram.read_bytes(extent->pfn.phys() + in_extent, out.subspan(at - offset, bytes));
        at += bytes;
        ++extent;
    }
    return end - offset;
}

Result<> ShmemFile::truncate(u64 size) {
    if (size > file_bytes_max) return fail(Errno::einval);
    if (hugetlb && size % (2 * MiB) != 0) return fail(Errno::einval);  // whole huge pages only
    if (size < size_ && (seals & F_SEAL_SHRINK_BIT)) return fail(Errno::eperm);
    if (size > size_ && (seals & F_SEAL_GROW_BIT)) return fail(Errno::eperm);
    if (frozen_) return fail(Errno::eperm);  // to the same size too
    if (size < size_) {
        zero_in_page(size, align_up(size, page_bytes));
        // Large folios may reach beyond the size.
        if (!extents_.empty()) remove_pages(pages_for(size), extents_.back().index + extents_.back().pages);
    }
    size_ = size;
    kernel_.machine.trace.emit(Layer::kernel, "file.truncate", {{"file", id()}, {"size", size}});
    return {};
}

Result<> ShmemFile::punch_hole(u64 offset, u64 length) {
    if (offset > file_bytes_max || length == 0 || length > file_bytes_max) return fail(Errno::einval);
    if (length > file_bytes_max - offset) return fail(Errno::efbig);
    if (frozen_) return fail(Errno::eperm);
    if (seals & write_seals) return fail(Errno::eperm);
    const u64 end = offset + length;
    const u64 whole_begin = pages_for(offset), whole_end = page_index(end);
    if (page_index(offset) == whole_end) {
        zero_in_page(offset, end);  // all in one page
    } else {
        zero_in_page(offset, whole_begin << page_shift);
        zero_in_page(whole_end << page_shift, end);
    }
    if (whole_begin < whole_end) remove_pages(whole_begin, whole_end);
    kernel_.machine.trace.emit(Layer::kernel, "file.punch", {{"file", id()}, {"offset", offset}, {"bytes", length}});
    return {};
}

Result<> ShmemFile::add_seals(u32 more) {
    if (more & ~all_seals) return fail(Errno::einval);
    if (seals & F_SEAL_SEAL_BIT) return fail(Errno::eperm);
    // Somebody may write through the pins; the kernel waits a while for them, then gives up.
    if ((more & F_SEAL_WRITE_BIT) && !(seals & F_SEAL_WRITE_BIT) && pinned()) return fail(Errno::ebusy);
    // What is sealed executable must not be written any more.
    if ((more & F_SEAL_EXEC_BIT) && executable) more |= F_SEAL_SHRINK_BIT | F_SEAL_GROW_BIT | write_seals;
    seals |= more;
    return {};
}

u64 ShmemFile::allocated_bytes() const {
    u64 pages = 0;
    for (const FileExtent& extent : extents_) pages += extent.pages;
    return pages << page_shift;
}

Result<std::shared_ptr<ShmemFile>> memfd_create_file(Kernel& kernel, const std::string& name, u64 size,
                                                     MemfdFlags flags) {
    if (name.size() > name_bytes_max) return fail(Errno::einval);
    if (flags.exec && flags.noexec_seal) return fail(Errno::einval);
    if (size > file_bytes_max) return fail(Errno::einval);
    auto file = kernel.vfs.make_file<ShmemFile>(kernel, kernel.vfs.next_file_id(), name);
    file->hugetlb = flags.hugetlb;
    file->executable = !flags.noexec_seal;
    if (flags.noexec_seal)
        file->seals = F_SEAL_EXEC_BIT;
    else if (flags.allow_sealing)
        file->seals = 0;
    file->set_size(size);
    kernel.machine.trace.emit(Layer::kernel, "file.create", {{"file", file->id()}, {"name", name}, {"size", size}});
    return file;
}

}  // namespace kexec_sim
