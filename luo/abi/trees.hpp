// What LUO hands over: two flattened devicetrees, and one for each memfd.
//
// KHO's root tree lists the LUO tree as sub-tree "LUO"; everything else hangs on it by physical addresses:
//
//   KHO root   LUO { fdt = <page> }
//                           |
//   one page   / { compatible = "luo-v1";
//                  subsystems { <last registered> = <u64>;
//                               …
//                               file-descriptors  = <u64>; ---+
//                               compatible = "subsystems-v1"; }; };
//                                                             |
//   2^k pages  file-descriptors { compatible = "file-descriptors-v1";
//                  0x0  { compatible = "memfd-v1"; data = <u64>; };  --+   one node a token, ascending
//                  0x2a { compatible = "memfd-v1"; data = <u64>; }; };
//                                                                      |
//   2^k pages  / { pos = <u64>; size = <u64>;                          |
//                  folios = <16 bytes each>; };      <-----------------+
//
// The container is a standard devicetree with a big-endian structure; a u64 in it is 8 raw bytes in host order.
//
// The LUO tree is edited in place, so its header says 4096 bytes, and a new property goes to the front of its node.
// The other two are written in sequence and their headers give the exact length. What a freeze changes, it changes in
// place: the pages are preserved already, and no tree may grow.
//
// Capacity of the LUO page: a property takes 20 bytes and, in the string block, its name with the zero. With names of
// 16 characters 105 subsystems fit beside `file-descriptors`.
#pragma once

#include <string_view>

#include "machine/types.hpp"

namespace kexec_sim::luo::abi {

inline constexpr const char* LUO_KHO_ENTRY_NAME = "LUO";
inline constexpr const char* LUO_COMPATIBLE = "luo-v1";
inline constexpr const char* LUO_SUBSYSTEMS_NODE_NAME = "subsystems";
inline constexpr const char* LUO_SUBSYSTEMS_COMPATIBLE = "subsystems-v1";
inline constexpr u64 LUO_FDT_SIZE = page_bytes;

inline constexpr const char* LUO_FILES_NODE_NAME = "file-descriptors";
inline constexpr const char* LUO_FILES_COMPATIBLE = "file-descriptors-v1";
inline constexpr const char* PROP_COMPATIBLE = "compatible";
inline constexpr const char* PROP_DATA = "data";

/// Room for the file-descriptor tree of `files` files: pages of one block.
constexpr Order file_tree_order(u64 files) { return order_for_bytes(1024 + 128 * files); }
static_assert(file_tree_order(24) == Order{0} && file_tree_order(25) == Order{1});
static_assert(file_tree_order(56) == Order{1} && file_tree_order(57) == Order{2});

inline constexpr const char* MEMFD_COMPATIBLE = "memfd-v1";
inline constexpr const char* MEMFD_PROP_POS = "pos";
inline constexpr const char* MEMFD_PROP_SIZE = "size";
inline constexpr const char* MEMFD_PROP_FOLIOS = "folios";

/// One folio of a memfd. A descriptor of zero stands for no folio.
struct MemfdFolio {
    u64 foliodesc;  // pfn << 12 | flags
    u64 index;      // of its first page in the file
};
static_assert(sizeof(MemfdFolio) == 16);
inline constexpr u64 PRESERVED_FLAG_DIRTY = 1, PRESERVED_FLAG_UPTODATE = 2;

/// The room for a memfd's tree: the folio array, and a page for the rest.
constexpr u64 memfd_tree_bytes(u64 folios) { return align_up(folios * sizeof(MemfdFolio), page_bytes) + page_bytes; }
/// One folio more and the tree would need a block that the allocator does not have.
inline constexpr u64 memfd_folios_max = ((page_bytes << max_page_order) - page_bytes) / sizeof(MemfdFolio);
static_assert(memfd_folios_max == 261'888);
static_assert(order_for_bytes(memfd_tree_bytes(memfd_folios_max)) == Order{max_page_order});
/// A file of more pages is refused before anything else (−E2BIG).
inline constexpr u64 memfd_pages_max = 0xffff'ffff;

}  // namespace kexec_sim::luo::abi
