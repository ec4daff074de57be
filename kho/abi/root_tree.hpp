// The devicetrees of "kho-v1": the root tree and the tree of reserve_mem.
//
//   / {                                        one page, written in sequence by libfdt
//       compatible = "kho-v1";
//       preserved-memory-map = <u64>;          first chunk of the map (kho/abi/kho_v1.hpp)
//       LUO { fdt = <u64>; };                  one node for each consumer: where its own tree is
//       memblock { fdt = <u64>; };
//   };
//
//   / {                                        sub-tree "memblock", one page
//       compatible = "memblock-v1";
//       trace {                                named as the reserve_mem= entry
//           compatible = "reserve-mem-v1";
//           start = <u64>;
//           size = <u64>;
//       };
//   };
//
// The container is a standard flattened devicetree with big-endian structure; the values are not: a u64 is 8 bytes in
// host order, as the kernel stores it. There are no #address-cells.
//
// Size of a root tree: 148 bytes, and for each child 28 + (length of its name + 1, rounded up to 4). Names of 7
// characters: 109 children fit into the page, the next is FDT_ERR_NOSPACE.
#pragma once

#include <string_view>

namespace kexec_sim::kho::abi {

inline constexpr const char* KHO_FDT_COMPATIBLE = "kho-v1";
inline constexpr const char* PROP_PRESERVED_MEMORY_MAP = "preserved-memory-map";
inline constexpr const char* PROP_SUB_FDT = "fdt";

inline constexpr const char* MEMBLOCK_KHO_FDT = "memblock";
inline constexpr const char* MEMBLOCK_KHO_NODE_COMPATIBLE = "memblock-v1";
inline constexpr const char* RESERVE_MEM_KHO_NODE_COMPATIBLE = "reserve-mem-v1";

}  // namespace kexec_sim::kho::abi
