// The scalars of a scenario: text in, value out.
//
//   size      4096  4K  4KiB  2MiB  1G  1TiB      K, M, G and T are binary; no sign, no fraction
//   duration  500ns  10us  3ms  2s                a unit is needed
//   u64       4096  0x1001  0xFEED_F00D           `_` between digits, as the kernel's tests write them
//   fill      zero  byte(0xa5)  pattern(7)        or exact bytes as `text: "…"`
//   hex       "00 10 a5"                          bytes, blanks between them allowed
//   PCI       00:02.0  0000:00:02.0  10000:00:02.0   hex digits, [segment:]bus:device.function
//
// Each parser takes the whole text or nothing and returns nullopt where it does not fit; the caller,
// who knows the position and the name of the field, makes the message. Overflow does not fit.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "machine/duration.hpp"
#include "machine/pci/address.hpp"
#include "machine/types.hpp"

namespace kexec_sim::sim {

std::optional<u64> parse_size(std::string_view text);
/// In the largest unit that gives a whole number.
std::string size_text(u64 bytes);
std::optional<u64> parse_u64(std::string_view text);
std::optional<bool> parse_bool(std::string_view text);
std::optional<PciAddress> parse_pci_address(std::string_view text);
std::optional<std::string> parse_hex_bytes(std::string_view text);

/// What a stretch of an object holds. A fill belongs to the object, not to the write: word number i
/// of the *object* of `pattern(SEED)` is (SEED << 32) | i, little-endian, so that a write in the middle
/// continues the pattern. `text` is the exception: its byte 0 is the first byte written.
struct Fill {
    enum class Kind : u8 { zero, byte, pattern, text };
    Kind kind = Kind::zero;
    u64 value = 0;     // byte: 0…255; pattern: the seed, 32 bits
    std::string text;  // text
    bool operator==(const Fill&) const = default;
    /// The form that parse_fill() takes; of a text the text in double quotes.
    std::string describe() const;
    /// The byte at `offset` of an object so filled; of a text the byte at `offset` of the text.
    u8 byte_at(u64 offset) const;
    /// Writes bytes [offset, offset + into.size()) of the object.
    void write(u64 offset, std::span<std::byte> into) const;
};
/// `zero`, `byte(N)` with N < 256, `pattern(SEED)` with SEED < 2^32.
std::optional<Fill> parse_fill(std::string_view text);

/// How many letters must be added, removed, changed or swapped with their neighbour; stops counting at `limit`.
unsigned edit_distance(std::string_view left, std::string_view right, unsigned limit);
/// The nearest of `names` within two edits; empty where none is near.
std::string nearest_name(std::string_view name, std::span<const std::string_view> names);
/// "; did you mean 'x'?", or nothing.
std::string did_you_mean(std::string_view name, std::span<const std::string_view> names);

/// What `${name}` stands for.
struct Substitution {
    std::string_view name, value;
};
/// Letters, digits, '-', '_' and '.'.
bool is_parameter_name(std::string_view name);
/// The result of substitute(): `text`, or what is wrong and at which byte of the input.
struct Substituted {
    std::string text;
    std::string error;
    std::size_t offset = 0;
};
/// Replaces every `${name}`; `$${` stands for a literal `${`.
Substituted substitute(std::string_view text, std::span<const Substitution> values);

}  // namespace kexec_sim::sim
