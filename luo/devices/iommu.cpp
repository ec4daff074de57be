#include "luo/devices/iommu.hpp"

#include <algorithm>

#include "kernel-model/abi_write.hpp"
#include "kernel-model/handed_over.hpp"
#include "machine/reached.hpp"

namespace kexec_sim::luo {
namespace {

constexpr u64 arrays_max = 4096;
constexpr u32 address_bits = 48;

/// Of whom the record speaks; nullopt: nobody can have that requester id.
std::optional<PciAddress> source_of(const abi::IommuDeviceSer& device) {
    if (device.devid > 0xffff) return std::nullopt;
    return PciAddress{device.pci_domain, Bdf(static_cast<u16>(device.devid))};
}

}  // namespace

IommuParticipant::IommuParticipant(Kernel& kernel, kho::Kho& kho, Orchestrator& orchestrator)
    : kernel_(kernel),
      pages_(kernel, kho, orchestrator, abi::IOMMU_SUBSYSTEM, FrameClass::subsystem),
      subsystem_(
          kernel, orchestrator, abi::IOMMU_SUBSYSTEM, [this](PhysAddr data) { boot(data); },
          [this] { finish_unclaimed(); }) {}

// --- arrays of objects -------------------------------------------------------------------------------------------

Result<> IommuParticipant::make_arrays() {
    if (top_.raw) return {};
    if (!subsystem_.registered()) return fail(Errno::enodev);
    std::vector<PhysAddr> made;
    for (unsigned page = 0; page < 4; ++page) {
        const auto one = pages_.allocate(page == 0 ? "iommu.ser" : "iommu.array");
        if (!one) {
            for (const PhysAddr back : made) pages_.release(back);
            return fail(one.error());
        }
        made.push_back(*one);
    }
    top_ = made[0];
    units_.pages = {made[1]};
    domains_.pages = {made[2]};
    devices_.pages = {made[3]};
    abi_write(kernel_.machine.ram, top_, abi::IommuFlbSer{abi::IOMMU_VERSION, made[1].raw, made[2].raw, made[3].raw},
              "iommu.ser");
    subsystem_.set_handle(top_);
    return {};
}

void IommuParticipant::free_arrays_if_empty() {
    if (!top_.raw || !preserved_units_.empty() || !preserved_domains_.empty() || !preserved_devices_.empty()) return;
    for (Array* array : {&units_, &domains_, &devices_}) {
        for (const PhysAddr page : array->pages) pages_.release(page);
        array->pages.clear();
    }
    pages_.release(top_);
    top_ = {};
    subsystem_.set_handle({});
}

Result<PhysAddr> IommuParticipant::add_object(Array& array, std::span<const std::byte> object,
                                              std::string_view site) {
    PhysicalMemory& ram = kernel_.machine.ram;
    PhysAddr page = array.pages.back();
    u64 count = ram.read<abi::ArrayHeader>(page).nr_objects;
    if (sizeof(abi::ArrayHeader) + (count + 1) * object.size() > page_bytes) {
        const PhysAddr next = TRY(pages_.allocate("iommu.array"));
        abi_write<u64>(ram, page + offsetof(abi::ArrayHeader, next_array), next.raw, "iommu.array.next");
        array.pages.push_back(next);
        page = next;
        count = 0;
    }
    const PhysAddr at = page + sizeof(abi::ArrayHeader) + count * object.size();
    abi_write_bytes(ram, at, object, site);
    abi_write<u64>(ram, page + offsetof(abi::ArrayHeader, nr_objects), count + 1, "iommu.array.nr_objects");
    return at;
}

void IommuParticipant::delete_object(PhysAddr object) {
    abi_write(kernel_.machine.ram, object, abi::ObjectHeader{0, abi::OBJECT_DELETED}, "iommu.object.deleted");
}

// --- the old kernel ----------------------------------------------------------------------------------------------

Result<> IommuParticipant::preserve_tables(std::span<const Pfn> tables, std::string_view name,
                                           std::vector<Pfn>& done) {
    for (const Pfn table : tables) {
        const auto preserved = under_fault(kernel_.machine.faults, FaultPoint::iommu_preserve_table, name,
                                           [&] { return pages_.preserve(table); });
        if (!preserved) {
            REACHED("luo.iommu.tables_undone");
            for (const Pfn back : done) pages_.unpreserve(back);
            done.clear();
            return preserved;
        }
        done.push_back(table);
    }
    return {};
}

Result<PhysAddr> IommuParticipant::preserve_domain(IommuDomain& domain) {
    TRY(make_arrays());
    Domain preserved;
    const auto undo = [&](Errno error) {
        for (const Pfn table : preserved.tables) pages_.unpreserve(table);
        free_arrays_if_empty();
        return fail(error);
    };
    if (const auto tables = preserve_tables(domain.tables(), domain.name(), preserved.tables); !tables)
        return undo(tables.error());
    const abi::IommuDomainSer ser{{1, 0}, domain.top().phys().raw, IommuDomain::levels, address_bits, 0, 0};
    const auto record = add_object(domains_, std::as_bytes(std::span(&ser, 1)), "iommu.domain_ser");
    if (!record) return undo(record.error());
    domain.immutable = true;
    preserved.record = *record;
    preserved_domains_[&domain] = preserved;
    return *record;
}

void IommuParticipant::unpreserve_domain(IommuDomain& domain) {
    const auto at = preserved_domains_.find(&domain);
    if (at == preserved_domains_.end()) return;
    delete_object(at->second.record);
    for (const Pfn table : at->second.tables) pages_.unpreserve(table);
    domain.immutable = false;
    preserved_domains_.erase(at);
    free_arrays_if_empty();
}

Result<PhysAddr> IommuParticipant::preserve_unit(const PciDevice& device) {
    const auto view = kernel_.iommu.unit_of(device);
    INVARIANT(view.has_value());  // it is attached
    const auto known = preserved_units_.find(device.address.segment);
    if (known != preserved_units_.end()) {
        TRY(preserve_new_contexts(known->second, *view));
        ++known->second.references;
        return known->second.record;
    }
    Unit unit;
    unit.references = 1;
    std::vector<Pfn> tables{view->root_table.pfn()};
    tables.insert(tables.end(), view->context_tables.begin(), view->context_tables.end());
    TRY(preserve_tables(tables, "unit", unit.tables));
    abi::IommuHwSer ser{{1, 0}, view->registers.raw, abi::IOMMU_TYPE_VTD, view->registers.raw, view->root_table.raw,
                        {}};
    fill_contexts(ser);
    const auto record = add_object(units_, std::as_bytes(std::span(&ser, 1)), "iommu.hw_ser");
    if (!record) {
        for (const Pfn table : unit.tables) pages_.unpreserve(table);
        return record;
    }
    unit.record = *record;
    preserved_units_[device.address.segment] = unit;
    return *record;
}

/// A device of a bus that had none when the unit was preserved brings a context table of its own.
Result<> IommuParticipant::preserve_new_contexts(Unit& unit, const IommuDriver::UnitView& view) {
    std::vector<Pfn> fresh, done;
    for (const Pfn table : view.context_tables)
        if (std::ranges::find(unit.tables, table) == unit.tables.end()) fresh.push_back(table);
    if (fresh.empty()) return {};
    TRY(preserve_tables(fresh, "unit", done));
    unit.tables.insert(unit.tables.end(), done.begin(), done.end());
    auto ser = kernel_.machine.ram.read<abi::IommuHwSer>(unit.record);
    fill_contexts(ser);
    abi_write(kernel_.machine.ram, unit.record, ser, "iommu.hw_ser");
    return {};
}

void IommuParticipant::fill_contexts(abi::IommuHwSer& ser) const {
    for (unsigned bus = 0; bus < 256; ++bus) {
        const PhysAddr at{ser.root_table + bus * sizeof(vtd::RootEntry)};
        if (kernel_.machine.ram.read<vtd::RootEntry>(at).present()) ser.contexts[bus / 64] |= u64{1} << bus % 64;
    }
}

void IommuParticipant::unpreserve_unit(u32 segment) {
    const auto at = preserved_units_.find(segment);
    if (at == preserved_units_.end() || --at->second.references) return;
    delete_object(at->second.record);
    for (const Pfn table : at->second.tables) pages_.unpreserve(table);
    preserved_units_.erase(at);
}

Result<PhysAddr> IommuParticipant::preserve_device(const PciDevice& device) {
    TRY(make_arrays());
    const auto unit = preserve_unit(device);
    if (!unit) {
        free_arrays_if_empty();
        return unit;
    }
    const auto attached = kernel_.iommu.domain_of(device);
    const abi::IommuDeviceSer ser{
        {1, 0},   device.address.bdf.raw, device.address.segment, attached ? attached->domain_id : u64{0}, 0,
        unit->raw};
    const auto record = add_object(devices_, std::as_bytes(std::span(&ser, 1)), "iommu.device_ser");
    if (!record) {
        unpreserve_unit(device.address.segment);
        free_arrays_if_empty();
        return record;
    }
    preserved_devices_[device.address] = *record;
    return *record;
}

void IommuParticipant::bind_device(const PciDevice& device, PhysAddr domain) {
    const auto at = preserved_devices_.find(device.address);
    INVARIANT(at != preserved_devices_.end());  // a preserved device is not attached to anything new
    abi_write<u64>(kernel_.machine.ram, at->second + offsetof(abi::IommuDeviceSer, domain), domain.raw,
                   "iommu.device_ser.domain");
}

void IommuParticipant::unpreserve_device(const PciDevice& device) {
    const auto at = preserved_devices_.find(device.address);
    if (at == preserved_devices_.end()) return;
    delete_object(at->second);
    preserved_devices_.erase(at);
    unpreserve_unit(device.address.segment);
    free_arrays_if_empty();
}

// --- the new kernel ----------------------------------------------------------------------------------------------

std::vector<PhysAddr> IommuParticipant::read_array(PhysAddr first, u64 object_bytes, std::string_view what) {
    Machine& machine = kernel_.machine;
    std::vector<PhysAddr> objects;
    for (PhysAddr page = first; page.raw || page == first;
         page = PhysAddr{read_handed_over<u64>(machine, page, "iommu")}) {
        if (incoming_pages_.size() > arrays_max || !pages_.restore(page)) {
            REACHED("luo.iommu.array_lost");
            throw KernelPanic(fmt::format("iommu: the array of preserved {} cannot be restored", what));
        }
        incoming_pages_.push_back(page);
        const u64 room = (page_bytes - sizeof(abi::ArrayHeader)) / object_bytes;
        const u64 count = std::min(read_handed_over<abi::ArrayHeader>(machine, page, "iommu").nr_objects, room);
        for (u64 index = 0; index < count; ++index) {
            const PhysAddr at = page + sizeof(abi::ArrayHeader) + index * object_bytes;
            if (!(read_handed_over<abi::ObjectHeader>(machine, at, "iommu").flags & abi::OBJECT_DELETED))
                objects.push_back(at);
        }
    }
    return objects;
}

void IommuParticipant::boot(PhysAddr top) {
    if (!pages_.restore(top)) {
        REACHED("luo.iommu.top_lost");
        throw KernelPanic("iommu: what the previous kernel preserved cannot be restored");
    }
    incoming_pages_.push_back(top);
    const auto ser = read_handed_over<abi::IommuFlbSer>(kernel_.machine, top, "iommu");
    if (ser.version != abi::IOMMU_VERSION) {
        REACHED("luo.iommu.version");
        throw KernelPanic(fmt::format("iommu: live update version {} is not {}", ser.version, abi::IOMMU_VERSION));
    }
    const auto units = read_array(PhysAddr{ser.iommu_array}, sizeof(abi::IommuHwSer), "units");
    for (const PhysAddr record : read_array(PhysAddr{ser.domain_array}, sizeof(abi::IommuDomainSer), "domains"))
        incoming_domains_.emplace(record, nullptr);
    for (const PhysAddr record : read_array(PhysAddr{ser.device_array}, sizeof(abi::IommuDeviceSer), "devices"))
        incoming_devices_.emplace(record, read_handed_over<abi::IommuDeviceSer>(kernel_.machine, record, "iommu"));
    for (const PhysAddr unit : units) adopt_unit(unit);
}

void IommuParticipant::adopt_unit(PhysAddr record) {
    const PhysicalMemory& ram = kernel_.machine.ram;
    const auto ser = read_handed_over<abi::IommuHwSer>(kernel_.machine, record, "iommu");
    InheritedUnit unit{PhysAddr{ser.token}, PhysAddr{ser.root_table}, {}};
    const auto lost = [] {
        REACHED("luo.iommu.unit_lost");
        return KernelPanic("iommu: a translation table of a preserved unit cannot be restored");
    };
    if (!pages_.restore(unit.root_table, FrameClass::kernel)) throw lost();
    for (unsigned bus = 0; bus < 256; ++bus) {
        if (!(ser.contexts[bus / 64] >> bus % 64 & 1)) continue;
        const auto root = ram.read<vtd::RootEntry>(unit.root_table + bus * sizeof(vtd::RootEntry));
        if (!pages_.restore(root.context_table(), FrameClass::kernel)) throw lost();
        unit.context_tables.push_back(root.context_table().pfn());
    }
    kernel_.iommu.inherited.push_back(unit);
}

void IommuParticipant::probe() {
    for (auto& [record, domain] : incoming_domains_) domain = rebuild(record);
    for (const auto& [record, device] : incoming_devices_) {
        const auto domain = incoming_domain(PhysAddr{device.domain});
        if (!domain) continue;
        const auto id = domain_id_of(device, *domain);
        if (id != device.attachment_id) REACHED("luo.iommu.attachment_bad");
        if (id) domain->domain_id = *id;
    }
}

/// The id under which the unit knows what it fetches from the domain's tables for that device.
std::optional<u16> IommuParticipant::domain_id_of(const abi::IommuDeviceSer& device,
                                                  const IommuDomain& domain) const {
    const PhysicalMemory& ram = kernel_.machine.ram;
    const auto source = source_of(device);
    // The function itself may be out of sight, behind a bridge that makes no sense. Its segment has one unit.
    std::optional<IommuDriver::UnitView> unit;
    for (const auto& found : kernel_.pci.devices())
        if (!unit && source && found->address.segment == source->segment) unit = kernel_.iommu.unit_of(*found);
    if (!unit) return std::nullopt;
    const auto root = ram.read<vtd::RootEntry>(unit->root_table + source->bdf.bus() * sizeof(vtd::RootEntry));
    if (!root.present()) return std::nullopt;
    const auto entry =
        ram.read<vtd::ContextEntry>(root.context_table() + source->bdf.devfn() * sizeof(vtd::ContextEntry));
    if (!entry.present() || entry.top_table() != domain.top().phys()) return std::nullopt;
    for (const auto& [record, other] : incoming_domains_)
        if (other && other.get() != &domain && other->domain_id == entry.domain_id()) return std::nullopt;
    return entry.domain_id();
}

std::shared_ptr<IommuDomain> IommuParticipant::rebuild(PhysAddr record) {
    const auto ser = read_handed_over<abi::IommuDomainSer>(kernel_.machine, record, "iommu");
    auto domain = std::make_shared<IommuDomain>(kernel_, fmt::format("incoming {:#x}", record.raw));
    std::vector<Pfn> tables;
    if (ser.top_level != IommuDomain::levels ||
        !collect_tables(PhysAddr{ser.top_table}, IommuDomain::levels, tables)) {
        REACHED("luo.iommu.domain_lost");
        kernel_.log.err("iommu: the preserved domain at {:#x} cannot be rebuilt", record.raw);
        return nullptr;
    }
    domain->adopt(PhysAddr{ser.top_table}.pfn(), std::move(tables));
    domain->immutable = true;
    return domain;
}

/// Restores the table and all below it. False: this one could not be.
bool IommuParticipant::collect_tables(PhysAddr table, unsigned level, std::vector<Pfn>& tables) {
    PhysicalMemory& ram = kernel_.machine.ram;
    if (!pages_.restore(table, FrameClass::kernel)) return false;
    tables.push_back(table.pfn());
    if (level == 1) return true;
    for (unsigned index = 0; index < 512; ++index) {
        const u64 entry = ram.read<u64>(table + 8 * index);
        if (!(entry & (vtd::PTE_READ | vtd::PTE_WRITE)) || entry & vtd::PTE_LARGE) continue;
        if (collect_tables(PhysAddr{entry & vtd::PTE_ADDRESS}, level - 1, tables)) continue;
        REACHED("luo.iommu.entry_left_out");
        kernel_.log.err("iommu: entry {:#x} of a preserved table is left out", entry);
    }
    return true;
}

std::shared_ptr<IommuDomain> IommuParticipant::incoming_domain(PhysAddr record) const {
    const auto at = incoming_domains_.find(record);
    return at == incoming_domains_.end() ? nullptr : at->second;
}

bool IommuParticipant::names_another(PhysAddr record, PciAddress device) const {
    const auto at = incoming_devices_.find(record);
    return at != incoming_devices_.end() && source_of(at->second) != device;
}

bool IommuParticipant::attached_to(PhysAddr record, const IommuDomain& domain) const {
    const auto at = incoming_devices_.find(record);
    return at != incoming_devices_.end() && incoming_domain(PhysAddr{at->second.domain}).get() == &domain;
}

void IommuParticipant::finish_domain(PhysAddr record, bool under_devices) {
    const auto at = incoming_domains_.find(record);
    if (at == incoming_domains_.end()) return;
    const auto domain = at->second;
    incoming_domains_.erase(at);
    if (!domain) return;
    if (!under_devices) block_devices(record, *domain);
    domain->attached = 0;
    static_cast<void>(kernel_.iommu.destroy_domain(*domain));
}

/// Nobody has claimed the devices that walk this domain: their context entries go before the tables do.
void IommuParticipant::block_devices(PhysAddr record, const IommuDomain& domain) {
    for (const auto& [at, device] : incoming_devices_)
        if (PhysAddr{device.domain} == record) block_unclaimed(device, domain.domain_id);
}

void IommuParticipant::block_unclaimed(const abi::IommuDeviceSer& device, u16 domain_id) {
    const auto source = source_of(device);
    if (!source) return;
    const PciDevice* claimed = kernel_.pci.find(*source);
    if (!claimed || !kernel_.iommu.domain_of(*claimed)) kernel_.iommu.block(*source, domain_id);
}

void IommuParticipant::finish_device(PhysAddr record) {
    const auto at = incoming_devices_.find(record);
    if (at == incoming_devices_.end()) return;
    block_unclaimed(at->second, 0);
    incoming_devices_.erase(at);
}

void IommuParticipant::finish_unclaimed() {
    std::vector<PhysAddr> unclaimed;
    for (const auto& [record, domain] : incoming_domains_)
        if (domain.use_count() <= 1) unclaimed.push_back(record);  // no file has it
    for (const PhysAddr record : unclaimed) {
        REACHED("luo.iommu.unclaimed");
        finish_domain(record);
    }
    if (incoming_pages_.empty()) return;
    for (const PhysAddr page : incoming_pages_) pages_.free(page);
    incoming_pages_.clear();
    subsystem_.finished();
}

}  // namespace kexec_sim::luo
