// What a kernel gets from its predecessor or from the firmware: nothing else crosses a kexec but RAM and devices.
//
// On x86 the boot parameters are a page of RAM (the "zero page") with the command line's address, the memory map and a
// list of setup_data entries. BootParams is that page decoded; write_boot_params() puts it into RAM, read_boot_params()
// takes it out again, and a kernel boots from what was read.
//
//   boot page:  0 magic | 8 cmdline phys, bytes | 24 first setup_data | 32 initrd begin, end | 48 kernel begin, end |
//               64 entries | 72 {begin, end, type}…
//   setup_data: 0 next | 8 u32 type | 12 u32 len | payload
//
// The page is followed by the command line and the setup_data entries, each at a multiple of 16 bytes:
//
//   | boot page | kho=on liveupdate=on\0 | setup_data 1 | setup_data 2 | zeros …                                    |
//   where.begin                                                                                            where.end
//
// Reading does not trust what it reads, since anything may have happened to that memory: without the magic there are no
// parameters at all, counts and lengths are limited, an address that is not RAM ends the list it is in, a
// payload that cannot be mapped is left out.
//
// Simplified: x86 has the memory map as 20-byte entries at offset 0x2d0, and no address of the image, which knows
// where it runs.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "machine/machine.hpp"

namespace kexec_sim {

inline constexpr u32 SETUP_KEXEC_KHO = 10;
inline constexpr u64 setup_data_header_bytes = 16;

struct SetupData {
    u32 type = 0;
    std::vector<std::byte> payload;
    /// Where a list in RAM has it: the header of 16 bytes, then the payload. 0: not read from RAM.
    PhysAddr at{};
    /// What the header claims, where that is not RAM or more than 64 KiB; `payload` is empty then.
    u64 unmappable_bytes = 0;
};

struct BootParams {
    std::string cmdline;
    std::vector<MemoryMapEntry> memory_map;
    std::vector<SetupData> setup_data;
    PhysRange kernel_image, initrd;  // where the image lies
    PhysRange boot_data;             // boot page, command line, setup_data: reserved by the kernel as it boots
};

/// The bytes that write_boot_params() puts at `where.begin`, without the zeros behind them. ENOSPC if they do not fit.
Result<std::vector<std::byte>> encode_boot_params(PhysRange where, const BootParams& params);
/// Writes the parameters into `where` (64 KiB are enough). ENOSPC if they do not fit.
Result<> write_boot_params(PhysicalMemory& ram, PhysRange where, const BootParams& params);
/// Hostile until checked: a list of setup_data is walked with a counter, addresses are checked.
BootParams read_boot_params(const PhysicalMemory& ram, PhysRange where);
inline constexpr u64 boot_params_bytes = 64 * KiB;
/// A longer command line is EINVAL when an image is loaded.
inline constexpr u64 cmdline_bytes_max = 32 * KiB;
/// As many entries of the memory map fit the boot page.
inline constexpr u64 memory_map_entries_max = 160;

}  // namespace kexec_sim
