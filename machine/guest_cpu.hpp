// The CPU in guest mode: runs the one program that every guest runs.
//
// A vCPU is registers and a view of guest memory. A kernel enters the guest with registers that it has loaded, the CPU
// retires steps of the program, and the kernel saves what comes out. The program is made so that every step depends on
// the one before, on memory and on the count of steps: a step that is lost, done twice or done on wrong memory shows.
//
//   guest physical memory        0            4 KiB          8 KiB            64 KiB …              a quarter
//                                | state page | journal      | (rings)        | work area           | not touched …
//                                 16 x 256 B    16 x 256 B                     16 equal parts
//
// vCPU n, 0 to 15, has the n-th part of each. All words are 64 bits, little endian. `steps`, `tsc` and `accumulator`
// are the registers, K = 0x9e3779b97f4a7c15.
//
//   work part    of `pages` = min(floor((memory_bytes / 4 - 64 KiB) / 16 / 4 KiB), 256) pages, from
//                work = 64 KiB + n * pages * 4 KiB
//   state part   word 0 steps, 1 tsc, 2 accumulator, at the last checkpoint; from word 4 on for each device d two
//                words, seen and interrupts, after the handler ran for it
//   journal part 8 entries of 4 words, used in turn: steps, tsc, accumulator, steps ^ tsc ^ accumulator
//
//   per step, of 1 µs:   1. the handler, for every bit of pending_irq, in order of devices
//                        2. at   = work + steps % pages * 4 KiB + steps / pages % 8 * 512
//                           word = memory[at]
//                           accumulator = rotate_left(accumulator ^ word, 7) * K + steps
//                           memory[at] = accumulator
//                        3. steps += 1;  tsc = the time of this step
//                        4. checkpoint, if steps is a multiple of 64: journal entry (steps / 64 - 1) % 8, then state
//                           words 0 to 2
//
// So each step goes to the next page, and each page has 8 words, which are read again 8 * pages steps later: that is
// how long the loss of a page stays unseen.
//
// Time. run(…, n) retires n steps that end now: of step i of n, from 0, tsc is now - (n - 1 - i) * 1 µs.
//
// The handler for device d clears bit d. Where the device has a ring (entries > 0) it reads the count of completions by
// MMIO. All ones: the device is gone, and that is all. Else, where the ring is not circular and the count has grown by
// g, it gives descriptors back: for the slots (seen + i) % entries, i from 0 to min(g, entries) - 1, the owner bit is
// set and the done and error bits are cleared in the flags (32 bits at byte 20 of 32); then it writes the tail
// register, (entries + count) % (2 * entries). That is right for a ring that was filled completely when it was started
// and has lost no tick since: a descriptor that a lost tick skipped is not given back. At the end seen = count,
// interrupts += 1, and both go to the state page. A bit of a device without ring (or with one of more than 65536
// entries, which no device has) or beyond the 8th is only cleared.
//
// Unhappy paths: 1. the guest touches a page that is not there, or that the reverse map denies it, or a word that is
// not aligned (a ring that is not): EFAULT. The registers are those after the last step that went through (a checkpoint
// that is cut short is not done again); a handler that is cut short has taken its bit, and `seen` is as before.
//
// Confidential guests (GuestBus::asid() not 0): each access goes through SnpFirmware, by the owner of its page.
//
// Registers survive nothing by themselves: what a kernel does not save is gone.
// Cost: some 10 ns a step, and what the kernel's translation takes, once for a run of accesses to one page.
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
inline constexpr unsigned guest_devices_max = 8, guest_vcpus_max = 16;

/// Where the program keeps things; the picture above.
namespace guest_layout {
inline constexpr u64 state_page = 0, journal = 4 * KiB, rings = 8 * KiB, work_area = 64 * KiB;
inline constexpr u64 vcpu_bytes = 256, journal_entries = 8, journal_entry_bytes = 32, checkpoint_steps = 64;
inline constexpr u64 work_pages_max = 256, work_words = 8;
inline constexpr u64 multiplier = 0x9e37'79b9'7f4a'7c15;

/// Pages of each vCPU's part of the work area; 0: this much memory is too little for a guest.
constexpr u64 work_pages(u64 memory_bytes) {
    const u64 quarter = memory_bytes / 4;
    if (quarter < work_area) return 0;
    const u64 pages = (quarter - work_area) / guest_vcpus_max / page_bytes;
    return pages < work_pages_max ? pages : work_pages_max;
}
/// Whether the program leaves these bytes to the guest's devices.
constexpr bool free_for_rings(u64 memory_bytes, u64 offset, u64 bytes) {
    const u64 work_end = work_area + guest_vcpus_max * work_pages(memory_bytes) * page_bytes;
    return offset >= work_end || (offset >= rings && offset + bytes <= work_area);
}
/// The word that a vCPU works on in the step after `steps` steps.
constexpr u64 work_word(unsigned vcpu, u64 steps, u64 pages) {
    return work_area + (vcpu * pages + steps % pages) * page_bytes +
           steps / pages % work_words * (page_bytes / work_words);
}
}  // namespace guest_layout

/// What a VMM gets and sets by ioctl; written to its state file as it is. 64-bit words only.
struct GuestRegisters {
    u64 steps = 0;  // retired since reset
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
    /// The frame behind the guest page at `gpa`, a multiple of 4 KiB; EFAULT: none (an EPT violation that nobody
    /// handles).
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
    /// there; the registers say how far it came. EINVAL: no such vCPU, or memory of less than 512 KiB. `guest`: the
    /// instruments' name (a label that the bench gave). Calls `bus`, which is kernel code, from outside machine/.
    Result<> run(std::string_view guest, unsigned vcpu, GuestRegisters& registers, GuestBus& bus, u64 memory_bytes,
                 u64 steps);

private:
    Machine& machine_;
};

}  // namespace kexec_sim
