#include "sim/workers/sanitizer_report.hpp"

#include <algorithm>
#include <cctype>
#include <optional>
#include <vector>

namespace kexec_sim::sim {
namespace {

constexpr std::string_view undefined_mark = ": runtime error: ";

std::vector<std::string_view> lines_of(std::string_view text) {
    std::vector<std::string_view> lines;
    while (!text.empty()) {
        const std::size_t end = text.find('\n');
        lines.push_back(text.substr(0, end));
        text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    }
    return lines;
}

/// "==123==ERROR: AddressSanitizer: …" from the name of the tool on; empty: this is no such line.
std::string_view after_error(std::string_view line) {
    if (!line.starts_with("==")) return {};
    for (const std::string_view mark : {"==ERROR: ", "==WARNING: "}) {
        const std::size_t at = line.find(mark);
        if (at == std::string_view::npos) continue;
        const std::string_view rest = line.substr(at + mark.size());
        const std::size_t end = rest.find("Sanitizer: ");
        const bool one_word =
            end != std::string_view::npos && rest.substr(0, end).find(' ') == std::string_view::npos;
        return one_word ? rest : std::string_view{};
    }
    return {};
}

/// FILE:LINE:COLUMN: runtime error: …
bool is_undefined(std::string_view line) {
    const std::size_t mark = line.find(undefined_mark);
    return mark != std::string_view::npos && mark > 0 && std::isdigit(static_cast<unsigned char>(line[mark - 1])) &&
           line.substr(0, mark).find(':') != std::string_view::npos;
}

bool is_ruler(std::string_view line) {
    return line.size() > 32 && line.find_first_not_of('=') == std::string_view::npos;
}

/// Behind the first line of a report of undefined behaviour: its stack, notes, summary.
bool belongs_to_undefined(std::string_view line) {
    return line.empty() || line.starts_with(' ') || line.starts_with("SUMMARY: ") ||
           line.find(": note: ") != std::string_view::npos;
}

/// Without what differs from run to run.
std::string without_addresses(std::string_view text) {
    std::string out;
    while (!text.empty()) {
        const std::size_t at = std::min(text.find("0x"), text.size());
        out += text.substr(0, at);
        text.remove_prefix(at);
        if (text.empty()) break;
        out += "0x…";
        text.remove_prefix(2);
        text.remove_prefix(std::min(text.find_first_not_of("0123456789abcdefABCDEF"), text.size()));
    }
    return out;
}

/// "heap-use-after-free on address 0x… at pc …" is "heap-use-after-free".
std::string_view kind_of_error(std::string_view text) {
    text = text.substr(0, std::min(text.find(" on "), text.find("0x")));
    while (!text.empty() && !std::isalnum(static_cast<unsigned char>(text.back()))) text.remove_suffix(1);
    return text;
}

struct Frame {
    std::string_view function, place;
    /// Of a library, the sanitizer's own to begin with.
    bool foreign() const {
        return place.find("libsanitizer/") != std::string_view::npos || place.starts_with("/usr/") ||
               function.starts_with("__interceptor_") || function.starts_with("__asan") ||
               function.starts_with("__ubsan") || function.starts_with("__sanitizer");
    }
};

/// "    #0 0x55a29f5a12ce in FUNCTION FILE:LINE", or "… in FUNCTION (BINARY+0x21c0) (BuildId: …)", or without a name:
/// "    #0 0x55a29f5a12ce  (BINARY+0x21c0)".
std::optional<Frame> frame_of(std::string_view line) {
    const std::size_t number = line.find_first_not_of(' ');
    if (number == std::string_view::npos || line[number] != '#') return std::nullopt;
    const std::size_t in = line.find(" in ");
    if (in == std::string_view::npos) return Frame{};
    line = line.substr(in + 4);
    line = line.substr(0, line.find(" (BuildId: "));
    const std::size_t space = line.rfind(' ');
    if (space == std::string_view::npos) return Frame{line, {}};
    const std::string_view place = line.substr(space + 1);
    return Frame{line.substr(0, space), place.starts_with('(') ? std::string_view{} : place};
}

}  // namespace

HeardErrors split_sanitizer_report(std::string_view text) {
    HeardErrors heard;
    enum class At { before, in_error, in_undefined, behind } at = At::before;
    std::string_view ruler;  // held back: it may belong to what comes next
    const auto add = [](std::string& to, std::string_view line) { to.append(line).append("\n"); };
    for (const std::string_view line : lines_of(text)) {
        if (at == At::in_undefined && !belongs_to_undefined(line)) at = At::behind;
        if (at == At::before) {
            if (!after_error(line).empty()) at = At::in_error;
            if (is_undefined(line)) at = At::in_undefined;
            if (!ruler.empty()) add(at == At::before ? heard.rest : heard.report, ruler);
            ruler = at == At::before && is_ruler(line) ? line : std::string_view{};
            if (!ruler.empty()) continue;
        }
        add(at == At::before || at == At::behind ? heard.rest : heard.report, line);
        if (at == At::in_error && line.ends_with("==ABORTING")) at = At::behind;
    }
    if (!ruler.empty()) add(heard.rest, ruler);
    // What did not end with a line break is passed on like that.
    if (!text.ends_with('\n') && !heard.rest.empty() && at != At::in_error && at != At::in_undefined)
        heard.rest.pop_back();
    return heard;
}

SanitizerReport read_sanitizer_report(std::string_view text) {
    SanitizerReport report;
    std::optional<Frame> first, own;
    for (const std::string_view line : lines_of(text)) {
        if (report.tool.empty()) {
            if (const std::string_view error = after_error(line); !error.empty()) {
                const std::size_t colon = error.find(": ");
                report.tool = error.substr(0, colon);
                report.error = kind_of_error(error.substr(colon + 2));
            } else if (is_undefined(line)) {
                const std::size_t mark = line.find(undefined_mark);
                report.tool = "UndefinedBehaviorSanitizer";
                report.error = without_addresses(line.substr(mark + undefined_mark.size()));
                report.place = line.substr(0, mark);
            }
            continue;
        }
        const auto frame = frame_of(line);
        if (!frame && first) break;  // what follows are other stacks: who allocated it, who freed it
        if (!frame) continue;
        if (!first) first = frame;
        if (!own && !frame->foreign()) own = frame;
    }
    if (const auto& frame = own ? own : first) {
        report.function = frame->function;
        if (report.place.empty()) report.place = frame->place;
    }
    return report;
}

const std::string& SanitizerReport::where() const {
    static const std::string nowhere = "?";
    return !function.empty() ? function : !place.empty() ? place : nowhere;
}

std::string SanitizerReport::message() const {
    std::string text = tool + ": " + error;
    if (!function.empty()) text += " in " + function;
    if (!place.empty()) text += (function.empty() ? " in " : " ") + place;
    return text;
}

}  // namespace kexec_sim::sim
