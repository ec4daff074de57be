// Interrupt remapping entries, of the IOMMU driver.
#include "kernel-model/iommu/driver.hpp"
#include "kernel-model/kernel.hpp"
#include "machine/reached.hpp"

namespace kexec_sim {
namespace {
constexpr u16 entries = page_bytes / sizeof(vtd::InterruptEntry);  // one page
constexpr u64 size_field = 7;                                      // 2^(7+1) entries
}  // namespace

void IommuDriver::setup_interrupts(Unit& unit) {
    unit.interrupts = page("iommu.interrupts");
    write(unit, vtd::IRTA, 8, unit.interrupts.phys().raw | size_field);
    command(unit, vtd::SIRTP, true);
    command(unit, vtd::IRE, true);
}

Result<std::optional<u16>> IommuDriver::allocate_interrupt(const PciDevice& device, u8 vector) {
    Unit* unit = unit_for(device);
    if (!unit) return std::optional<u16>();
    for (u16 index = 0; index < entries; ++index) {
        if (!unit->interrupt_indexes.insert(index).second) continue;
        const auto entry = vtd::InterruptEntry::delivering(vector, device.address.bdf.raw);
        kernel_.machine.ram.write(unit->interrupts.phys() + index * sizeof entry, entry);
        return std::optional<u16>(index);
    }
    REACHED("iommu.interrupts.none");
    return fail(Errno::enospc);
}

void IommuDriver::free_interrupt(const PciDevice& device, u16 index) {
    Unit* unit = unit_for(device);
    if (!unit || !unit->interrupt_indexes.erase(index)) return;
    kernel_.machine.ram.write(unit->interrupts.phys() + index * sizeof(vtd::InterruptEntry), vtd::InterruptEntry{});
}

}  // namespace kexec_sim
