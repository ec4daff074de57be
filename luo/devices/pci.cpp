#include "luo/devices/pci.hpp"

#include "kernel-model/abi_write.hpp"
#include "kernel-model/handed_over.hpp"
#include "machine/reached.hpp"

namespace kexec_sim::luo {
namespace {

constexpr u64 blocks_max = 256;  // more functions than a machine of ours can have

u64 slot_offset(u64 index) { return sizeof(abi::PciBlock) + index * sizeof(abi::PciDevSer); }

}  // namespace

PciParticipant::PciParticipant(Kernel& kernel, kho::Kho& kho, Orchestrator& orchestrator)
    : kernel_(kernel),
      pages_(kernel, kho, orchestrator, abi::PCI_SUBSYSTEM, FrameClass::subsystem),
      subsystem_(kernel, orchestrator, abi::PCI_SUBSYSTEM, [this](PhysAddr data) { boot(data); }) {
    kernel.pci.removed.push_back([this](PciDevice& device) { removed(device); });
}

// --- the old kernel ----------------------------------------------------------------------------------------------

bool PciParticipant::preserved(const PciDevice& device) const { return slots_.contains(device.address); }

Result<> PciParticipant::preserve(PciDevice& device) {
    if (kernel_.pci.frozen() || device.is_bridge) return fail(Errno::einval);
    if (!subsystem_.registered()) return fail(Errno::enodev);
    if (preserved(device)) return fail(Errno::ebusy);
    std::vector<PciDevice*> done;
    for (PciDevice* at = &device; at; at = at->bridge) {
        const auto taken = take(*at);
        if (taken) {
            done.push_back(at);
            continue;
        }
        REACHED("luo.pci.path_undone");
        for (auto back = done.rbegin(); back != done.rend(); ++back) drop(**back);
        return taken;
    }
    return {};
}

void PciParticipant::unpreserve(PciDevice& device) {
    if (!preserved(device)) return;
    for (PciDevice* at = &device; at; at = at->bridge) drop(*at);
}

Result<> PciParticipant::take(PciDevice& device) {
    return under_fault(kernel_.machine.faults, FaultPoint::pci_preserve, device.hardware->name(), [&]() -> Result<> {
        auto at = slots_.find(device.address);
        if (at == slots_.end()) {
            const PhysAddr slot = TRY(free_slot());
            at = slots_.emplace(device.address, Slot{slot, 0}).first;
        }
        ++at->second.refcount;
        ++device.keep_running;
        write_slot(device.address, at->second);
        kernel_.machine.device_referee.function_listed(*device.hardware, at->second.refcount);
        return {};
    });
}

void PciParticipant::drop(PciDevice& device) {
    const auto at = slots_.find(device.address);
    if (at == slots_.end()) return;
    --at->second.refcount;
    --device.keep_running;
    write_slot(device.address, at->second);
    kernel_.machine.device_referee.function_listed(*device.hardware, at->second.refcount);
    if (at->second.refcount == 0) slots_.erase(at);
    if (slots_.empty()) free_pages();
}

void PciParticipant::write_slot(PciAddress address, const Slot& slot) {
    PhysicalMemory& ram = kernel_.machine.ram;
    abi_write(ram, slot.at, abi::PciDevSer{address.segment, address.bdf.raw, slot.refcount}, "pci.dev_ser");
    u32 devices = 0;
    for (const auto& [known, one] : slots_) devices += one.refcount != 0;
    abi_write<u32>(ram, header_ + offsetof(abi::PciSer, nr_devices), devices, "pci.ser.nr_devices");
}

Result<> PciParticipant::make_pages() {
    const PhysAddr header = TRY(pages_.allocate("pci.ser"));
    header_ = header;
    abi_write(kernel_.machine.ram, header, abi::PciSer{abi::PCI_VERSION, 0, 0}, "pci.ser");
    subsystem_.set_handle(header);
    return {};
}

void PciParticipant::free_pages() {
    for (const PhysAddr block : blocks_) pages_.release(block);
    if (header_.raw) pages_.release(header_);
    blocks_.clear();
    header_ = {};
    subsystem_.set_handle({});
}

Result<PhysAddr> PciParticipant::free_slot() {
    PhysicalMemory& ram = kernel_.machine.ram;
    if (!header_.raw) TRY(make_pages());
    for (const PhysAddr block : blocks_) {
        const auto head = ram.read<abi::PciBlock>(block);
        for (u64 index = 0; index < abi::pci_block_slots; ++index) {
            const PhysAddr at = block + slot_offset(index);
            if (index < head.slots && ram.read<abi::PciDevSer>(at).refcount != 0) continue;
            if (index >= head.slots)
                abi_write<u64>(ram, block + offsetof(abi::PciBlock, slots), index + 1, "pci.block.slots");
            return at;
        }
    }
    const auto made = pages_.allocate("pci.block");
    if (!made) {
        if (slots_.empty()) free_pages();
        return made;
    }
    if (blocks_.empty())
        abi_write<u64>(ram, header_ + offsetof(abi::PciSer, devices), made->raw, "pci.ser.devices");
    else
        abi_write<u64>(ram, blocks_.back() + offsetof(abi::PciBlock, next), made->raw, "pci.block.next");
    blocks_.push_back(*made);
    abi_write<u64>(ram, *made + offsetof(abi::PciBlock, slots), 1, "pci.block.slots");
    return *made + slot_offset(0);
}

void PciParticipant::removed(PciDevice& device) {
    unpreserve(device);
    if (incoming(device.address)) finish(device);
}

// --- the new kernel ----------------------------------------------------------------------------------------------

bool PciParticipant::incoming(PciAddress address) const {
    const auto at = incoming_.find(address);
    return at != incoming_.end() && at->second.refcount != 0;
}

void PciParticipant::boot(PhysAddr header) {
    if (!pages_.restore(header)) {
        REACHED("luo.pci.header_lost");
        throw KernelPanic("pci: the list of preserved devices cannot be restored");
    }
    const auto ser = read_handed_over<abi::PciSer>(kernel_.machine, header, "pci");
    if (ser.version != abi::PCI_VERSION) {
        REACHED("luo.pci.version");
        throw KernelPanic(fmt::format("pci: live update version {} is not {}", ser.version, abi::PCI_VERSION));
    }
    incoming_pages_.push_back(header);
    if (read_blocks(PhysAddr{ser.devices}) && incoming_.size() != ser.nr_devices) {
        REACHED("luo.pci.count");
        throw KernelPanic(
            fmt::format("pci: the list of preserved devices has {}, not {}", incoming_.size(), ser.nr_devices));
    }
    for (const auto& [address, slot] : incoming_) kernel_.pci.adopted.push_back(address);
}

bool PciParticipant::read_blocks(PhysAddr first) {
    Machine& machine = kernel_.machine;
    for (PhysAddr block = first; block.raw; block = PhysAddr{read_handed_over<u64>(machine, block, "pci")}) {
        if (incoming_pages_.size() > blocks_max || !pages_.restore(block)) {
            REACHED("luo.pci.block_lost");
            // As with the header: to go on with half of the list would be to reset devices that are in use.
            if (kernel_.config.strict_defects)
                throw KernelPanic("pci: the list of preserved devices cannot be restored");
            kernel_.log.err("pci: a block of preserved devices at {:#x} cannot be restored", block.raw);
            return false;
        }
        incoming_pages_.push_back(block);
        const u64 slots =
            std::min<u64>(read_handed_over<abi::PciBlock>(machine, block, "pci").slots, abi::pci_block_slots);
        for (u64 index = 0; index < slots; ++index) {
            const PhysAddr at = block + slot_offset(index);
            const auto ser = read_handed_over<abi::PciDevSer>(machine, at, "pci");
            if (ser.refcount) incoming_[{ser.domain, Bdf(ser.bdf)}] = {at, ser.refcount};
        }
    }
    return true;
}

void PciParticipant::finish(PciDevice& device) {
    if (!incoming(device.address)) return;
    for (PciDevice* at = &device; at; at = at->bridge) {
        const auto slot = incoming_.find(at->address);
        if (slot == incoming_.end()) continue;
        if (at->is_bridge && --slot->second.refcount != 0) continue;
        incoming_.erase(slot);
        at->adopted = false;
        std::erase(kernel_.pci.adopted, at->address);
    }
    if (incoming_.empty()) release_incoming();
}

void PciParticipant::release_incoming() {
    for (const PhysAddr page : incoming_pages_) pages_.free(page);
    incoming_pages_.clear();
    kernel_.pci.adopted.clear();
    subsystem_.finished();
}

}  // namespace kexec_sim::luo
