// Private memory at a fixed address that outlives the machine it was part of.
//
// Exploration makes a machine, runs it for half a millisecond and makes the next. To have the host map its memory, clear it
// page by page as it is touched, and unmap it again was a third of that time. So what a machine leaves is cleared and kept,
// and the next machine of the process takes it over.
#pragma once

#include "machine/types.hpp"

namespace kexec_sim {

class KeptMapping {
public:
    constexpr explicit KeptMapping(u64 address) : address_(address) {}
    /// `bytes` of zeros: what is kept, if it is as large, else a mapping of its own. nullptr: the host refuses (errno),
    /// EEXIST where something else is there.
    void* take(u64 bytes);
    /// Its user is done with it and has cleared it.
    void keep(u64 bytes) { kept_bytes_ = bytes; }
    /// Nothing is kept: the address is free for a mapping of another kind.
    void drop();

private:
    u64 address_, kept_bytes_ = 0;
};

}  // namespace kexec_sim
