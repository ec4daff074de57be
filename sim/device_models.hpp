// The models of PCI devices in words, for `kexec-sim list devices` and the reference page.
#pragma once

#include <string>
#include <vector>

namespace kexec_sim::sim {

struct DeviceModelInfo {
    std::string name, description, place, ids, bars, capabilities, resets, faults;
};
/// In the order in which a machine is wired.
std::vector<DeviceModelInfo> device_models();

}  // namespace kexec_sim::sim
