// "kho-v1": the bytes that one kernel leaves for the next, but for the devicetrees (kho/abi/root_tree.hpp).
//
//   setup_data (type 10)            scratch array                    one area
//   +0  u64 fdt_addr  ─────► root   +0   u64 addr  ┐                 lowmem, global, node 0, node 1, …
//   +8  u64 fdt_size        tree    +8   u64 size  ┘ 16 bytes each
//   +16 u64 scratch_addr ─────────► …
//   +24 u64 scratch_size
//
//   root tree, property preserved-memory-map ──► first chunk (0: nothing is preserved)
//
//   chunk, one page                    chunk of the same or a higher order
//   +0  u64 next ────────────────────► +0  u64 next = 0 (last)
//   +8  u32 order                      …
//   +12 u32 num_elms (0…255)
//   +16 element 0: u64 phys_start, u64 bitmap ──► bitmap of 512 (6.16, luo-*) or 4096 bytes (6.18)
//   +32 element 1 …                               bit b: the block at phys_start + (b << (order + 12))
//
// A bitmap has B = 8 · bytes bits; bitmap number i of an order starts at phys_start = i · B << (order + 12). Bit b is
// bit b mod 8 of byte b / 8. Chunks and bitmaps are ordinary memory of the old kernel and are not preserved themselves.
//
// A vmalloc area (6.18):
//
//   descriptor, 16 bytes     chunk, one preserved page
//   +0  u64 first ─────────► +0  u64 next (0: last)
//   +8  u32 total_pages      +8  u64 phys[511] of blocks of 2^order pages; 0 ends the list
//   +12 u16 flags            A chunk that becomes exactly full is followed by another, perhaps empty.
//   +14 u16 order
//
// All integers in host order, which is little-endian. Page size 4096.
#pragma once

#include <bit>
#include <cstddef>
#include <string_view>

#include "machine/types.hpp"

namespace kexec_sim::kho::abi {

static_assert(std::endian::native == std::endian::little);

// --- preserved-memory map
// -----------------------------------------------------------------------------------------------

struct khoser_mem_bitmap_ptr {
    u64 phys_start;
    u64 bitmap;
};
static_assert(sizeof(khoser_mem_bitmap_ptr) == 16);
static_assert(offsetof(khoser_mem_bitmap_ptr, bitmap) == 8);

struct khoser_mem_chunk_hdr {
    u64 next;
    u32 order;
    u32 num_elms;
};
static_assert(sizeof(khoser_mem_chunk_hdr) == 16);
static_assert(offsetof(khoser_mem_chunk_hdr, order) == 8);
static_assert(offsetof(khoser_mem_chunk_hdr, num_elms) == 12);

inline constexpr u32 chunk_elements = (page_bytes - sizeof(khoser_mem_chunk_hdr)) / sizeof(khoser_mem_bitmap_ptr);
static_assert(chunk_elements == 255);

struct khoser_mem_chunk {
    khoser_mem_chunk_hdr hdr;
    khoser_mem_bitmap_ptr bitmaps[chunk_elements];
};
static_assert(sizeof(khoser_mem_chunk) == page_bytes);
static_assert(offsetof(khoser_mem_chunk, bitmaps) == 16);

/// An order above this cannot be shifted into a physical address.
inline constexpr u32 map_order_max = 51;
/// The next kernel computes a block's size in 32 bits: from order 19 on it overflows, and nothing is reserved.
inline constexpr u32 reservable_order_max = 18;

// --- scratch array
// ------------------------------------------------------------------------------------------------------

struct kho_scratch {
    u64 addr;
    u64 size;
};
static_assert(sizeof(kho_scratch) == 16);
inline constexpr u64 scratch_segment_align = 64 * KiB;

// --- setup_data of type SETUP_KEXEC_KHO
// -----------------------------------------------------------------------------------

struct kho_data {
    u64 fdt_addr;
    u64 fdt_size;
    u64 scratch_addr;
    u64 scratch_size;
};
static_assert(sizeof(kho_data) == 32);
static_assert(offsetof(kho_data, scratch_addr) == 16);

// --- preserved vmalloc areas
// ----------------------------------------------------------------------------------------------

inline constexpr u16 KHO_VMALLOC_ALLOC = 1;
inline constexpr u16 KHO_VMALLOC_HUGE_VMAP = 2;

struct kho_vmalloc {
    u64 first;
    u32 total_pages;
    u16 flags;
    u16 order;
};
static_assert(sizeof(kho_vmalloc) == 16);
static_assert(offsetof(kho_vmalloc, flags) == 12);
static_assert(offsetof(kho_vmalloc, order) == 14);

inline constexpr u32 vmalloc_chunk_entries = (page_bytes - sizeof(u64)) / sizeof(u64);
static_assert(vmalloc_chunk_entries == 511);

struct kho_vmalloc_chunk {
    u64 next;
    u64 phys[vmalloc_chunk_entries];
};
static_assert(sizeof(kho_vmalloc_chunk) == page_bytes);

// --- marker in `struct page`
// ------------------------------------------------------------------------------------------------

inline constexpr u64 KHO_PAGE_MAGIC = 0x4b484f50;  // "KHOP"

}  // namespace kexec_sim::kho::abi
