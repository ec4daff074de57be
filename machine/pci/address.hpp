// Addresses of PCI functions.
//
//   Bdf         bus << 8 | device << 3 | function: what config cycles are routed by, and what a request carries as
//               its requester id
//   PciAddress  a segment (PCI domain) and a Bdf: "0000:02:00.0"
#pragma once

#include <string>

#include "machine/types.hpp"

namespace kexec_sim {

struct Bdf {
    u16 raw = 0;
    constexpr Bdf() = default;
    constexpr explicit Bdf(unsigned bdf) : raw(static_cast<u16>(bdf)) {}
    constexpr Bdf(unsigned bus, unsigned devfn) : raw(static_cast<u16>(bus << 8 | devfn)) {}
    constexpr u8 bus() const { return static_cast<u8>(raw >> 8); }
    constexpr u8 devfn() const { return static_cast<u8>(raw); }
    constexpr u8 device() const { return static_cast<u8>(devfn() >> 3); }
    constexpr u8 function() const { return devfn() & 7; }
    constexpr auto operator<=>(const Bdf&) const = default;
};

struct PciAddress {
    u32 segment = 0;
    Bdf bdf;
    constexpr auto operator<=>(const PciAddress&) const = default;
    /// "0000:02:00.0"; the segment has more than four digits where it needs them.
    std::string text() const;
};

}  // namespace kexec_sim
