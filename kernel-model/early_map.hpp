// early_memremap(): a few slots to look at physical memory before there is a direct map.
//
// They are lent, not given: what is still mapped when boot has ended is a leak, and the kernel says so itself.
#pragma once

#include "kernel-model/log.hpp"

namespace kexec_sim {

class EarlyMaps {
public:
    static constexpr u64 slots = 8;        // FIX_BTMAPS_SLOTS
    static constexpr u64 slot_pages = 64;  // NR_FIX_BTMAPS
    /// False: no slot is left, or it is too small.
    bool map(u64 bytes) {
        if (bytes == 0 || bytes > slot_pages * page_bytes || used_ == slots) return false;
        ++used_;
        return true;
    }
    void unmap() {
        if (used_) --used_;
    }
    /// check_early_ioremap_leak(), a late initcall.
    void check(KernelLog& log) const {
        if (used_) log.warn_on(fmt::format("Debug warning: early ioremap leak of {} areas detected.", used_), false);
    }

private:
    u64 used_ = 0;
};

}  // namespace kexec_sim
