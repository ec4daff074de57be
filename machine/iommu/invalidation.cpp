// The invalidation queue.
//
//   RAM   |done|done|iotlb|wait| … |      128 bits each; the queue is a ring
//                   ^head      ^tail      the unit runs from head to tail whenever the tail moves, and stops at a
//                                         descriptor that it does not understand: head stays there, FSTS.IQE is set
#include "machine/iommu/iommu.hpp"
#include "machine/machine.hpp"
#include "machine/reached.hpp"

namespace kexec_sim {

void Iommu::run_queue() {
    const u64 bytes = (u64{256} << (queue_register_ & vtd::IQA_QS)) * vtd::QI_BYTES;
    const PhysAddr base{queue_register_ & ~u64{0xfff}};
    while ((status_ & vtd::QIE) && !(fault_status_ & vtd::FSTS_IQE) && queue_head_ != queue_tail_) {
        const PhysAddr at = base + queue_head_;
        const bool readable =
            queue_tail_ < bytes && !(queue_register_ & vtd::IQA_DW) && machine_.ram.contains(at, vtd::QI_BYTES);
        if (!readable || !run_descriptor(machine_.ram.read<u64>(at), machine_.ram.read<u64>(at + 8))) {
            REACHED("iommu.queue_error");
            const u32 before = fault_status();
            fault_status_ |= vtd::FSTS_IQE;
            condition_set(before);
            return;
        }
        queue_head_ = (queue_head_ + vtd::QI_BYTES) % bytes;
    }
}

/// False: it is none that the unit knows.
bool Iommu::run_descriptor(u64 low, u64 high) {
    if (low & vtd::QI_TYPE_HIGH) return false;
    switch (low & 0xf) {
    case vtd::QI_CONTEXT: return invalidate_contexts(low);
    case vtd::QI_IOTLB: return invalidate_pages(low, high);
    case vtd::QI_INTERRUPT: return true;
    case vtd::QI_WAIT: {
        const PhysAddr status{high & ~u64{3}};
        // As any write of a device: where there is no RAM, or the reverse map denies it, it goes nowhere.
        if ((low & vtd::QI_WAIT_STATUS_WRITE) && machine_.ram.contains(status, 4) &&
            machine_.snp.allows_device(phys_range(status, 4)))
            machine_.ram.write(status, static_cast<u32>(low >> 32));
        return true;
    }
    default: return false;
    }
}

bool Iommu::invalidate_contexts(u64 low) {
    DeviceReferee::Invalidation told;
    told.contexts = true;
    switch (low & vtd::QI_SELECTED) {
    case vtd::QI_ALL: contexts_.clear(); break;
    case vtd::QI_DOMAIN:
        told.domain_id = static_cast<u16>(low >> 16);
        contexts_.drop_domain(*told.domain_id);
        break;
    case vtd::QI_SELECTED: {
        const u16 source = static_cast<u16>(low >> 32), ignored = vtd::ignored_function_bits[low >> 48 & 3];
        told.source = Bdf(source);
        told.ignored = ignored;
        for (u16 function = 0; function < 8; ++function)
            if ((function & ~ignored) == 0) contexts_.drop((source & ~ignored) | function);
        break;
    }
    default: return false;
    }
    ++counters.invalidations;
    machine_.device_referee.cache_invalidated(segment, told);
    return true;
}

bool Iommu::invalidate_pages(u64 low, u64 high) {
    const u16 domain_id = static_cast<u16>(low >> 16);
    DeviceReferee::Invalidation told;
    switch (low & vtd::QI_SELECTED) {
    case vtd::QI_ALL:
        iotlb_.clear();
        has_level_ = {};
        break;
    case vtd::QI_DOMAIN:
        told.domain_id = domain_id;
        iotlb_.drop_domain(domain_id);
        break;
    case vtd::QI_SELECTED: {
        const unsigned mask = high & 0x3f;
        if (mask > vtd::address_mask_max) return false;
        drop_pages(domain_id, high & ~u64{0xfff}, mask);
        ++counters.invalidations;
        return true;
    }
    default: return false;
    }
    ++counters.invalidations;
    machine_.device_referee.cache_invalidated(segment, told);
    return true;
}

/// 2^mask pages of a domain, and every large page that holds one of them.
void Iommu::drop_pages(u16 domain_id, u64 address, unsigned mask) {
    constexpr unsigned few = 3;
    if (mask <= few) {
        for (u64 page = 0; page < u64{1} << mask; ++page)
            iotlb_.drop(leaf_key(domain_id, 1, (address & ~((page_bytes << mask) - 1)) + page * page_bytes));
        for (unsigned level = 2; level <= 3; ++level) iotlb_.drop(leaf_key(domain_id, level, address));
        return;
    }
    const u64 bytes = page_bytes << mask, begin = address & ~(bytes - 1), last = begin + (bytes - 1);
    iotlb_.drop_where([&](const Entry& entry) {
        const u64 page_begin = (entry.key & ((u64{1} << 36) - 1)) << entry.high;
        const u64 page_last = page_begin + ((u64{1} << entry.high) - 1);
        return entry.domain_id == domain_id && page_begin <= last && begin <= page_last;
    });
}

}  // namespace kexec_sim
