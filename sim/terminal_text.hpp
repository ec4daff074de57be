// Text for a terminal of 80 columns.
//
// A column is one character, not one byte: everything here counts code points of UTF-8, and colour takes none. Text
// that came out of handed-over memory may hold anything, so what a terminal would obey is shown as \xNN.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "machine/types.hpp"

namespace kexec_sim::sim {

inline constexpr std::size_t terminal_columns = 80;

/// How many columns `text` takes.
std::size_t text_columns(std::string_view text);
/// `text`, or its beginning and "…", in at most `columns`.
std::string shortened(std::string_view text, std::size_t columns);
/// Words in lines of at most `columns`, from the second line on `columns_after` (0: the same); a word that is
/// longer is cut.
std::vector<std::string> wrapped(std::string_view text, std::size_t columns, std::size_t columns_after = 0);
/// Control characters and bytes that are no UTF-8 as \xNN; line breaks stay if `keep_lines`.
std::string printable(std::string_view text, bool keep_lines = false);
bool is_utf8(std::string_view text);

/// "4 KiB", "8.008 MiB", "1 GiB".
std::string bytes_text(u64 bytes);
/// "37.000 ms": microseconds are the smallest unit that a cost model uses.
std::string milliseconds_text(u64 ns);
/// "1 folio", "2 folios".
std::string count_text(u64 count, std::string_view one);

enum class Style : u8 { plain, bold, dim, good, bad, warn, accent };
/// `text` between the escape sequences of `style`, if `color`.
std::string styled(std::string_view text, Style style, bool color);

}  // namespace kexec_sim::sim
