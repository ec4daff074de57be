#include "machine/guest_cpu.hpp"

#include <bit>

#include "machine/device/dma_engine.hpp"
#include "machine/machine.hpp"
#include "machine/reached.hpp"

namespace kexec_sim {
namespace {

namespace layout = guest_layout;

static_assert(layout::work_pages(512 * KiB) == 1 && layout::work_pages(512 * KiB - 1) == 0);
static_assert(layout::journal_entries * layout::journal_entry_bytes == layout::vcpu_bytes);
static_assert((4 + 2 * guest_devices_max) * 8 <= layout::vcpu_bytes);
static_assert(guest_vcpus_max * layout::vcpu_bytes == page_bytes);

/// One vCPU while it is in guest mode.
class Running {
public:
    Running(Machine& machine, std::string_view guest, unsigned vcpu, GuestRegisters& registers, GuestBus& bus,
            u64 pages)
        : machine_(machine),
          guest_(guest),
          vcpu_(vcpu),
          registers_(registers),
          bus_(bus),
          pages_(pages),
          asid_(bus.asid()) {}

    Result<> step(u64 tsc_ns);

private:
    Result<> handle_interrupts();
    Result<> handle(unsigned device);
    Result<> give_back(const GuestRegisters::Device& device, u64 count);
    Result<> checkpoint();

    /// The frame behind a page; the last answer is remembered, as kernels change nothing while the guest runs.
    Result<PhysAddr> translate(u64 gpa);
    template <typename T> Result<T> load(u64 gpa);
    template <typename T> Result<> store(u64 gpa, T value);
    /// A store that the referee is told of: to memory that no device writes.
    Result<> store_own(u64 gpa, u64 word);
    std::unexpected<Errno> fault(u64 gpa);

