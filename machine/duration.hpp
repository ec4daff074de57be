// Durations as text: 500ns, 10us, 3ms, 2s.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "machine/types.hpp"

namespace kexec_sim {

/// A number and a unit; nanoseconds. nullopt: it is none, or too long.
std::optional<u64> parse_duration(std::string_view text);
/// In the largest unit that gives a whole number.
std::string duration_text(u64 ns);

}  // namespace kexec_sim
