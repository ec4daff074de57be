// Which program it is: what a result depends on besides the scenario, the seed and the plan.
#pragma once

#include <string_view>

namespace kexec_sim::sim {

/// "0.1", and the commit it was built from where that is known: "0.1 (1a2b3c4d5e6f)".
std::string_view program_version();

}  // namespace kexec_sim::sim
