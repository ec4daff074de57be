#include "kernel-model/log.hpp"

namespace kexec_sim {

void KernelLog::print(LogLevel level, std::string text) {
    machine_.trace.emit(Layer::kernel, "kernel.log", {{"level", static_cast<u32>(level)}, {"text", text}});
    lines_.push_back({machine_.clock.now_ns(), level, std::move(text)});
}

void KernelLog::warn_on(std::string text, bool named) {
    // A report that has a heading of its own ("BUG: Bad page state …") is printed as it is.
    print(LogLevel::warn, text.starts_with("BUG: ") ? text : "WARNING: " + text);
    machine_.referee.kernel_warned(text, named);
}

bool KernelLog::contains(std::string_view text) const {
    for (const Line& line : lines_)
        if (line.text.find(text) != std::string::npos) return true;
    return false;
}

}  // namespace kexec_sim
