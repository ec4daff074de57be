#include "machine/machine.hpp"
namespace kexec_sim {
PciFabric::PciFabric(Machine& machine, std::span<const PciDeviceConfig>, std::pmr::memory_resource* memory)
    : machine_(machine), memory_(memory), functions_(memory), segments_(memory), writes_(memory) {
    segments_.push_back(0);
}
PciFabric::~PciFabric() = default;
u32 PciFabric::config_read(PciAddress, u16, unsigned) { return ~0u; }
void PciFabric::config_write(PciAddress, u16, unsigned, u32) {}
BusStatus PciFabric::memory_read(u64, std::span<std::byte>) { return BusStatus::unsupported; }
BusStatus PciFabric::memory_write(u64, std::span<const std::byte>, const PciFunction*) { return BusStatus::unsupported; }
BusStatus PciFabric::dma_read(PciFunction&, u64, std::span<std::byte>) { return BusStatus::unsupported; }
BusStatus PciFabric::dma_write(PciFunction&, u64, std::span<const std::byte>) { return BusStatus::unsupported; }
PciFunction* PciFabric::find(std::string_view) const { return nullptr; }
PciFunction* PciFabric::at(PciAddress) const { return nullptr; }
std::vector<PciFunction*> PciFabric::children(const PciFunction*, u32) const { return {}; }
void PciFabric::power_on() {}
void PciFabric::swap_identity(PciFunction&, u16, u16) {}
std::string PciAddress::text() const { return {}; }
}  // namespace kexec_sim
