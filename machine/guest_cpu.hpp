// The CPU in guest mode: runs the one program that every guest runs.
//
// A vCPU is registers and a view of guest memory. A kernel enters the guest with registers that it has loaded, the CPU
// retires steps of the program, and the kernel saves what comes out. The program is made so that every step depends on
// the one before, on memory and on the count of steps: a step that is lost, done twice or done on wrong memory shows.
//
//   per step, of 1 µs:   word  = memory[work + (steps * 4096 + 8 * (steps / pages)) % work_bytes]
//                        accumulator = rotate_left(accumulator ^ word, 7) * K + steps
//                        memory[same place] = accumulator;  steps += 1;  tsc as the clock says
//   every 64th step:     memory[journal + …] = {steps, tsc, accumulator}
//   an interrupt (one bit a device in `pending_irq`):  the handler runs before the next step: it reads the device's
//                        count of completions by MMIO, notes it in `seen`, and where the ring is not circular gives
//                        that many descriptors back: owner bit set, done bit cleared, then the tail register
//
//   guest physical memory        0            4 KiB          8 KiB            64 KiB …
//                                | state page | journal      | (rings)        | work area, up to a quarter of memory |
//
// Registers survive nothing by themselves: what a kernel does not save is gone.
// Simplified: one program, no guest page tables, a step is 1 µs whatever it touches.
#pragma once

#include <array>
#include <span>
#include <string_view>

#include "machine/result.hpp"
#include "machine/types.hpp"

namespace kexec_sim {

struct Machine;

inline constexpr u64 guest_step_ns = 1000;
inline constexpr unsigned guest_devices_max = 8;

/// What a VMM gets and sets by ioctl; written to its state file as it is. 64-bit words only.
struct GuestRegisters {
    u64 steps = 0;        // retired since reset
    u64 accumulator = 0x6b65786563;
    u64 tsc_ns = 0;       // virtual time of the last step
    u64 pending_irq = 0;  // one bit a device: injected, not yet taken
    struct Device {
        u64 ring_gpa = 0, entries = 0;  // 0 entries: no such device
        u64 circular = 0;
        u64 seen = 0;        // completions that the handler knows of
        u64 interrupts = 0;  // times that the handler ran
        bool operator==(const Device&) const = default;
    };
    std::array<Device, guest_devices_max> devices{};
    bool operator==(const GuestRegisters&) const = default;
};

/// How the CPU reaches guest memory and devices: second-level translation, as the kernel set it up.
class GuestBus {
public:
    /// The frame behind a guest page; EFAULT: none (an EPT violation that nobody handles).
    virtual Result<PhysAddr> translate(u64 gpa) = 0;
    /// The device's registers, by MMIO: its count of completions; the ring's tail. A function that answers to nothing
    /// reads as all ones.
    virtual u64 device_completed(unsigned device) = 0;
    virtual void device_tail(unsigned device, u32 tail) = 0;
    /// 0: not confidential.
    virtual u16 asid() const = 0;

protected:
    ~GuestBus() = default;
};

class GuestCpu {
public:
    explicit GuestCpu(Machine& machine) : machine_(machine) {}
    /// Retires `steps` steps at the present virtual time and the steps before it. EFAULT: the guest touched what is not
    /// there; the registers say how far it came. `guest`: the instruments' name (a label that the bench gave).
    Result<> run(std::string_view guest, unsigned vcpu, GuestRegisters& registers, GuestBus& bus, u64 memory_bytes,
                 u64 steps);

private:
    Machine& machine_;
};

}  // namespace kexec_sim
