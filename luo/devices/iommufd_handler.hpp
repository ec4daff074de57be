// iommufd over a live update: the file handler "iommufd-v1".
//
// Prepare: 1. Every mapping must be of a memfd that is prepared itself (a lower token, or its own event), or of a BAR:
// other memory would be freed by the kexec while devices write to it. None may lie below 1 MiB, where the next kernel
// puts its trampoline before it knows what is preserved. 2. The page table is preserved, page by page; the
// file is immutable from here on. 3. A record with the page table's token.
// Freeze: the memory must still be prepared; its own event can have cancelled it since. The functions whose BARs are
// mapped must be preserved (in whatever order): else shutdown would reset them under the writes of others.
// Retrieve: a file with the old page table (`restored`), and no mappings of its own: the VMM makes them anew, and moves
// its devices over.
// Finish: the old page table is destroyed, unless a device is still attached to it: then it stays until the last one
// has been moved or closed. A file that nobody retrieved is discarded: its devices are blocked first.
//
// Unhappy paths: 1. EINVAL: a mapping of anonymous memory, or of a memfd that is not prepared, or below 1 MiB. 2. EBUSY:
// the file is prepared already, under another token; a device still uses the page table of the previous kernel.
// 3. ENOMEM, KHO's errno; what was done is undone. 4. Retrieve: ENOENT: the record or the domain cannot be restored.
// EINVAL: the record makes no sense. The domain that it named, if any, goes at FINISH (luo/devices/iommu.hpp).
#pragma once

#include "kernel-model/vfio/iommufd.hpp"
#include "luo/devices/iommu.hpp"

namespace kexec_sim::luo {

class IommufdHandler final : public FileHandler {
public:
    IommufdHandler(Kernel& kernel, kho::Kho& kho, Orchestrator& orchestrator, IommuParticipant& iommu);
    ~IommufdHandler() override;

    bool can_preserve(File& file) override;
    Result<> prepare(File& file, u64& data) override;
    Result<> freeze(File& file, u64& data) override;
    void cancel(File& file, u64 data) override;
    Result<FileRef> retrieve(u64 data) override;
    /// It was retrieved, and every device has moved over to a page table of this kernel.
    bool can_finish(const File* file, u64 data) override;
    void finish(File* file, u64 data, bool reclaimed) override;

    /// The record of a file that is prepared; nullopt: it is not.
    struct Prepared {
        PhysAddr record, domain;
    };
    std::optional<Prepared> prepared(const IommufdFile& file) const;
    /// The file of a record of the previous kernel, whoever asks first.
    Result<std::shared_ptr<IommufdFile>> incoming(PhysAddr record);

private:
    /// A device has left the page table of the previous kernel.
    void moved_over(PhysAddr record, IommufdFile& file);

    struct Incoming {
        PhysAddr domain;
        std::shared_ptr<IommufdFile> file;  // until the agent has it; as long the record's page is there
        std::weak_ptr<IommufdFile> known;
        bool finish_when_idle = false;
    };
    Kernel& kernel_;
    RecordPages pages_;
    IommuParticipant& iommu_;
    std::map<const IommufdFile*, Prepared> prepared_;
    std::map<PhysAddr, Incoming> incoming_;
};

}  // namespace kexec_sim::luo
