// Interrupt vectors of a kernel and who handles them.
//
// A device's message sets a bit in the local APIC; the kernel takes it when it next runs (handle_pending), which is
// after each slice of time and at the beginning and end of each system call. A vector without a handler is spurious.
#pragma once

#include <functional>
#include <map>

#include "machine/result.hpp"
#include "machine/types.hpp"

namespace kexec_sim {

class Kernel;

class Irq {
public:
    explicit Irq(Kernel& kernel) : kernel_(kernel) {}
    /// ENOSPC: none of 0x30 to 0xef is free.
    Result<u8> request(std::function<void()> handler);
    void free(u8 vector) { handlers_.erase(vector); }
    void handle_pending();
    u64 spurious() const { return spurious_; }

private:
    Kernel& kernel_;
    std::map<u8, std::function<void()>> handlers_;
    u64 spurious_ = 0;
};

}  // namespace kexec_sim
