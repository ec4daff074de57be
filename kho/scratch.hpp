// Scratch areas: memory that never holds anything preserved.
//
// The next kernel starts without knowing what is preserved where, since the map that says so is itself in memory that
// it may not touch yet. So its image, and all it allocates until it has read the map, must lie in areas that are safe
// by agreement:
//
//   | lowmem |     | global      |      | node 0 |        | node 1 |
//   below 4 GiB     anywhere             each on its own node
//
// They are set aside once, on the first boot with kho=on, and inherited by every later kernel of the chain unchanged.
// While a kernel runs they are CMA: movable pages may live there, since those can be moved away before something pins
// them.
//
// Size. kho_scratch=N% (default 200%) takes what this kernel itself reserved at boot as a measure for the next one;
// with R(limit, node) the bytes that memblock handed to the kernel, S the scale and A = 2 MiB:
//
//   lowmem = up(R(4 GiB − 1, any) · S/100)     global = up(R(∞, any) · S/100 − lowmem)     node = up(R(∞, node) · S/100)
//
// kho_scratch=L,G,N states sizes; only N is rounded. Example: S = 200, R = 70 MiB below 4 GiB, 180 MiB in all, 150 and
// 30 MiB on the nodes: 140, 220, 300 and 60 MiB.
//
// Unhappy paths: 1. A parameter that does not parse: EINVAL, the default stays. 2. global comes out negative, as
// on machines with all memory below 4 GiB: it becomes 0 (trace event kho.scratch_clamped; the kernel's sum wraps to
// the same). 3. An area cannot be had, as on a node without memory: all areas are freed and KHO is off for this boot
// (6.18 warns, others are silent). Source: Linux 6.16 and 6.18, kernel/kexec_handover.c: kho_parse_scratch_size,
// kho_reserve_scratch.
#pragma once

#include <string_view>
#include <vector>

#include "kernel-model/kernel.hpp"
#include "kho/edition.hpp"

namespace kexec_sim::kho {

inline constexpr u64 scratch_align = pageblock_pages * page_bytes;  // CMA_MIN_ALIGNMENT_BYTES
inline constexpr std::string_view scratch_site = "kho.scratch", scratch_array_site = "kho.scratch_array";

struct ScratchParams {
    u64 scale = 200;  // percent; 0: the explicit sizes count
    u64 lowmem = 0, global = 0, pernode = 0;
};
/// kho_scratch=. EINVAL (ERANGE: a scale beyond 32 bits) leaves `params` unchanged.
Result<> parse_scratch(std::string_view value, const Edition& edition, ScratchParams& params, KernelLog& log);

/// The areas and their array, as they lie in memblock.
struct ScratchReservation {
    std::vector<PhysRange> areas;  // lowmem, global, node 0, …
    PhysRange array;
};
/// ENOMEM: an area or the array could not be had; nothing is reserved then.
Result<ScratchReservation> reserve_scratch(Kernel& kernel, const ScratchParams& params);

/// Nodes of which KHO has a scratch area, memoryless ones included.
unsigned online_nodes(const Kernel& kernel);

}  // namespace kexec_sim::kho
