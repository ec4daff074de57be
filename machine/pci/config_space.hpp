// The configuration space of one function: 4 KiB of registers with the rules by which they take a write.
//
//   byte      0x00 vendor …  0x04 command …                    0x10 BAR0 …
//   value     3c 1f 00 01    06 00 10 00                       00 00 00 fe
//   writable  -- -- -- --    bits 0-2, 10                      the bits above the BAR's size
//
// A bit is read-only, writable, or cleared by writing 1 to it. Little endian. Reads beyond what is defined give 0.
#pragma once

#include <array>
#include <bit>
#include <cstring>

#include "machine/types.hpp"

namespace kexec_sim {

static_assert(std::endian::native == std::endian::little, "registers are read as they lie");

class ConfigSpace {
public:
    static constexpr u16 bytes_max = 4096;

    /// `bytes` is 1, 2 or 4 and `offset` a multiple of it: INVARIANT; a caller with other accesses splits them.
    u32 read(u16 offset, unsigned bytes) const;
    /// A register of 2 bytes, without the checks: what routing looks at for every request. `offset` is even.
    u16 word(u16 offset) const {
        u16 value;
        std::memcpy(&value, &value_[offset], sizeof value);
        return value;
    }
    /// As software's write; returns what the register reads as from now on.
    u32 write(u16 offset, unsigned bytes, u32 value);
    /// As hardware's own change: no rule applies.
    void set(u16 offset, unsigned bytes, u32 value);

    /// Declares a register: its value after a reset and what software can do to it.
    void declare(u16 offset, unsigned bytes, u32 value, u32 writable = 0, u32 write_1_to_clear = 0);
    /// Every declared register back to its value after a reset.
    void reset();

private:
    std::array<u8, bytes_max> value_{}, reset_value_{}, writable_{}, write_1_to_clear_{};
};

}  // namespace kexec_sim
