// vm.*: virtual machines, as their VMM runs them, saves them before a kexec and brings them back after it.
#include "sim/steps.hpp"

namespace kexec_sim::sim {

StepResult run_vm_step(KernelInstance&, const Step&) { return Errno::eopnotsupp; }

}  // namespace kexec_sim::sim
