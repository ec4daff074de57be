// The IOMMU over a live update: page tables, context entries and units that devices go on using.
//
//   iommufd ──preserve_domain──► every table page preserved, IommuDomainSer ◄─┐
//   vfio ────preserve_device──► IommuDeviceSer { domain id, domain, unit } ───┤
//                │ first device of a unit                                     │
//                └──► IommuHwSer: root table, context tables preserved        │
//   subsystem "iommu" hands over the three arrays ────────────────────────────┘
//
// Old kernel: a preserved domain is immutable. Shutdown clears the context entries of other devices.
// New kernel: 1. boot, before the units are found: arrays, root and context tables are restored; the driver adopts
// them. 2. Domains are rebuilt when devices are probed: the tree is walked and each table page restored. 3. Files ask
// for their domain by the record's address. 4. When the owner has moved every device to a domain of its own, the old
// one is destroyed: invalidated, freed. 5. At FINISH what no file has is destroyed, and the arrays go.
//
// Unhappy paths: 1. ENOMEM or KHO's errno for any page: what was preserved for this call is taken back. 2. Version, or
// an array that is missing: panic, since translation was left on. 3. A root or context table that cannot be restored:
// panic. 4. An entry of a page table that points outside RAM as if it were a table: left out, with a log line. In
// editions without page magic a table page that nobody preserved is restored all the same, and nobody notices. 5. A
// record that no file names (its own was lost or refused): its domain goes at FINISH, its devices blocked. 6. The record
// of an attachment names another domain id than the context entry: the entry counts, since the unit goes by it; none
// where it walks other tables, or another domain has that id.
//
// Objects are never moved or used again: removal marks them DELETED.
// Source: the series "iommu: Add live update state preservation".
#pragma once

#include <map>
#include <memory>
#include <optional>

#include "luo/abi/devices.hpp"
#include "luo/devices/record.hpp"

namespace kexec_sim::luo {

class IommuParticipant {
public:
    IommuParticipant(Kernel& kernel, kho::Kho& kho, Orchestrator& orchestrator);
    bool ensure_registered() { return subsystem_.ensure_registered(); }

    // --- the old kernel: physical addresses of records ---
    Result<PhysAddr> preserve_domain(IommuDomain& domain);
    void unpreserve_domain(IommuDomain& domain);
    /// Its unit, and a record that names no domain yet.
    Result<PhysAddr> preserve_device(const PciDevice& device);
    /// `domain`: the record that preserve_domain() gave for what the device is attached to. May be called again, also at
    /// freeze.
    void bind_device(const PciDevice& device, PhysAddr domain);
    void unpreserve_device(const PciDevice& device);

    // --- the new kernel ---
    /// At the initcall of drivers: rebuilds every domain.
    void probe();
    /// The domain of a record; nullptr: there is none, or it could not be rebuilt.
    std::shared_ptr<IommuDomain> incoming_domain(PhysAddr record) const;
    /// Is there the record of an attachment at this address, and of another device?
    bool names_another(PhysAddr record, PciAddress device) const;
    /// Is it one to this domain?
    bool attached_to(PhysAddr record, const IommuDomain& domain) const;
    /// Takes the domain out of the books and destroys it. Devices that nobody claimed lose their context entry first;
    /// those that were have left the domain. `under_devices`: they go on walking it (a planned fault).
    void finish_domain(PhysAddr record, bool under_devices = false);
    /// The device of a record is blocked, unless somebody has it in a domain.
    void finish_device(PhysAddr record);

private:
    struct Array {
        std::vector<PhysAddr> pages;
    };
    struct Unit {
        PhysAddr record;
        u32 references = 0;
        std::vector<Pfn> tables;
    };
    Result<> make_arrays();
    void free_arrays_if_empty();
    Result<PhysAddr> add_object(Array& array, std::span<const std::byte> object, std::string_view site);
    void delete_object(PhysAddr object);
    Result<PhysAddr> preserve_unit(const PciDevice& device);
    Result<> preserve_new_contexts(Unit& unit, const IommuDriver::UnitView& view);
    void fill_contexts(abi::IommuHwSer& ser) const;
    void unpreserve_unit(u32 segment);
    Result<> preserve_tables(std::span<const Pfn> tables, std::string_view name, std::vector<Pfn>& done);

    void boot(PhysAddr top);
    std::vector<PhysAddr> read_array(PhysAddr first, u64 object_bytes, std::string_view what);
    void adopt_unit(PhysAddr record);
    std::shared_ptr<IommuDomain> rebuild(PhysAddr record);
    bool collect_tables(PhysAddr table, unsigned level, std::vector<Pfn>& tables);
    std::optional<u16> domain_id_of(const abi::IommuDeviceSer& device, const IommuDomain& domain) const;
    void block_devices(PhysAddr record, const IommuDomain& domain);
    void block_unclaimed(const abi::IommuDeviceSer& device, u16 domain_id);
    void finish_unclaimed();

    Kernel& kernel_;
    RecordPages pages_;
    HandleSubsystem subsystem_;
    // Outgoing.
    PhysAddr top_;
    Array units_, domains_, devices_;
    std::map<u32, Unit> preserved_units_;  // by segment
    struct Domain {
        PhysAddr record;
        std::vector<Pfn> tables;
    };
    std::map<const IommuDomain*, Domain> preserved_domains_;
    std::map<PciAddress, PhysAddr> preserved_devices_;
    // Incoming.
    std::vector<PhysAddr> incoming_pages_;
    std::map<PhysAddr, std::shared_ptr<IommuDomain>> incoming_domains_;  // nullptr: could not be rebuilt
    std::map<PhysAddr, abi::IommuDeviceSer> incoming_devices_;
};

}  // namespace kexec_sim::luo
