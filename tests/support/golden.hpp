// Golden files: text whose every byte is agreed.
//
// A test hands over what it got and the name of a file below tests/golden. Where they differ, the message shows the
// first differing line of both; a test run with UPDATE_GOLDEN=1 rewrites the file instead, for `git diff` to judge.
//
//     const auto golden = golden::compare("kho/worked_handover.txt", text);
//     INFO(golden.message);
//     CHECK(golden.same);
//
// The compile definition KEXEC_SIM_TESTS_DIR is the directory tests/ of the sources; without it, KEXEC_SIM_SOURCE_DIR
// is the root of the sources. A missing file is a difference.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <string>
#include <string_view>

#ifndef KEXEC_SIM_TESTS_DIR
#ifndef KEXEC_SIM_SOURCE_DIR
#error "KEXEC_SIM_SOURCE_DIR must name the root of the sources, or KEXEC_SIM_TESTS_DIR its directory tests/"
#endif
#define KEXEC_SIM_TESTS_DIR KEXEC_SIM_SOURCE_DIR "/tests"
#endif

namespace golden {

struct Comparison {
    bool same = false;
    std::string message;
};

// The line that starts at `at`, for a message; control characters would spoil the terminal.
inline std::string shown_line(std::string_view text, std::size_t at) {
    if (at >= text.size()) return "(end of text)";
    std::string line(text.substr(at, text.find('\n', at) - at));
    for (char& c : line)
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
    return "\"" + line + "\"";
}

// Empty where both are the same, otherwise line, column and both lines.
inline std::string difference(std::string_view expected, std::string_view actual) {
    if (expected == actual) return "";
    std::size_t at = 0;
    std::size_t line = 1;
    std::size_t line_start = 0;
    while (at < expected.size() && at < actual.size() && expected[at] == actual[at]) {
        if (expected[at] == '\n') {
            ++line;
            line_start = at + 1;
        }
        ++at;
    }
    return "first difference at line " + std::to_string(line) + ", column " + std::to_string(at - line_start + 1) +
           "\n  expected: " + shown_line(expected, line_start) + "\n  actual:   " + shown_line(actual, line_start);
}

inline std::optional<std::string> read_file(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) return std::nullopt;
    return std::string(std::istreambuf_iterator<char>(file), {});
}

inline Comparison compare(const std::filesystem::path& name, std::string_view actual) {
    const std::filesystem::path path = std::filesystem::path(KEXEC_SIM_TESTS_DIR) / "golden" / name;
    const char* update = std::getenv("UPDATE_GOLDEN");
    if (update != nullptr && std::string_view(update) == "1") {
        std::filesystem::create_directories(path.parent_path());
        std::ofstream file(path, std::ios::binary | std::ios::trunc);
        file << actual << std::flush;
        return {.same = file.good(),
                .message = path.string() + (file.good() ? ": rewritten" : ": cannot be written")};
    }
    const auto expected = read_file(path);
    if (!expected)
        return {.same = false, .message = path.string() + ": no such golden file; UPDATE_GOLDEN=1 writes it"};
    const std::string text = difference(*expected, actual);
    return {.same = text.empty(), .message = text.empty() ? "" : path.string() + ": " + text};
}

}  // namespace golden
