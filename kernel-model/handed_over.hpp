// Reads of what the previous kernel left, each under its fault point (`handover.read`).
//
// A planned flip or zero changes the word as it is read, and not the RAM that it is read from: a bus error, or a word that
// was damaged and is whole again when somebody else looks. `what` names the word ("compatible", "map", "scratch", "pci").
#pragma once

#include <span>
#include <string_view>

#include "machine/machine.hpp"

namespace kexec_sim {

/// `bytes` have just been read.
void visit_read(Machine& machine, std::string_view what, std::span<std::byte> bytes);

/// `at` lies in RAM: BadPhysAccess otherwise.
template <typename T> T read_handed_over(Machine& machine, PhysAddr at, std::string_view what) {
    T value = machine.ram.read<T>(at);
    visit_read(machine, what, std::as_writable_bytes(std::span(&value, 1)));
    return value;
}

}  // namespace kexec_sim
