#include "sim/nic_driver.hpp"

#include "machine/device/dma_nic.hpp"
#include "machine/device/p2p_gpu.hpp"

namespace kexec_sim::sim {
namespace {

constexpr u64 slot_align = 64;
constexpr u32 interrupt_every = 16;
constexpr u32 p2p_entries = 16;
constexpr u64 p2p_slot_bytes = 64;

struct Layout {
    u64 ring = 0, sources = 0, destinations = 0;  // offsets in the memory object
    u64 slot_bytes = 0;
};

std::unexpected<Errno> refused(std::string& why, std::string text) {
    why = std::move(text);
    return fail(Errno::einval);
}

Result<Layout> layout_of(const NicStart& start, std::string& why) {
    const u64 ring_bytes = align_up(start.entries * sizeof(nic::Descriptor), slot_align);
    if (start.offset % slot_align)
        return refused(why, fmt::format("the buffer does not begin at a multiple of {}", slot_align));
    const u64 room = start.length > ring_bytes ? (start.length - ring_bytes) / (2 * u64{start.entries}) : 0;
    const u64 slot = std::min<u64>(align_down(room, slot_align), nic::transfer_bytes_max);
    if (slot == 0)
        return refused(why, fmt::format("the buffer is too small: {} descriptors and their slots take {} bytes",
                                        start.entries, ring_bytes + 2 * u64{start.entries} * slot_align));
    return Layout{start.offset, start.offset + ring_bytes, start.offset + ring_bytes + slot * start.entries, slot};
}

/// Content that differs from slot to slot and device to device.
u64 source_word(u64 cookie, u64 word) { return cookie * 0x9e37'79b9'7f4a'7c15 + word; }

struct Ring {
    const PciDevice& device;
    NicStart start;
    Layout layout;
    u64 iova_offset = 0;  // iova = offset in the memory object + iova_offset
    bool interrupts = false;
};

Result<> write_words(ShmemFile& memory, u64 offset, std::span<const std::byte> bytes) {
    const u64 written = TRY(memory.write(offset, bytes));
    return written == bytes.size() ? Result<>() : fail(Errno::enomem);
}

Result<> fill_ring(ShmemFile& memory, const Ring& ring) {
    std::vector<nic::Descriptor> descriptors(ring.start.entries);
    std::vector<u64> source(ring.layout.slot_bytes / sizeof(u64));
    for (u32 slot = 0; slot < ring.start.entries; ++slot) {
        nic::Descriptor& descriptor = descriptors[slot];
        const u64 offset = slot * ring.layout.slot_bytes;
        descriptor.src = ring.layout.sources + offset + ring.iova_offset;
        descriptor.dst = ring.layout.destinations + offset + ring.iova_offset;
        descriptor.len = static_cast<u32>(ring.layout.slot_bytes);
        descriptor.flags = nic::DESC_OWNER;
        const bool last = slot + 1 == ring.start.entries;
        if (ring.interrupts && (last || slot % interrupt_every == interrupt_every - 1))
            descriptor.flags |= nic::DESC_IRQ;
        descriptor.cookie = u64{ring.device.address.bdf.raw} << 32 | slot;
        for (u64 word = 0; word < source.size(); ++word) source[word] = source_word(descriptor.cookie, word);
        TRY(write_words(memory, ring.layout.sources + offset, std::as_bytes(std::span(source))));
    }
    return write_words(memory, ring.layout.ring, std::as_bytes(std::span(descriptors)));
}

Result<> start_engine(VfioFile& nic, unsigned engine, u64 ring_iova, const NicStart& start) {
    const auto put = [&](u64 offset, unsigned bytes, u64 value) {
        return nic.write(nic::registers_bar, engine * nic::engine_stride + offset, bytes, value);
    };
    // A ring that was used before begins anew.
    const u64 head = TRY(nic.read(nic::registers_bar, engine * nic::engine_stride + nic::HEAD, 4));
    TRY(put(nic::CONTROL, 4, head ? nic::CONTROL_RESET : 0));
    TRY(put(nic::RING_BASE, 8, ring_iova));
    TRY(put(nic::RING_ENTRIES, 4, start.entries));
    TRY(put(nic::TAIL, 4, start.entries));
    TRY(put(nic::INTERVAL, 4, start.interval_ns));
    TRY(put(nic::MSIX_VECTOR, 4, 0));
    return put(nic::CONTROL, 4, nic::CONTROL_ENABLE | (start.circular ? nic::CONTROL_CIRCULAR : 0));
}

Result<> program_guest(Kernel& kernel, VirtualMachine& vm, unsigned number, const NicStart& start,
                       const Layout& layout) {
    GuestRegisters registers = TRY(vm.vm().get_registers(0));
    GuestRegisters::Device& device = registers.devices[number];
    device.ring_gpa = layout.ring;
    device.entries = start.entries;
    device.circular = start.circular;
    device.seen = 0;
    TRY(vm.vm().set_registers(0, registers));
    kernel.machine.device_referee.guest_programmed(vm.name(), 0, registers);
    return {};
}

/// What the guest's driver must know of its ring.
Result<> tell_guest(Kernel& kernel, VirtualMachine& vm, unsigned number, const NicStart& start,
                    const Layout& layout) {
    const bool was_running = vm.vm().running();
    vm.vm().pause();
    const auto told = program_guest(kernel, vm, number, start, layout);
    if (was_running) vm.vm().resume();
    return told;
}

}  // namespace

Result<> start_nic_in_guest(Kernel& kernel, VfioFile& nic, VirtualMachine& vm, const NicStart& start,
                            std::string& why) {
    const u64 bytes = vm.memory()->size();
    const auto number = vm.device_number(nic.device());
    if (!number) return refused(why, "the device is not attached to this VM");
    if (start.offset > bytes || start.length > bytes - start.offset)
        return refused(why, "the buffer ends beyond the guest's memory");
    if (!guest_layout::free_for_rings(bytes, start.offset, start.length))
        return refused(why, "the guest works in that memory itself");
    if (vm.vm().asid() && start.offset < vm.vm().private_bytes())
        return refused(why, "the buffer lies in the guest's private memory");
    const Layout layout = TRY(layout_of(start, why));
    TRY(fill_ring(*vm.memory(), {nic.device(), start, layout, 0, true}));
    TRY(tell_guest(kernel, vm, *number, start, layout));

    return start_engine(nic, 0, layout.ring, start);
}

Result<> start_nic_in_file(VfioFile& nic, const std::shared_ptr<ShmemFile>& memory, const NicStart& start,
                           std::string& why) {
    const auto owner = nic.iommufd.lock();
    if (!owner) return refused(why, "the device is not attached to an iommufd");
    for (const auto& [iova, mapping] : owner->mappings()) {
        if (mapping.memory != memory || start.offset < mapping.offset ||
            start.offset + start.length > mapping.offset + mapping.bytes)
            continue;
        const Layout layout = TRY(layout_of(start, why));
        TRY(fill_ring(*memory, {nic.device(), start, layout, iova - mapping.offset, false}));
        return start_engine(nic, 0, layout.ring + iova - mapping.offset, start);
    }
    return refused(why, "the buffer is not mapped for the device");
}

Result<> start_p2p(VfioFile& nic, VirtualMachine& vm, PciDevice& target, u32 interval_ns) {
    if (target.bars[gpu::memory_bar].bytes < p2p_entries * p2p_slot_bytes) return fail(Errno::einval);
    TRY(vm.map_peer(target, gpu::memory_bar));
    const u64 ring_at = align_down(vm.memory()->size() / 4 * 3, page_bytes);
    std::vector<nic::Descriptor> descriptors(p2p_entries);
    const u64 sources = ring_at + p2p_entries * sizeof(nic::Descriptor);
    if (sources + p2p_entries * p2p_slot_bytes > vm.memory()->size()) return fail(Errno::einval);
    for (u32 slot = 0; slot < p2p_entries; ++slot) {
        const u64 cookie = u64{1} << 48 | u64{nic.device().address.bdf.raw} << 32 | slot;
        descriptors[slot] = {sources + slot * p2p_slot_bytes,
                             target.bars[gpu::memory_bar].address + slot * p2p_slot_bytes,
                             static_cast<u32>(p2p_slot_bytes), nic::DESC_OWNER | nic::DESC_P2P, cookie};
        std::array<u64, p2p_slot_bytes / sizeof(u64)> source{};
        for (u64 word = 0; word < source.size(); ++word) source[word] = source_word(cookie, word);
        TRY(write_words(*vm.memory(), sources + slot * p2p_slot_bytes, std::as_bytes(std::span(source))));
    }
    TRY(write_words(*vm.memory(), ring_at, std::as_bytes(std::span(descriptors))));
    NicStart start;
    start.interval_ns = interval_ns;
    start.entries = p2p_entries;
    return start_engine(nic, 1, ring_at, start);
}

Result<> stop_nic(VfioFile& nic, unsigned engine) {
    return nic.write(nic::registers_bar, engine * nic::engine_stride + nic::CONTROL, 4, 0);
}

}  // namespace kexec_sim::sim
