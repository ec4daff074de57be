// A domain: one IOVA space, as a 4-level page table in RAM that the IOMMU walks.
//
//   top table ──► 512 entries a level, index bits 47:39 38:30 29:21 20:12 ──► page of 4 KiB, 2 MiB or 1 GiB
//
// A mapping uses the largest page that address and length allow. Table pages are ordinary folios of order 0; an
// unmapped range leaves its tables where they are until the domain is destroyed (as the generic page-table code does
// for partial ranges), and a large mapping stays below those that it finds.
//
// `immutable`: neither map nor unmap (EPERM); what a preserved domain is.
//
// Unhappy paths: 1. ENOMEM: tables; what this call had mapped is taken back, tables that it made stay. 2. EEXIST: part
// of the range is mapped. 3. EINVAL: not page aligned, empty, beyond 48 bits. 4. ENOENT on unmap: part of the range is
// not mapped, or a large page would have to be split; nothing is unmapped.
//
// Invariant: an entry that is present points at a table of this domain, or at what somebody mapped.
// Cost: O(1) amortised a leaf.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "machine/iommu/registers.hpp"
#include "machine/result.hpp"

namespace kexec_sim {

class Kernel;

class IommuDomain {
public:
    static constexpr u64 iova_end = u64{1} << 48;
    static constexpr unsigned levels = 4;
    static constexpr const char* site = "iommu.table";

    IommuDomain(Kernel& kernel, std::string name) : kernel_(kernel), name_(std::move(name)) {}
    /// Allocates the top table. ENOMEM.
    Result<> create();
    /// Takes over a tree that lies in RAM already; the tables are folios of this kernel.
    void adopt(Pfn top, std::vector<Pfn> tables);
    /// Frees every table page. The caller has invalidated.
    void free_tables();

    /// Fault point iommu.map[name]. `prot`: vtd::PTE_READ, PTE_WRITE.
    Result<> map(u64 iova, PhysRange phys, u64 prot);
    Result<> unmap(u64 iova, u64 bytes);
    /// The physical address behind an IOVA, by reading the tables.
    std::optional<u64> lookup(u64 iova) const;

    const std::string& name() const { return name_; }
    Pfn top() const { return top_; }
    /// All table pages, the top one first.
    std::span<const Pfn> tables() const { return tables_; }
    u16 domain_id = 0;
    bool immutable = false;
    u32 attached = 0;  // devices

private:
    /// Where the entry for `iova` at `level` (1 is the lowest) lies. Makes tables on the way if `make`.
    Result<std::optional<PhysAddr>> entry_at(u64 iova, unsigned level, bool make);
    Result<> map_leaves(u64 iova, PhysRange phys, u64 prot, u64& done);
    Kernel& kernel_;
    std::string name_;
    Pfn top_;
    std::vector<Pfn> tables_;
};

/// Bytes of a page at a level: 4 KiB, 2 MiB, 1 GiB, 512 GiB.
constexpr u64 iommu_page_bytes(unsigned level) { return page_bytes << (9 * (level - 1)); }

}  // namespace kexec_sim
