// Registers and in-memory structures of the IOMMU, as in the VT-d specification (legacy mode).
//
// Offsets are from the unit's register base. Structures are what the unit reads from RAM: little endian, packed.
#pragma once

#include "machine/types.hpp"

namespace kexec_sim::vtd {

/// The unit of segment s has its registers at register_base + s * register_bytes (by order of segments).
inline constexpr u64 register_base = 0xfed9'0000, register_bytes = 0x1000;

inline constexpr u64 VER = 0x00, CAP = 0x08, ECAP = 0x10, GCMD = 0x18, GSTS = 0x1c, RTADDR = 0x20, FSTS = 0x34,
                     FECTL = 0x38, FEDATA = 0x3c, FEADDR = 0x40, FEUADDR = 0x44, IQH = 0x80, IQT = 0x88, IQA = 0x90,
                     IRTA = 0xb8, FRCD = 0x200;
inline constexpr unsigned fault_records = 8;

/// GCMD and GSTS: TE and QIE, IRE are states; SRTP and SIRTP are commands whose status bit says done.
inline constexpr u32 TE = 1u << 31, SRTP = 1u << 30, QIE = 1u << 26, IRE = 1u << 25, SIRTP = 1u << 24;
/// FSTS: a new fault while all records are taken; a record is pending; bits 15:8 the first pending record.
inline constexpr u32 FSTS_PFO = 1u << 0, FSTS_PPF = 1u << 1, FSTS_IQE = 1u << 4;
inline constexpr u32 FECTL_IM = 1u << 31;

struct RootEntry {
    u64 low = 0;   // bit 0 present; 63:12 context table
    u64 high = 0;
    bool present() const { return low & 1; }
    PhysAddr context_table() const { return PhysAddr{low & ~u64{0xfff}}; }
};
struct ContextEntry {
    u64 low = 0;   // bit 0 present; bit 1 fault processing disable; 3:2 type; 63:12 top table
    u64 high = 0;  // 2:0 width (1: 3 levels, 2: 4 levels, 3: 5 levels); 23:8 domain id
    bool present() const { return low & 1; }
    unsigned type() const { return (low >> 2) & 3; }
    PhysAddr top_table() const { return PhysAddr{low & ~u64{0xfff}}; }
    unsigned width() const { return high & 7; }
    u16 domain_id() const { return static_cast<u16>(high >> 8); }
    static ContextEntry translated(PhysAddr top, unsigned width, u16 domain_id) {
        return {top.raw | 1, width | u64{domain_id} << 8};
    }
};
static_assert(sizeof(RootEntry) == 16 && sizeof(ContextEntry) == 16);
inline constexpr unsigned type_translate = 0, type_device_tlb = 1, type_pass_through = 2;
inline constexpr unsigned width_3_levels = 1, width_4_levels = 2, width_5_levels = 3;
inline constexpr unsigned domain_ids = 1u << 16;

/// Page-table entries.
inline constexpr u64 PTE_READ = 1, PTE_WRITE = 2, PTE_LARGE = 1 << 7, PTE_ACCESSED = 1 << 8, PTE_DIRTY = 1 << 9,
                     PTE_SNOOP = 1 << 11, PTE_ADDRESS = 0x000f'ffff'ffff'f000, PTE_RESERVED = 0x7ff0'0000'0000'0000;

enum class FaultReason : u8 {
    none = 0,
    root_not_present = 1,
    context_not_present = 2,
    context_invalid = 3,
    beyond_width = 4,
    write_denied = 5,
    read_denied = 6,
    bad_next_table = 7,
    bad_root_table = 8,
    bad_context_table = 9,
    reserved_in_root = 0xa,
    reserved_in_context = 0xb,
    reserved_in_entry = 0xc,
    blocked_type = 0xd,
    // Interrupt requests.
    ir_reserved = 0x20,
    ir_index = 0x21,
    ir_not_present = 0x22,
    ir_table_access = 0x23,
    ir_reserved_in_entry = 0x24,
    ir_compatibility_blocked = 0x25,
    ir_source_id = 0x26,
};

/// Descriptors of the invalidation queue: 16 bytes each, type in bits 3:0 of the first word.
inline constexpr u64 QI_CONTEXT = 1, QI_IOTLB = 2, QI_WAIT = 5;
/// Granularity, bits 5:4: 1 all, 2 a domain (id in 31:16), 3 a device (context: source id in 47:32) or pages (IOTLB:
/// address and mask in the second word, bits 63:12 and 5:0).
inline constexpr u64 QI_ALL = 1 << 4, QI_DOMAIN = 2 << 4, QI_SELECTED = 3 << 4;
/// WAIT: bit 5 write the status data (63:32) to the address in the second word.
inline constexpr u64 QI_WAIT_STATUS_WRITE = 1 << 5;

/// Interrupt remapping table entry.
struct InterruptEntry {
    u64 low = 0;   // bit 0 present; bit 15 posted; 23:16 vector; 63:32 destination
    u64 high = 0;  // 15:0 source id; 19:18 source-id check (1: compare)
    bool present() const { return low & 1; }
    bool posted() const { return low & (1 << 15); }
    u8 vector() const { return static_cast<u8>(low >> 16); }
    u16 source_id() const { return static_cast<u16>(high); }
    bool checks_source() const { return ((high >> 18) & 3) == 1; }
};
static_assert(sizeof(InterruptEntry) == 16);

/// Message addresses. Remappable: bit 4 set, index in 19:5 (low 15 bits) and bit 2.
inline constexpr u64 message_base = 0xfee0'0000, message_end = 0xff00'0000, MESSAGE_REMAPPABLE = 1 << 4;
constexpr u64 remappable_message(u16 index) {
    return message_base | MESSAGE_REMAPPABLE | static_cast<u64>(index & 0x7fff) << 5 | static_cast<u64>(index >> 15) << 2;
}

}  // namespace kexec_sim::vtd
