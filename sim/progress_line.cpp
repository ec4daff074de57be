#include "sim/progress_line.hpp"

#include "sim/terminal_text.hpp"

namespace kexec_sim::sim {

void ProgressLine::say(std::string_view text) {
    const auto now = std::chrono::steady_clock::now();
    if (!wanted_ || now - last_ < std::chrono::milliseconds(200)) return;
    last_ = now;
    out_.write("\r\x1b[K" + shortened(text, terminal_columns - 1));
    out_.flush();
    shown_ = true;
}

void ProgressLine::clear() {
    if (shown_) out_.write("\r\x1b[K");
    shown_ = false;
}

}  // namespace kexec_sim::sim
