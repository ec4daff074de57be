// SIGINT and SIGTERM: the first asks the run to end between two steps, the third kills the program. (timeout(1) and
// some shells send one twice, to the process and to its group.) Kernels run in children that die with their parent, so
// neither leaves anything.
#pragma once

namespace kexec_sim::sim {

/// From now on the two signals are noted.
void watch_for_interrupts();
/// The signal that came, or 0.
int interrupt_signal();

}  // namespace kexec_sim::sim
