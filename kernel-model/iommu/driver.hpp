// The IOMMU driver of a kernel: units, root and context tables, domain ids, the invalidation queue, interrupt
// remapping entries.
//
//   attach(domain, device)   context entry of the device = {top table, domain id}; invalidate context and IOTLB
//   replace                  the same, in one 128-bit write, while the device goes on (hotswap)
//   destroy                  invalidate, then free the tables, then the domain id
//
// A device without a context entry is blocked: its requests fault.
//
// Boot. 1. A unit that is off: an empty root table, translation on. 2. A unit that is on, in a crash kernel: the old
// tables are copied, so that what still runs goes on into the old kernel's memory. 3. A unit that is on and whose
// tables are handed over (`inherited`): its root table is adopted, translation stays on, the domain ids found are
// reserved. 4. A unit that is on and about which nobody knows anything: off, with a warning, then as 1.
// In each case a new invalidation queue and an empty interrupt remapping table.
//
// Shutdown for kexec: translation off on every unit, unless it serves a device that is kept running; there, the
// context entries of the other devices are cleared and flushed.
//
// Unhappy paths: 1. ENOMEM for a table: attach fails, nothing changed. 2. ENOSPC: no domain id, no remapping entry.
// 3. A wait descriptor that is not written back (the queue has stopped): a log line, and the kernel goes on, as if it
// were done.
//
// Source: Linux 7.3, drivers/iommu/intel; the series "iommu: Add live update state preservation".
// Simplified: no scalable mode, no default domains (a device that nobody attaches is blocked), synchronous
// invalidation.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "kernel-model/iommu/domain.hpp"
#include "kernel-model/pci/pci.hpp"

namespace kexec_sim {

/// What a kernel knows of a unit that it takes over.
struct InheritedUnit {
    PhysAddr registers;  // the unit's identity
    PhysAddr root_table;
    std::vector<Pfn> context_tables;
};

class IommuDriver {
public:
    explicit IommuDriver(Kernel& kernel);
    ~IommuDriver();
    IommuDriver(const IommuDriver&) = delete;
    IommuDriver& operator=(const IommuDriver&) = delete;

    /// Set before the units are found; each table page in it is a folio of this kernel by then.
    std::vector<InheritedUnit> inherited;
    /// Finds the units and turns them on. Nothing where the machine has none.
    void init();
    bool present() const { return !units_.empty(); }

    Result<std::shared_ptr<IommuDomain>> create_domain(const std::string& name);
    /// EBUSY while attached. Invalidates, then frees.
    Result<> destroy_domain(IommuDomain& domain);
    /// EBUSY: attached to another domain (use replace). ENODEV: no unit for it.
    Result<> attach(const std::shared_ptr<IommuDomain>& domain, PciDevice& device);
    Result<> replace(const std::shared_ptr<IommuDomain>& domain, PciDevice& device);
    void detach(PciDevice& device);
    /// Clears the context entry of whatever sends with that id, and flushes what the unit knows of it.
    void block(PciAddress source, u16 domain_id);
    std::shared_ptr<IommuDomain> domain_of(const PciDevice& device) const;
    /// After unmap, and before pages of it may be reused. Fault point iommu.invalidate[iotlb].
    void flush(const IommuDomain& domain, const PciDevice* device = nullptr);
    /// A domain that came from the previous kernel, with its id; attached to `device` as it stands, nothing is written.
    void adopt_attachment(const std::shared_ptr<IommuDomain>& domain, PciDevice& device);
    Result<> reserve_domain_id(u16 domain_id);

    struct UnitView {
        PhysAddr registers, root_table;
        std::vector<Pfn> context_tables;  // by bus, those present
        u32 segment;
    };
    /// The unit that serves a device, as it must be known to take it over.
    std::optional<UnitView> unit_of(const PciDevice& device) const;

    // --- interrupt remapping ---
    /// An entry for (source, vector); its index. Without an IOMMU: nullopt. ENOSPC, ENOMEM.
    Result<std::optional<u16>> allocate_interrupt(const PciDevice& device, u8 vector);
    void free_interrupt(const PciDevice& device, u16 index);

    void shutdown();

private:
    struct Unit {
        PhysAddr registers;
        u32 segment;
        Pfn root, queue, interrupts;
        u64 queue_tail = 0;
        std::map<u8, Pfn> contexts;  // by bus
        std::set<u16> interrupt_indexes;
        bool was_on = false;
    };
    u64 read(const Unit& unit, u64 offset, unsigned bytes) const;
    void write(const Unit& unit, u64 offset, unsigned bytes, u64 value);
    void command(Unit& unit, u32 bits, bool on);
    void start(Unit& unit);
    void adopt_root(Unit& unit, const InheritedUnit& inherited_unit);
    void copy_tables(Unit& unit);
    void set_root(Unit& unit);
    void setup_queue(Unit& unit);
    void setup_interrupts(Unit& unit);
    struct Command {
        u64 low, high;
    };
    void submit(Unit& unit, const Command& command);
    void invalidate_context(Unit& unit, std::optional<Bdf> source, u16 domain_id);
    void invalidate_iotlb(Unit& unit, std::optional<u16> domain_id);
    Unit* unit_for(const PciDevice& device);
    Result<PhysAddr> context_slot(Unit& unit, Bdf source);
    Result<> write_context(const std::shared_ptr<IommuDomain>& domain, PciDevice& device);
    Result<u16> allocate_domain_id();
    Pfn page(std::string_view site);

    Kernel& kernel_;
    std::vector<Unit> units_;
    std::set<u16> domain_ids_;
    std::map<PciAddress, std::shared_ptr<IommuDomain>> attached_;
};

}  // namespace kexec_sim
