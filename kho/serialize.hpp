// The map as it is handed over: tracking, listed in a chain of chunks.
//
// Layout in kho/abi/kho_v1.hpp. One or more chunks for each order, orders ascending; bitmap indexes ascend inside an
// order; a full chunk (255 bitmaps) is followed by another of the same order. Bitmaps themselves are not copied: a
// chunk points at those that tracking filled. So the format's only freedom is which bitmaps exist, and neighbouring
// folios always share one.
//
// Happy path: one zeroed page for each chunk, filled from tracking. Unhappy paths: 1. no page: ENOMEM. 2. (6.18) the
// page lies in scratch: WARN, EINVAL. Either frees the chunks written so far.
//
// Cost: linear in bitmaps. Source: Linux 6.16 and 6.18, kernel/kexec_handover.c: kho_mem_serialize.
#pragma once

#include <vector>

#include "kho/tracking.hpp"

namespace kexec_sim::kho {

inline constexpr std::string_view chunk_site = "kho.chunk";

struct SerializedMap {
    std::vector<Pfn> chunks;  // in chain order
    /// What goes into the root tree: 0 if nothing was tracked.
    PhysAddr first() const { return chunks.empty() ? PhysAddr{} : chunks.front().phys(); }
};

Result<SerializedMap> serialize_map(Kernel& kernel, const Edition& edition, const Tracking& tracking,
                                    const std::vector<PhysRange>& scratch);
void free_map(Kernel& kernel, SerializedMap& map);

}  // namespace kexec_sim::kho
