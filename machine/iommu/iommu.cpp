// The registers of the unit, and the way of a request that hits.
#include "machine/iommu/iommu.hpp"

#include "machine/machine.hpp"

namespace kexec_sim {
namespace {

constexpr u64 context_slots = 64, iotlb_slots = 4096;
constexpr u64 address_of_table = ~u64{0xfff};
constexpr u64 queue_pointer = 0x7'fff0;  // 18:4 of head and tail

constexpr bool has_access(u64 offset, unsigned bytes) {
    return (bytes == 4 || bytes == 8) && offset % bytes == 0 && offset + bytes <= vtd::register_bytes;
}
/// `old` with the half that lies at `offset` replaced.
constexpr u64 with_half(u64 old, u64 offset, u32 value) {
    return offset & 4 ? (old & 0xffff'ffff) | u64{value} << 32 : (old & ~u64{0xffff'ffff}) | value;
}

}  // namespace

Iommu::Iommu(Machine& machine, u32 segment_, PhysAddr registers_, bool never_evict, std::pmr::memory_resource* memory)
    : segment(segment_),
      registers(registers_),
      machine_(machine),
      contexts_(context_slots, never_evict, memory),
      iotlb_(iotlb_slots, never_evict, memory) {}

void Iommu::reset() {
    const MachineEntry entry;
    const bool was_on = translation_enabled();
    status_ = 0;
    root_register_ = irt_register_ = queue_register_ = 0;
    root_ = irt_ = PhysAddr{};
    root_legacy_ = true;
    irt_entries_ = queue_head_ = queue_tail_ = 0;
    fault_status_ = fault_data_ = fault_address_ = fault_upper_ = 0;
    fault_control_ = vtd::FECTL_IM;
    records_ = {};
    next_record_ = 0;
    contexts_.clear();
    iotlb_.clear();
    has_level_ = {};
    if (was_on) machine_.device_referee.translation_switched(segment, false);
}

// --- registers ---------------------------------------------------------------------------------------------------

u64 Iommu::read_register(u64 offset, unsigned bytes) {
    const MachineEntry entry;
    if (!has_access(offset, bytes)) return ~u64{0};
    const u64 quad = read_quad(offset & ~u64{7});
    if (bytes == 8) return quad;
    return offset & 4 ? quad >> 32 : quad & 0xffff'ffff;
}

/// The 8 bytes of registers at `offset`; GCMD, and what is not there, read as 0.
u64 Iommu::read_quad(u64 offset) const {
    constexpr u64 records_end = vtd::FRCD + vtd::fault_records * 16;
    if (offset >= vtd::FRCD && offset < records_end) {
        const FaultRecord& record = records_[(offset - vtd::FRCD) / 16];
        return offset & 8 ? record.high : record.low;
    }
    switch (offset) {
    case vtd::VER: return vtd::version;
    case vtd::CAP: return vtd::capability;
    case vtd::ECAP: return vtd::extended_capability;
    case vtd::GCMD: return u64{status_} << 32;
    case vtd::RTADDR: return root_register_;
    case vtd::FSTS - 4: return u64{fault_status()} << 32;
    case vtd::FECTL: return fault_control_ | u64{fault_data_} << 32;
    case vtd::FEADDR: return fault_address_ | u64{fault_upper_} << 32;
    case vtd::IQH: return queue_head_;
    case vtd::IQT: return queue_tail_;
    case vtd::IQA: return queue_register_;
    case vtd::IRTA: return irt_register_;
    default: return 0;
    }
}

void Iommu::write_register(u64 offset, unsigned bytes, u64 value) {
    const MachineEntry entry;
    if (!has_access(offset, bytes)) return;
    // The upper half first: what a register does when it is written, it does with its lower half; records are freed
    // by their upper half only.
    if (bytes == 8) write_word(offset + 4, static_cast<u32>(value >> 32));
    write_word(offset, static_cast<u32>(value));
}

