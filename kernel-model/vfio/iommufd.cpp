#include "kernel-model/vfio/iommufd.hpp"

#include <algorithm>

#include "kernel-model/kernel.hpp"
#include "machine/reached.hpp"

namespace kexec_sim {
namespace {

std::unexpected<Errno> invalid() {
    REACHED("iommufd.mapping.invalid");
    return fail(Errno::einval);
}
std::unexpected<Errno> overlaps() {
    REACHED("iommufd.mapping.overlaps");
    return fail(Errno::eexist);
}

/// IOMMU_IOAS_MAP_READABLE and WRITEABLE: one of them at least, and nothing else that could get into an entry.
bool are_rights(u64 prot) { return prot != 0 && (prot & ~(vtd::PTE_READ | vtd::PTE_WRITE)) == 0; }

}  // namespace

IommufdFile::IommufdFile(Kernel& kernel, u64 id, std::string name)
    : File(id),
      kernel_(kernel),
      name_(std::move(name)) {}
IommufdFile::~IommufdFile() = default;

std::shared_ptr<IommufdFile> open_iommufd(Kernel& kernel, const std::string& name) {
    return kernel.vfs.make_file<IommufdFile>(kernel, kernel.vfs.next_file_id(), name);
}

Result<std::shared_ptr<IommuDomain>> IommufdFile::page_table() {
    if (!own_) {
        own_ = TRY(kernel_.iommu.create_domain(name_));
        kernel_.machine.device_referee.domain_belongs(domain_key(), id());
    }
    return own_;
}

/// Preserved: it may not change. A planned fault makes it forget that.
bool IommufdFile::refuses_change() const {
    if (!immutable) return false;
    if (!kernel_.machine.faults.skips(FaultPoint::iommufd_immutable, name_)) {
        REACHED("iommufd.immutable");
        return true;
    }
    if (own_) own_->immutable = false;
    return false;
}

Result<> IommufdFile::usable(u64 iova, u64 bytes) const {
    if (refuses_change()) return fail(Errno::eperm);
    if (bytes == 0 || (iova | bytes) % page_bytes || iova >= IommuDomain::iova_end ||
        bytes > IommuDomain::iova_end - iova)
        return invalid();
    auto next = mappings_.lower_bound(iova);
    if (next != mappings_.end() && next->first < iova + bytes) return overlaps();
    if (next != mappings_.begin()) {
        const auto before = std::prev(next);
        if (before->first + before->second.bytes > iova) return overlaps();
    }
    return {};
}

Result<> IommufdFile::map_frames(u64 iova, std::span<const PfnRange> frames, u64 prot) {
    const auto table = TRY(page_table());
    u64 done = 0;
    for (const PfnRange& part : frames) {
        if (const auto mapped = table->map(iova + done, part.phys(), prot); !mapped) {
            if (done) static_cast<void>(table->unmap(iova, done));
            return mapped;
        }
        done += part.phys().bytes();
    }
    kernel_.machine.device_referee.domain_mapped(domain_key(), iova, frames);
    return {};
}

Result<> IommufdFile::map(u64 iova, const std::shared_ptr<ShmemFile>& memory, u64 offset, u64 bytes, u64 prot) {
    TRY(usable(iova, bytes));
    if (!are_rights(prot) || offset % page_bytes || offset > memory->size() ||
        bytes > align_up(memory->size(), page_bytes) - offset)
        return invalid();
    TRY(memory->pin_all());
    const auto frames = memory->frames(offset, bytes);
    if (const auto mapped = map_frames(iova, frames, prot); !mapped) {
        REACHED("iommufd.map.undone");
        memory->unpin_all();
        return mapped;
    }
    Mapping mapping;
    mapping.bytes = bytes;
    mapping.prot = prot;
    mapping.memory = memory;
    mapping.offset = offset;
    mappings_.emplace(iova, std::move(mapping));
    return {};
}

std::optional<u64> IommufdFile::mapped_below(PhysAddr limit) const {
    for (const auto& [iova, mapping] : mappings_) {
        if (mapping.peer) continue;
        u64 done = 0;
        const auto frames =
            mapping.memory ? mapping.memory->frames(mapping.offset, mapping.bytes) : mapping.anonymous;
        for (const PfnRange& part : frames) {
            if (part.begin.phys() < limit) return iova + done;
            done += part.phys().bytes();
        }
    }
    return std::nullopt;
}

Result<> IommufdFile::map_anonymous(u64 iova, u64 bytes, u64 prot) {
    TRY(usable(iova, bytes));
    if (!are_rights(prot)) return invalid();
    Mapping mapping;
    mapping.bytes = bytes;
    mapping.prot = prot;
    mapping.anonymous = TRY(kernel_.pages.alloc_pages(
        {.order = Order{0}, .site = "agent.anonymous", .frame_class = FrameClass::agent}, bytes >> page_shift));
    kernel_.pages.pin_pages(mapping.anonymous.front());
    for (std::size_t i = 1; i < mapping.anonymous.size(); ++i) kernel_.pages.pin_pages(mapping.anonymous[i]);
    if (const auto mapped = map_frames(iova, mapping.anonymous, prot); !mapped) {
        unpin(mapping);
        return mapped;
    }
    mappings_.emplace(iova, std::move(mapping));
    return {};
}

Result<> IommufdFile::map_peer(u64 iova, const PciDevice& peer, unsigned bar, u64 bytes) {
    if (bar >= peer.bars.size() || peer.bars[bar].address == 0) return invalid();
    if (!peer.adopted && !kernel_.vfio.file_of(peer)) return fail(Errno::eacces);
    TRY(usable(iova, bytes));
    // Of an incoming function that nobody has restored yet the size is not known.
    if (peer.bars[bar].bytes && bytes > peer.bars[bar].bytes) return invalid();
    const auto table = TRY(page_table());
    TRY(table->map(iova, phys_range(PhysAddr{peer.bars[bar].address}, bytes), vtd::PTE_READ | vtd::PTE_WRITE));
    kernel_.machine.device_referee.domain_mapped_peer(domain_key(), iova, bytes, *peer.hardware);
    Mapping mapping;
    mapping.bytes = bytes;
    mapping.prot = vtd::PTE_READ | vtd::PTE_WRITE;
    mapping.peer = peer.address;
    mapping.bar = bar;
    mappings_.emplace(iova, std::move(mapping));
    return {};
}

void IommufdFile::unpin(const Mapping& mapping) {
    if (mapping.memory) mapping.memory->unpin_all();
    for (const PfnRange& part : mapping.anonymous) {
        kernel_.pages.unpin_pages(part);
        kernel_.pages.free_pages(part);
    }
}

Result<> IommufdFile::unmap(u64 iova, u64 bytes) {
    if (refuses_change()) return fail(Errno::eperm);
    const auto at = mappings_.find(iova);
    if (at == mappings_.end() || at->second.bytes != bytes) {
        REACHED("iommufd.unmap.no_mapping");
        return fail(Errno::enoent);
    }
    TRY(own_->unmap(iova, bytes));
    kernel_.iommu.flush(*own_);
    kernel_.machine.device_referee.domain_unmapped(domain_key(), iova, bytes);
    unpin(at->second);
    mappings_.erase(at);
    return {};
}

Result<> IommufdFile::attach(const std::shared_ptr<VfioFile>& device) {
    if (immutable || device->preserved) return fail(Errno::eperm);
    if (!device->present()) return fail(Errno::enodev);
    const auto table = TRY(page_table());
    const auto current = kernel_.iommu.domain_of(device->device());
    if (current && current != restored && current != table) {
        REACHED("iommufd.attach.elsewhere");
        return fail(Errno::ebusy);
    }
    TRY(kernel_.iommu.replace(table, device->device()));
    kernel_.machine.device_referee.domain_attached(domain_key(), *device->device().hardware);
    const bool known = std::ranges::any_of(devices_, [&](const auto& one) { return one.lock() == device; });
    if (!known) devices_.push_back(device);
    device->iommufd = std::static_pointer_cast<IommufdFile>(kernel_.vfs.find_file(id()));
    if (current && current == restored && on_moved) on_moved(*this);
    return {};
}

void IommufdFile::adopt_device(const std::shared_ptr<VfioFile>& device) {
    if (restored) kernel_.iommu.adopt_attachment(restored, device->device());
    devices_.push_back(device);
    device->iommufd = std::static_pointer_cast<IommufdFile>(kernel_.vfs.find_file(id()));
}

void IommufdFile::detach(VfioFile& device) {
    const bool leaves_restored = restored && kernel_.iommu.domain_of(device.device()) == restored;
    kernel_.iommu.detach(device.device());
    kernel_.machine.device_referee.domain_detached(*device.device().hardware);
    std::erase_if(devices_, [&](const auto& one) {
        const auto file = one.lock();
        return !file || file.get() == &device;
    });
    if (leaves_restored && on_moved) on_moved(*this);
}

std::vector<std::shared_ptr<VfioFile>> IommufdFile::devices() const {
    std::vector<std::shared_ptr<VfioFile>> alive;
    for (const auto& one : devices_)
        if (auto file = one.lock()) alive.push_back(std::move(file));
    return alive;
}

void IommufdFile::release() {
    if (preserved) return;
    for (const auto& device : devices()) detach(*device);
    if (own_) {
        const auto destroyed = kernel_.iommu.destroy_domain(*own_);
        INVARIANT(destroyed.has_value());  // a device that went was taken out as it went
        kernel_.machine.device_referee.domain_destroyed(domain_key());
    }
    for (const auto& [iova, mapping] : mappings_) unpin(mapping);
    mappings_.clear();
}

}  // namespace kexec_sim
