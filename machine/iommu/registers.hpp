// Registers and in-memory structures of the IOMMU, as in the VT-d specification (legacy mode).
//
// Offsets are from the unit's register base. Structures are what the unit reads from RAM: little endian, packed.
#pragma once

#include <string_view>

#include "machine/types.hpp"

namespace kexec_sim::vtd {

/// The unit of segment s has its registers at register_base + s * register_bytes (by order of segments).
inline constexpr u64 register_base = 0xfed9'0000, register_bytes = 0x1000;

inline constexpr u64 VER = 0x00, CAP = 0x08, ECAP = 0x10, GCMD = 0x18, GSTS = 0x1c, RTADDR = 0x20, FSTS = 0x34,
                     FECTL = 0x38, FEDATA = 0x3c, FEADDR = 0x40, FEUADDR = 0x44, IQH = 0x80, IQT = 0x88, IQA = 0x90,
                     IRTA = 0xb8, FRCD = 0x200;
inline constexpr unsigned fault_records = 8;

/// What a unit says of itself. VER: architecture 1.0.
inline constexpr u64 version = 0x10;
/// CAP: number of domains (2:0, 6: 2^16); widths of tables (12:8, bit 1: 3 levels, bit 2: 4 levels); bits of an IOVA,
/// less one (21:16); the first fault record in units of 16 bytes (33:24); large pages (37:34, bit 0: 2 MiB, bit 1:
/// 1 GiB); page-selective invalidation (39) with a mask of at most (53:48) bits; fault records, less one (47:40).
inline constexpr unsigned iova_bits = 48, address_mask_max = 18;
inline constexpr u64 iova_mask = (u64{1} << iova_bits) - 1;
inline constexpr u64 CAP_SAGAW_3_LEVELS = 1 << 9, CAP_SAGAW_4_LEVELS = 1 << 10;
inline constexpr u64 CAP_SLLPS_2M = u64{1} << 34, CAP_SLLPS_1G = u64{1} << 35, CAP_PSI = u64{1} << 39;
inline constexpr u64 capability = u64{6} | CAP_SAGAW_3_LEVELS | CAP_SAGAW_4_LEVELS | u64{iova_bits - 1} << 16 |
                                  (FRCD / 16) << 24 | CAP_SLLPS_2M | CAP_SLLPS_1G | CAP_PSI |
                                  u64{fault_records - 1} << 40 | u64{address_mask_max} << 48;
/// ECAP: page walks are coherent; queued invalidation; interrupt remapping; pass-through; snoop control.
inline constexpr u64 ECAP_C = 1 << 0, ECAP_QI = 1 << 1, ECAP_IR = 1 << 3, ECAP_PT = 1 << 6, ECAP_SC = 1 << 7;
inline constexpr u64 extended_capability = ECAP_C | ECAP_QI | ECAP_IR | ECAP_PT | ECAP_SC;

/// GCMD and GSTS: TE and QIE, IRE are states; SRTP and SIRTP are commands whose status bit says done.
inline constexpr u32 TE = 1u << 31, SRTP = 1u << 30, QIE = 1u << 26, IRE = 1u << 25, SIRTP = 1u << 24;
/// FSTS: a new fault while all records are taken; a record is pending; bits 15:8 the first pending record.
inline constexpr u32 FSTS_PFO = 1u << 0, FSTS_PPF = 1u << 1, FSTS_IQE = 1u << 4;
/// FECTL: the event is masked; it is pending (read-only).
inline constexpr u32 FECTL_IM = 1u << 31, FECTL_IP = 1u << 30;
/// RTADDR 11:10: the kind of table; legacy is 0, and the only kind that there is. 63:12: its address.
inline constexpr u64 RTADDR_TTM = 3 << 10;
/// IQA: 2:0 the queue has 2^(8+n) descriptors; bit 11 descriptors of 256 bits (not there); 63:12 its address.
inline constexpr u64 IQA_QS = 7, IQA_DW = 1 << 11;
/// IRTA: 3:0 the table has 2^(1+n) entries; 63:12 its address.
inline constexpr u64 IRTA_SIZE = 0xf;

/// A fault record. Low: 63:12 the page of the address (interrupts: 63:48 the index). High: 15:0 source id; 39:32
/// reason; bit 62 a read; bit 63 the record is taken, until 1 is written to it.
inline constexpr u64 FRCD_F = u64{1} << 63, FRCD_READ = u64{1} << 62;

struct RootEntry {
    u64 low = 0;  // bit 0 present; 63:12 context table
    u64 high = 0;
    bool present() const { return low & 1; }
    PhysAddr context_table() const { return PhysAddr{low & ~u64{0xfff}}; }
};
struct ContextEntry {
    u64 low = 0;   // bit 0 present; bit 1 fault processing disable; 3:2 type; 63:12 top table
    u64 high = 0;  // 2:0 width (1: 3 levels, 2: 4 levels, 3: 5 levels); 23:8 domain id
    bool present() const { return low & 1; }
    bool faults_disabled() const { return low & 2; }
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
/// Reserved: must be 0 in an entry that is present.
inline constexpr u64 ROOT_RESERVED_LOW = 0xffe, ROOT_RESERVED_HIGH = ~u64{0}, CONTEXT_RESERVED_LOW = 0xff0,
                     CONTEXT_RESERVED_HIGH = ~u64{0xff'ff7f};

/// Page-table entries.
inline constexpr u64 PTE_READ = 1, PTE_WRITE = 2, PTE_LARGE = 1 << 7, PTE_ACCESSED = 1 << 8, PTE_DIRTY = 1 << 9,
                     PTE_SNOOP = 1 << 11, PTE_ADDRESS = 0x000f'ffff'ffff'f000, PTE_RESERVED = 0x7ff0'0000'0000'0000;
/// How far an IOVA is shifted to get the index into a table of `level` (1 is the leaf), and so the size of what an
/// entry of that level maps.
constexpr unsigned level_shift(unsigned level) { return static_cast<unsigned>(page_shift) + 9 * (level - 1); }
constexpr unsigned levels_of_width(unsigned width) { return width + 2; }

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
/// "root entry not present", …
std::string_view fault_reason_text(FaultReason reason);

/// Descriptors of the invalidation queue: 16 bytes each, type in bits 3:0 of the first word. QI_INTERRUPT is for the
/// cache of interrupt entries, which this unit does not have: it does nothing.
inline constexpr u64 QI_CONTEXT = 1, QI_IOTLB = 2, QI_INTERRUPT = 4, QI_WAIT = 5, QI_TYPE_HIGH = 7 << 9;
inline constexpr u64 QI_BYTES = 16;
/// Granularity, bits 5:4: 1 all, 2 a domain (id in 31:16), 3 a device (context: source id in 47:32, and in 49:48 how
/// many low bits of the function number are ignored: none, bit 2, bits 2:1, all) or pages (IOTLB: id in 31:16, and in
/// the second word the address, 63:12, of 2^n pages, 5:0).
inline constexpr u64 QI_ALL = 1 << 4, QI_DOMAIN = 2 << 4, QI_SELECTED = 3 << 4;
/// The bits of a function number that do not count, by such a field of two bits.
inline constexpr u16 ignored_function_bits[] = {0, 4, 6, 7};
/// WAIT: bit 5 write the status data (63:32) to the address in the second word.
inline constexpr u64 QI_WAIT_STATUS_WRITE = 1 << 5;

/// Interrupt remapping table entry.
struct InterruptEntry {
    u64 low = 0;   // bit 0 present; bit 1 fault processing disable; bit 15 posted; 23:16 vector; 63:32 destination
    u64 high = 0;  // 15:0 source id; 17:16 ignored function bits (as in QI_SELECTED); 19:18 source-id check (below)
    bool present() const { return low & 1; }
    bool faults_disabled() const { return low & 2; }
    bool posted() const { return low & (1 << 15); }
    u8 vector() const { return static_cast<u8>(low >> 16); }
    u16 source_id() const { return static_cast<u16>(high); }
    /// 0: any source. 1: the one in `high`. 2: buses from 15:8 to 7:0 of `high`. 3: reserved.
    unsigned source_check() const { return (high >> 18) & 3; }
    bool checks_source() const { return source_check() == 1; }
    static InterruptEntry delivering(u8 vector, u16 source_id) {
        return {1 | u64{vector} << 16, u64{source_id} | u64{1} << 18};
    }
};
static_assert(sizeof(InterruptEntry) == 16);
inline constexpr u64 IRTE_RESERVED_LOW = 0xff00'7000, IRTE_RESERVED_HIGH = ~u64{0xf'ffff};

/// Message addresses. Remappable: bit 4 set, index in 19:5 (low 15 bits) and bit 2; with bit 3 the low half of the data
/// is added to it.
inline constexpr u64 message_base = 0xfee0'0000, message_end = 0xff00'0000, MESSAGE_REMAPPABLE = 1 << 4,
                     MESSAGE_SUBHANDLE = 1 << 3, MESSAGE_RESERVED = 3;
constexpr u64 remappable_message(u16 index) {
    return message_base | MESSAGE_REMAPPABLE | static_cast<u64>(index & 0x7fff) << 5 |
           static_cast<u64>(index >> 15) << 2;
}

}  // namespace kexec_sim::vtd
