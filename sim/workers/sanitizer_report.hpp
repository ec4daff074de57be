// Reports of the sanitizers (AddressSanitizer and its kin, UndefinedBehaviorSanitizer) in what a process wrote to its
// standard error.
//
//   =================================================================
//   ==123==ERROR: AddressSanitizer: heap-use-after-free on address 0x602000000010 at pc …
//   READ of size 4 at 0x602000000010 thread T0
//       #0 0x55a29f5a12ce in kexec_sim::Files::close(int) luo/files.cpp:5
//       …
//   SUMMARY: AddressSanitizer: heap-use-after-free luo/files.cpp:5 in kexec_sim::Files::close(int)
//   ==123==ABORTING
//
//   luo/files.cpp:10:37: runtime error: signed integer overflow: 2 + 2147483647 cannot be represented in type 'int'
//       #0 0x55941000857d in kexec_sim::Files::close(int) luo/files.cpp:10          (UBSAN_OPTIONS=print_stacktrace=1)
//
// Addresses differ from run to run; nothing that is made of a report here has one.
#pragma once

#include <string>
#include <string_view>

namespace kexec_sim::sim {

struct HeardErrors {
    std::string report;  // the first one, whole; empty: there is none
    std::string rest;    // what was written beside it
};
HeardErrors split_sanitizer_report(std::string_view text);

struct SanitizerReport {
    std::string tool, error;      // "AddressSanitizer", "heap-use-after-free"
    std::string function, place;  // the innermost function that is no library's, "luo/files.cpp:5"; "": not reported

    /// The function, else the place, else "?".
    const std::string& where() const;
    /// "AddressSanitizer: heap-use-after-free in kexec_sim::Files::close(int) luo/files.cpp:5".
    std::string message() const;
};
/// `report`: as it was found by split_sanitizer_report().
SanitizerReport read_sanitizer_report(std::string_view report);

}  // namespace kexec_sim::sim
