#include "luo/devices/vfio_handler.hpp"

#include <bit>

#include "kernel-model/abi_write.hpp"
#include "machine/reached.hpp"

namespace kexec_sim::luo {
namespace {

VfioFile& vfio_file(File& file) { return dynamic_cast<VfioFile&>(file); }

/// A BAR is a power of two long, and lies at a multiple of that.
bool sizes_fit(const PciDevice& device, const abi::VfioSer& ser) {
    for (unsigned bar = 0; bar < device.bars.size(); ++bar) {
        const u64 bytes = ser.bar_bytes[bar];
        if (bytes && (!std::has_single_bit(bytes) || bytes < 16 || device.bars[bar].address % bytes)) return false;
    }
    return true;
}

}  // namespace

VfioHandler::VfioHandler(Kernel& kernel, kho::Kho& kho, Orchestrator& orchestrator, PciParticipant& pci,
                         IommuParticipant& iommu, IommufdHandler& iommufd)
    : FileHandler(abi::VFIO_COMPATIBLE),
      kernel_(kernel),
      pages_(kernel, kho, orchestrator, abi::VFIO_COMPATIBLE, FrameClass::handler),
      pci_(pci),
      iommu_(iommu),
      iommufd_(iommufd) {
    kernel.hooks.early_param.push_back({"vfio_pci.late_binding", [this](std::string_view value) -> Result<> {
                                            late_binding_ = TRY(parse_bool_param(value));
                                            return {};
                                        }});
    iommufd.on_prepared = [this](IommufdFile& owner) { return bind_waiting(owner); };
    iommufd.on_cancel = [this](IommufdFile& owner) { unbind(owner); };
}

bool VfioHandler::can_preserve(File& file) {
    return dynamic_cast<VfioFile*>(&file) && pci_.ensure_registered() && iommu_.ensure_registered();
}

// --- the old kernel ----------------------------------------------------------------------------------------------

Result<> VfioHandler::prepare(File& file, u64& data) {
    VfioFile& vfio = vfio_file(file);
    if (!vfio.present()) return fail(Errno::enodev);
    TRY(pci_.preserve(vfio.device()));
    if (const auto done = preserve_all(vfio, data); !done) {
        pci_.unpreserve(vfio.device());
        return done;
    }
    vfio.preserved = true;
    prepared_[&vfio] = PhysAddr{data};
    return {};
}

Result<> VfioHandler::preserve_all(VfioFile& vfio, u64& data) {
    const PciDevice& device = vfio.device();
    const PhysAddr record = TRY(pages_.allocate("vfio.ser"));
    abi::VfioSer ser{};
    ser.bdf = device.address.bdf.raw;
    ser.domain = static_cast<u16>(device.address.segment);
    ser.reset_works = device.express_cap != 0;
    for (unsigned bar = 0; bar < device.bars.size(); ++bar) ser.bar_bytes[bar] = device.bars[bar].bytes;
    abi_write(kernel_.machine.ram, record, ser, "vfio.ser");
    const auto owner = vfio.iommufd.lock();
    const bool later = late_binding_ && owner && !iommufd_.prepared(*owner);
    if (owner && !later)
        if (const auto attached = preserve_attachment(vfio, record); !attached) {
            pages_.release(record);
            return attached;
        }
    data = record.raw;
    return {};
}

Result<> VfioHandler::preserve_attachment(VfioFile& vfio, PhysAddr record) {
    const auto owner = vfio.iommufd.lock();
    const auto prepared = iommufd_.prepared(*owner);
    if (!prepared) {
        REACHED("luo.vfio.iommufd_not_prepared");
        return fail(Errno::enoent);
    }
    const PhysAddr attachment = TRY(iommu_.preserve_device(vfio.device(), prepared->domain));
    PhysicalMemory& ram = kernel_.machine.ram;
    abi_write<u64>(ram, record + offsetof(abi::VfioSer, iommufd), prepared->record.raw, "vfio.ser.iommufd");
    abi_write<u64>(ram, record + offsetof(abi::VfioSer, iommu_device), attachment.raw, "vfio.ser.iommu_device");
    return {};
}

Result<> VfioHandler::bind_waiting(IommufdFile& owner) {
    if (!late_binding_) return {};
    for (const auto& device : owner.devices()) {
        const auto waiting = prepared_.find(device.get());
        if (waiting != prepared_.end()) TRY(preserve_attachment(*device, waiting->second));
    }
    return {};
}

/// The iommufd will not be there: its devices are not attached to anything that could be found.
void VfioHandler::unbind(IommufdFile& owner) {
    PhysicalMemory& ram = kernel_.machine.ram;
    for (const auto& device : owner.devices()) {
        const auto bound = prepared_.find(device.get());
        if (bound == prepared_.end()) continue;
        iommu_.unpreserve_device(device->device());
        abi_write<u64>(ram, bound->second + offsetof(abi::VfioSer, iommufd), 0, "vfio.ser.iommufd");
        abi_write<u64>(ram, bound->second + offsetof(abi::VfioSer, iommu_device), 0, "vfio.ser.iommu_device");
    }
}

Result<> VfioHandler::freeze(File& file, u64& data) {
    VfioFile& vfio = vfio_file(file);
    if (vfio.interrupts_on()) {
        REACHED("luo.vfio.interrupts_on");
        return fail(Errno::ebusy);
    }
    const auto ser = kernel_.machine.ram.read<abi::VfioSer>(PhysAddr{data});
    if (ser.iommufd == 0 && vfio.iommufd.lock()) {
        REACHED("luo.vfio.iommufd_missing");
        return fail(Errno::enoent);
    }
    vfio.set_frozen(true);
    return {};
}

void VfioHandler::cancel(File& file, u64 data) {
    VfioFile& vfio = vfio_file(file);
    if (data == 0 || !vfio.preserved) return;
    vfio.set_frozen(false);
    vfio.preserved = false;
    prepared_.erase(&vfio);
    iommu_.unpreserve_device(vfio.device());
    pages_.release(PhysAddr{data});
    pci_.unpreserve(vfio.device());
}

// --- the new kernel ----------------------------------------------------------------------------------------------

PciDevice* VfioHandler::find_device(const abi::VfioSer& ser) const {
    const PciAddress address{ser.domain, Bdf(ser.bdf)};
    PciDevice* device = pci_.incoming(address) ? kernel_.pci.find(address) : nullptr;
    return device && !device->is_bridge ? device : nullptr;
}

Result<FileRef> VfioHandler::retrieve(u64 data) {
    const PhysAddr record{data};
    if (!pages_.restore(record)) return fail(Errno::enoent);
    const auto ser = kernel_.machine.ram.read<abi::VfioSer>(record);
    pages_.free(record);
    incoming_[data] = ser;
    PciDevice* device = find_device(ser);
    if (!device) {
        REACHED("luo.vfio.no_such_device");
        return fail(Errno::enodev);
    }
    if (device->driver != kernel_.pci.driver("vfio-pci")) {
        REACHED("luo.vfio.other_driver");
        return fail(Errno::enodev);
    }
    if (!sizes_fit(*device, ser)) {
        REACHED("luo.vfio.sizes_bad");
        return fail(Errno::einval);
    }
    for (unsigned bar = 0; bar < device->bars.size(); ++bar) device->bars[bar].bytes = ser.bar_bytes[bar];
    std::shared_ptr<IommufdFile> owner;
    if (ser.iommufd) owner = TRY(iommufd_.incoming(PhysAddr{ser.iommufd}));
    auto file = TRY(kernel_.vfio.adopt(*device));
    if (owner) owner->adopt_device(file);
    return FileRef(std::move(file));
}

void VfioHandler::finish(File* file, u64 data, bool) {
    const auto known = incoming_.find(data);
    abi::VfioSer ser{};
    if (known != incoming_.end()) {
        ser = known->second;
    } else if (pages_.restore(PhysAddr{data})) {
        ser = kernel_.machine.ram.read<abi::VfioSer>(PhysAddr{data});
        pages_.free(PhysAddr{data});
    }
    incoming_.erase(data);
    PciDevice* device = find_device(ser);
    if (device && !file) {
        // Nobody has it: it must not write where others live by now.
        kernel_.iommu.detach(*device);
        static_cast<void>(kernel_.pci.reset_function(*device));
        kernel_.pci.set_master(*device, false);
    }
    if (ser.iommu_device) iommu_.finish_device(PhysAddr{ser.iommu_device});
    if (device) pci_.finish(*device);
}

}  // namespace kexec_sim::luo
