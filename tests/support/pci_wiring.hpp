// PCI devices for machines of tests.
//
//   segment 0, bus 0 ──┬── 02.0 rp0 ── sw0 ──┬── sw0.0 ── nic0
//                      │                     └── sw0.1 ── gpu0
//                      ├── 03.0 rp1 ── nic1
//                      └── 04.0 nic2
//   segment 1, bus 0 ───── 01.0 rp2 ── nic3
#pragma once

#include <string>
#include <vector>

#include "machine/machine.hpp"

namespace kexec_sim::test {

inline PciDeviceConfig on_root(std::string name, std::string model, unsigned device, u32 segment = 0,
                               unsigned function = 0) {
    PciDeviceConfig config;
    config.name = std::move(name);
    config.model = std::move(model);
    config.at = {segment, Bdf(0, device << 3 | function)};
    return config;
}
inline PciDeviceConfig behind(std::string bridge, std::string name, std::string model, unsigned ports = 2) {
    PciDeviceConfig config;
    config.name = std::move(name);
    config.model = std::move(model);
    config.behind = std::move(bridge);
    config.ports = ports;
    return config;
}
inline std::vector<PciDeviceConfig> usual_devices() {
    return {on_root("rp0", "root-port", 2),     behind("rp0", "sw0", "switch"),    behind("sw0.0", "nic0", "dma-nic"),
            behind("sw0.1", "gpu0", "p2p-gpu"), on_root("rp1", "root-port", 3),    behind("rp1", "nic1", "dma-nic"),
            on_root("nic2", "dma-nic", 4),      on_root("rp2", "root-port", 1, 1), behind("rp2", "nic3", "dma-nic")};
}
/// `count` NICs on root buses, as many segments as they need: more than any list of one page holds.
inline std::vector<PciDeviceConfig> many_nics(unsigned count) {
    std::vector<PciDeviceConfig> devices;
    for (unsigned nic = 0; nic < count; ++nic)
        devices.push_back(on_root("nic" + std::to_string(nic), "dma-nic", nic / 8 % 32, nic / 256, nic % 8));
    return devices;
}

}  // namespace kexec_sim::test
