#include "kernel-model/iommu/domain.hpp"

#include <algorithm>

#include "kernel-model/kernel.hpp"
#include "machine/reached.hpp"

namespace kexec_sim {
namespace {

constexpr u64 index_of(u64 iova, unsigned level) { return (iova >> (page_shift + 9 * (level - 1))) & 511; }
constexpr unsigned largest_leaf_level = 3;

std::unexpected<Errno> invalid() {
    REACHED("iommu.domain.range_invalid");
    return fail(Errno::einval);
}
std::unexpected<Errno> exists() {
    REACHED("iommu.domain.mapped_already");
    return fail(Errno::eexist);
}
std::unexpected<Errno> not_mapped() {
    REACHED("iommu.domain.not_mapped");
    return fail(Errno::enoent);
}

}  // namespace

Result<> IommuDomain::create() {
    const Folio top = TRY(kernel_.pages.alloc_folio({.order = Order{0}, .site = site}));
    top_ = top.pfn;
    tables_.assign(1, top_);
    return {};
}

void IommuDomain::adopt(Pfn top, std::vector<Pfn> tables) {
    top_ = top;
    tables_ = std::move(tables);
}

void IommuDomain::free_tables() {
    for (const Pfn table : tables_) kernel_.pages.free_folio({table, Order{0}});
    tables_.clear();
}

Result<std::optional<PhysAddr>> IommuDomain::entry_at(u64 iova, unsigned level, bool make) {
    PhysicalMemory& ram = kernel_.machine.ram;
    PhysAddr table = top_.phys();
    for (unsigned at = levels; at > level; --at) {
        const PhysAddr slot = table + 8 * index_of(iova, at);
        u64 entry = ram.read<u64>(slot);
        if (!(entry & (vtd::PTE_READ | vtd::PTE_WRITE))) {
            if (!make) return std::optional<PhysAddr>();
            const Folio made = TRY(kernel_.pages.alloc_folio({.order = Order{0}, .site = site}));
            tables_.push_back(made.pfn);
            entry = made.pfn.phys().raw | vtd::PTE_READ | vtd::PTE_WRITE;
            ram.write<u64>(slot, entry);
        } else if (entry & vtd::PTE_LARGE) {
            if (make) return exists();
            return std::optional<PhysAddr>();
        }
        table = PhysAddr{entry & vtd::PTE_ADDRESS};
    }
    return std::optional<PhysAddr>(table + 8 * index_of(iova, level));
}

Result<> IommuDomain::map(u64 iova, PhysRange phys, u64 prot) {
    if (immutable) return fail(Errno::eperm);
    const u64 bytes = phys.bytes();
    if (bytes == 0 || (iova | phys.begin.raw | bytes) % page_bytes || iova >= iova_end || bytes > iova_end - iova)
        return invalid();
    return under_fault(kernel_.machine.faults, FaultPoint::iommu_map, name_, [&]() -> Result<> {
        u64 done = 0;
        const auto mapped = map_leaves(iova, phys, prot, done);
        if (!mapped && done) {
            REACHED("iommu.domain.map_undone");
            static_cast<void>(unmap(iova, done));
        }
        return mapped;
    });
}

Result<> IommuDomain::map_leaves(u64 iova, PhysRange phys, u64 prot, u64& done) {
    PhysicalMemory& ram = kernel_.machine.ram;
    const u64 bytes = phys.bytes();
    while (done < bytes) {
        unsigned level = largest_leaf_level;
        while (level > 1 && ((iova + done) | (phys.begin.raw + done)) % iommu_page_bytes(level) != 0) --level;
        while (level > 1 && bytes - done < iommu_page_bytes(level)) --level;
        std::optional<PhysAddr> slot = TRY(entry_at(iova + done, level, true));
        u64 entry = ram.read<u64>(*slot);
        while (level > 1 && entry && !(entry & vtd::PTE_LARGE)) {
            --level;  // a table is there already: stay below it
            slot = TRY(entry_at(iova + done, level, true));
            entry = ram.read<u64>(*slot);
        }
        if (entry) return exists();
        // Neighbours in the same table follow without another walk.
        const u64 step = iommu_page_bytes(level);
        u64 index = index_of(iova + done, level);
        const u64 leaf = prot | (level > 1 ? vtd::PTE_LARGE : 0);
        for (PhysAddr at = *slot; index < 512 && bytes - done >= step; ++index, at = at + 8, done += step) {
            if (at != *slot && ram.read<u64>(at)) break;
            ram.write<u64>(at, (phys.begin.raw + done) | leaf);
        }
    }
    return {};
}

Result<> IommuDomain::unmap(u64 iova, u64 bytes) {
    if (immutable) return fail(Errno::eperm);
    if (bytes == 0 || (iova | bytes) % page_bytes || iova >= iova_end || bytes > iova_end - iova) return invalid();
    PhysicalMemory& ram = kernel_.machine.ram;
    std::vector<PhysAddr> leaves;  // all are found before the first one goes
    for (u64 done = 0; done < bytes;) {
        std::optional<PhysAddr> leaf;
        unsigned level = largest_leaf_level;
        for (; level >= 1; --level) {
            const auto slot = TRY(entry_at(iova + done, level, false));
            if (!slot) continue;
            const u64 entry = ram.read<u64>(*slot);
            if (entry == 0) return not_mapped();
            if (level > 1 && !(entry & vtd::PTE_LARGE)) continue;
            leaf = slot;
            break;
        }
        const u64 step = leaf ? iommu_page_bytes(level) : 0;
        if (!leaf || (iova + done) % step || bytes - done < step) return not_mapped();
        leaves.push_back(*leaf);
        done += step;
    }
    for (const PhysAddr leaf : leaves) ram.write<u64>(leaf, 0);
    return {};
}

std::optional<u64> IommuDomain::lookup(u64 iova) const {
    const PhysicalMemory& ram = kernel_.machine.ram;
    PhysAddr table = top_.phys();
    for (unsigned level = levels; level >= 1; --level) {
        const u64 entry = ram.read<u64>(table + 8 * index_of(iova, level));
        if (!(entry & (vtd::PTE_READ | vtd::PTE_WRITE))) return std::nullopt;
        const u64 inside = iova % iommu_page_bytes(level);
        if (level == 1 || entry & vtd::PTE_LARGE)
            return (entry & vtd::PTE_ADDRESS & ~(iommu_page_bytes(level) - 1)) + inside;
        table = PhysAddr{entry & vtd::PTE_ADDRESS};
    }
    return std::nullopt;
}

}  // namespace kexec_sim
