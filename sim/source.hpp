// Where something stands in a file of the user, and how an error says so.
//
//     s.yaml:12:5: error: unknown step 'memfd.creat'; did you mean 'memfd.create'?
//       - memfd.creat: {name: a, size: 4096}
//         ^
//
// Lines and columns count from 1; a column counts characters, not bytes. The two lines after the
// message are the offending line as the file has it (cut where it is very long) and a caret.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "machine/types.hpp"

namespace kexec_sim::sim {

struct SourcePos {
    u32 line = 0;  // 0: no position, the error is about the file
    u32 column = 0;
    constexpr auto operator<=>(const SourcePos&) const = default;
};

/// The text of one file, kept so that an error can show the line that it is about.
class SourceFile {
public:
    SourceFile(std::string name, std::string_view text);

    const std::string& name() const { return name_; }
    /// The text of line `line` (from 1) without its end; empty beyond the end.
    std::string_view line(u32 line) const;
    u32 line_count() const { return static_cast<u32>(lines_.size()); }

    /// The whole message, with the offending line and the caret where the file has that line.
    std::string message(SourcePos pos, std::string_view text) const;
    /// Throws UserError with `message(pos, text)`.
    [[noreturn]] void error(SourcePos pos, std::string_view text) const;

private:
    std::string name_;
    std::vector<std::string> lines_;
};

}  // namespace kexec_sim::sim
