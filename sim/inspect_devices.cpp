#include "sim/inspect_devices.hpp"

#include <fmt/format.h>
#include <set>

#include "luo/abi/devices.hpp"
#include "machine/iommu/registers.hpp"
#include "machine/pci/address.hpp"

namespace kexec_sim::sim {
namespace {

namespace abi = luo::abi;

class DeviceDecoder {
public:
    DeviceDecoder(const PhysicalMemory& ram, Inspected& out, std::string name)
        : ram_(ram),
          out_(out),
          name_(std::move(name)) {}

    void pci(PhysAddr data) {
        if (!take(data, "header")) return;
        const auto header = ram_.read<abi::PciSer>(data);
        begin(data, fmt::format("version {}, {} devices", header.version, header.nr_devices));
        if (header.version != abi::PCI_VERSION)
            return problem(data, fmt::format("version {} is not {}", header.version, abi::PCI_VERSION));
        u32 devices = 0;
        for (PhysAddr block{header.devices}; block.raw;) {
            if (!take(block, "block of devices")) break;
            const auto head = ram_.read<abi::PciBlock>(block);
            if (head.slots > abi::pci_block_slots)
                return problem(block, fmt::format("a block of {} slots", head.slots));
            for (u64 slot = 0; slot < head.slots; ++slot) {
                const auto device =
                    ram_.read<abi::PciDevSer>(block + sizeof(abi::PciBlock) + slot * sizeof(abi::PciDevSer));
                if (device.refcount == 0) continue;
                ++devices;
                line("{}  refcount {}", PciAddress{device.domain, Bdf(device.bdf)}.text(), device.refcount);
            }
            block = PhysAddr{head.next};
        }
        if (devices != header.nr_devices)
            problem(data, fmt::format("the header says {} devices, the blocks hold {}", header.nr_devices, devices));
    }

    void iommu(PhysAddr data) {
        if (!take(data, "header")) return;
        const auto header = ram_.read<abi::IommuFlbSer>(data);
        begin(data, fmt::format("version {}", header.version));
        if (header.version != abi::IOMMU_VERSION)
            return problem(data, fmt::format("version {} is not {}", header.version, abi::IOMMU_VERSION));
        objects<abi::IommuHwSer>(PhysAddr{header.iommu_array}, "array of units",
                                 [&](PhysAddr at, const auto& unit) { this->unit(at, unit); });
        objects<abi::IommuDomainSer>(PhysAddr{header.domain_array}, "array of domains",
                                     [&](PhysAddr at, const auto& domain) { this->domain(at, domain); });
        objects<abi::IommuDeviceSer>(PhysAddr{header.device_array}, "array of devices",
                                     [&](PhysAddr at, const auto& device) {
                                         line("device {} at {:#x}: domain id {}, domain {:#x}, unit {:#x}",
                                              PciAddress{device.pci_domain, Bdf(device.devid)}.text(), at.raw,
                                              device.attachment_id, device.domain, device.iommu);
                                     });
    }

    void vfio(PhysAddr data) {
        if (!take(data, "record")) return;
        const auto ser = ram_.read<abi::VfioSer>(data);
        begin(data, PciAddress{ser.domain, Bdf(ser.bdf)}.text());
        for (unsigned bar = 0; bar < 6; ++bar)
            if (ser.bar_bytes[bar]) line("BAR {}: {:#x} bytes", bar, u64{ser.bar_bytes[bar]});
        if (ser.iommufd) line("iommufd record {:#x}", u64{ser.iommufd});
        if (ser.iommu_device) line("attachment {:#x}", u64{ser.iommu_device});
    }

    void iommufd(PhysAddr data) {
        if (!take(data, "record")) return;
        const u64 count = ram_.read<abi::IommufdSer>(data).nr_hwpts;
        begin(data, fmt::format("{} page tables", count));
        constexpr u64 room = (page_bytes - sizeof(abi::IommufdSer)) / sizeof(abi::IommufdHwptSer);
        if (count > room) return problem(data, "more page tables than a page holds");
        for (u64 index = 0; index < count; ++index) {
            const auto hwpt =
                ram_.read<abi::IommufdHwptSer>(data + sizeof(abi::IommufdSer) + index * sizeof(abi::IommufdHwptSer));
            line("page table {}: domain {:#x}", hwpt.token, hwpt.domain_data);
        }
    }

