// The kernel command line, as kernel/params.c and lib/cmdline.c read it.
//
//   kho=on  kho_scratch=16M,512M,16M  "note=two words"  note="two words"  --  what init gets
//   |____|                             |_____________|       |_______|        |___________|
//   key=value                          quotes around all     or the value     not the kernel's
//
// Words end at white space outside double quotes. A quote at the start of a word or of a value, and its end, are not
// part of it. `-` and `_` are the same letter in a key. A word without `=` has an empty value.
//
// Simplified: there is no escape for a quote, as in the kernel; init's words are dropped.
#include "kernel-model/kernel.hpp"

namespace kexec_sim {
namespace {

constexpr bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
constexpr char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

/// next_arg(): one word from the start of `line`, taken off it.
CmdlineWord next_word(std::string_view& line) {
    const bool quoted = line.front() == '"';
    if (quoted) line.remove_prefix(1);
    bool in_quote = quoted;
    std::size_t end = 0, equals = 0;  // 0: none yet; a word may begin with one
    for (; end < line.size(); ++end) {
        if (is_space(line[end]) && !in_quote) break;
        if (line[end] == '=' && equals == 0) equals = end;
        if (line[end] == '"') in_quote = !in_quote;
    }
    std::string_view word = line.substr(0, end);
    line.remove_prefix(end);
    if (quoted && word.ends_with('"')) word.remove_suffix(1);

    CmdlineWord result;
    result.key = equals ? word.substr(0, equals) : word;
    if (equals) {
        std::string_view value = word.substr(equals + 1);
        if (value.starts_with('"')) {
            value.remove_prefix(1);
            if (value.ends_with('"')) value.remove_suffix(1);
        }
        result.value = value;
    }
    for (char& c : result.key)
        if (c == '-') c = '_';
    return result;
}

/// simple_strtoull() with base 0: 0x… is hexadecimal, 0… octal. Takes the digits off `text`; nullopt without a digit.
std::optional<u64> take_number(std::string_view& text) {
    unsigned base = 10;
    if (text.size() > 2 && text[0] == '0' && lower(text[1]) == 'x') {
        const char first = lower(text[2]);
        if ((first >= '0' && first <= '9') || (first >= 'a' && first <= 'f')) {
            base = 16;
            text.remove_prefix(2);
        }
    } else if (text.starts_with('0')) {
        base = 8;
    }
    u64 value = 0;
    std::size_t digits = 0;
    for (; digits < text.size(); ++digits) {
        const char c = lower(text[digits]);
        const unsigned digit = c >= '0' && c <= '9'   ? static_cast<unsigned>(c - '0')
                               : c >= 'a' && c <= 'f' ? static_cast<unsigned>(c - 'a' + 10)
                                                      : base;
        if (digit >= base) break;
        value = value * base + digit;  // overflow wraps, as in the kernel
    }
    if (digits == 0) return std::nullopt;
    text.remove_prefix(digits);
    return value;
}

}  // namespace

std::vector<CmdlineWord> parse_cmdline(std::string_view cmdline) {
    std::vector<CmdlineWord> words;
    for (;;) {
        while (!cmdline.empty() && is_space(cmdline.front())) cmdline.remove_prefix(1);
        if (cmdline.empty()) return words;
        if (cmdline.starts_with("--") && (cmdline.size() == 2 || is_space(cmdline[2]))) return words;
        words.push_back(next_word(cmdline));
    }
}

Result<bool> parse_bool_param(std::string_view value) {
    if (value.empty()) return fail(Errno::einval);
    switch (lower(value[0])) {
    case '1':
    case 'y':
    case 't': return true;
    case '0':
    case 'n':
    case 'f': return false;
    case 'o':
        if (value.size() > 1 && lower(value[1]) == 'n') return true;
        if (value.size() > 1 && lower(value[1]) == 'f') return false;
        break;
    }
    return fail(Errno::einval);
}

Result<u64> parse_size_param(std::string_view value, std::string_view* rest) {
    const std::optional<u64> number = take_number(value);
    if (!number) return fail(Errno::einval);
    unsigned shift = 0;
    if (!value.empty()) {
        static constexpr std::string_view suffixes = "kmgtpe";
        const std::size_t index = suffixes.find(lower(value.front()));
        if (index != std::string_view::npos) {
            shift = static_cast<unsigned>(index + 1) * 10;
            value.remove_prefix(1);
        }
    }
    if (rest)
        *rest = value;
    else if (!value.empty())
        return fail(Errno::einval);  // the caller expects nothing behind the number
    return *number << shift;
}

}  // namespace kexec_sim
