// Units and addresses of the simulated machine.
//
// A page frame number, a physical address, an order and a node are four different things; none of
// them converts into another by accident. `.raw` is the number, for the few places that need it.
//
//   PhysAddr  a byte of RAM              Pfn    a frame of 4 KiB: phys = pfn * 4096
//   Order     2^order frames             Folio  2^order frames that start at a multiple of 2^order
//   Nid       a NUMA node                PhysRange  [begin, end), the only form of a range of bytes
//   PfnRange  [begin, end) in frames
#pragma once

#include <bit>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <optional>

namespace kexec_sim {

using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;
using i32 = std::int32_t;
using i64 = std::int64_t;

inline constexpr u64 page_shift = 12;
inline constexpr u64 page_bytes = u64{1} << page_shift;
inline constexpr u64 KiB = 1024, MiB = 1024 * KiB, GiB = 1024 * MiB, TiB = 1024 * GiB;
/// Largest order that the page allocator hands out (4 MiB); `MAX_PAGE_ORDER` of the kernel.
inline constexpr u8 max_page_order = 10;
/// Frames of one pageblock (2 MiB), the unit in which CMA and migrate types are kept.
inline constexpr u64 pageblock_pages = 512;

struct Order {
    u8 raw = 0;
    constexpr Order() = default;
    constexpr explicit Order(unsigned order) : raw(static_cast<u8>(order)) {}
    constexpr u64 pages() const { return u64{1} << raw; }
    constexpr u64 bytes() const { return page_bytes << raw; }
    constexpr auto operator<=>(const Order&) const = default;
};

struct PhysAddr;

struct Pfn {
    u64 raw = 0;
    constexpr Pfn() = default;
    constexpr explicit Pfn(u64 pfn) : raw(pfn) {}
    constexpr PhysAddr phys() const;
    constexpr Pfn operator+(u64 pages) const { return Pfn{raw + pages}; }
    constexpr u64 operator-(Pfn other) const { return raw - other.raw; }
    constexpr auto operator<=>(const Pfn&) const = default;
};

struct PhysAddr {
    u64 raw = 0;
    constexpr PhysAddr() = default;
    constexpr explicit PhysAddr(u64 phys) : raw(phys) {}
    constexpr Pfn pfn() const { return Pfn{raw >> page_shift}; }
    constexpr u64 offset_in_page() const { return raw & (page_bytes - 1); }
    constexpr bool page_aligned() const { return offset_in_page() == 0; }
    constexpr PhysAddr operator+(u64 bytes) const { return PhysAddr{raw + bytes}; }
    constexpr u64 operator-(PhysAddr other) const { return raw - other.raw; }
    constexpr auto operator<=>(const PhysAddr&) const = default;
};

constexpr PhysAddr Pfn::phys() const { return PhysAddr{raw << page_shift}; }

struct Nid {
    i32 raw = 0;
    constexpr Nid() = default;
    constexpr explicit Nid(i32 nid) : raw(nid) {}
    constexpr auto operator<=>(const Nid&) const = default;
};
/// `NUMA_NO_NODE`: made without a node.
inline constexpr Nid nid_none{-1};

/// Half-open range of bytes.
struct PhysRange {
    PhysAddr begin, end;
    constexpr u64 bytes() const { return end.raw - begin.raw; }
    constexpr bool empty() const { return end <= begin; }
    constexpr bool contains(PhysAddr phys) const { return begin <= phys && phys < end; }
    constexpr bool contains(PhysRange other) const { return begin <= other.begin && other.end <= end; }
    constexpr bool overlaps(PhysRange other) const { return begin < other.end && other.begin < end; }
    constexpr auto operator<=>(const PhysRange&) const = default;
};
constexpr PhysRange phys_range(PhysAddr begin, u64 bytes) { return {begin, begin + bytes}; }

/// Half-open range of frames.
struct PfnRange {
    Pfn begin, end;
    constexpr u64 pages() const { return end.raw - begin.raw; }
    constexpr bool empty() const { return end <= begin; }
    constexpr bool contains(Pfn pfn) const { return begin <= pfn && pfn < end; }
    constexpr bool contains(PfnRange other) const { return begin <= other.begin && other.end <= end; }
    constexpr bool overlaps(PfnRange other) const { return begin < other.end && other.begin < end; }
    constexpr PhysRange phys() const { return {begin.phys(), end.phys()}; }
    constexpr auto operator<=>(const PfnRange&) const = default;
};
constexpr PfnRange pfn_range(Pfn begin, u64 pages) { return {begin, begin + pages}; }

/// 2^order frames from `pfn`. A value that is not `aligned()` is no folio; whoever reads one out of
/// memory checks.
struct Folio {
    Pfn pfn;
    Order order;
    constexpr bool aligned() const { return (pfn.raw & (order.pages() - 1)) == 0; }
    constexpr PfnRange frames() const { return pfn_range(pfn, order.pages()); }
    constexpr PhysRange phys() const { return frames().phys(); }
    constexpr auto operator<=>(const Folio&) const = default;
};

constexpr u64 align_up(u64 value, u64 align) { return (value + align - 1) / align * align; }
constexpr u64 align_down(u64 value, u64 align) { return value / align * align; }

/// get_order(): the smallest order whose block holds `bytes` (`bytes` > 0).
constexpr Order order_for_bytes(u64 bytes) {
    const u64 pages = align_up(bytes, page_bytes) >> page_shift;
    return Order{static_cast<unsigned>(std::bit_width(pages - 1))};
}

/// Which kernel since power-on, counted over every boot from 0.
using Generation = u32;

}  // namespace kexec_sim
