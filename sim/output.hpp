// A file that the program writes: standard output, a JSON result, a trace.
//
// Not stdio, for two reasons. A kernel's process is forked from this one, and a module in it that calls exit()
// would write out a copy of stdio's buffers. And a full disk must be an error with the file's name and exit 2, not
// text that is missing.
#pragma once

#include <fmt/format.h>
#include <string>
#include <string_view>

#include "machine/types.hpp"

namespace kexec_sim::sim {

class Output {
public:
    /// Opens `path` for writing ("-": standard output) and empties it with the first write. UserError if it cannot
    /// be.
    explicit Output(const std::string& path);
    /// An open descriptor, which stays open.
    Output(int fd, std::string name) : fd_(fd), name_(std::move(name)), emptied_(true) {}
    ~Output();
    Output(const Output&) = delete;
    Output& operator=(const Output&) = delete;

    void write(std::string_view text);
    template <typename... Args> void print(fmt::format_string<Args...> format, Args&&... args) {
        write(fmt::format(format, std::forward<Args>(args)...));
    }
    /// Hands everything to the host; UserError if it does not take it.
    void flush();
    bool is_terminal() const;

private:
    int fd_ = -1;
    bool owned_ = false;
    std::string name_;
    bool emptied_ = false;
    std::string waiting_;
};

}  // namespace kexec_sim::sim
