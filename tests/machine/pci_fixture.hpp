// A machine with PCI functions, powered on, and short ways to reach them.
#pragma once

#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "machine/device/dma_nic.hpp"
#include "machine/device/p2p_gpu.hpp"
#include "tests/support/pci_wiring.hpp"

namespace kexec_sim::test {

struct PciWorld {
    MachineHandle handle;
    Machine& machine;
    PciFabric& pci;

    explicit PciWorld(std::vector<PciDeviceConfig> devices = usual_devices(), std::vector<std::string> plans = {})
        : handle(make(std::move(devices))),
          machine(*handle),
          pci(machine.pci) {
        machine.reset_devices();
        std::vector<PlannedFault> faults;
        for (const std::string& plan : plans) faults.push_back(parse_fault(plan).value());
        machine.faults.set_plan(faults);
        events();
    }
    static MachineHandle make(std::vector<PciDeviceConfig> devices) {
        MachineConfig config;
        config.node_bytes = {64 * MiB};
        config.devices = std::move(devices);
        return make_machine(config);
    }

    PciFunction& function(std::string_view name) {
        PciFunction* found = pci.find(name);
        REQUIRE(found != nullptr);
        return *found;
    }
    DmaNic& nic(std::string_view name) { return dynamic_cast<DmaNic&>(function(name)); }
    P2pGpu& gpu(std::string_view name) { return dynamic_cast<P2pGpu&>(function(name)); }

    /// Where it answers now, by the bus numbers in the bridges.
    PciAddress address(std::string_view name) {
        PciFunction& wanted = function(name);
        const u8 bus = wanted.parent ? wanted.parent->secondary_bus() : 0;
        return {wanted.segment, Bdf(bus, wanted.devfn())};
    }
    u32 read(std::string_view name, u16 offset, unsigned bytes) {
        return pci.config_read(address(name), offset, bytes);
    }
    void write(std::string_view name, u16 offset, unsigned bytes, u32 value) {
        pci.config_write(address(name), offset, bytes, value);
    }
    void set_bits(std::string_view name, u16 offset, u16 bits) {
        write(name, offset, 2, read(name, offset, 2) | bits);
    }
    void clear_bits(std::string_view name, u16 offset, u16 bits) {
        write(name, offset, 2, read(name, offset, 2) & ~u32{bits});
    }
    void bus_master(std::string_view name, bool on) {
        (on ? set_bits(name, pci::COMMAND, pci::COMMAND_MASTER)
            : clear_bits(name, pci::COMMAND, pci::COMMAND_MASTER));
    }
    PhysAddr bar(std::string_view name, unsigned number) {
        return PhysAddr{function(name).bar_address(number).value()};
    }

    /// All events since the last call.
    std::vector<TraceEvent> events() {
        std::vector<TraceEvent> result;
        machine.trace.drain([&](TraceEvent&& event) { result.push_back(std::move(event)); });
        return result;
    }
    std::vector<TraceEvent> events(std::string_view name) {
        std::vector<TraceEvent> result = events();
        std::erase_if(result, [&](const TraceEvent& event) { return event.name != name; });
        return result;
    }
};

inline std::span<const std::byte> bytes_of(const u64& word) { return std::as_bytes(std::span(&word, 1)); }

}  // namespace kexec_sim::test
