// Writes of bytes that the next kernel will read.
//
// Every store into a structure that crosses a kexec goes through abi_write() under a name ("kho.chunk.next"). In a
// normal run that is a plain store. A test names one of them with set_dropped_abi_write(): that store is left out, as
// if somebody had deleted the line, and the test demands that the referee notices. record_abi_writes() collects the
// names that a run passes, so that the test need not list them.
//
// This is the one switch that outlives a machine; nothing but such tests sets it.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "machine/ram.hpp"

namespace kexec_sim {

/// Leaves out every write of that name from now on; an empty name: none.
void set_dropped_abi_write(std::string_view name);
/// Collects names from now on (true), or stops (false). The list is cleared at the start.
void record_abi_writes(bool on);
/// The names since then, each once, in order of first use.
const std::vector<std::string>& recorded_abi_writes();

namespace detail {
extern bool abi_write_watched;
bool abi_write_dropped_slow(std::string_view name);
}  // namespace detail

/// True if a write of that name must be left out. For encoders that do not store through abi_write() (libfdt).
inline bool abi_write_dropped(std::string_view name) {
    return detail::abi_write_watched && detail::abi_write_dropped_slow(name);
}

template <typename T> void abi_write(PhysicalMemory& ram, PhysAddr phys, const T& value, std::string_view name) {
    if (!abi_write_dropped(name)) ram.write(phys, value);
}
inline void abi_write_bytes(PhysicalMemory& ram, PhysAddr phys, std::span<const std::byte> bytes,
                            std::string_view name) {
    if (!abi_write_dropped(name)) ram.write_bytes(phys, bytes);
}

}  // namespace kexec_sim
