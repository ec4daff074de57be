// What a child process writes to its standard error, in a file without a name: what it says as it dies is known to who
// finds it dead.
//
//   ErrorCapture capture;                  before the fork
//   child:   capture.begin(); …            standard error is the file from now on
//   parent:  waits; capture.take()         or the child itself, between two pieces of work
//
// What is no report of a sanitizer is nobody's business here: pass_on() writes it to where it would have gone.
#pragma once

#include <string>
#include <string_view>

#include "machine/types.hpp"

namespace kexec_sim::sim {

class ErrorCapture {
public:
    /// Of what is written between two take(): what comes behind is lost, so that no run fills the host's memory.
    static constexpr u64 bytes_max = MiB;

    /// UserError: the host has no file left.
    ErrorCapture();
    ~ErrorCapture();
    ErrorCapture(const ErrorCapture&) = delete;
    ErrorCapture& operator=(const ErrorCapture&) = delete;

    /// In a child.
    void begin();
    /// What was written since the last call. Nobody may write meanwhile.
    std::string take();
    /// Writes to standard error as it is, or was before begin().
    void pass_on(std::string_view text) const;

private:
    int fd_ = -1;
    int original_ = -1;  // after begin(): standard error as it was
};

}  // namespace kexec_sim::sim
