// The way of a request that misses: root table, context table, page tables, all of them read from RAM.
#include <algorithm>
#include <cstring>

#include "machine/iommu/iommu.hpp"
#include "machine/machine.hpp"

namespace kexec_sim {
namespace {

using vtd::FaultReason;

/// A structure of the unit in RAM; false: not in RAM.
template <typename T> bool load(const PhysicalMemory& ram, PhysAddr at, T& value) {
    if (!ram.contains(at, sizeof(T))) return false;
    value = ram.read<T>(at);
    return true;
}

/// What a planned fault makes of a leaf entry on its way to the unit. False: it is aimed at nothing that is there.
bool damage(u64& entry, const FaultAction& action) {
    std::array<u8, sizeof entry> bytes{};
    std::memcpy(bytes.data(), &entry, sizeof entry);
    bool hit = false;
    switch (action.kind) {
    case FaultKind::flip: {
        const u64 at = action.offset + action.bit / 8;
        hit = at < bytes.size();
        if (hit) bytes[at] = static_cast<u8>(bytes[at] ^ 1u << action.bit % 8);
        break;
    }
    case FaultKind::zero:
        hit = action.offset < bytes.size() && action.length != 0;
        if (hit)
            std::memset(bytes.data() + action.offset, 0, std::min<u64>(action.length, bytes.size() - action.offset));
        break;
    case FaultKind::misdirect: entry = (entry & ~vtd::PTE_ADDRESS) | (action.address & vtd::PTE_ADDRESS); return true;
    default: break;
    }
    std::memcpy(&entry, bytes.data(), sizeof entry);
    return hit;
}

}  // namespace

const Iommu::Entry* Iommu::find_large_leaf(u16 domain_id, u64 iova) const {
    for (unsigned level = 2; level <= 3; ++level)
        if (has_level_[level])
            if (const Entry* leaf = iotlb_.find(leaf_key(domain_id, level, iova))) return leaf;
    return nullptr;
}

Iommu::Translation Iommu::translate_uncached(Bdf source, u64 iova, bool write) {
    const MachineEntry entry;
    vtd::ContextEntry context;
    const Translation result = walk(source, iova, write, context);
    if (result.fault == FaultReason::none) return result;
    ++counters.faults;
    if (!context.present() || !context.faults_disabled()) record_fault(source, iova, write, result.fault);
    return result;
}

Iommu::Translation Iommu::walk(Bdf source, u64 iova, bool write, vtd::ContextEntry& context) {
    const auto fault = [](FaultReason reason) { return Translation{reason, 0, 0}; };
    if (const Entry* cached = contexts_.find(source.raw)) {
        ++counters.context_hits;
        context = {cached->low, cached->high};
    } else {
        ++counters.context_misses;
        if (const FaultReason reason = load_context(source, context); reason != FaultReason::none)
            return fault(reason);
        contexts_.insert({source.raw, context.low, context.high, context.domain_id(), true});
    }
    if (context.type() == vtd::type_pass_through) return {FaultReason::none, iova, ~iova | 1};

    const unsigned levels = vtd::levels_of_width(context.width());
    if (iova >> vtd::level_shift(levels + 1)) return fault(FaultReason::beyond_width);
    const u64 right = write ? vtd::PTE_WRITE : vtd::PTE_READ;
    // Where the context entry was not cached, the page may be: another source uses the same domain id.
    if (const Entry* leaf = find_leaf(context.domain_id(), iova); leaf && (leaf->low & right)) {
        ++counters.iotlb_hits;
        const u64 bytes = u64{1} << leaf->high, offset = iova & (bytes - 1);
        return {FaultReason::none, (leaf->low & vtd::PTE_ADDRESS) + offset, bytes - offset};
    }
    ++counters.iotlb_misses;
    Entry leaf;
    if (const FaultReason reason = walk_pages(source, context, iova, write, leaf); reason != FaultReason::none)
        return fault(reason);
    iotlb_.insert(leaf);
    const u64 bytes = u64{1} << leaf.high, offset = iova & (bytes - 1);
    return {FaultReason::none, (leaf.low & vtd::PTE_ADDRESS) + offset, bytes - offset};
}

/// Root table and context table. What comes out has been checked: width and type are ones that the unit has.
FaultReason Iommu::load_context(Bdf source, vtd::ContextEntry& context) {
    vtd::RootEntry root;
    if (!root_legacy_ || !load(machine_.ram, root_ + source.bus() * sizeof root, root))
        return FaultReason::bad_root_table;
    if (!root.present()) return FaultReason::root_not_present;
    if ((root.low & vtd::ROOT_RESERVED_LOW) || (root.high & vtd::ROOT_RESERVED_HIGH))
        return FaultReason::reserved_in_root;

    if (!load(machine_.ram, root.context_table() + source.devfn() * sizeof context, context))
        return FaultReason::bad_context_table;
    if (!context.present()) return FaultReason::context_not_present;
    if ((context.low & vtd::CONTEXT_RESERVED_LOW) || (context.high & vtd::CONTEXT_RESERVED_HIGH))
        return FaultReason::reserved_in_context;
    // A unit without device TLBs blocks what needs one.
    if (context.type() == vtd::type_device_tlb) return FaultReason::blocked_type;
    if (context.type() > vtd::type_pass_through) return FaultReason::context_invalid;
    if (context.width() != vtd::width_3_levels && context.width() != vtd::width_4_levels)
        return FaultReason::context_invalid;
    return FaultReason::none;
}

/// Page tables, from the top. Rights are those that every level grants; the walk ends where one does not grant what
/// the request needs.
FaultReason Iommu::walk_pages(Bdf source, const vtd::ContextEntry& context, u64 iova, bool write, Entry& leaf) {
    std::optional<FaultAction> action;
    std::string_view name;
    if (machine_.faults.watches(FaultPoint::iommu_walk)) {
        const PciFunction* function = machine_.pci.at({segment, source});
        if (function) name = function->name();
        action = machine_.faults.visit(FaultPoint::iommu_walk, name);
    }
    if (action && action->kind == FaultKind::fail) return FaultReason::bad_next_table;
    u64 rights = vtd::PTE_READ | vtd::PTE_WRITE;
    PhysAddr table = context.top_table();
    for (unsigned level = vtd::levels_of_width(context.width());; --level) {
        const unsigned shift = vtd::level_shift(level);
        u64 entry = 0;
        if (!load(machine_.ram, table + (iova >> shift & 511) * sizeof entry, entry))
            return FaultReason::bad_next_table;
        const auto is_leaf = [&] { return level == 1 || (level <= 3 && (entry & vtd::PTE_LARGE)); };
        if (action && is_leaf() && !damage(entry, *action)) machine_.faults.missed(name);

        rights &= entry;
        if (!(rights & (write ? vtd::PTE_WRITE : vtd::PTE_READ)))
            return write ? FaultReason::write_denied : FaultReason::read_denied;
        const u64 below = (u64{1} << shift) - 1;  // what the address of a large page must leave 0
        if ((entry & vtd::PTE_RESERVED) || (level == 4 && (entry & vtd::PTE_LARGE)) ||
            (is_leaf() && (entry & vtd::PTE_ADDRESS & below)))
            return FaultReason::reserved_in_entry;
        if (is_leaf()) {
            has_level_[level] = true;
            leaf = {leaf_key(context.domain_id(), level, iova), (entry & vtd::PTE_ADDRESS) | rights, shift,
                    context.domain_id(), true};
            return FaultReason::none;
        }
        table = PhysAddr{entry & vtd::PTE_ADDRESS};
    }
}

}  // namespace kexec_sim
