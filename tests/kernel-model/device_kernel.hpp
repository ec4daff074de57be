// A machine with the usual PCI devices (tests/support/pci_wiring.hpp), an IOMMU a segment, and a kernel in user space.
//
//   DeviceKernel world;
//   const auto file = world.open("nic0");             vfio-pci on it, an iommufd, …
//   world.next_kernel();                              the machine goes on; nothing is handed over
#pragma once

#include <catch2/catch.hpp>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernel-model/kernel.hpp"
#include "kernel-model/vfio/iommufd.hpp"
#include "machine/device/dma_nic.hpp"
#include "tests/support/errno_of.hpp"
#include "tests/support/machine_look.hpp"
#include "tests/support/pci_wiring.hpp"

namespace kexec_sim {

struct DeviceKernel {
    using Prepare = std::function<void(Kernel&)>;
    struct Options {
        std::vector<PciDeviceConfig> devices = test::usual_devices();
        bool iommu = true;
        std::string cmdline = {};
        Prepare before_boot = {};
        std::function<void(Machine&)> before_power_on = {};
    };

    DeviceKernel() : DeviceKernel(Options{}) {}
    explicit DeviceKernel(const Options& options) {
        MachineConfig config;
        config.node_bytes = {128 * MiB};
        config.devices = options.devices;
        config.iommu = options.iommu;
        machine = make_machine(config);
        machine->reset_devices();
        if (options.before_power_on) options.before_power_on(*machine);
        boot(options.cmdline, options.before_boot, {});
    }

    /// The machine runs on without a reset, with another kernel.
    void next_kernel(const Prepare& before_boot = {}, const std::string& cmdline = {},
                     const KernelConfig& config = {}) {
        kernel.reset();
        machine->referee.kernel_ended(KernelEnd::kexec);
        machine->set_generation(machine->generation + 1);
        boot(cmdline, before_boot, config);
    }

    PciDevice& device(std::string_view name) {
        PciDevice* found = kernel->pci.find_by_name(name);
        REQUIRE(found != nullptr);
        return *found;
    }
    PciFunction& function(std::string_view name) { return test::function_named(*machine, name); }
    std::shared_ptr<VfioFile> open(std::string_view name) {
        auto file = kernel->vfio.open(device(name));
        REQUIRE(file);
        return *file;
    }
    std::shared_ptr<IommufdFile> iommufd(const std::string& name = "fd") { return open_iommufd(*kernel, name); }
    std::shared_ptr<ShmemFile> memory(u64 bytes) {
        auto file = memfd_create_file(*kernel, "memory", bytes, {});
        REQUIRE(file);
        return *file;
    }
    void put(FileRef file) { kernel->vfs.put(std::move(file)); }

    u32 config(std::string_view name, u16 offset, unsigned bytes = 2) {
        return kernel->pci.read(device(name), offset, bytes);
    }
    bool master(std::string_view name) { return function(name).bus_master(); }
    Iommu& unit(u32 segment = 0) { return *machine->iommu_of(segment); }
    /// Where a request of the device ends, as the unit answers now; nullopt: it faults.
    std::optional<u64> reaches(std::string_view name, u64 iova, bool write = true) {
        PciFunction& from = function(name);
        const auto translation = unit(from.segment).translate(from.requester_id(), iova, write);
        if (translation.fault != vtd::FaultReason::none) return std::nullopt;
        return translation.address;
    }

    void plan(const std::string& text) {
        const PlannedFault fault = parse_fault(text).value();
        machine->faults.set_plan({&fault, 1});
    }
    bool logged(std::string_view text) { return kernel->log.contains(text); }
    u64 free_frames() { return kernel->pages.free_frames(); }
    std::vector<TraceEvent> events(std::string_view name) { return test::drained(*machine, name); }

    MachineHandle machine;
    std::unique_ptr<Kernel> kernel;  // goes before the machine

private:
    void boot(const std::string& cmdline, const Prepare& before_boot, const KernelConfig& config) {
        machine->referee.kernel_boots(machine->generation, {.edition = "linux-6.16"});
        KexecRequest request;
        request.cmdline = cmdline;
        request.kernel_bytes = 4 * MiB;
        request.initrd_bytes = MiB;
        const BootParams params = firmware_boot(*machine, request);
        KernelConfig own = config;
        own.preserve_devices = true;
        kernel = std::make_unique<Kernel>(*machine, own, params);
        if (before_boot) before_boot(*kernel);
        kernel->boot();
    }
};

}  // namespace kexec_sim