void Iommu::write_word(u64 offset, u32 value) {
    constexpr u64 records_end = vtd::FRCD + vtd::fault_records * 16;
    if (offset >= vtd::FRCD && offset < records_end) {
        if (offset % 16 == 12 && (value & (1u << 31))) clear_record(static_cast<unsigned>((offset - vtd::FRCD) / 16));
        return;
    }
    switch (offset) {
    case vtd::GCMD: command(value); return;
    case vtd::FSTS: write_fault_status(value); return;
    case vtd::FECTL: write_fault_control(value); return;
    case vtd::FEDATA: fault_data_ = value; return;
    case vtd::FEADDR: fault_address_ = value; return;
    case vtd::FEUADDR: fault_upper_ = value; return;
    case vtd::RTADDR:
    case vtd::RTADDR + 4: root_register_ = with_half(root_register_, offset, value); return;
    case vtd::IRTA:
    case vtd::IRTA + 4: irt_register_ = with_half(irt_register_, offset, value); return;
    case vtd::IQA:
    case vtd::IQA + 4: queue_register_ = with_half(queue_register_, offset, value); return;
    case vtd::IQT:
        queue_tail_ = value & queue_pointer;
        run_queue();
        return;
    default: return;  // read-only, or not there
    }
}

/// GCMD: the states are what was written; the commands are carried out where their bit is set.
void Iommu::command(u32 value) {
    constexpr u32 states = vtd::TE | vtd::QIE | vtd::IRE;
    const u32 changed = (status_ ^ value) & states;
    if (value & vtd::SRTP) set_root_table();
    if (value & vtd::SIRTP) {
        irt_ = PhysAddr{irt_register_ & address_of_table};
        irt_entries_ = u64{2} << (irt_register_ & vtd::IRTA_SIZE);
        status_ |= vtd::SIRTP;
    }
    status_ ^= changed;
    if (changed & vtd::QIE) {
        if (!(status_ & vtd::QIE)) queue_head_ = 0;
        run_queue();
    }
    if (changed & vtd::TE) {
        const bool on = translation_enabled();
        machine_.trace.emit(Layer::machine, "iommu.command",
                            {{"unit", segment}, {"command", on ? "translation on" : "translation off"}});
        machine_.device_referee.translation_switched(segment, on);
    }
}

void Iommu::set_root_table() {
    root_ = PhysAddr{root_register_ & address_of_table};
    root_legacy_ = (root_register_ & vtd::RTADDR_TTM) == 0;
    status_ |= vtd::SRTP;
    machine_.trace.emit(Layer::machine, "iommu.command",
                        {{"unit", segment}, {"command", "set root table"}, {"root", root_}});
    machine_.device_referee.root_table_set(segment, root_);
}

// --- requests ----------------------------------------------------------------------------------------------------

namespace {
/// Everything from there on is as it is.
Iommu::Translation unchanged(u64 iova) { return {vtd::FaultReason::none, iova, ~iova | 1}; }
}  // namespace

Iommu::Translation Iommu::translate(Bdf source, u64 iova, bool write) {
    if (!translation_enabled()) return unchanged(iova);
    if (const Entry* cached = contexts_.find(source.raw)) {
        const vtd::ContextEntry context{cached->low, cached->high};
        if (context.type() == vtd::type_pass_through) {
            ++counters.context_hits;
            return unchanged(iova);
        }
        const bool within = iova >> vtd::level_shift(vtd::levels_of_width(context.width()) + 1) == 0;
        const Entry* leaf = within ? find_leaf(cached->domain_id, iova) : nullptr;
        if (leaf && (leaf->low & (write ? vtd::PTE_WRITE : vtd::PTE_READ))) {
            ++counters.context_hits;
            ++counters.iotlb_hits;
            const u64 bytes = u64{1} << leaf->high, offset = iova & (bytes - 1);
            return {vtd::FaultReason::none, (leaf->low & vtd::PTE_ADDRESS) + offset, bytes - offset};
        }
    }
    return translate_uncached(source, iova, write);
}

}  // namespace kexec_sim
