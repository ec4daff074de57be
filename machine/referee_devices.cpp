#include "machine/referee_devices.hpp"

#include "machine/machine.hpp"

namespace kexec_sim {
struct DeviceReferee::Books {};
DeviceReferee::DeviceReferee(Machine&, std::pmr::memory_resource*) : books_(nullptr) {}
DeviceReferee::~DeviceReferee() = default;
void DeviceReferee::config_changed(const PciFunction&, u16, unsigned, u32, u32) {}
void DeviceReferee::function_reset(const PciFunction&, ResetKind) {}
void DeviceReferee::requester_id_changed(const PciFunction&, Bdf, Bdf) {}
void DeviceReferee::dma_written(const PciFunction&, u64, PhysRange) {}
void DeviceReferee::dma_written_to_peer(const PciFunction&, u64, const PciFunction&) {}
void DeviceReferee::dma_read(const PciFunction&, u64, PhysRange) {}
void DeviceReferee::engine_started(const PciFunction&, const EngineStart&) {}
void DeviceReferee::engine_stopped(const PciFunction&) {}
void DeviceReferee::engine_tick(const PciFunction&, u64, u32, u64, std::span<const std::byte>, BusStatus) {}
void DeviceReferee::engine_dry(const PciFunction&, bool) {}
void DeviceReferee::interrupt(const PciFunction&, u16, InterruptFate) {}
void DeviceReferee::translation_switched(u32, bool) {}
void DeviceReferee::root_table_set(u32, PhysAddr) {}
void DeviceReferee::reverse_map_violation(PfnRange, std::string_view, std::string_view) {}
void DeviceReferee::guest_enters(std::string_view, unsigned, const GuestRegisters&) {}
void DeviceReferee::guest_leaves(std::string_view, unsigned, const GuestRegisters&) {}
void DeviceReferee::guest_stored(std::string_view, u64, PhysAddr, u64) {}
void DeviceReferee::guest_loaded(std::string_view, u64, PhysAddr, u64) {}
void DeviceReferee::guest_faulted(std::string_view, u64) {}
void DeviceReferee::device_opened(u64, const PciFunction&) {}
void DeviceReferee::device_closed(u64) {}
void DeviceReferee::domain_mapped(u64, u64, std::span<const PfnRange>) {}
void DeviceReferee::domain_mapped_peer(u64, u64, u64, const PciFunction&) {}
void DeviceReferee::domain_unmapped(u64, u64, u64) {}
void DeviceReferee::domain_belongs(u64, u64) {}
void DeviceReferee::domain_attached(u64, const PciFunction&) {}
void DeviceReferee::domain_detached(const PciFunction&) {}
void DeviceReferee::domain_destroyed(u64) {}
void DeviceReferee::device_polled(const PciFunction&) {}
void DeviceReferee::snp_context(std::string_view, Pfn) {}
void DeviceReferee::guest_interrupt_wired(const PciFunction&, std::string_view, unsigned) {}
void DeviceReferee::kernel_boots() {}
void DeviceReferee::promised(u64, std::string_view, u64) {}
void DeviceReferee::promise_ended(u64) {}
void DeviceReferee::frozen() {}
void DeviceReferee::before_jump() {}
void DeviceReferee::jumped() {}
void DeviceReferee::user_space_reached() {}
void DeviceReferee::claimed(u64, u64) {}
void DeviceReferee::finished() {}
void DeviceReferee::kernel_ended(KernelEnd) {}
void DeviceReferee::scenario_ends() {}
void DeviceReferee::frames_handed_out(PfnRange, std::string_view) {}
bool DeviceReferee::written_by_device(Pfn) const { return false; }
DeviceReferee::EngineCounters DeviceReferee::engine(std::string_view) const { return {}; }
DeviceReferee::Totals DeviceReferee::totals() const { return {}; }
}  // namespace kexec_sim
