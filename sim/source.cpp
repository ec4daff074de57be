#include "sim/source.hpp"

#include <fmt/format.h>

#include "machine/result.hpp"

namespace kexec_sim::sim {
namespace {

/// Longer lines are not shown: the caret would be out of sight.
constexpr std::size_t shown_columns_max = 160;

bool continues_character(char byte) { return (static_cast<unsigned char>(byte) & 0xc0) == 0x80; }

std::size_t count_characters(std::string_view text) {
    std::size_t count = 0;
    for (char byte : text) count += continues_character(byte) ? 0 : 1;
    return count;
}

}  // namespace

SourceFile::SourceFile(std::string name, std::string_view text) : name_(std::move(name)) {
    while (!text.empty()) {
        const std::size_t end = text.find('\n');
        std::string_view line = text.substr(0, end);
        if (line.ends_with('\r')) line.remove_suffix(1);
        lines_.emplace_back(line);
        if (end == std::string_view::npos) break;
        text.remove_prefix(end + 1);
    }
}

std::string_view SourceFile::line(u32 line) const {
    if (line == 0 || line > lines_.size()) return {};
    return lines_[line - 1];
}

std::string SourceFile::message(SourcePos pos, std::string_view text) const {
    if (pos.line == 0) return fmt::format("{}: error: {}", name_, text);
    std::string message = fmt::format("{}:{}:{}: error: {}", name_, pos.line, pos.column, text);
    const std::string_view shown = line(pos.line);
    const std::size_t columns = count_characters(shown);
    if (columns == 0 || columns > shown_columns_max || pos.column > columns + 1) return message;
    // Tabs and control characters would move the caret away from what it points at.
    std::string plain(shown);
    for (char& byte : plain)
        if (static_cast<unsigned char>(byte) < 0x20 || byte == 0x7f) byte = ' ';
    message += fmt::format("\n  {}\n  {:>{}}", plain, '^', pos.column);
    return message;
}

void SourceFile::error(SourcePos pos, std::string_view text) const { throw UserError(message(pos, text)); }

}  // namespace kexec_sim::sim
