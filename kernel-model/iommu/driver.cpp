#include "kernel-model/iommu/driver.hpp"

#include <algorithm>

#include "kernel-model/kernel.hpp"
#include "machine/reached.hpp"

namespace kexec_sim {
namespace {

constexpr u64 wait_token = 1;
// The second word of the last descriptor: a wait that writes no status, so the unit does not look at it.
constexpr u64 queue_status_at = page_bytes - 8;

}  // namespace

IommuDriver::IommuDriver(Kernel& kernel) : kernel_(kernel) {}
IommuDriver::~IommuDriver() = default;

// --- units -------------------------------------------------------------------------------------------------------

u64 IommuDriver::read(const Unit& unit, u64 offset, unsigned bytes) const {
    return kernel_.machine.mmio_read(unit.registers + offset, bytes);
}
void IommuDriver::write(const Unit& unit, u64 offset, unsigned bytes, u64 value) {
    kernel_.machine.mmio_write(unit.registers + offset, bytes, value);
}

/// One bit of GCMD; the states that are on stay on.
void IommuDriver::command(Unit& unit, u32 bits, bool on) {
    const u32 states = static_cast<u32>(read(unit, vtd::GSTS, 4)) & (vtd::TE | vtd::QIE | vtd::IRE);
    write(unit, vtd::GCMD, 4, on ? states | bits : states & ~bits);
}

Pfn IommuDriver::page(std::string_view site) {
    const auto folio = kernel_.pages.alloc_folio({.order = Order{0}, .site = site});
    if (!folio) {
        REACHED("iommu.init.no_memory");
        throw KernelPanic("DMAR: cannot allocate tables");
    }
    return folio->pfn;
}

void IommuDriver::init() {
    for (Iommu* hardware : kernel_.machine.iommus) {
        units_.push_back({});
        Unit& unit = units_.back();
        unit.registers = hardware->registers;
        unit.segment = hardware->segment;
        unit.was_on = read(unit, vtd::GSTS, 4) & vtd::TE;
        start(unit);
    }
}

void IommuDriver::start(Unit& unit) {
    const InheritedUnit* heritage = nullptr;
    for (const InheritedUnit& one : inherited)
        if (one.registers == unit.registers) heritage = &one;
    if (unit.was_on && heritage && !kernel_.machine.faults.skips(FaultPoint::iommu_adopt_root, "")) {
        adopt_root(unit, *heritage);
        setup_queue(unit);
        setup_interrupts(unit);
        invalidate_context(unit, std::nullopt, 0);
        invalidate_iotlb(unit, std::nullopt);
        return;
    }
    if (unit.was_on && !heritage && !kernel_.config.crash_kernel) {
        // Turned off, until the new tables are there whatever the old kernel's devices still send passes as it is. Repaired,
        // an empty root table takes the place of the old one while translation stays on.
        REACHED("iommu.init.was_on");
        kernel_.log.warn("DMAR: translation of unit {:#x} was on already, {}", unit.registers.raw,
                         kernel_.config.strict_defects ? "emptied" : "turned off");
        if (!kernel_.config.strict_defects) command(unit, vtd::TE, false);
    }
    unit.root = page("iommu.root");
    if (unit.was_on && kernel_.config.crash_kernel) copy_tables(unit);
    setup_queue(unit);
    set_root(unit);
    invalidate_context(unit, std::nullopt, 0);
    invalidate_iotlb(unit, std::nullopt);
    setup_interrupts(unit);
    command(unit, vtd::TE, true);
}

void IommuDriver::set_root(Unit& unit) {
    write(unit, vtd::RTADDR, 8, unit.root.phys().raw);
    command(unit, vtd::SRTP, true);
}

void IommuDriver::adopt_root(Unit& unit, const InheritedUnit& heritage) {
    PhysicalMemory& ram = kernel_.machine.ram;
    unit.root = heritage.root_table.pfn();
    for (const Pfn context : heritage.context_tables)
        for (unsigned bus = 0; bus < 256; ++bus) {
            const auto entry = ram.read<vtd::RootEntry>(unit.root.phys() + bus * sizeof(vtd::RootEntry));
            if (entry.present() && entry.context_table() == context.phys())
                unit.contexts[static_cast<u8>(bus)] = context;
        }
    // A context table that was made after the unit was preserved is nobody's memory by now.
    for (unsigned bus = 0; bus < 256; ++bus) {
        const PhysAddr at = unit.root.phys() + bus * sizeof(vtd::RootEntry);
        if (ram.read<vtd::RootEntry>(at).present() && !unit.contexts.contains(static_cast<u8>(bus)))
            ram.write(at, vtd::RootEntry{});
    }
    for (const auto& [bus, table] : unit.contexts)
        for (unsigned devfn = 0; devfn < 256; ++devfn) {
            const auto entry = ram.read<vtd::ContextEntry>(table.phys() + devfn * sizeof(vtd::ContextEntry));
            if (!entry.present()) continue;
            if (kernel_.machine.faults.skips(FaultPoint::iommu_reserve_did, fmt::format("{}", entry.domain_id())))
                continue;
            domain_ids_.insert(entry.domain_id());
        }
    kernel_.log.info("DMAR: unit {:#x}: translation tables adopted", unit.registers.raw);
}

/// As a kernel that boots after a crash: what devices still do goes where it went.
void IommuDriver::copy_tables(Unit& unit) {
    PhysicalMemory& ram = kernel_.machine.ram;
    const PhysAddr old_root{read(unit, vtd::RTADDR, 8) & ~u64{0xfff}};
    if (!ram.contains(old_root, page_bytes)) return;
    for (unsigned bus = 0; bus < 256; ++bus) {
        const auto root = ram.read<vtd::RootEntry>(old_root + bus * sizeof(vtd::RootEntry));
        if (!root.present() || !ram.contains(root.context_table(), page_bytes)) continue;
        const Pfn copy = page("iommu.context");
        for (unsigned devfn = 0; devfn < 256; ++devfn) {
            const u64 at = devfn * sizeof(vtd::ContextEntry);
            const auto entry = ram.read<vtd::ContextEntry>(root.context_table() + at);
            if (!entry.present()) continue;
            ram.write(copy.phys() + at, entry);
            domain_ids_.insert(entry.domain_id());
        }
        ram.write(unit.root.phys() + bus * sizeof(vtd::RootEntry), vtd::RootEntry{copy.phys().raw | 1, 0});
        unit.contexts[static_cast<u8>(bus)] = copy;
    }
    kernel_.log.info("DMAR: copied translation tables from the previous kernel");
}

// --- the invalidation queue --------------------------------------------------------------------------------------

void IommuDriver::setup_queue(Unit& unit) {
    command(unit, vtd::QIE, false);
    unit.queue = page("iommu.queue");
    unit.queue_tail = 0;
    write(unit, vtd::IQT, 8, 0);
    write(unit, vtd::IQA, 8, unit.queue.phys().raw);
    command(unit, vtd::QIE, true);
}

void IommuDriver::submit(Unit& unit, const Command& asked) {
    PhysicalMemory& ram = kernel_.machine.ram;
    const PhysAddr status = unit.queue.phys() + queue_status_at;
    ram.write<u64>(status, 0);
    const Command wait{vtd::QI_WAIT | vtd::QI_WAIT_STATUS_WRITE | wait_token << 32, status.raw};
    for (const Command& one : {asked, wait}) {
        ram.write(unit.queue.phys() + unit.queue_tail, one);
        unit.queue_tail += sizeof(Command);
        // The last slot holds the status word: the queue wraps before it by a wait that nobody waits for.
        if (unit.queue_tail == page_bytes - sizeof(Command)) {
            ram.write(unit.queue.phys() + unit.queue_tail, Command{vtd::QI_WAIT, 0});
            unit.queue_tail = 0;
        }
        write(unit, vtd::IQT, 8, unit.queue_tail);
    }
    if (ram.read<u32>(status) != wait_token) {
        REACHED("iommu.queue.stuck");
        kernel_.log.err("DMAR: unit {:#x}: invalidation did not complete", unit.registers.raw);
    }
}

void IommuDriver::invalidate_context(Unit& unit, std::optional<Bdf> source, u16 domain_id) {
    if (kernel_.machine.faults.skips(FaultPoint::iommu_invalidate, "context")) return;
    if (!source) return submit(unit, {vtd::QI_CONTEXT | vtd::QI_ALL, 0});
    submit(unit, {vtd::QI_CONTEXT | vtd::QI_SELECTED | u64{domain_id} << 16 | u64{source->raw} << 32, 0});
}

void IommuDriver::invalidate_iotlb(Unit& unit, std::optional<u16> domain_id) {
    if (kernel_.machine.faults.skips(FaultPoint::iommu_invalidate, "iotlb")) return;
    if (!domain_id) return submit(unit, {vtd::QI_IOTLB | vtd::QI_ALL, 0});
    submit(unit, {vtd::QI_IOTLB | vtd::QI_DOMAIN | u64{*domain_id} << 16, 0});
}

void IommuDriver::flush(const IommuDomain& domain, const PciDevice* device) {
    for (Unit& unit : units_)
        if (!device || unit.segment == device->address.segment) invalidate_iotlb(unit, domain.domain_id);
}

// --- domains -----------------------------------------------------------------------------------------------------

IommuDriver::Unit* IommuDriver::unit_for(const PciDevice& device) {
    for (Unit& unit : units_)
        if (unit.segment == device.address.segment) return &unit;
    return nullptr;
}

Result<u16> IommuDriver::allocate_domain_id() {
    // 0 is kept for "no domain", as units with caching mode want it.
    for (unsigned id = 1; id < vtd::domain_ids; ++id)
        if (domain_ids_.insert(static_cast<u16>(id)).second) return static_cast<u16>(id);
    REACHED("iommu.domain_ids.none");
    return fail(Errno::enospc);
}

Result<> IommuDriver::reserve_domain_id(u16 domain_id) {
    if (!domain_ids_.insert(domain_id).second) return fail(Errno::ebusy);
    return {};
}

Result<std::shared_ptr<IommuDomain>> IommuDriver::create_domain(const std::string& name) {
    auto domain = std::make_shared<IommuDomain>(kernel_, name);
    const u16 id = TRY(allocate_domain_id());
    if (const auto created = domain->create(); !created) {
        domain_ids_.erase(id);
        return fail(created.error());
    }
    domain->domain_id = id;
    return domain;
}

Result<> IommuDriver::destroy_domain(IommuDomain& domain) {
    if (domain.attached) return fail(Errno::ebusy);
    flush(domain);
    domain.free_tables();
    domain_ids_.erase(domain.domain_id);
    return {};
}

Result<PhysAddr> IommuDriver::context_slot(Unit& unit, Bdf source) {
    auto table = unit.contexts.find(source.bus());
    if (table == unit.contexts.end()) {
        const auto made = kernel_.pages.alloc_folio({.order = Order{0}, .site = "iommu.context"});
        if (!made) {
            REACHED("iommu.attach.no_memory");
            return fail(made.error());
        }
        table = unit.contexts.emplace(source.bus(), made->pfn).first;
        kernel_.machine.ram.write(unit.root.phys() + source.bus() * sizeof(vtd::RootEntry),
                                  vtd::RootEntry{made->pfn.phys().raw | 1, 0});
    }
    return table->second.phys() + source.devfn() * sizeof(vtd::ContextEntry);
}

Result<> IommuDriver::write_context(const std::shared_ptr<IommuDomain>& domain, PciDevice& device) {
    Unit* unit = unit_for(device);
    if (!unit) return fail(Errno::enodev);
    const PhysAddr slot = TRY(context_slot(*unit, device.address.bdf));
    const auto old = kernel_.machine.ram.read<vtd::ContextEntry>(slot);
    kernel_.machine.ram.write(
        slot, vtd::ContextEntry::translated(domain->top().phys(), vtd::width_4_levels, domain->domain_id));
    invalidate_context(*unit, device.address.bdf, old.domain_id());
    if (old.present()) invalidate_iotlb(*unit, old.domain_id());
    return {};
}

Result<> IommuDriver::attach(const std::shared_ptr<IommuDomain>& domain, PciDevice& device) {
    const auto current = domain_of(device);
    if (current == domain) return {};
    if (current) return fail(Errno::ebusy);
    TRY(write_context(domain, device));
    attached_[device.address] = domain;
    ++domain->attached;
    return {};
}

Result<> IommuDriver::replace(const std::shared_ptr<IommuDomain>& domain, PciDevice& device) {
    const auto current = domain_of(device);
    if (!current) return attach(domain, device);
    TRY(write_context(domain, device));
    --current->attached;
    attached_[device.address] = domain;
    ++domain->attached;
    return {};
}

void IommuDriver::adopt_attachment(const std::shared_ptr<IommuDomain>& domain, PciDevice& device) {
    attached_[device.address] = domain;
    ++domain->attached;
}

void IommuDriver::detach(PciDevice& device) {
    const auto at = attached_.find(device.address);
    if (at == attached_.end()) return;
    const auto domain = at->second;
    attached_.erase(at);
    --domain->attached;
    block(device.address, domain->domain_id);
}

void IommuDriver::block(PciAddress source, u16 domain_id) {
    for (Unit& unit : units_) {
        if (unit.segment != source.segment) continue;
        const auto table = unit.contexts.find(source.bdf.bus());
        if (table == unit.contexts.end()) continue;
        const PhysAddr slot = table->second.phys() + source.bdf.devfn() * sizeof(vtd::ContextEntry);
        // The unit knows the translations by the id that it has read.
        const auto old = kernel_.machine.ram.read<vtd::ContextEntry>(slot);
        const u16 known_as = old.present() ? old.domain_id() : domain_id;
        kernel_.machine.ram.write(slot, vtd::ContextEntry{});
        invalidate_context(unit, source.bdf, known_as);
        invalidate_iotlb(unit, known_as);
    }
}

std::shared_ptr<IommuDomain> IommuDriver::domain_of(const PciDevice& device) const {
    const auto at = attached_.find(device.address);
    return at == attached_.end() ? nullptr : at->second;
}

std::optional<IommuDriver::UnitView> IommuDriver::unit_of(const PciDevice& device) const {
    const auto unit = std::ranges::find(units_, device.address.segment, &Unit::segment);
    if (unit == units_.end()) return std::nullopt;
    UnitView view{unit->registers, unit->root.phys(), {}, unit->segment};
    for (const auto& [bus, table] : unit->contexts) view.context_tables.push_back(table);
    return view;
}

// --- shutdown ----------------------------------------------------------------------------------------------------

void IommuDriver::shutdown() {
    for (Unit& unit : units_) {
        bool serves_kept = false;
        for (const auto& device : kernel_.pci.devices())
            serves_kept |=
                kernel_.keeps_running(*device) && !device->removed && device->address.segment == unit.segment;
        if (!serves_kept || kernel_.machine.faults.skips(FaultPoint::iommu_keep_translation, "")) {
            command(unit, vtd::TE, false);
            command(unit, vtd::IRE, false);
            continue;
        }
        for (const auto& device : kernel_.pci.devices()) {
            if (kernel_.keeps_running(*device) || !domain_of(*device) || device->address.segment != unit.segment)
                continue;
            if (kernel_.machine.faults.skips(FaultPoint::iommu_clear_context, device->hardware->name())) continue;
            detach(*device);
        }
    }
}

}  // namespace kexec_sim
