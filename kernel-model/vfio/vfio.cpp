#include "kernel-model/vfio/vfio.hpp"

#include "kernel-model/kernel.hpp"
#include "kernel-model/vfio/iommufd.hpp"
#include "machine/reached.hpp"

namespace kexec_sim {
namespace {

/// What a function's own driver on the host does: brings it to a known state, and keeps it idle.
class NativeDriver final : public PciDriver {
public:
    NativeDriver(Kernel& kernel, std::string_view name, u16 device) : kernel_(kernel), name_(name), device_(device) {}
    std::string_view name() const override { return name_; }
    bool matches(const PciDevice& device) const override {
        return device.vendor == pci::vendor_id && device.device == device_;
    }
    Result<> probe(PciDevice& device) override { return kernel_.pci.reset_function(device); }
    void remove(PciDevice&) override {}
    void shutdown(PciDevice&) override {}

private:
    Kernel& kernel_;
    std::string_view name_;
    u16 device_;
};

class VfioDriver final : public PciDriver {
public:
    explicit VfioDriver(Kernel& kernel) : kernel_(kernel) {}
    std::string_view name() const override { return "vfio-pci"; }
    /// By itself it takes only what came from the previous kernel.
    bool matches(const PciDevice& device) const override {
        if (!device.adopted || device.is_bridge) return false;
        return !kernel_.machine.faults.skips(FaultPoint::vfio_claim, device.hardware->name());
    }
    Result<> probe(PciDevice&) override { return {}; }
    /// An incoming function that nobody has claimed runs, too.
    void remove(PciDevice& device) override {
        if (const auto file = kernel_.vfio.file_of(device)) {
            REACHED("vfio.remove.open");
            file->let_go();
        } else {
            kernel_.vfio.quiesce(device);
        }
    }
    void shutdown(PciDevice& device) override {
        FaultInjector& faults = kernel_.machine.faults;
        const std::string_view name = device.hardware->name();
        if (kernel_.keeps_running(device)) {
            if (!faults.skips(FaultPoint::vfio_keep_running, name)) return;
        } else if (!kernel_.vfio.file_of(device) || faults.skips(FaultPoint::vfio_quiesce, name)) {
            return;
        }
        static_cast<void>(kernel_.pci.reset_function(device));
    }

private:
    Kernel& kernel_;
};

}  // namespace

// --- opening -----------------------------------------------------------------------------------------------------

Vfio::Vfio(Kernel& kernel) : kernel_(kernel) {
    kernel.pci.add_driver(std::make_unique<VfioDriver>(kernel));
    kernel.pci.add_driver(std::make_unique<NativeDriver>(kernel, "dma-nic", pci::device_dma_nic));
    kernel.pci.add_driver(std::make_unique<NativeDriver>(kernel, "p2p-gpu", pci::device_p2p_gpu));
}

std::shared_ptr<VfioFile> Vfio::file_of(const PciDevice& device) const {
    const auto at = open_.find(device.address);
    return at == open_.end() ? nullptr : at->second.lock();
}

Result<std::shared_ptr<VfioFile>> Vfio::make_file(PciDevice& device) {
    if (device.removed || device.is_bridge) {
        REACHED("vfio.open.no_endpoint");
        return fail(Errno::enodev);
    }
    if (file_of(device)) {
        REACHED("vfio.open.twice");
        return fail(Errno::ebusy);
    }
    auto file = kernel_.vfs.make_file<VfioFile>(kernel_, kernel_.vfs.next_file_id(), device);
    open_[device.address] = file;
    return file;
}

Result<std::shared_ptr<VfioFile>> Vfio::open(PciDevice& device) {
    if (device.adopted) {
        REACHED("vfio.open.incoming");
        return fail(Errno::ebusy);
    }
    auto file = TRY(make_file(device));
    TRY(kernel_.pci.rebind(device, *kernel_.pci.driver("vfio-pci")));
    TRY(kernel_.pci.reset_function(device));
    const u32 command = kernel_.pci.read(device, pci::COMMAND, 2);
    kernel_.pci.write(device, pci::COMMAND, 2, command | pci::COMMAND_MEMORY | pci::COMMAND_MASTER);
    // The kernel before may have turned them off, for want of anything preserved below.
    for (PciDevice* bridge = device.bridge; bridge; bridge = bridge->bridge) kernel_.pci.set_master(*bridge, true);
    kernel_.machine.device_referee.device_opened(file->id(), *device.hardware);
    return file;
}

Result<std::shared_ptr<VfioFile>> Vfio::adopt(PciDevice& device) {
    auto file = TRY(make_file(device));
    kernel_.machine.device_referee.device_opened(file->id(), *device.hardware);
    return file;
}

void Vfio::quiesce(PciDevice& device) {
    kernel_.iommu.detach(device);
    kernel_.machine.device_referee.domain_detached(*device.hardware);
    static_cast<void>(kernel_.pci.reset_function(device));
    kernel_.pci.set_master(device, false);
}

// --- the file ----------------------------------------------------------------------------------------------------

VfioFile::VfioFile(Kernel& kernel, u64 id, PciDevice& device) : File(id), kernel_(kernel), device_(&device) {}
VfioFile::~VfioFile() = default;

void VfioFile::release() {
    kernel_.machine.device_referee.device_closed(id());
    if (!preserved && present()) let_go();
}

void VfioFile::let_go() {
    disable_interrupts();
    if (const auto owner = iommufd.lock()) owner->detach(*this);
    kernel_.vfio.quiesce(*device_);
}

Result<> VfioFile::usable() const {
    if (!frozen_ && present()) return {};
    REACHED("vfio.access.refused");
    return fail(Errno::eio);
}

Result<PhysAddr> VfioFile::bar_address(unsigned bar, u64 offset, unsigned bytes) const {
    TRY(usable());
    const u64 end = bar < device_->bars.size() ? device_->bars[bar].bytes : 0;
    if (end < bytes || offset > end - bytes) {
        REACHED("vfio.access.beyond_bar");
        return fail(Errno::einval);
    }
    return PhysAddr{device_->bars[bar].address + offset};
}

Result<u64> VfioFile::read(unsigned bar, u64 offset, unsigned bytes) const {
    const PhysAddr at = TRY(bar_address(bar, offset, bytes));
    // Whoever reads its registers sees what an interrupt would have told.
    kernel_.machine.device_referee.device_polled(*device_->hardware);
    return kernel_.machine.mmio_read(at, bytes);
}

Result<> VfioFile::write(unsigned bar, u64 offset, unsigned bytes, u64 value) {
    const PhysAddr at = TRY(bar_address(bar, offset, bytes));
    kernel_.machine.mmio_write(at, bytes, value);
    return {};
}

Result<> VfioFile::reset() {
    TRY(usable());
    return kernel_.pci.reset_function(*device_);
}

// --- interrupts --------------------------------------------------------------------------------------------------

u32 VfioFile::msix_flags() const {
    return kernel_.pci.read(*device_, static_cast<u16>(device_->msix_cap + pci::MSIX_FLAGS), 2);
}
void VfioFile::set_msix_flags(u32 flags) {
    if (flags != msix_flags())
        kernel_.pci.write(*device_, static_cast<u16>(device_->msix_cap + pci::MSIX_FLAGS), 2, flags);
}

bool VfioFile::interrupts_on() const {
    if (!present() || !device_->msix_cap) return false;
    const u32 flags = msix_flags();
    return (flags & pci::MSIX_FLAGS_ENABLE) && !(flags & pci::MSIX_FLAGS_MASKALL);
}

Result<> VfioFile::enable_interrupts(u16 vectors, std::function<void(u16)> trigger) {
    TRY(usable());
    if (!device_->msix_cap || vectors == 0 || vectors > (msix_flags() & pci::MSIX_FLAGS_QSIZE) + 1) {
        REACHED("vfio.interrupts.no_such_vector");
        return fail(Errno::einval);
    }
    auto fresh = TRY(allocate_vectors(vectors, trigger));
    // A vector that was masked by the previous owner keeps what is pending in it.
    set_msix_flags(msix_flags() | pci::MSIX_FLAGS_ENABLE | pci::MSIX_FLAGS_MASKALL);
    for (u16 index = 0; index < vectors; ++index) write_vector(index, fresh[index]);
    free_vectors(allocated_);
    allocated_ = std::move(fresh);
    vectors_ = vectors;
    set_msix_flags(msix_flags() & ~u32{pci::MSIX_FLAGS_MASKALL});
    return {};
}

Result<std::vector<VfioFile::Vector>> VfioFile::allocate_vectors(u16 count, const std::function<void(u16)>& trigger) {
    std::vector<Vector> made;
    const auto undo = [&](Errno error) {
        REACHED("vfio.interrupts.undone");
        free_vectors(made);
        return fail(error);
    };
    for (u16 index = 0; index < count; ++index) {
        const auto vector = kernel_.irq.request([trigger, index] { trigger(index); });
        if (!vector) return undo(vector.error());
        const auto remapped = kernel_.iommu.allocate_interrupt(*device_, *vector);
        if (!remapped) {
            kernel_.irq.free(*vector);
            return undo(remapped.error());
        }
        made.push_back({*vector, *remapped});
    }
    return made;
}

void VfioFile::write_vector(u16 index, const Vector& vector) {
    const u64 address = vector.remapped ? vtd::remappable_message(*vector.remapped) : vtd::message_base;
    const u32 data = vector.remapped ? 0 : vector.vector;
    const u32 table = kernel_.pci.read(*device_, static_cast<u16>(device_->msix_cap + pci::MSIX_TABLE), 4);
    const PhysAddr entry{device_->bars[table & 7].address + (table & ~7u) + index * pci::MSIX_ENTRY_BYTES};
    kernel_.machine.mmio_write(entry, 4, address & 0xffff'ffff);
    kernel_.machine.mmio_write(entry + 4, 4, address >> 32);
    kernel_.machine.mmio_write(entry + 8, 4, data);
    kernel_.machine.mmio_write(entry + 12, 4, 0);
}

void VfioFile::free_vectors(std::vector<Vector>& vectors) {
    for (const Vector& one : vectors) {
        kernel_.irq.free(one.vector);
        if (one.remapped) kernel_.iommu.free_interrupt(*device_, *one.remapped);
    }
    vectors.clear();
}

void VfioFile::disable_interrupts() {
    if (!device_->msix_cap) return;
    if (present()) set_msix_flags(msix_flags() & ~u32{pci::MSIX_FLAGS_ENABLE | pci::MSIX_FLAGS_MASKALL});
    free_vectors(allocated_);
    vectors_ = 0;
}

Result<> VfioFile::mask_interrupts(bool masked) {
    TRY(usable());
    if (!device_->msix_cap) return fail(Errno::einval);
    const u32 flags = msix_flags();
    set_msix_flags(masked ? flags | pci::MSIX_FLAGS_MASKALL : flags & ~u32{pci::MSIX_FLAGS_MASKALL});
    return {};
}

}  // namespace kexec_sim
