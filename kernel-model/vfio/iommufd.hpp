// iommufd: user space's hold on a domain.
//
//   IommufdFile ── IOAS: iova ──► file and offset, anonymous memory, or a BAR of another function
//        │  (what user space asked to be mapped; the pages are pinned)
//        └──── HWPT: an IommuDomain with the same mappings in page tables ──► devices attached
//
// One address space and one page table a file; its token for a live update is 1.
//
// A file that came from the previous kernel has, beside, the page table that the devices still use (`restored`): it is
// never changed, and goes when every device has left it (moved over to the file's own table by replace, closed, or
// removed) and the update is finished.
//
// Immutable: neither map, unmap nor attach (EPERM); what a preserved file is. A preserved device cannot be attached to
// anything either.
//
// Unhappy paths: 1. EPERM immutable. 2. EINVAL: not page aligned, beyond the file, empty. 3. EEXIST: overlaps a mapping;
// ENOENT: unmap of what is no whole mapping. 4. ENOMEM. 5. EBUSY: the device is attached elsewhere; a mapping whose file
// shrank under it cannot happen (its pages are pinned).
// Source: Linux 7.3, drivers/iommu/iommufd.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "kernel-model/iommu/domain.hpp"
#include "kernel-model/shmem.hpp"
#include "kernel-model/vfio/vfio.hpp"

namespace kexec_sim {

class IommufdFile final : public File {
public:
    IommufdFile(Kernel& kernel, u64 id, std::string name);
    ~IommufdFile() override;
    std::string_view kind() const override { return "iommufd"; }
    void release() override;

    struct Mapping {
        u64 bytes = 0;
        u64 prot = 0;  // vtd::PTE_READ, PTE_WRITE
        std::shared_ptr<ShmemFile> memory;
        u64 offset = 0;
        std::vector<PfnRange> anonymous;  // where there is no file
        // A BAR, of which nothing is pinned.
        std::optional<PciAddress> peer;
        unsigned bar = 0;
    };
    Result<> map(u64 iova, const std::shared_ptr<ShmemFile>& memory, u64 offset, u64 bytes, u64 prot);
    Result<> map_anonymous(u64 iova, u64 bytes, u64 prot);
    /// The first `bytes` of a BAR of a function that user space has (or is going to have: incoming): leaves that lie
    /// outside RAM. EACCES: it has another owner.
    Result<> map_peer(u64 iova, const PciDevice& peer, unsigned bar, u64 bytes);
    Result<> unmap(u64 iova, u64 bytes);
    /// Puts the device into this file's page table, out of the restored one if it is there (hotswap).
    Result<> attach(const std::shared_ptr<VfioFile>& device);
    /// Takes the device out of whichever page table it is in: it is closed, or removed.
    void detach(VfioFile& device);

    const std::string& name() const { return name_; }
    const std::map<u64, Mapping>& mappings() const { return mappings_; }
    /// The IOVA of a page of memory that lies below `limit`; nullopt: all lie above.
    std::optional<u64> mapped_below(PhysAddr limit) const;
    /// ENOMEM. Made when first needed.
    Result<std::shared_ptr<IommuDomain>> page_table();
    std::shared_ptr<IommuDomain> restored;
    /// A device has left the restored page table: for this file's own, or for good.
    std::function<void(IommufdFile&)> on_moved;
    std::vector<std::shared_ptr<VfioFile>> devices() const;
    bool immutable = false;
    bool preserved = false;
    /// The instruments' name for this file's own page table in this generation.
    u64 domain_key() const { return id(); }
    /// Puts a device of the previous kernel under the restored page table; nothing is written.
    void adopt_device(const std::shared_ptr<VfioFile>& device);

private:
    bool refuses_change() const;
    Result<> usable(u64 iova, u64 bytes) const;
    Result<> map_frames(u64 iova, std::span<const PfnRange> frames, u64 prot);
    void unpin(const Mapping& mapping);

    Kernel& kernel_;
    std::string name_;
    std::shared_ptr<IommuDomain> own_;
    std::map<u64, Mapping> mappings_;
    std::vector<std::weak_ptr<VfioFile>> devices_;
};

/// open("/dev/iommu").
std::shared_ptr<IommufdFile> open_iommufd(Kernel& kernel, const std::string& name);

}  // namespace kexec_sim
