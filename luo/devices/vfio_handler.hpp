// vfio-pci over a live update: the file handler "vfio-pci-v1".
//
// Prepare: 1. The function and its bridges are preserved with PCI. 2. Where it is attached through an iommufd, that
// file must be preserved too: prepared before it (a lower token), or (`vfio_pci.late_binding=1` on the command line) by
// the time of freeze, when the record of the iommufd is filled in. 3. Its IOMMU attachment is preserved. 4. A record.
// Freeze: interrupts must be off (MSI-X disabled or masked): no message may come before the next kernel has handlers.
// The records are told of the iommufd, which can have been cancelled and prepared again since. From then on the file
// answers to nothing. The function itself goes on: no reset.
// Retrieve: the function is found by segment and BDF (it has no other identity), and its file made without touching it.
// The iommufd it belongs to is found by its record, in any order.
// Finish: PCI and the IOMMU forget that it came from elsewhere. A function that nobody retrieved is blocked and reset.
//
// Unhappy paths: 1. ENOENT: the iommufd is not prepared (at freeze: it was cancelled, or with late binding never
// prepared). 2. EBUSY: interrupts are on; the function is preserved already. 3. EINVAL: shutdown has begun. 4. ENOMEM.
// 5. Retrieve: ENOENT: the record, or that of the iommufd, cannot be restored. ENODEV: there is no such function (the
// segment was cut to 16 bits; the bus has moved), the record of its IOMMU attachment names another one, or another
// driver has it. EINVAL: it names an iommufd and no attachment, or the other way round, or an attachment to the page
// table of another iommufd; or a BAR would have a size that there cannot be. 6. Finish of a record that cannot be
// restored: nobody knows which function it was, and none is touched; its domain goes at FINISH.
#pragma once

#include "luo/devices/iommufd_handler.hpp"
#include "luo/devices/pci.hpp"

namespace kexec_sim::luo {

class VfioHandler final : public FileHandler {
public:
    VfioHandler(Kernel& kernel, kho::Kho& kho, Orchestrator& orchestrator, PciParticipant& pci,
                IommuParticipant& iommu, IommufdHandler& iommufd);

    bool can_preserve(File& file) override;
    Result<> prepare(File& file, u64& data) override;
    Result<> freeze(File& file, u64& data) override;
    void cancel(File& file, u64 data) override;
    Result<FileRef> retrieve(u64 data) override;
    /// Somebody has retrieved it, and its record is read.
    bool can_finish(const File* file, u64 data) override;
    void finish(File* file, u64 data, bool reclaimed) override;

private:
    Result<> preserve_attachment(const VfioFile& vfio, const IommufdFile& owner, PhysAddr record);
    Result<> bind(const VfioFile& vfio, const IommufdFile& owner, PhysAddr record);
    Result<> preserve_all(VfioFile& vfio, u64& data);
    Result<> restore(PhysAddr record);
    PciDevice* find_device(const abi::VfioSer& ser) const;

    Kernel& kernel_;
    RecordPages pages_;
    PciParticipant& pci_;
    IommuParticipant& iommu_;
    IommufdHandler& iommufd_;
    bool late_binding_ = false;
    std::map<PhysAddr, abi::VfioSer> incoming_;  // records that were restored, and are not finished
};

}  // namespace kexec_sim::luo
