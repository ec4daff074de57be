// What the referee of a machine has found, as text that tests compare with.
#pragma once

#include <fmt/format.h>
#include <string>
#include <string_view>
#include <vector>

#include "machine/machine.hpp"

namespace test_support {

/// The findings so far, as "id: what was said".
inline std::vector<std::string> findings(const kexec_sim::Machine& machine) {
    std::vector<std::string> found;
    for (const kexec_sim::Finding& finding : machine.referee.findings())
        found.push_back(fmt::format(
            "{}: {}", kexec_sim::invariants()[static_cast<std::size_t>(finding.invariant)].name, finding.message));
    return found;
}

inline bool has_finding(const kexec_sim::Machine& machine, std::string_view id) {
    for (const std::string& finding : findings(machine))
        if (finding.starts_with(id)) return true;
    return false;
}

}  // namespace test_support
