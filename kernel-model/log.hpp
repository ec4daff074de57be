// The kernel log: lines with virtual timestamps, kept in the kernel and sent to the trace.
#pragma once

#include <fmt/format.h>
#include <string>
#include <vector>

#include "machine/machine.hpp"

namespace kexec_sim {

enum class LogLevel : u8 { err = 3, warn = 4, info = 6 };

class KernelLog {
public:
    explicit KernelLog(Machine& machine) : machine_(machine) {}
    /// One line, without a newline. The event is `kernel.log` {level, text}.
    void print(LogLevel level, std::string text);
    template <typename... Args> void info(fmt::format_string<Args...> format, Args&&... args) {
        print(LogLevel::info, fmt::format(format, std::forward<Args>(args)...));
    }
    template <typename... Args> void warn(fmt::format_string<Args...> format, Args&&... args) {
        print(LogLevel::warn, fmt::format(format, std::forward<Args>(args)...));
    }
    template <typename... Args> void err(fmt::format_string<Args...> format, Args&&... args) {
        print(LogLevel::err, fmt::format(format, std::forward<Args>(args)...));
    }
    /// WARN(): a line, a trace event and a word to the referee. `named`: the edition's specification names it.
    void warn_on(std::string text, bool named);

    struct Line {
        u64 time_ns;
        LogLevel level;
        std::string text;
    };
    const std::vector<Line>& lines() const { return lines_; }
    bool contains(std::string_view text) const;

private:
    Machine& machine_;
    std::vector<Line> lines_;
};

}  // namespace kexec_sim
