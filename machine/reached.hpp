// Marks of unhappy paths: code that runs only when something goes wrong.
//
//     REACHED("luo.freeze.rollback");
//
// A mark costs nothing to speak of and changes nothing. Where the environment names a file in KEXEC_SIM_REACHED, the
// first pass of a process appends the mark's name to it, a line each. The test run collects them, and its last test
// (tests/marks_test.sh) lists the marks that nothing reached: paths that no test knows.
#pragma once

namespace kexec_sim {

/// Always true. Does not allocate; a file that cannot be written is no error.
bool note_reached(const char* name);

}  // namespace kexec_sim

#define REACHED(name)                                                   \
    do {                                                                \
        static const bool noted_once = ::kexec_sim::note_reached(name); \
        static_cast<void>(noted_once);                                  \
    } while (false)
