#include "sim/device_models.hpp"

#include <fmt/format.h>

#include "machine/device/dma_nic.hpp"
#include "machine/device/p2p_gpu.hpp"
#include "machine/pci/registers.hpp"

namespace kexec_sim::sim {
namespace {

std::string ids(u16 device) { return fmt::format("{:04x}:{:04x}", pci::vendor_id, device); }

std::string capability(std::string_view name, u16 at) { return fmt::format("{} (0x{:x})", name, at); }

std::string bridge_capabilities() {
    return fmt::format("{}, {}, {}", capability("power management", pci::pm_cap_at),
                       capability("PCI Express", pci::express_cap_at), capability("ACS", pci::acs_cap_at));
}

std::string endpoint_capabilities(u16 vectors) {
    return fmt::format("{}, {} with FLR, {} with {} vectors", capability("power management", pci::pm_cap_at),
                       capability("PCI Express", pci::express_cap_at), capability("MSI-X", pci::msix_cap_at),
                       vectors);
}

constexpr std::string_view endpoint_place =
    "`at` an address on bus 0, or `behind` a root port or the port of a switch";
constexpr std::string_view endpoint_resets =
    "FLR, bus reset of the bridge above, D3hot to D0: command register, BARs, MSI-X and the model's own state are "
    "lost";

}  // namespace

std::vector<DeviceModelInfo> device_models() {
    std::vector<DeviceModelInfo> models;
    models.push_back({.name = "root-port",
                      .description = "A PCI Express root port: a bridge with one device behind it.",
                      .place = "`at` an address on bus 0",
                      .ids = ids(pci::device_root_port),
                      .bars = "none; two memory windows, the second one prefetchable and of 64 bits",
                      .capabilities = bridge_capabilities(),
                      .resets = "its secondary bus reset resets what is behind it",
                      .faults = "pci.config_write, pci.preserve"});
    models.push_back(
        {.name = "switch",
         .description =
             "A PCI Express switch: an upstream port, a bus inside, and `ports` downstream ports (1 to 32, "
             "default 2), which are called NAME.0, NAME.1 and so on.",
         .place = "`behind` a root port or the port of another switch",
         .ids =
             fmt::format("{} (upstream), {} (downstream)", ids(pci::device_switch_up), ids(pci::device_switch_down)),
         .bars = "none; each port has two memory windows",
         .capabilities = bridge_capabilities() + "; ACS decides whether a request to a sibling turns in the switch",
         .resets = "the secondary bus reset of a port resets what is behind it",
         .faults = "pci.config_write, pci.preserve"});
    models.push_back(
        {.name = "dma-nic",
         .description = "Two DMA engines: at each interval of virtual time an engine takes a descriptor of its "
                        "ring, reads the source, and writes a trailer of 16 bytes that holds a sequence number and a "
                        "hash. They run whatever kernel is up, or none.",
         .place = std::string(endpoint_place),
         .ids = ids(pci::device_dma_nic),
         .bars = fmt::format("BAR{}: registers, {} KiB; BAR{}: mailbox, {} KiB, 64 bits, prefetchable",
                             nic::registers_bar, nic::bar0_bytes / KiB, nic::mailbox_bar, nic::mailbox_bytes / KiB),
         .capabilities = endpoint_capabilities(nic::msix_vectors),
         .resets = std::string(endpoint_resets),
         .faults = "dma.read, dma.write, irq.deliver, iommu.walk, pci.config_write, pci.preserve"});
    models.push_back(
        {.name = "p2p-gpu",
         .description = "Memory that other devices write to. It counts what it receives, and does nothing by itself.",
         .place = std::string(endpoint_place),
         .ids = ids(pci::device_p2p_gpu),
         .bars = fmt::format("BAR{}: registers, {} KiB; BAR{}: device memory, {} MiB, 64 bits, prefetchable",
                             gpu::registers_bar, gpu::bar0_bytes / KiB, gpu::memory_bar, gpu::memory_bytes / MiB),
         .capabilities = endpoint_capabilities(gpu::msix_vectors),
         .resets = std::string(endpoint_resets),
         .faults = "irq.deliver, pci.config_write, pci.preserve"});
    return models;
}

}  // namespace kexec_sim::sim
