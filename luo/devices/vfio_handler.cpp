#include "luo/devices/vfio_handler.hpp"

#include <bit>

#include "kernel-model/abi_write.hpp"
#include "kernel-model/handed_over.hpp"
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
    if (const auto owner = vfio.iommufd.lock())
        if (const auto attached = preserve_attachment(vfio, *owner, record); !attached) {
            pages_.release(record);
            return attached;
        }
    data = record.raw;
    return {};
}

Result<> VfioHandler::preserve_attachment(const VfioFile& vfio, const IommufdFile& owner, PhysAddr record) {
    if (!late_binding_ && !iommufd_.prepared(owner)) {
        REACHED("luo.vfio.iommufd_not_prepared");
        return fail(Errno::enoent);
    }
    const PhysAddr attachment = TRY(iommu_.preserve_device(vfio.device()));
    abi_write<u64>(kernel_.machine.ram, record + offsetof(abi::VfioSer, iommu_device), attachment.raw,
                   "vfio.ser.iommu_device");
    return {};
}

/// KHO is finalized by now, and no page can be preserved any more: words are written into records that are there.
Result<> VfioHandler::bind(const VfioFile& vfio, const IommufdFile& owner, PhysAddr record) {
    const auto prepared = iommufd_.prepared(owner);
    if (!prepared) {
        REACHED("luo.vfio.iommufd_gone");
        return fail(Errno::enoent);
    }
    iommu_.bind_device(vfio.device(), prepared->domain);
    abi_write<u64>(kernel_.machine.ram, record + offsetof(abi::VfioSer, iommufd), prepared->record.raw,
                   "vfio.ser.iommufd");
    return {};
}

Result<> VfioHandler::freeze(File& file, u64& data) {
    VfioFile& vfio = vfio_file(file);
    if (data == 0) return fail(Errno::einval);  // it was never prepared, whatever LUO was told
    if (vfio.interrupts_on()) {
        REACHED("luo.vfio.interrupts_on");
        return fail(Errno::ebusy);
    }
    if (const auto owner = vfio.iommufd.lock()) TRY(bind(vfio, *owner, PhysAddr{data}));
    vfio.set_frozen(true);
    return {};
}

void VfioHandler::cancel(File& file, u64 data) {
    VfioFile& vfio = vfio_file(file);
    if (data == 0 || !vfio.preserved) return;
    vfio.set_frozen(false);
    vfio.preserved = false;
    iommu_.unpreserve_device(vfio.device());
    pages_.release(PhysAddr{data});
    pci_.unpreserve(vfio.device());
}

// --- the new kernel ----------------------------------------------------------------------------------------------

PciDevice* VfioHandler::find_device(const abi::VfioSer& ser) const {
    const PciAddress address{ser.domain, Bdf(ser.bdf)};
    if (iommu_.names_another(PhysAddr{ser.iommu_device}, address)) {
        REACHED("luo.vfio.alias");
        return nullptr;
    }
    PciDevice* device = pci_.incoming(address) ? kernel_.pci.find(address) : nullptr;
    return device && !device->is_bridge ? device : nullptr;
}

/// Reads the record into the books, and frees its page.
Result<> VfioHandler::restore(PhysAddr record) {
    if (const auto restored = pages_.restore(record); !restored) {
        REACHED("luo.vfio.record_lost");
        return restored;
    }
    incoming_[record] = read_handed_over<abi::VfioSer>(kernel_.machine, record, compatible);
    pages_.free(record);
    return {};
}

Result<FileRef> VfioHandler::retrieve(u64 data) {
    const PhysAddr record{data};
    if (!restore(record)) return fail(Errno::enoent);
    const auto ser = incoming_[record];
    PciDevice* device = find_device(ser);
    if (!device) {
        REACHED("luo.vfio.no_such_device");
        return fail(Errno::enodev);
    }
    if (device->driver != kernel_.pci.driver("vfio-pci")) {
        REACHED("luo.vfio.other_driver");
        return fail(Errno::enodev);
    }
    if ((ser.iommufd != 0) != (ser.iommu_device != 0)) {
        REACHED("luo.vfio.attachment_bad");
        return fail(Errno::einval);
    }
    if (!sizes_fit(*device, ser)) {
        REACHED("luo.vfio.sizes_bad");
        return fail(Errno::einval);
    }
    for (unsigned bar = 0; bar < device->bars.size(); ++bar) device->bars[bar].bytes = ser.bar_bytes[bar];
    std::shared_ptr<IommufdFile> owner;
    if (ser.iommufd) owner = TRY(iommufd_.incoming(PhysAddr{ser.iommufd}));
    if (owner && owner->restored && !iommu_.attached_to(PhysAddr{ser.iommu_device}, *owner->restored)) {
        REACHED("luo.vfio.other_domain");
        return fail(Errno::einval);
    }
    auto file = TRY(kernel_.vfio.adopt(*device));
    if (owner) owner->adopt_device(file);
    return FileRef(std::move(file));
}

bool VfioHandler::can_finish(const File* file, u64 data) { return file && incoming_.contains(PhysAddr{data}); }

void VfioHandler::finish(File* file, u64 data, bool) {
    const PhysAddr record{data};
    const bool claimed = can_finish(file, data);
    if (!incoming_.contains(record) && !restore(record)) return;
    const auto ser = incoming_[record];
    incoming_.erase(record);
    PciDevice* device = find_device(ser);
    if (device && !claimed) kernel_.vfio.quiesce(*device);
    if (ser.iommu_device) iommu_.finish_device(PhysAddr{ser.iommu_device});
    if (device) pci_.finish(*device);
}

}  // namespace kexec_sim::luo
