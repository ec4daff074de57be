#include "machine/machine.hpp"
namespace kexec_sim {
TranslationCache::TranslationCache(u64, bool, std::pmr::memory_resource* memory) : slots_(memory), overflow_(memory) {}
Iommu::Iommu(Machine& machine, u32 segment_, PhysAddr registers_, bool never_evict, std::pmr::memory_resource* memory)
    : segment(segment_), registers(registers_), machine_(machine), contexts_(64, never_evict, memory), iotlb_(4096, never_evict, memory) {}
u64 Iommu::read_register(u64, unsigned) { return 0; }
void Iommu::write_register(u64, unsigned, u64) {}
void Iommu::reset() {}
Iommu::Translation Iommu::translate(Bdf, u64 iova, bool) { return {vtd::FaultReason::none, iova, 4096}; }
Iommu::Remapped Iommu::remap(Bdf, u64, u32) { return {}; }
void LocalApic::disable() {}
std::optional<u8> LocalApic::take() { return std::nullopt; }
bool LocalApic::pending() const { return false; }
void LocalApic::message(PciFunction*, u64, u32) {}
void LocalApic::reset() {}
SnpFirmware::SnpFirmware(Machine& machine, std::pmr::memory_resource* memory) : machine_(machine), assigned_(memory), contexts_(memory) {}
void SnpFirmware::enable() {}
void SnpFirmware::shutdown() {}
void SnpFirmware::reset() {}
Result<> SnpFirmware::create_context(Pfn, u16) { return {}; }
Result<u16> SnpFirmware::context_asid(Pfn) const { return fail(Errno::enoent); }
Result<> SnpFirmware::destroy_context(Pfn) { return {}; }
Result<> SnpFirmware::assign(PfnRange, u16, u64) { return {}; }
Result<> SnpFirmware::reclaim(PfnRange) { return {}; }
RmpOwner SnpFirmware::owner(Pfn) const { return RmpOwner::hypervisor; }
void SnpFirmware::check_host(PhysRange, bool) const {}
bool SnpFirmware::allows_device(PhysRange) const { return true; }
Result<> SnpFirmware::guest_read(u16, u64, PhysAddr, std::span<std::byte>) const { return {}; }
Result<> SnpFirmware::guest_write(u16, u64, PhysAddr, std::span<const std::byte>) { return {}; }
Result<> GuestCpu::run(std::string_view, unsigned, GuestRegisters&, GuestBus&, u64, u64) { return {}; }
}  // namespace kexec_sim
