#include "sim/interrupt.hpp"

#include <csignal>

namespace kexec_sim::sim {
namespace {

// A signal handler can reach nothing but a global.
volatile std::sig_atomic_t arrived = 0;

void note_signal(int number) { arrived = number; }

}  // namespace

void watch_for_interrupts() {
    arrived = 0;
    struct sigaction action {};
    action.sa_handler = note_signal;
    // The next one finds the default action. No SA_RESTART: a wait for input ends.
    action.sa_flags = static_cast<int>(SA_RESETHAND);
    sigaction(SIGINT, &action, nullptr);
    sigaction(SIGTERM, &action, nullptr);
}

int interrupt_signal() { return arrived; }

}  // namespace kexec_sim::sim
