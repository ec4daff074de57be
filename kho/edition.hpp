// What differs between the kernels that speak "kho-v1", as data.
//
// The compatible string is the same in all of them, yet 6.18 stores larger bitmaps than 6.16, so that a handover from
// one to the other is misread and nothing notices. An edition is one value of this struct; code asks its members and
// never for a version.
//
//                       linux-6.16      linux-6.18      luo-v2, luo-v3
//   bitmap              512 bytes       4096 bytes      512 bytes
//   marker of a page    order           magic | order   order
//   driven by           debugfs, chain  debugfs, chain  exported finalize/abort
//   abort               forgets all     forgets all     keeps what is preserved
//   data passed         when enabled    when finalized  when enabled
#pragma once

#include <string_view>

#include "machine/types.hpp"

namespace kexec_sim::kho {

struct Edition {
    std::string_view name;

    // --- data formats ---
    u64 bitmap_bytes = 512;  // of one bitmap: 512 (eight to a slab page) or a whole page
    u64 page_magic = 0;      // upper half of the marker in `struct page`; 0: the marker is the order alone

    // --- which functions the kernel exports ---
    bool preserve_phys = false;   // kho_preserve_phys
    bool preserve_pages = false;  // kho_preserve_pages, kho_restore_pages
    bool vmalloc = false;         // kho_preserve_vmalloc, kho_restore_vmalloc
    bool unpreserve = false;      // kho_unpreserve_folio, kho_unpreserve_phys

    // --- control ---
    bool notifier_chain = false;    // consumers are called at finalize; sub-trees are added only there
    bool exported_control = false;  // kho_finalize, kho_abort, kho_add_subtree at any time, kho_remove_subtree
    bool abort_forgets_tracking = false;
    bool load_requires_finalized = false;  // handover data is passed only if finalized when the image is loaded

    // --- boot ---
    bool scratch_zero_component = false;  // kho_scratch= takes a 0 among its three sizes
    bool scratch_trailing_error = false;  // and refuses characters behind the third
    bool scratch_failure_warns = false;   // says so when no scratch areas can be reserved
    bool overlap_check = false;           // a debug build refuses to preserve in scratch, with a WARN

    u64 bits_per_bitmap() const { return bitmap_bytes * 8; }
    /// What marks the head page of a preserved block.
    u64 marker(Order order) const { return page_magic << 32 | order.raw; }
};

/// The edition of a kernel profile (linux-6.16, linux-6.18, luo-v2, luo-v3). Any other name is a bug of the caller.
const Edition& edition_for_profile(std::string_view profile);

}  // namespace kexec_sim::kho
