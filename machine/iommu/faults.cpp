// Fault records, the fault status register, and the fault event.
//
//   records   |F . F F . . . .|    F: taken. They are filled in turn, so the oldest is the first one taken at or after
//                     ^ next       the next to be filled.
#include <fmt/format.h>

#include "machine/iommu/iommu.hpp"
#include "machine/machine.hpp"
#include "machine/reached.hpp"

namespace kexec_sim {

using vtd::FaultReason;

std::string_view vtd::fault_reason_text(FaultReason reason) {
    switch (reason) {
    case FaultReason::none: return "none";
    case FaultReason::root_not_present: return "root entry not present";
    case FaultReason::context_not_present: return "context entry not present";
    case FaultReason::context_invalid: return "context entry invalid";
    case FaultReason::beyond_width: return "address beyond the domain's width";
    case FaultReason::write_denied: return "write denied";
    case FaultReason::read_denied: return "read denied";
    case FaultReason::bad_next_table: return "page table not accessible";
    case FaultReason::bad_root_table: return "root table not accessible";
    case FaultReason::bad_context_table: return "context table not accessible";
    case FaultReason::reserved_in_root: return "reserved bits in root entry";
    case FaultReason::reserved_in_context: return "reserved bits in context entry";
    case FaultReason::reserved_in_entry: return "reserved bits in page-table entry";
    case FaultReason::blocked_type: return "translation type blocks the request";
    case FaultReason::ir_reserved: return "reserved bits in interrupt request";
    case FaultReason::ir_index: return "interrupt index beyond the table";
    case FaultReason::ir_not_present: return "interrupt entry not present";
    case FaultReason::ir_table_access: return "interrupt table not accessible";
    case FaultReason::ir_reserved_in_entry: return "reserved bits in interrupt entry";
    case FaultReason::ir_compatibility_blocked: return "compatibility-format interrupt blocked";
    case FaultReason::ir_source_id: return "source id not the interrupt entry's";
    }
    return "?";
}

/// `address`: of an interrupt its index in 63:48.
void Iommu::record_fault(Bdf source, u64 address, bool write, FaultReason reason) {
    if (fault_status_ & vtd::FSTS_PFO) return;
    const u32 before = fault_status();
    FaultRecord& record = records_[next_record_];
    if (record.taken()) {
        REACHED("iommu.fault_overflow");
        fault_status_ |= vtd::FSTS_PFO;
        condition_set(before);
        return;
    }
    record.low = address & ~u64{0xfff};
    record.high = source.raw | u64{static_cast<u8>(reason)} << 32 | (write ? 0 : vtd::FRCD_READ) | vtd::FRCD_F;
    next_record_ = (next_record_ + 1) % vtd::fault_records;

    std::array<char, 16> text{};
    const auto end = fmt::format_to_n(text.data(), text.size(), "{:02x}:{:02x}.{:x}", source.bus(), source.device(),
                                      source.function());
    machine_.trace.emit(Layer::machine, "iommu.fault",
                        {{"unit", segment},
                         {"source", std::string_view(text.data(), end.size)},
                         hex_field("address", address),
                         {"write", u32{write}},
                         {"reason", u32{static_cast<u8>(reason)}},
                         {"text", vtd::fault_reason_text(reason)}});
    condition_set(before);
}

u32 Iommu::fault_status() const {
    for (unsigned i = 0; i < vtd::fault_records; ++i) {
        const unsigned index = (next_record_ + i) % vtd::fault_records;
        if (records_[index].taken()) return fault_status_ | vtd::FSTS_PPF | index << 8;
    }
    return fault_status_;
}

/// A bit of FSTS was set. The event is raised by the first.
void Iommu::condition_set(u32 status_before) {
    if (status_before) return;
    if (fault_control_ & vtd::FECTL_IM)
        fault_control_ |= vtd::FECTL_IP;
    else
        machine_.apic.message(nullptr, fault_address_ | u64{fault_upper_} << 32, fault_data_);
}

void Iommu::write_fault_control(u32 value) {
    fault_control_ = (fault_control_ & vtd::FECTL_IP) | (value & vtd::FECTL_IM);
    if (fault_control_ != vtd::FECTL_IP) return;
    fault_control_ = 0;
    machine_.apic.message(nullptr, fault_address_ | u64{fault_upper_} << 32, fault_data_);
}

void Iommu::write_fault_status(u32 value) {
    const bool goes_on = fault_status_ & value & vtd::FSTS_IQE;
    fault_status_ &= ~(value & (vtd::FSTS_PFO | vtd::FSTS_IQE));
    if (!fault_status()) fault_control_ &= ~vtd::FECTL_IP;
    if (goes_on) run_queue();
}

void Iommu::clear_record(unsigned index) {
    records_[index].high &= ~vtd::FRCD_F;
    if (!fault_status()) fault_control_ &= ~vtd::FECTL_IP;
}

}  // namespace kexec_sim
