#include "machine/ram.hpp"

#include <algorithm>
#include <bit>
#include <boost/interprocess/file_mapping.hpp>
#include <boost/interprocess/mapped_region.hpp>
#include <cerrno>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "machine/arena.hpp"
#include "machine/kept_mapping.hpp"
#include "machine/memory_image.hpp"
#include "machine/snp.hpp"

namespace kexec_sim {
namespace bip = boost::interprocess;

alignas(page_bytes) const std::byte PhysicalMemory::zero_page[page_bytes] = {};

namespace {

/// More than that of the host's memory is given back with the machine.
constexpr u64 kept_frames_max = 32 * MiB >> page_shift;
constinit KeptMapping kept_ram(ram_base), kept_bitmap(written_bitmap_base);

[[noreturn]] void host_refuses(const std::string& what) {
    throw UserError(fmt::format("kexec-sim: error: {}: {}", what, std::strerror(errno)));
}

/// Maps the file of RAM at a fixed address. The region must outlive its C++ object, so it is released by munmap.
void map_file(int fd, u64 address, u64 bytes, const std::string& what) {
    try {
        const bip::file_mapping file(fmt::format("/proc/self/fd/{}", fd).c_str(), bip::read_write);
        static_assert(sizeof(bip::mapped_region) <= 64);
        alignas(bip::mapped_region) static thread_local std::byte storage[sizeof(bip::mapped_region)];
        // Not destroyed on purpose: the mapping's life is that of the machine, ended by munmap.
        auto* region =
            new (storage) bip::mapped_region(file, bip::read_write, 0, bytes, reinterpret_cast<void*>(address));
        INVARIANT(reinterpret_cast<u64>(region->get_address()) == address);
    } catch (const bip::interprocess_exception& error) {
        throw UserError(fmt::format("kexec-sim: error: cannot map {}: {}", what, error.what()));
    }
}

bool all_zero(const std::byte* page) {
    const auto* words = reinterpret_cast<const u64*>(page);
    for (u64 i = 0; i < page_bytes / 8; i += 8)
        if (words[i] | words[i + 1] | words[i + 2] | words[i + 3] | words[i + 4] | words[i + 5] | words[i + 6] |
            words[i + 7])
            return false;
    return true;
}

}  // namespace

std::string RamHash::hex() const { return fmt::format("{:016x}{:016x}", high, low); }

unsigned direct_map_slot(u64 seed, Generation generation) {
    // A fixed walk of odd steps from a start that depends on the seed: neighbours always differ.
    return static_cast<unsigned>((seed * 5 + u64{generation} * 3) % direct_map_slots);
}

void PhysicalMemory::open_file(const std::string& file) {
    fd_ = file.empty() ? memfd_create("ram", MFD_CLOEXEC)
                       : open(file.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    const std::string what = file.empty() ? std::string("the machine's memory") : file;
    if (fd_ < 0) host_refuses(what);
    if (ftruncate(fd_, static_cast<off_t>(bytes_max_)) != 0) {
        const int error = errno;
        close(fd_);
        errno = error;
        host_refuses(what);
    }
    map_file(fd_, ram_base, bytes_max_, what);
}

PhysicalMemory::PhysicalMemory(std::span<const PhysRange> ranges, const std::string& file,
                               std::pmr::memory_resource* memory, bool private_memory)
    : ranges_(ranges.begin(), ranges.end(), memory) {
    INVARIANT(!ranges_.empty());
    bytes_max_ = ranges_.back().end.raw;
    if (!private_memory) {
        kept_ram.drop();
        kept_bitmap.drop();
        open_file(file);
    } else if (!kept_ram.take(bytes_max_)) {
        host_refuses("cannot map the machine's memory");
    }
    const u64 frames = bytes_max_ >> page_shift;
    summary_words_ = align_up(frames >> 12, 64) / 64 + 1;
    const u64 words = align_up(frames, 64) / 64 + 1;
    bitmap_bytes_ = align_up((summary_words_ + (private_memory ? 2 * words + 1 : words)) * 8, page_bytes);
    void* const bits = private_memory
                           ? kept_bitmap.take(bitmap_bytes_)
                           : mmap(reinterpret_cast<void*>(written_bitmap_base), bitmap_bytes_, PROT_READ | PROT_WRITE,
                                  MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
    if (!bits || bits == MAP_FAILED) host_refuses("cannot map the bitmap of written frames");
    summary_ = static_cast<u64*>(bits);
    bitmap_ = summary_ + summary_words_;
    if (private_memory) {
        touched_ = bitmap_ + words;
        touched_frames_ = touched_ + words;
    }
    last_hit_ = ranges_.front();
}

PhysicalMemory::~PhysicalMemory() {
    unmap_direct();
    if (touched_ && clear_for_the_next()) {
        kept_ram.keep(bytes_max_);
        kept_bitmap.keep(bitmap_bytes_);
        return;
    }
    munmap(reinterpret_cast<void*>(ram_base), bytes_max_);
    munmap(static_cast<void*>(summary_), bitmap_bytes_);
    if (fd_ >= 0) close(fd_);
}

/// False: the host would have to keep too much for a machine that may not come.
bool PhysicalMemory::clear_for_the_next() {
    const Pfn end{bytes_max_ >> page_shift};
    for (Pfn pfn = next_written(Pfn{0}, end); pfn < end; pfn = next_written(pfn + 1, end)) {
        u64& word = touched_[pfn.raw >> 6];
        const u64 bit = u64{1} << (pfn.raw & 63);
        *touched_frames_ += !(word & bit);
        word |= bit;
    }
    if (*touched_frames_ > kept_frames_max) return false;
    for (Pfn pfn = next_written(Pfn{0}, end); pfn < end; pfn = next_written(pfn + 1, end)) {
        std::memset(at(pfn.phys()), 0, page_bytes);
        clear_marks(pfn_range(pfn, 1));
    }
    std::memset(summary_, 0, summary_words_ * sizeof(u64));
    return true;
}

bool PhysicalMemory::contains_slow(PhysRange range) const {
    if (range.end < range.begin) return false;
    for (const PhysRange& ram : ranges_)
        if (ram.contains(range)) {
            last_hit_ = ram;
            return true;
        }
    return false;
}

void PhysicalMemory::bad_access(PhysAddr phys, u64 bytes) const { throw BadPhysAccess(phys.raw, bytes, generation); }

void PhysicalMemory::mark_range(PfnRange range) {
    for (u64 pfn = range.begin.raw; pfn < range.end.raw;) {
        const u64 bit = pfn & 63;
        const u64 count = std::min<u64>(64 - bit, range.end.raw - pfn);
        const u64 mask = count == 64 ? ~u64{0} : ((u64{1} << count) - 1) << bit;
        bitmap_[pfn >> 6] |= mask;
        summary_[pfn >> 18] |= u64{1} << ((pfn >> 12) & 63);
        pfn += count;
    }
}

void PhysicalMemory::clear_marks(PfnRange range) {
    for (u64 pfn = range.begin.raw; pfn < range.end.raw;) {
        const u64 bit = pfn & 63;
        const u64 count = std::min<u64>(64 - bit, range.end.raw - pfn);
        const u64 mask = count == 64 ? ~u64{0} : ((u64{1} << count) - 1) << bit;
        bitmap_[pfn >> 6] &= ~mask;
        pfn += count;
    }
}

void PhysicalMemory::check_owner(PhysAddr phys, u64 bytes, bool write) const {
    if (!MachineEntry::inside()) reverse_map->check_host(phys_range(phys, bytes), write);
}

void PhysicalMemory::read_bytes(PhysAddr phys, std::span<std::byte> out) const {
    check(phys, out.size(), false);
    for (u64 done = 0; done < out.size();) {
        const PhysAddr here = phys + done;
        const u64 count = std::min<u64>(page_bytes - here.offset_in_page(), out.size() - done);
        if (written(here.pfn()))
            std::memcpy(out.data() + done, at(here), count);
        else
            std::memset(out.data() + done, 0, count);
        done += count;
    }
}

std::vector<std::byte> PhysicalMemory::read_vector(PhysAddr phys, u64 bytes) const {
    check(phys, bytes, false);
    std::vector<std::byte> result(bytes);
    read_bytes(phys, result);
    return result;
}

void PhysicalMemory::write_bytes(PhysAddr phys, std::span<const std::byte> in) {
    if (in.empty()) return;
    std::memcpy(writable(phys_range(phys, in.size())), in.data(), in.size());
}

std::byte* PhysicalMemory::writable(PhysRange range) {
    check(range.begin, range.bytes(), true);
    if (!range.empty()) mark_range({range.begin.pfn(), PhysAddr{range.end.raw + page_bytes - 1}.pfn()});
    return at(range.begin);
}

void PhysicalMemory::zero(PhysRange range) {
    check(range.begin, range.bytes(), true);
    zero_unchecked(range);
}

void PhysicalMemory::zero_unchecked(PhysRange range) {
    const Pfn end = PhysAddr{range.end.raw + page_bytes - 1}.pfn();
    constexpr u64 punch_pages = 64;  // below this a memset is cheaper than a hole
    for (Pfn pfn = next_written(range.begin.pfn(), end); pfn < end; pfn = next_written(pfn, end)) {
        Pfn stop = pfn;
        while (stop < end && written(stop)) stop = stop + 1;
        const PhysAddr from{std::max(pfn.phys().raw, range.begin.raw)}, to{std::min(stop.phys().raw, range.end.raw)};
        const bool whole = from.page_aligned() && to.page_aligned();
        const int give_back = fd_ >= 0 ? MADV_REMOVE : MADV_DONTNEED;
        if (whole && stop - pfn >= punch_pages && madvise(at(from), to - from, give_back) == 0)
            clear_marks({pfn, stop});
        else
            std::memset(at(from), 0, to - from);
        pfn = stop;
    }
}

void PhysicalMemory::fill_byte(PhysRange range, std::byte value) {
    std::memset(writable(range), static_cast<int>(value), range.bytes());
}

Pfn PhysicalMemory::next_written(Pfn from, Pfn end) const {
    u64 pfn = from.raw;
    while (pfn < end.raw) {
        if ((pfn & 4095) == 0 || pfn == from.raw) {
            u64 block = pfn >> 12;
            if (!((summary_[block >> 6] >> (block & 63)) & 1)) {
                // Skip whole words of the summary where nothing at all was written.
                ++block;
                while (block << 12 < end.raw) {
                    const u64 word = summary_[block >> 6] >> (block & 63);
                    if (word) {
                        block += static_cast<u64>(std::countr_zero(word));
                        break;
                    }
                    block = (block | 63) + 1;
                }
                pfn = block << 12;
                continue;
            }
        }
        const u64 word = bitmap_[pfn >> 6] >> (pfn & 63);
        if (word) {
            pfn += static_cast<u64>(std::countr_zero(word));
            return Pfn{std::min(pfn, end.raw)};
        }
        pfn = (pfn | 63) + 1;
    }
    return end;
}

u64 PhysicalMemory::frames_written() const {
    u64 count = 0;
    const Pfn end{bytes_max_ >> page_shift};
    for (Pfn pfn = next_written(Pfn{0}, end); pfn < end; pfn = next_written(pfn + 1, end)) ++count;
    return count;
}

RamHash PhysicalMemory::hash() const {
    XXH3_state_t state;
    XXH3_128bits_reset(&state);
    const Pfn end{bytes_max_ >> page_shift};
    for (Pfn pfn = next_written(Pfn{0}, end); pfn < end; pfn = next_written(pfn + 1, end)) {
        const std::byte* page = at(pfn.phys());
        if (all_zero(page)) continue;
        XXH3_128bits_update(&state, &pfn.raw, sizeof pfn.raw);
        XXH3_128bits_update(&state, page, page_bytes);
    }
    const XXH128_hash_t digest = XXH3_128bits_digest(&state);
    return {digest.low64, digest.high64};
}

u64 PhysicalMemory::hash_range(PfnRange range) const {
    if (!contains(range.begin.phys(), range.pages() * page_bytes))
        bad_access(range.begin.phys(), range.pages() * page_bytes);
    // Sum of (position, content) hashes of the frames that are not all zero: zeros cost nothing.
    u64 sum = 0;
    for (Pfn pfn = next_written(range.begin, range.end); pfn < range.end; pfn = next_written(pfn + 1, range.end)) {
        const std::byte* page = at(pfn.phys());
        if (!all_zero(page)) sum += XXH3_64bits_withSeed(page, page_bytes, pfn - range.begin + 1);
    }
    return sum;
}

void PhysicalMemory::lose_content() {
    const Pfn end{bytes_max_ >> page_shift};
    for (const PhysRange& range : ranges_) zero_unchecked(range);
    for (Pfn pfn = next_written(Pfn{0}, end); pfn < end; pfn = next_written(pfn + 1, end))
        clear_marks(pfn_range(pfn, 1));
}

void PhysicalMemory::note_host_stores() {
    INVARIANT(fd_ >= 0);
    const off_t end = static_cast<off_t>(bytes_max_);
    for (off_t at = lseek(fd_, 0, SEEK_DATA); at >= 0 && at < end; at = lseek(fd_, at, SEEK_DATA)) {
        const off_t hole = std::min(lseek(fd_, at, SEEK_HOLE), end);
        for (const PhysRange& range : ranges_) {
            const PfnRange part{
                Pfn{std::max<u64>(static_cast<u64>(at), range.begin.raw) >> page_shift},
                Pfn{std::min<u64>(align_up(static_cast<u64>(hole), page_bytes), range.end.raw) >> page_shift}};
            if (part.begin < part.end) mark_range(part);
        }
        at = hole;
    }
}

void PhysicalMemory::load_image(const std::string& path) {
    std::vector<std::byte> page(page_bytes);
    read_image(path, [&](u64 offset, std::span<const std::byte> block) {
        if (offset + block.size() > align_up(bytes_max_, page_bytes))
            throw UserError(fmt::format("kexec-sim: error: {}: larger than the machine's memory", path));
        for (u64 at_byte = 0; at_byte < block.size(); at_byte += page_bytes) {
            // The last page of a file may be a part of one.
            const std::size_t count = std::min<std::size_t>(page_bytes, block.size() - at_byte);
            std::memcpy(page.data(), block.data() + at_byte, count);
            std::memset(page.data() + count, 0, page_bytes - count);
            const PhysAddr phys{offset + at_byte};
            if (all_zero(page.data()) || !contains(phys, page_bytes)) continue;
            mark(phys.pfn());
            std::memcpy(at(phys), page.data(), page_bytes);
        }
    });
}

void PhysicalMemory::save_image(const std::string& path) const {
    const int to = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (to < 0) host_refuses(path);
    bool ok = ftruncate(to, static_cast<off_t>(bytes_max_)) == 0;
    const Pfn end{bytes_max_ >> page_shift};
    for (Pfn pfn = next_written(Pfn{0}, end); ok && pfn < end; pfn = next_written(pfn + 1, end)) {
        const std::byte* page = at(pfn.phys());
        if (!all_zero(page))
            ok = pwrite(to, page, page_bytes, static_cast<off_t>(pfn.phys().raw)) == ssize_t{page_bytes};
    }
    if (close(to) != 0) ok = false;
    if (!ok) host_refuses(path);
}

u64 PhysicalMemory::map_direct(unsigned slot) {
    unmap_direct();
    const u64 base = direct_map_address(slot);
    if (fd_ < 0) return base;
    map_file(fd_, base, bytes_max_, "the direct map");
    // What is no RAM must fault in the direct map too.
    u64 end_of_last = 0;
    for (const PhysRange& range : ranges_) {
        if (range.begin.raw > end_of_last)
            mprotect(reinterpret_cast<void*>(base + end_of_last), range.begin.raw - end_of_last, PROT_NONE);
        end_of_last = range.end.raw;
    }
    direct_base_ = base;
    return base;
}

void PhysicalMemory::unmap_direct() {
    if (direct_base_) munmap(reinterpret_cast<void*>(direct_base_), bytes_max_);
    direct_base_ = 0;
}

bool PhysicalMemory::host_address_is_ram(u64 address) const {
    if (address >= ram_base && address < ram_base + bytes_max_) return contains(PhysAddr{address - ram_base}, 1);
    if (direct_base_ && address >= direct_base_ && address < direct_base_ + bytes_max_)
        return contains(PhysAddr{address - direct_base_}, 1);
    return false;
}

}  // namespace kexec_sim