    Machine& machine_;
    std::string_view guest_;
    unsigned vcpu_;
    GuestRegisters& registers_;
    GuestBus& bus_;
    u64 pages_;
    u16 asid_;
    u64 last_gpa_ = ~u64{0};
    PhysAddr last_phys_;
};

std::unexpected<Errno> Running::fault(u64 gpa) {
    REACHED("guest.fault");
    const MachineEntry entry;
    machine_.device_referee.guest_faulted(guest_, gpa);
    return fail(Errno::efault);
}

Result<PhysAddr> Running::translate(u64 gpa) {
    const u64 page = gpa & ~(page_bytes - 1);
    if (page != last_gpa_) {
        const Result<PhysAddr> phys = bus_.translate(page);
        if (!phys || !phys->page_aligned() || !machine_.ram.contains(*phys, page_bytes)) return fault(gpa);
        last_gpa_ = page;
        last_phys_ = *phys;
    }
    return last_phys_ + (gpa & (page_bytes - 1));
}

template <typename T> Result<T> Running::load(u64 gpa) {
    if (gpa % sizeof(T)) return fault(gpa);
    const PhysAddr phys = TRY(translate(gpa));
    const MachineEntry entry;
    if (!machine_.snp.enabled()) [[likely]]
        return machine_.ram.read<T>(phys);
    T value{};
    if (!machine_.snp.guest_read(asid_, gpa >> page_shift, phys, std::as_writable_bytes(std::span(&value, 1))))
        return fault(gpa);
    return value;
}

template <typename T> Result<> Running::store(u64 gpa, T value) {
    if (gpa % sizeof(T)) return fault(gpa);
    const PhysAddr phys = TRY(translate(gpa));
    const MachineEntry entry;
    if (!machine_.snp.enabled()) [[likely]]
        machine_.ram.write(phys, value);
    else if (!machine_.snp.guest_write(asid_, gpa >> page_shift, phys, std::as_bytes(std::span(&value, 1))))
        return fault(gpa);
    return {};
}

Result<> Running::store_own(u64 gpa, u64 word) {
    TRY(store(gpa, word));
    const MachineEntry entry;
    machine_.device_referee.guest_stored(guest_, gpa, last_phys_ + (gpa & (page_bytes - 1)), word);
    return {};
}

Result<> Running::step(u64 tsc_ns) {
    if (registers_.pending_irq) TRY(handle_interrupts());
    const u64 at = layout::work_word(vcpu_, registers_.steps, pages_);
    const u64 word = TRY(load<u64>(at));
    {
        const MachineEntry entry;
        machine_.device_referee.guest_loaded(guest_, at, last_phys_ + (at & (page_bytes - 1)), word);
    }
    const u64 next = std::rotl(registers_.accumulator ^ word, 7) * layout::multiplier + registers_.steps;
    TRY(store_own(at, next));
    registers_.accumulator = next;
    registers_.steps += 1;
    registers_.tsc_ns = tsc_ns;
    if (registers_.steps % layout::checkpoint_steps == 0) TRY(checkpoint());
    return {};
}

Result<> Running::checkpoint() {
    const u64 words[] = {registers_.steps, registers_.tsc_ns, registers_.accumulator};
    const u64 number = registers_.steps / layout::checkpoint_steps - 1;
    const u64 entry =
        layout::journal + vcpu_ * layout::vcpu_bytes + number % layout::journal_entries * layout::journal_entry_bytes;
    for (u64 i = 0; i < 3; ++i) TRY(store_own(entry + 8 * i, words[i]));
    TRY(store_own(entry + 24, words[0] ^ words[1] ^ words[2]));
    for (u64 i = 0; i < 3; ++i) TRY(store_own(layout::state_page + vcpu_ * layout::vcpu_bytes + 8 * i, words[i]));
    return {};
}

Result<> Running::handle_interrupts() {
    for (unsigned device = 0; device < guest_devices_max; ++device) {
        if (!(registers_.pending_irq >> device & 1)) continue;
        registers_.pending_irq &= ~(u64{1} << device);
        // The registers may come out of a damaged file.
        const u64 entries = registers_.devices[device].entries;
        if (entries && entries <= nic::ring_entries_max) TRY(handle(device));
    }
    registers_.pending_irq &= (u64{1} << guest_devices_max) - 1;
    return {};
}

Result<> Running::handle(unsigned device) {
    GuestRegisters::Device& known = registers_.devices[device];
    const u64 count = bus_.device_completed(device);
    if (count == ~u64{0}) {
        REACHED("guest.device_gone");
        return {};
    }
    if (!known.circular && count > known.seen) {
        TRY(give_back(known, count));
        bus_.device_tail(device, static_cast<u32>((known.entries + count) % (2 * known.entries)));
    }
    known.seen = count;
    known.interrupts += 1;
    const u64 words = layout::state_page + vcpu_ * layout::vcpu_bytes + 8 * (4 + 2 * u64{device});
    TRY(store_own(words, known.seen));
    return store_own(words + 8, known.interrupts);
}

Result<> Running::give_back(const GuestRegisters::Device& device, u64 count) {
    for (u64 i = device.seen; i < count && i - device.seen < device.entries; ++i) {
        const u64 flags_at =
            device.ring_gpa + i % device.entries * sizeof(nic::Descriptor) + offsetof(nic::Descriptor, flags);
        const u32 flags = TRY(load<u32>(flags_at));
        TRY(store(flags_at, (flags | nic::DESC_OWNER) & ~(nic::DESC_DONE | nic::DESC_ERROR)));
    }
    return {};
}

}  // namespace

Result<> GuestCpu::run(std::string_view guest, unsigned vcpu, GuestRegisters& registers, GuestBus& bus,
                       u64 memory_bytes, u64 steps) {
    const u64 pages = guest_layout::work_pages(memory_bytes);
    if (vcpu >= guest_vcpus_max || pages == 0) return fail(Errno::einval);
    const u64 now = machine_.clock.now_ns();
    {
        const MachineEntry entry;
        machine_.device_referee.guest_enters(guest, vcpu, registers);
    }
    Running running(machine_, guest, vcpu, registers, bus, pages);
    Result<> result;
    for (u64 i = 0; i < steps && result; ++i) {
        const u64 ago = (steps - 1 - i) * guest_step_ns;
        result = running.step(now > ago ? now - ago : 0);
    }
    const MachineEntry entry;
    machine_.device_referee.guest_leaves(guest, vcpu, registers);
    return result;
}

}  // namespace kexec_sim
