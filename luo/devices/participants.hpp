// Who takes part in a live update beside memory: PCI, IOMMU, VFIO, iommufd, KVM.
//
// They use the public interface of LUO and KHO and nothing else: a module of a user could be written the same way. A
// kernel built without one of them (`without:`) does not have it.
//
// `devices: teardown`: files of devices are taken as ever, but the core is that of Linux 7.3, which knows nothing of it:
// on the way into kexec it resets devices, turns off bus mastering and translation; at boot it reads none of the lists,
// and makes everything anew. What was promised is broken, and the referee says how.
//
//   initcall 1  pci and iommu register, and read what they are given      before the PCI scan (4) and the units (5)
//               preserved domains are rebuilt as soon as the units are up
//   initcall 7  file handlers register
//
// On a machine without PCI functions only KVM is there.
#pragma once

#include "luo/devices/iommu.hpp"
#include "luo/devices/iommufd_handler.hpp"
#include "luo/devices/kvm_handler.hpp"
#include "luo/devices/pci.hpp"
#include "luo/devices/vfio_handler.hpp"

namespace kexec_sim::luo {

class DeviceParticipants {
public:
    /// Attaches to the kernel's hooks; call before Kernel::boot().
    DeviceParticipants(Kernel& kernel, kho::Kho& kho, Orchestrator& orchestrator);

    PciParticipant pci;
    IommuParticipant iommu;
    IommufdHandler iommufd;
    VfioHandler vfio;
    KvmHandler kvm;

private:
    void register_handlers(Kernel& kernel, Orchestrator& orchestrator);
};

}  // namespace kexec_sim::luo
