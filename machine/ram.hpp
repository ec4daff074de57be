// Physical memory.
//
// RAM is a memfd (with `--ram` the named file) mapped shared through Boost.Interprocess: offset = physical address. It
// costs what is written. Beside it stands a bitmap of written frames with a summary of one bit for 4096 frames:
//
//   summary  1 bit / 16 MiB     |1|0|0|1|…
//   written  1 bit / 4 KiB      |0101…| |1000…|       (untouched where the summary is 0)
//   RAM      4 KiB              sparse file
//
// Reading an unwritten frame gives zeros without touching the mapping, and walks over all memory (hash, report) go by
// the bitmap. Not every address below `bytes_max` is RAM: the firmware map has holes. An access outside RAM throws
// BadPhysAccess with address and generation; it never faults on the host.
//
// The kernel's own view is the direct map, a second mapping of the same file at an address that differs from
// generation to generation; pointers that C modules hold, and pointers that somebody stores into RAM, are addresses in
// it.
//
// While SEV-SNP is on (snp.hpp), an access that a kernel makes through these functions is checked by the owner of its
// frames. Instruments (hash, images, what lies inside machine/) are not.
//
// Simplified: no caches, no write ordering; every access is complete when it returns.
#pragma once

#include <array>
#include <cstring>
#include <memory_resource>
#include <span>
#include <string>
#include <vector>

#include "machine/layout.hpp"
#include "machine/result.hpp"
#include "machine/types.hpp"

namespace kexec_sim {

struct RamHash {
    u64 low = 0, high = 0;
    bool operator==(const RamHash&) const = default;
    std::string hex() const;  // 32 hex digits, high first
};

class SnpFirmware;

class PhysicalMemory {
public:
    /// `ranges`: what is RAM, ascending, page aligned. `file`: empty for a memfd. UserError if the host refuses.
    /// `private_memory`: not a file, but memory of this process, which a forked one has a copy of; no direct map then, and
    /// the next machine takes it over (kept_mapping.hpp).
    PhysicalMemory(std::span<const PhysRange> ranges, const std::string& file, std::pmr::memory_resource* memory,
                   bool private_memory = false);
    ~PhysicalMemory();
    PhysicalMemory(const PhysicalMemory&) = delete;
    PhysicalMemory& operator=(const PhysicalMemory&) = delete;

    u64 bytes_max() const { return bytes_max_; }
    std::span<const PhysRange> ranges() const { return ranges_; }
    bool contains(PhysRange range) const {
        if (range.begin >= last_hit_.begin && range.end <= last_hit_.end && range.begin <= range.end) return true;
        return contains_slow(range);
    }
    bool contains(PhysAddr phys, u64 bytes) const {
        return bytes <= bytes_max_ && phys.raw <= bytes_max_ && contains(phys_range(phys, bytes));
    }

