#include "luo/devices/participants.hpp"

#include "machine/reached.hpp"

namespace kexec_sim::luo {

DeviceParticipants::DeviceParticipants(Kernel& kernel, kho::Kho& kho, Orchestrator& orchestrator)
    : pci(kernel, kho, orchestrator),
      iommu(kernel, kho, orchestrator),
      iommufd(kernel, kho, orchestrator, iommu),
      vfio(kernel, kho, orchestrator, pci, iommu, iommufd),
      kvm(kernel, kho, orchestrator) {
    const bool has_bus = !kernel.machine.pci.functions().empty();
    if (kernel.config.preserve_devices && has_bus) {
        kernel.hooks.initcall[1].push_back([this] {
            static_cast<void>(pci.ensure_registered());
            static_cast<void>(iommu.ensure_registered());
        });
        kernel.hooks.initcall[5].push_back([this] { iommu.probe(); });
    }
    kernel.hooks.initcall[7].push_back([this, &kernel, &orchestrator] { register_handlers(kernel, orchestrator); });
}

void DeviceParticipants::register_handlers(Kernel& kernel, Orchestrator& orchestrator) {
    if (!orchestrator.enabled()) return;
    const bool has_bus = !kernel.machine.pci.functions().empty();
    const auto add = [&](FileHandler& handler, std::string_view component, bool wanted) {
        if (wanted && kernel.config.built_with(component)) INVARIANT(orchestrator.register_file_handler(&handler));
    };
    add(vfio, "vfio-pci", has_bus);
    add(iommufd, "iommufd", has_bus);
    add(kvm, "kvm", true);
}

}  // namespace kexec_sim::luo
