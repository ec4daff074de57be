// A kernel with KHO and LUO, as a test drives it: everything that one kernel instance is made of.
#pragma once

#include <memory>

#include "kho/kho.hpp"
#include "luo/client.hpp"
#include "luo/devices/participants.hpp"
#include "luo/memfd_handler.hpp"
#include "luo/orchestrator.hpp"

namespace kexec_sim::luo {

/// In the order in which it goes. Devices take part where the kernel is configured to preserve them.
struct LuoKernel {
    LuoKernel(Machine& machine, const KernelConfig& config, BootParams params)
        : kernel(machine, config, std::move(params)),
          kho(kernel, kho::edition_for_profile(config.profile)),
          luo(kernel, kho, *edition_for_profile(config.profile)),
          memfd(kernel, kho, luo) {
        if (config.preserve_devices) devices = std::make_unique<DeviceParticipants>(kernel, kho, luo);
    }

    Kernel kernel;
    kho::Kho kho;
    Orchestrator luo;
    MemfdHandler memfd;
    std::unique_ptr<DeviceParticipants> devices;
    std::unique_ptr<LuoClient> client;
};

}  // namespace kexec_sim::luo
