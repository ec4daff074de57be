#include "sim/terminal_text.hpp"

#include <algorithm>
#include <fmt/format.h>

namespace kexec_sim::sim {
namespace {

bool continues(char c) { return (static_cast<unsigned char>(c) & 0xc0) == 0x80; }

/// Bytes of the code point at the start of `text`; 0 where there is none.
std::size_t code_point_bytes(std::string_view text) {
    const auto lead = static_cast<unsigned char>(text.front());
    if (lead < 0x80) return 1;
    const std::size_t bytes = lead >= 0xc2 && lead < 0xe0   ? 2
                              : lead >= 0xe0 && lead < 0xf0 ? 3
                              : lead >= 0xf0 && lead < 0xf5 ? 4
                                                            : 0;
    if (bytes == 0 || text.size() < bytes) return 0;
    for (std::size_t i = 1; i < bytes; ++i)
        if (!continues(text[i])) return 0;
    const auto second = static_cast<unsigned char>(text[1]);
    // Overlong forms, surrogates, and what lies beyond the last code point.
    if ((lead == 0xe0 && second < 0xa0) || (lead == 0xed && second >= 0xa0)) return 0;
    if ((lead == 0xf0 && second < 0x90) || (lead == 0xf4 && second >= 0x90)) return 0;
    return bytes;
}

/// Byte offset of column `columns` of `text`, or its size.
std::size_t offset_of_column(std::string_view text, std::size_t columns) {
    std::size_t at = 0;
    for (; at < text.size(); ++at) {
        if (continues(text[at])) continue;
        if (columns-- == 0) break;
    }
    return at;
}

}  // namespace

std::size_t text_columns(std::string_view text) {
    return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) { return !continues(c); }));
}

std::string shortened(std::string_view text, std::size_t columns) {
    if (text_columns(text) <= columns) return std::string(text);
    if (columns == 0) return {};
    return std::string(text.substr(0, offset_of_column(text, columns - 1))) + "…";
}

std::vector<std::string> wrapped(std::string_view text, std::size_t columns, std::size_t columns_after) {
    std::vector<std::string> lines;
    std::string line;
    std::size_t used = 0;
    const auto finish = [&] {
        lines.push_back(std::move(line));
        line.clear();
        used = 0;
        if (columns_after) columns = columns_after;
    };
    while (!text.empty()) {
        const std::size_t end = std::min(text.find(' '), text.size());
        std::string_view word = text.substr(0, end);
        text.remove_prefix(std::min(end + 1, text.size()));
        std::size_t width = text_columns(word);
        if (used > 0 && used + 1 + width > columns) finish();
        if (used > 0) {
            line += ' ';
            ++used;
        }
        while (width > columns) {
            const std::size_t cut = offset_of_column(word, columns);
            line += word.substr(0, cut);
            word.remove_prefix(cut);
            finish();
            width = text_columns(word);
        }
        line += word;
        used += width;
    }
    if (!line.empty() || lines.empty()) finish();
    return lines;
}

std::string printable(std::string_view text, bool keep_lines) {
    std::string out;
    while (!text.empty()) {
        const std::size_t bytes = code_point_bytes(text);
        const auto first = static_cast<unsigned char>(text.front());
        const bool line_break = first == '\n' && keep_lines;
        // C1 controls are two bytes long in UTF-8: 0xc2 0x80…0x9f.
        const bool c1 = bytes == 2 && first == 0xc2 && static_cast<unsigned char>(text[1]) < 0xa0;
        if (bytes == 0 || c1 || ((first < 0x20 || first == 0x7f) && !line_break)) {
            out += fmt::format("\\x{:02x}", first);
            text.remove_prefix(1);
            if (c1) {
                out += fmt::format("\\x{:02x}", static_cast<unsigned char>(text.front()));
                text.remove_prefix(1);
            }
            continue;
        }
        out += text.substr(0, bytes);
        text.remove_prefix(bytes);
    }
    return out;
}

bool is_utf8(std::string_view text) {
    while (!text.empty()) {
        const std::size_t bytes = code_point_bytes(text);
        if (bytes == 0) return false;
        text.remove_prefix(bytes);
    }
    return true;
}

std::string bytes_text(u64 bytes) {
    constexpr std::string_view units[] = {"TiB", "GiB", "MiB", "KiB"};
    u64 unit = TiB;
    for (std::string_view name : units) {
        if (bytes >= unit) {
            if (bytes % unit == 0) return fmt::format("{} {}", bytes / unit, name);
            // Thousandths, rounded to nearest; the whole part apart, so that nothing overflows.
            u64 whole = bytes / unit, rest = ((bytes % unit) * 1000 + unit / 2) / unit;
            if (rest == 1000) ++whole, rest = 0;
            std::string text = fmt::format("{}.{:03}", whole, rest);
            while (text.back() == '0') text.pop_back();
            if (text.back() == '.') text.pop_back();
            return fmt::format("{} {}", text, name);
        }
        unit /= 1024;
    }
    return fmt::format("{} bytes", bytes);
}

std::string milliseconds_text(u64 ns) { return fmt::format("{}.{:03} ms", ns / 1'000'000, ns / 1000 % 1000); }

std::string count_text(u64 count, std::string_view one) {
    return fmt::format("{} {}{}", count, one, count == 1 ? "" : "s");
}

std::string styled(std::string_view text, Style style, bool color) {
    if (!color || style == Style::plain || text.empty()) return std::string(text);
    constexpr std::string_view codes[] = {"0", "1", "2", "32", "1;31", "33", "36"};
    return fmt::format("\x1b[{}m{}\x1b[0m", codes[static_cast<std::size_t>(style)], text);
}

}  // namespace kexec_sim::sim
