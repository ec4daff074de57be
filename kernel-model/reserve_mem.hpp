// reserve_mem=SIZE:ALIGN:NAME, memory reserved by name at boot.
//
// A log or a trace buffer that must be found again after a reboot gets a range by name. The option is parsed early and
// its range allocated when memblock knows memory:
//
//   1. parse:         "12M:4096:oops" -> {oops, 12 MiB, 4096}, nothing taken yet
//   2. allocate_all:  `revive` (KHO's, if there is a handover) says where the entry was in the previous kernel
//                       yes -> exactly that range is reserved, its content stands as it was left
//                       no  -> memblock allocates; the range reads as zeros
//
//      RAM   |....[oops].............[trace]....|
//
// Unhappy paths: 1. malformed text, a size of 0, a name that is empty, blank or longer than 15 characters: EINVAL;
// 2. a ninth entry, a name that is taken: EBUSY (1, 2: "Malformed early option 'reserve_mem'", the entry is ignored);
// 3. no memory for it: the entry is gone without a line, as in the kernel, which drops the errno.
//
// The alignment is at least a cache line; one that is no power of two is EINVAL (the kernel computes nonsense with it).
// Simplified: the kernel parses and allocates in one go, after the early parameters; a name whose allocation failed is
// free again there. Fresh memory is zeroed. Source: Linux 6.16, mm/memblock.c.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "machine/machine.hpp"

namespace kexec_sim {

class Kernel;

class ReserveMem {
public:
    explicit ReserveMem(Kernel& kernel) : kernel_(kernel) {}
    struct Entry {
        std::string name;
        u64 bytes = 0, align = 0;
        PhysRange range;
        bool revived = false;
    };
    /// Early parameter. EINVAL: malformed; EBUSY: full, or the name is taken.
    Result<> parse(std::string_view value);
    /// Allocates the parsed entries (once memblock has memory).
    void allocate_all();
    /// reserve_mem_find_by_name(): nullptr (ENOENT) if there is none.
    const Entry* find(std::string_view name) const;
    const std::vector<Entry>& entries() const { return entries_; }

    /// Set by KHO: the range of the entry in the previous kernel, if it may be used again.
    std::function<std::optional<PhysRange>(const Entry&)> revive;

private:
    Kernel& kernel_;
    std::vector<Entry> entries_;
};

}  // namespace kexec_sim