    template <typename T> T read(PhysAddr phys) const {
        static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= page_bytes);
        check(phys, sizeof(T), false);
        T value{};
        if (written(phys.pfn()) || phys.offset_in_page() + sizeof(T) > page_bytes)
            std::memcpy(&value, at(phys), sizeof(T));
        return value;
    }
    template <typename T> void write(PhysAddr phys, const T& value) {
        static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= page_bytes);
        check(phys, sizeof(T), true);
        mark(phys.pfn());
        if (phys.offset_in_page() + sizeof(T) > page_bytes) mark(phys.pfn() + 1);
        std::memcpy(at(phys), &value, sizeof(T));
    }
    void read_bytes(PhysAddr phys, std::span<std::byte> out) const;
    void write_bytes(PhysAddr phys, std::span<const std::byte> in);
    std::vector<std::byte> read_vector(PhysAddr phys, u64 bytes) const;
    /// Fills with zeros; frames that were never written stay so. Whole frames may be given back to the host.
    void zero(PhysRange range);
    void fill_byte(PhysRange range, std::byte value);
    /// A host pointer to `range`, whose frames count as written from now on.
    std::byte* writable(PhysRange range);
    /// A host pointer to a frame's content: into RAM, or to a page of zeros where it was never written.
    const std::byte* readable(Pfn pfn) const {
        check(pfn.phys(), page_bytes, false);
        return written(pfn) ? at(pfn.phys()) : zero_page;
    }

    /// What a device's access touches that does not cross a frame; nullptr where it is not RAM. A frame that a
    /// device writes counts as written from now on.
    const std::byte* device_reads(PhysAddr phys, u64 bytes) const {
        if (!contains(phys, bytes)) return nullptr;
        return written(phys.pfn()) ? at(phys) : zero_page + phys.offset_in_page();
    }
    std::byte* device_writes(PhysAddr phys, u64 bytes) {
        if (!contains(phys, bytes)) return nullptr;
        mark(phys.pfn());
        return at(phys);
    }

    /// Marks as written whatever the host's file holds: stores through a pointer that nobody saw.
    void note_host_stores();

    bool written(Pfn pfn) const { return (bitmap_[pfn.raw >> 6] >> (pfn.raw & 63)) & 1; }
    /// First written frame at or after `from` and below `end`; `end` if there is none.
    Pfn next_written(Pfn from, Pfn end) const;
    u64 frames_written() const;
    /// XXH3-128 over (pfn as u64 LE, 4096 bytes) of every frame that is not all zero, ascending.
    RamHash hash() const;
    /// XXH3-64 of the content of a range of frames. A range of zeros has the same hash written or not.
    u64 hash_range(PfnRange range) const;
    /// RAM loses its content (cold reset, power loss).
    void lose_content();
    /// Copies a raw image (offset = address) into RAM. UserError if it cannot be read or does not fit.
    void load_image(const std::string& path);
    /// Copies RAM's written frames to a sparse raw file of `bytes_max()` bytes.
    void save_image(const std::string& path) const;

    /// Makes the window of `slot` the only accessible direct map; returns its address.
    u64 map_direct(unsigned slot);
    void unmap_direct();
    u64 direct_base() const { return direct_base_; }
    /// True if the host address lies in RAM's own mapping or in the running direct map, inside RAM.
    bool host_address_is_ram(u64 address) const;

    /// For the messages of BadPhysAccess.
    Generation generation = 0;
    /// Who checks the accesses of kernels; nullptr while SNP is off. Set by SnpFirmware.
    const SnpFirmware* reverse_map = nullptr;

private:
    std::byte* at(PhysAddr phys) const { return reinterpret_cast<std::byte*>(ram_base) + phys.raw; }
    void check(PhysAddr phys, u64 bytes, bool write) const {
        if (!contains(phys, bytes)) bad_access(phys, bytes);
        if (reverse_map) [[unlikely]]
            check_owner(phys, bytes, write);
    }
    void check_owner(PhysAddr phys, u64 bytes, bool write) const;
    void zero_unchecked(PhysRange range);
    void open_file(const std::string& file);
    [[noreturn]] void bad_access(PhysAddr phys, u64 bytes) const;
    bool contains_slow(PhysRange range) const;
    void mark(Pfn pfn) {
        bitmap_[pfn.raw >> 6] |= u64{1} << (pfn.raw & 63);
        summary_[pfn.raw >> 18] |= u64{1} << ((pfn.raw >> 12) & 63);
    }
    void mark_range(PfnRange range);
    bool clear_for_the_next();
    void clear_marks(PfnRange range);

    static const std::byte zero_page[page_bytes];

    std::pmr::vector<PhysRange> ranges_;
    u64 bytes_max_ = 0;
    int fd_ = -1;  // -1: private memory
    u64* bitmap_ = nullptr;
    u64* summary_ = nullptr;
    // Private memory: frames that this or an earlier machine wrote, so that the host has them, and how many.
    u64* touched_ = nullptr;
    u64* touched_frames_ = nullptr;
    u64 summary_words_ = 0;
    u64 bitmap_bytes_ = 0;
    u64 direct_base_ = 0;
    mutable PhysRange last_hit_{};
};

/// Which direct-map slot generation `generation` of a run with `seed` uses; never that of its predecessor.
unsigned direct_map_slot(u64 seed, Generation generation);
constexpr u64 direct_map_address(unsigned slot) { return direct_map_base + slot * direct_map_slot_bytes; }

}  // namespace kexec_sim
