// pci.*, vfio.*, iommufd.*, nic.*, p2p.*: devices, as agents and the bench drive them and look at them.
#include "sim/steps.hpp"

namespace kexec_sim::sim {

StepResult run_device_step(KernelInstance&, const Step&) { return Errno::eopnotsupp; }

}  // namespace kexec_sim::sim
