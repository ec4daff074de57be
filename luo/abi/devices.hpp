// What devices, IOMMUs and VMs hand over: records in preserved pages, found through data handles of LUO.
//
//   subsystem "pci"      data = PciSer ──► chain of PciBlock { PciDevSer … }        one a function and bridge preserved
//   subsystem "iommu"    data = IommuFlbSer ──► domains │ devices │ units           chains of one-page arrays
//   file "vfio-pci-v1"   data = VfioSer ──► IommuDeviceSer, and the token of the iommufd
//   file "iommufd-v1"    data = IommufdSer { IommufdHwptSer … } ──► IommuDomainSer ──► page tables, as the IOMMU walks them
//   file "kvm-v1"        data = KvmSer ──► the firmware's context page, private runs (confidential VMs)
//
// All numbers are little endian, all structures packed as given, each in pages of its own that are preserved as folios
// of order 0. A handle of 0 stands for nothing.
//
// Sources: the series "PCI core support for Live Update" (v8/v9: version word first, records of 8 bytes), "iommu: Add
// live update state preservation" (its public layouts of April to July 2026), "vfio/pci: Base Live Update support for
// VFIO" (5 bytes, of which `domain` has 16 bits where PCI has 32). What they leave open is ours and marked so.
#pragma once

#include "machine/types.hpp"

namespace kexec_sim::luo::abi {

// --- subsystem "pci" -------------------------------------------------------------------------------------------------

inline constexpr const char* PCI_SUBSYSTEM = "pci";
inline constexpr u32 PCI_VERSION = 2;
struct PciSer {
    u32 version;  // never moves: it is looked at before anything else
    u32 nr_devices;
    u64 devices;  // physical address of the first block
};
static_assert(sizeof(PciSer) == 16);
struct PciDevSer {
    u32 domain;
    u16 bdf;
    u16 refcount;  // endpoints preserved at or below it; 0: the slot is free
};
static_assert(sizeof(PciDevSer) == 8);
struct PciBlock {
    u64 next;   // physical address; 0 in the last
    u64 slots;  // used or freed, from the start
};
inline constexpr u64 pci_block_slots = (page_bytes - sizeof(PciBlock)) / sizeof(PciDevSer);
static_assert(pci_block_slots == 510);

// --- subsystem "iommu" -------------------------------------------------------------------------------------------------

inline constexpr const char* IOMMU_SUBSYSTEM = "iommu";
inline constexpr u64 IOMMU_VERSION = 1;
struct IommuFlbSer {
    u64 version;
    u64 iommu_array, domain_array, device_array;  // physical addresses; all three are there, even if empty
};
static_assert(sizeof(IommuFlbSer) == 32);
struct ArrayHeader {
    u64 next_array;
    u64 nr_objects;
};
struct ObjectHeader {
    u32 ref_count;
    u32 flags;
};
inline constexpr u32 OBJECT_DELETED = 1, OBJECT_INCOMING = 2;
struct IommuDomainSer {
    ObjectHeader header;
    u64 top_table;
    u64 top_level;
    u32 vasz;
    u32 sign_extend;
    u64 restored_domain;  // the new kernel's own; 0 as handed over
};
static_assert(sizeof(IommuDomainSer) == 40);
struct IommuDeviceSer {
    ObjectHeader header;
    u32 devid;  // the requester id
    u32 pci_domain;
    u64 attachment_id;  // VT-d: the domain id
    u64 domain;         // physical address of its IommuDomainSer
    u64 iommu;          // of its IommuHwSer
};
static_assert(sizeof(IommuDeviceSer) == 40);
struct IommuHwSer {
    ObjectHeader header;
    u64 token;  // VT-d: the register base of the unit
    u64 type;
    u64 registers;
    u64 root_table;
    u64 contexts[4];  // one bit a bus: its context table is preserved
};
static_assert(sizeof(IommuHwSer) == 72);
inline constexpr u64 IOMMU_TYPE_VTD = 1;

// --- file handlers --------------------------------------------------------------------------------------------------

inline constexpr const char* VFIO_COMPATIBLE = "vfio-pci-v1";
struct [[gnu::packed]] VfioSer {
    u16 bdf;
    u16 domain;  // 16 bits: a PCI segment above 65535 is cut
    u8 reset_works;
    // Ours from here on: the sizes of the BARs, so that nobody has to probe them, and where the device was attached.
    u64 bar_bytes[6];
    u64 iommufd;  // physical address of the IommufdSer; 0: attached to none
    u64 iommu_device;
};
static_assert(sizeof(VfioSer) == 69);

inline constexpr const char* IOMMUFD_COMPATIBLE = "iommufd-v1";
struct IommufdHwptSer {
    u64 domain_data;  // physical address of its IommuDomainSer
    u64 token;
    u8 reclaimed;
    u8 pad[7];
};
static_assert(sizeof(IommufdHwptSer) == 24);
struct IommufdSer {
    u64 nr_hwpts;
};

inline constexpr const char* KVM_COMPATIBLE = "kvm-v1";
inline constexpr u64 KVM_TYPE_DEFAULT = 0, KVM_TYPE_SNP = 1;
struct KvmSer {
    u64 type;
    // Ours from here on.
    u64 snp_context;  // physical address of the firmware's context page
    u64 nr_runs;      // private memory: runs of frames, in order of guest address
};
struct KvmRun {
    u64 pfn, pages;
};
inline constexpr u64 kvm_runs_max = (page_bytes - sizeof(KvmSer)) / sizeof(KvmRun);

}  // namespace kexec_sim::luo::abi
