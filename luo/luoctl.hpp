// luoctl, the command-line tool of the series: asks for the state, and checks by itself whether a command fits it.
//
//   command   does it in state   else (exit 1)
//   state     any                -
//   prepare   normal             Error: can only switch to prepared state from normal state
//   cancel    prepared           Error: can only cancel from normal state        (the tool says so)
//   finish    updated            Error: can only finish from updated state
//
// Exit 1 as well: an error of the device, an unknown command, not exactly one command, no device ("LUO is not
// available on this system"). There is no command for freeze; reboot does that.
#pragma once

#include <string>

#include "kernel-model/kernel.hpp"

namespace kexec_sim::luo {

struct LuoctlResult {
    int exit_code = 0;
    std::string out, err;
};
/// Runs as a process of its own, which opens the device and is gone at the end. `arguments` are separated by blanks.
LuoctlResult run_luoctl(Kernel& kernel, const std::string& arguments);

}  // namespace kexec_sim::luo
