// Text for a shell.
#pragma once

#include <string>

namespace kexec_sim::sim {

/// `argument` as a shell reads it back.
std::string shell_quoted(const std::string& argument);

}  // namespace kexec_sim::sim
