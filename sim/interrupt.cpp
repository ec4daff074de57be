#include "sim/interrupt.hpp"

#include <csignal>

namespace kexec_sim::sim {
namespace {

// A signal handler can reach nothing but a global.
volatile std::sig_atomic_t arrived = 0;

volatile std::sig_atomic_t count = 0;

void note_signal(int number) {
    arrived = number;
    count = count + 1;
    if (count < 3) return;
    std::signal(number, SIG_DFL);
    std::raise(number);
}

}  // namespace

void watch_for_interrupts() {
    arrived = 0;
    count = 0;
    struct sigaction action {};
    action.sa_handler = note_signal;
    // No SA_RESTART: a wait for input ends.
    sigaction(SIGINT, &action, nullptr);
    sigaction(SIGTERM, &action, nullptr);
}

int interrupt_signal() { return arrived; }

}  // namespace kexec_sim::sim
