// Where everything lies in the host's address space, the same in every run and in every process.
//
//   0x1100_0000_0000  arena             machine state, shared by the supervisor and its kernels
//   0x1700_0000_0000  written bitmap    one bit a frame, and a summary
//   0x1800_0000_0000  RAM               the machine's own view (referee, devices), 4 TiB and the hole
//   0x2000_0000_0000  direct maps       8 slots of 6 TiB; only the running generation's is accessible
//
// All of it is above the address sanitizer's shadow and below where position-independent programs
// and libraries lie. Plain pointers into it are therefore valid in every forked kernel.
#pragma once

#include "machine/types.hpp"

namespace kexec_sim {

inline constexpr u64 arena_base = 0x1100'0000'0000;
inline constexpr u64 arena_bytes_max = 64 * GiB;
inline constexpr u64 written_bitmap_base = 0x1700'0000'0000;
inline constexpr u64 ram_base = 0x1800'0000'0000;
inline constexpr u64 direct_map_base = 0x2000'0000'0000;
inline constexpr u64 direct_map_slot_bytes = 6 * TiB;
inline constexpr unsigned direct_map_slots = 8;
inline constexpr u64 ram_bytes_max = 4 * TiB;

static_assert(ram_base + ram_bytes_max + GiB <= direct_map_base);

}  // namespace kexec_sim
