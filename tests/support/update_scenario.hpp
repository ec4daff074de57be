// The smallest live update: a file in memory and a scripted subsystem cross a kexec.
#pragma once

#include <fmt/format.h>
#include <string>
#include <string_view>

#include "sim/scenario.hpp"

namespace test_support {

struct UpdateOptions {
    std::string_view defects = "literal", size = "16KiB";
    bool verify = true;  // what came over is compared with what was preserved
};

inline kexec_sim::sim::Scenario update_scenario(const UpdateOptions& options) {
    return kexec_sim::sim::parse_scenario(
        fmt::format(R"(
format: 1
scenario: update
machine: {{memory: 512MiB}}
kernels:
  - {{release: 6.16.0, cmdline: "kho=on liveupdate=on", defects: {}}}
steps:
  - subsystem.register: {{name: kvm}}
  - memfd.create: {{name: ram, size: {}, fill: pattern(7)}}
  - luo.preserve: {{fd: ram, token: 0x1}}
  - luo.prepare:
  - kexec:
  - subsystem.register: {{name: kvm}}
  - luo.restore: {{token: 0x1, as: ram}}
{}  - luo.finish:
)",
                    options.defects, options.size,
                    options.verify ? "  - memfd.verify: {fd: ram, fill: pattern(7)}\n" : ""),
        "update.yaml");
}

}  // namespace test_support