    void kvm(PhysAddr data) {
        if (!take(data, "record")) return;
        const auto ser = ram_.read<abi::KvmSer>(data);
        const bool confidential = ser.type == abi::KVM_TYPE_SNP;
        begin(data, confidential ? "SEV-SNP" : "default");
        if (!confidential) return;
        line("context page {:#x}", ser.snp_context);
        if (ser.nr_runs > abi::kvm_runs_max) return problem(data, "more runs than a page holds");
        for (u64 index = 0; index < ser.nr_runs; ++index) {
            const auto run = ram_.read<abi::KvmRun>(data + sizeof(abi::KvmSer) + index * sizeof(abi::KvmRun));
            line("private: {} pages from frame {:#x}", run.pages, run.pfn);
        }
        take(PhysAddr{ser.snp_context}, "context page");
    }

private:
    void problem(PhysAddr at, const std::string& what) {
        out_.problems.push_back(fmt::format("{:#x}: {}: {}", at.raw, name_, what));
    }
    void begin(PhysAddr at, std::string what) { out_.records.push_back({name_, at, std::move(what), {}}); }
    template <typename... Args> void line(fmt::format_string<Args...> format, Args&&... args) {
        out_.records.back().lines.push_back(fmt::format(format, std::forward<Args>(args)...));
    }
    /// A page that belongs to this record. False, and a problem: it is not in RAM, or was met before.
    bool take(PhysAddr page, std::string_view what) {
        if (!page.page_aligned() || !ram_.contains(page, page_bytes)) {
            problem(page, fmt::format("the {} lies outside RAM", what));
            return false;
        }
        if (!seen_.insert(page.raw).second) {
            problem(page, fmt::format("the {} is met for the second time", what));
            return false;
        }
        out_.owners.push_back({phys_range(page, page_bytes), name_});
        return true;
    }

    template <typename Object, typename Call> void objects(PhysAddr first, std::string_view what, Call call) {
        constexpr u64 room = (page_bytes - sizeof(abi::ArrayHeader)) / sizeof(Object);
        for (PhysAddr page = first; page.raw;) {
            if (!take(page, what)) return;
            const auto header = ram_.read<abi::ArrayHeader>(page);
            if (header.nr_objects > room)
                return problem(page, fmt::format("the {} says {}", what, header.nr_objects));
            for (u64 index = 0; index < header.nr_objects; ++index) {
                const PhysAddr at = page + sizeof(abi::ArrayHeader) + index * sizeof(Object);
                const auto object = ram_.read<Object>(at);
                if (!(object.header.flags & abi::OBJECT_DELETED)) call(at, object);
            }
            page = PhysAddr{header.next_array};
        }
    }

    void unit(PhysAddr at, const abi::IommuHwSer& unit) {
        std::string buses;
        for (unsigned bus = 0; bus < 256; ++bus)
            if (unit.contexts[bus / 64] >> bus % 64 & 1) buses += fmt::format(" {:02x}", bus);
        line("unit {:#x} at {:#x}: root table {:#x}", unit.token, at.raw, unit.root_table);
        line("  context tables of buses{}", buses.empty() ? " none" : buses);
        const PhysAddr root{unit.root_table};
        if (!take(root, "root table")) return;
        for (unsigned bus = 0; bus < 256; ++bus)
            if (unit.contexts[bus / 64] >> bus % 64 & 1)
                take(ram_.read<vtd::RootEntry>(root + bus * sizeof(vtd::RootEntry)).context_table(), "context table");
    }

    struct Tree {
        u64 tables = 0, leaves = 0, bytes = 0;
    };
    void domain(PhysAddr at, const abi::IommuDomainSer& domain) {
        Tree tree;
        if (domain.top_level < 1 || domain.top_level > 5)
            problem(at, fmt::format("a page table of {} levels", domain.top_level));
        else
            walk(PhysAddr{domain.top_table}, static_cast<unsigned>(domain.top_level), tree);
        line("domain at {:#x}: top table {:#x}, {} levels", at.raw, domain.top_table, domain.top_level);
        line("  {} tables, {} leaves, {:#x} bytes mapped", tree.tables, tree.leaves, tree.bytes);
    }
    void walk(PhysAddr table, unsigned level, Tree& tree) {
        if (!take(table, "page table")) return;
        ++tree.tables;
        for (unsigned index = 0; index < 512; ++index) {
            const u64 entry = ram_.read<u64>(table + 8 * index);
            if (!(entry & (vtd::PTE_READ | vtd::PTE_WRITE))) continue;
            if (level > 1 && !(entry & vtd::PTE_LARGE)) {
                walk(PhysAddr{entry & vtd::PTE_ADDRESS}, level - 1, tree);
                continue;
            }
            ++tree.leaves;
            tree.bytes += page_bytes << 9 * (level - 1);
        }
    }

    const PhysicalMemory& ram_;
    Inspected& out_;
    std::string name_;
    std::set<u64> seen_;
};

}  // namespace

void decode_device_subsystem(const PhysicalMemory& ram, Inspected& out, std::string_view name, PhysAddr data) {
    DeviceDecoder decoder(ram, out, fmt::format("subsystem {}", name));
    if (name == abi::PCI_SUBSYSTEM) decoder.pci(data);
    if (name == abi::IOMMU_SUBSYSTEM) decoder.iommu(data);
}

void decode_device_file(const PhysicalMemory& ram, Inspected& out, const Inspected::MemoryFile& file) {
    DeviceDecoder decoder(ram, out, fmt::format("{} {:#x}", file.handler, file.token));
    if (file.handler == abi::VFIO_COMPATIBLE)
        decoder.vfio(file.tree);
    else if (file.handler == abi::IOMMUFD_COMPATIBLE)
        decoder.iommufd(file.tree);
    else if (file.handler == abi::KVM_COMPATIBLE)
        decoder.kvm(file.tree);
}

}  // namespace kexec_sim::sim
