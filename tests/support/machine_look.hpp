// What tests ask of a machine, by the names of the scenario.
#pragma once

#include <catch2/catch.hpp>

#include <string_view>
#include <vector>

#include "machine/machine.hpp"

namespace kexec_sim::test {

/// The events of that name; what was recorded so far is consumed.
inline std::vector<TraceEvent> drained(Machine& machine, std::string_view name) {
    std::vector<TraceEvent> result;
    machine.trace.drain([&](TraceEvent&& event) {
        if (event.name == name) result.push_back(std::move(event));
    });
    return result;
}

inline PciFunction& function_named(Machine& machine, std::string_view name) {
    PciFunction* found = machine.pci.find(name);
    REQUIRE(found != nullptr);
    return *found;
}

}  // namespace kexec_sim::test
