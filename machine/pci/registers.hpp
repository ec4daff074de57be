// Offsets and bits of PCI configuration space, as PCI Express Base 6.0 and the kernel's pci_regs.h name them.
#pragma once

#include "machine/types.hpp"

namespace kexec_sim::pci {

inline constexpr u16 VENDOR_ID = 0x00, DEVICE_ID = 0x02, COMMAND = 0x04, STATUS = 0x06, REVISION = 0x08,
                     CLASS_PROG = 0x09, CLASS_DEVICE = 0x0a, CACHE_LINE_SIZE = 0x0c, HEADER_TYPE = 0x0e,
                     BASE_ADDRESS_0 = 0x10, PRIMARY_BUS = 0x18, SECONDARY_BUS = 0x19, SUBORDINATE_BUS = 0x1a,
                     SEC_STATUS = 0x1e, MEMORY_BASE = 0x20, MEMORY_LIMIT = 0x22, PREF_MEMORY_BASE = 0x24,
                     PREF_MEMORY_LIMIT = 0x26, PREF_BASE_UPPER32 = 0x28, PREF_LIMIT_UPPER32 = 0x2c,
                     CAPABILITY_LIST = 0x34, INTERRUPT_LINE = 0x3c, BRIDGE_CONTROL = 0x3e;

inline constexpr u16 COMMAND_IO = 1 << 0, COMMAND_MEMORY = 1 << 1, COMMAND_MASTER = 1 << 2, COMMAND_PARITY = 1 << 6,
                     COMMAND_SERR = 1 << 8, COMMAND_INTX_DISABLE = 1 << 10;
inline constexpr u16 STATUS_CAP_LIST = 1 << 4;
inline constexpr u8 HEADER_TYPE_NORMAL = 0, HEADER_TYPE_BRIDGE = 1, HEADER_TYPE_MULTI = 0x80;
inline constexpr u16 BRIDGE_CTL_BUS_RESET = 1 << 6;
inline constexpr u32 BAR_MEM_TYPE_64 = 4, BAR_MEM_PREFETCH = 8;

/// Where this machine's functions have their capabilities; a kernel finds them by walking the list.
inline constexpr u16 pm_cap_at = 0x40, express_cap_at = 0x60, msix_cap_at = 0xb0, ext_caps_begin = 0x100,
                     acs_cap_at = 0x140;

inline constexpr u8 CAP_ID_PM = 0x01, CAP_ID_EXP = 0x10, CAP_ID_MSIX = 0x11;
inline constexpr u16 EXT_CAP_ID_DSN = 0x0003, EXT_CAP_ID_ACS = 0x000d;

// Power management: offsets from the capability.
inline constexpr u16 PM_PMC = 2, PM_CTRL = 4, PM_CTRL_STATE_MASK = 3, PM_CTRL_NO_SOFT_RESET = 1 << 3;
inline constexpr u8 d0 = 0, d3hot = 3;
// PCI Express.
inline constexpr u16 EXP_FLAGS = 2, EXP_DEVCAP = 4, EXP_DEVCTL = 8, EXP_DEVSTA = 0xa, EXP_DEVCAP2 = 0x24,
                     EXP_DEVCTL2 = 0x28;
inline constexpr u32 EXP_DEVCAP_FLR = 1u << 28, EXP_DEVCAP2_ARI = 1u << 5;
inline constexpr u16 EXP_DEVCTL_BCR_FLR = 1 << 15, EXP_DEVSTA_TRPND = 1 << 5, EXP_DEVCTL2_ARI = 1 << 5;
/// Port types, bits 7:4 of EXP_FLAGS.
inline constexpr u8 EXP_TYPE_ENDPOINT = 0, EXP_TYPE_ROOT_PORT = 4, EXP_TYPE_UPSTREAM = 5, EXP_TYPE_DOWNSTREAM = 6,
                    EXP_TYPE_RC_END = 9;  // an endpoint on the root bus
// MSI-X.
inline constexpr u16 MSIX_FLAGS = 2, MSIX_TABLE = 4, MSIX_PBA = 8;
inline constexpr u16 MSIX_FLAGS_ENABLE = 1 << 15, MSIX_FLAGS_MASKALL = 1 << 14, MSIX_FLAGS_QSIZE = 0x7ff;
inline constexpr u64 MSIX_ENTRY_BYTES = 16;
inline constexpr u32 MSIX_ENTRY_CTRL_MASKBIT = 1;
// Access control services.
inline constexpr u16 ACS_CAP = 4, ACS_CTRL = 6;
inline constexpr u16 ACS_SV = 1 << 0, ACS_TB = 1 << 1, ACS_RR = 1 << 2, ACS_CR = 1 << 3, ACS_UF = 1 << 4,
                     ACS_EC = 1 << 5, ACS_DT = 1 << 6;

/// Vendor and device ids of the models: made up, below a vendor id that nobody has.
inline constexpr u16 CLASS_BRIDGE_PCI = 0x0604, CLASS_NETWORK_ETHERNET = 0x0200, CLASS_DISPLAY_3D = 0x0302;
inline constexpr u16 vendor_id = 0x1f3c;
inline constexpr u16 device_root_port = 0x0001, device_switch_up = 0x0010, device_switch_down = 0x0011,
                     device_dma_nic = 0x0100, device_p2p_gpu = 0x0200;

}  // namespace kexec_sim::pci
