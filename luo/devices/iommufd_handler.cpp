#include "luo/devices/iommufd_handler.hpp"

#include <algorithm>
#include <utility>

#include "kernel-model/abi_write.hpp"
#include "kernel-model/handed_over.hpp"
#include "machine/reached.hpp"

namespace kexec_sim::luo {
namespace {

constexpr u64 hwpt_token = 1;
/// x86: a kernel that boots puts its real mode trampoline somewhere below, before it looks at what is preserved.
constexpr PhysAddr boot_uses_below{MiB};

IommufdFile& iommufd(File& file) { return dynamic_cast<IommufdFile&>(file); }

/// Whatever is mapped is a BAR, or memory of a file that goes over the kexec itself.
bool memory_prepared(const IommufdFile& owner) {
    return std::ranges::all_of(owner.mappings(), [](const auto& one) {
        const auto& mapping = one.second;
        return mapping.peer || (mapping.memory && mapping.memory->frozen());
    });
}

}  // namespace

IommufdHandler::IommufdHandler(Kernel& kernel, kho::Kho& kho, Orchestrator& orchestrator, IommuParticipant& iommu)
    : FileHandler(abi::IOMMUFD_COMPATIBLE),
      kernel_(kernel),
      pages_(kernel, kho, orchestrator, abi::IOMMUFD_COMPATIBLE, FrameClass::handler),
      iommu_(iommu) {}

IommufdHandler::~IommufdHandler() {
    // A file that only a device has asked for dies with the kernel, not by a release.
    kernel_.vfs.destroy_all();
}

bool IommufdHandler::can_preserve(File& file) {
    return dynamic_cast<IommufdFile*>(&file) && iommu_.ensure_registered();
}

// --- the old kernel ----------------------------------------------------------------------------------------------

Result<> IommufdHandler::prepare(File& file, u64& data) {
    IommufdFile& owner = iommufd(file);
    if (prepared(owner)) {
        REACHED("luo.iommufd.second_token");
        return fail(Errno::ebusy);
    }
    if (owner.restored && owner.restored->attached) return fail(Errno::ebusy);
    if (!memory_prepared(owner)) {
        REACHED("luo.iommufd.memory_not_preserved");
        return fail(Errno::einval);
    }
    if (const auto iova = owner.mapped_below(boot_uses_below)) {
        REACHED("luo.iommufd.low_memory");
        kernel_.log.err("iommufd: IOVA {:#x} is mapped to memory below 1 MiB, which a booting kernel writes to",
                        *iova);
        return fail(Errno::einval);
    }
    const auto table = TRY(owner.page_table());
    const PhysAddr domain = TRY(iommu_.preserve_domain(*table));
    const auto record = pages_.allocate("iommufd.ser");
    if (!record) {
        iommu_.unpreserve_domain(*table);
        return fail(record.error());
    }
    PhysicalMemory& ram = kernel_.machine.ram;
    abi_write(ram, *record, abi::IommufdSer{1}, "iommufd.ser");
    abi_write(ram, *record + sizeof(abi::IommufdSer), abi::IommufdHwptSer{domain.raw, hwpt_token, 0, {}},
              "iommufd.hwpt_ser");
    owner.immutable = true;
    owner.preserved = true;
    prepared_[&owner] = {*record, domain};
    data = record->raw;
    return {};
}

Result<> IommufdHandler::freeze(File& file, u64&) {
    if (!memory_prepared(iommufd(file))) {
        REACHED("luo.iommufd.memory_cancelled");
        return fail(Errno::einval);
    }
    for (const auto& [iova, mapping] : iommufd(file).mappings()) {
        if (!mapping.peer) continue;
        const PciDevice* peer = kernel_.pci.find(*mapping.peer);
        if (peer && peer->keep_running) continue;
        REACHED("luo.iommufd.peer_not_preserved");
        return fail(Errno::einval);
    }
    return {};
}

void IommufdHandler::cancel(File& file, u64 data) {
    IommufdFile& owner = iommufd(file);
    if (data == 0 || !prepared_.erase(&owner)) return;
    pages_.release(PhysAddr{data});
    if (const auto table = owner.page_table()) iommu_.unpreserve_domain(**table);
    owner.immutable = false;
    owner.preserved = false;
}

std::optional<IommufdHandler::Prepared> IommufdHandler::prepared(const IommufdFile& file) const {
    const auto at = prepared_.find(&file);
    if (at == prepared_.end()) return std::nullopt;
    return at->second;
}

// --- the new kernel ----------------------------------------------------------------------------------------------

Result<std::shared_ptr<IommufdFile>> IommufdHandler::incoming(PhysAddr record) {
    const auto known = incoming_.find(record);
    if (known != incoming_.end())
        if (auto file = known->second.known.lock()) return file;
    if (known != incoming_.end() || !pages_.restore(record)) {
        REACHED("luo.iommufd.record_lost");
        return fail(Errno::enoent);
    }
    const u64 count = read_handed_over<abi::IommufdSer>(kernel_.machine, record, compatible).nr_hwpts;
    const auto hwpt =
        read_handed_over<abi::IommufdHwptSer>(kernel_.machine, record + sizeof(abi::IommufdSer), compatible);
    if (count != 1 || hwpt.token != hwpt_token) {
        REACHED("luo.iommufd.record_bad");
        pages_.free(record);
        return fail(Errno::einval);
    }
    const auto domain = iommu_.incoming_domain(PhysAddr{hwpt.domain_data});
    if (!domain) {
        REACHED("luo.iommufd.domain_lost");
        pages_.free(record);
        return fail(Errno::enoent);
    }
    auto file = open_iommufd(kernel_, fmt::format("iommufd {:#x}", record.raw));
    file->restored = domain;
    file->on_moved = [this, record](IommufdFile& moved) { moved_over(record, moved); };
    incoming_[record] = {PhysAddr{hwpt.domain_data}, file, file};
    return file;
}

Result<FileRef> IommufdHandler::retrieve(u64 data) {
    auto file = TRY(incoming(PhysAddr{data}));
    incoming_[PhysAddr{data}].file.reset();
    pages_.free(PhysAddr{data});  // a device that asks for the file later finds it in the books
    return FileRef(std::move(file));
}

void IommufdHandler::moved_over(PhysAddr record, IommufdFile& file) {
    const auto at = incoming_.find(record);
    if (at == incoming_.end() || !at->second.finish_when_idle) return;
    if (file.restored && file.restored->attached) return;
    file.restored.reset();
    const PhysAddr domain = at->second.domain;
    incoming_.erase(at);
    iommu_.finish_domain(domain);
}

bool IommufdHandler::can_finish(const File* file, u64) {
    const auto* owner = dynamic_cast<const IommufdFile*>(file);
    return owner && (!owner->restored || !owner->restored->attached);
}

void IommufdHandler::finish(File* file, u64 data, bool) {
    const PhysAddr record{data};
    if (!file) {
        // Nobody asked for it. A device may have, which holds the file; then only its devices end with it.
        const auto known = incoming(record);
        if (!known) {
            incoming_.erase(record);
            return;
        }
        const auto domain = std::exchange((*known)->restored, nullptr);
        for (const auto& device : kernel_.pci.devices())
            if (kernel_.iommu.domain_of(*device) == domain) kernel_.iommu.detach(*device);
        const Incoming ended = std::move(incoming_[record]);
        incoming_.erase(record);
        iommu_.finish_domain(ended.domain);
        if (ended.file) pages_.free(record);
        return;
    }
    const auto at = incoming_.find(record);
    if (at == incoming_.end()) return;
    IommufdFile& owner = iommufd(*file);
    const bool asked = !kernel_.machine.faults.skips(FaultPoint::iommu_can_finish, owner.name());
    if (asked && !can_finish(file, data)) {
        REACHED("luo.iommufd.still_attached");
        kernel_.log.warn("iommufd: the preserved page table is kept, {} device(s) use it", owner.restored->attached);
        at->second.finish_when_idle = true;
        return;
    }
    owner.restored.reset();
    iommu_.finish_domain(at->second.domain, !asked);
    incoming_.erase(at);
}

}  // namespace kexec_sim::luo
