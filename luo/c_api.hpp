// Entering a kernel for C code: which kernel, KHO and orchestrator the exported C functions mean.
#pragma once

#include "kernel-model/kernel.hpp"
#include "kho/kho.hpp"

namespace kexec_sim::luo {

class Orchestrator;

/// The host calls it before it runs code of a kernel. `orchestrator` may be null.
void enter_kernel(Kernel* kernel, kho::Kho* kho, Orchestrator* orchestrator);
/// The kernel is gone; C handles of its subsystems are forgotten.
void leave_kernel();

}  // namespace kexec_sim::luo
