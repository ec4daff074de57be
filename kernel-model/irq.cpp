#include "kernel-model/irq.hpp"

#include "kernel-model/kernel.hpp"
#include "machine/reached.hpp"

namespace kexec_sim {

Result<u8> Irq::request(std::function<void()> handler) {
    constexpr unsigned first = 0x30, last = 0xef;
    for (unsigned vector = first; vector <= last; ++vector) {
        if (handlers_.contains(static_cast<u8>(vector))) continue;
        handlers_[static_cast<u8>(vector)] = std::move(handler);
        return static_cast<u8>(vector);
    }
    return fail(Errno::enospc);
}

void Irq::handle_pending() {
    while (const auto vector = kernel_.machine.apic.take()) {
        const auto handler = handlers_.find(*vector);
        if (handler != handlers_.end()) {
            handler->second();
            continue;
        }
        REACHED("irq.spurious");
        ++spurious_;
        kernel_.machine.trace.emit(Layer::kernel, "irq.spurious", {{"vector", u64{*vector}}});
    }
}

}  // namespace kexec_sim
