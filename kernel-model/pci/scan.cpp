// Enumeration: bus numbers, capabilities, BARs, ACS.
#include <algorithm>

#include "kernel-model/kernel.hpp"
#include "kernel-model/pci/pci.hpp"
#include "machine/reached.hpp"

namespace kexec_sim {
namespace {

constexpr u16 nobody = 0xffff;
constexpr u16 acs_default = pci::ACS_SV | pci::ACS_RR | pci::ACS_CR | pci::ACS_UF;
constexpr unsigned bus_max = 255;
constexpr unsigned caps_max = 48;  // as the kernel's own limit on a list that may be cyclic

}  // namespace

void PciCore::scan() {
    const u64 begin_ns = kernel_.machine.clock.now_ns();
    for (const u32 segment : kernel_.machine.pci.segments()) {
        Numbers numbers{1};
        scan_bus(segment, 0, nullptr, numbers);
    }
    const u64 spent_ns = kernel_.machine.clock.now_ns() - begin_ns;
    if (spent_ns < kernel_.config.cost.pci) kernel_.machine.clock.advance(kernel_.config.cost.pci - spent_ns);
}

void PciCore::scan_bus(u32 segment, u8 bus, PciDevice* bridge, Numbers& numbers) {
    std::vector<PciDevice*> bridges;
    // Behind a port there is one device; a root bus and the bus inside a switch have all thirty-two.
    for (unsigned devfn = 0; devfn < 256; ++devfn) {
        const PciAddress address{segment, Bdf(bus, devfn)};
        if ((devfn & 7) != 0 && !find({segment, Bdf(bus, devfn & ~7u)})) continue;
        if (kernel_.machine.pci.config_read(address, pci::VENDOR_ID, 2) == nobody) continue;
        PciDevice& device = add_device(address, bridge);
        if (device.is_bridge) bridges.push_back(&device);
    }
    for (PciDevice* found_bridge : bridges) scan_bridge(*found_bridge, numbers);
}

unsigned PciCore::quiesce_early() {
    PciFabric& fabric = kernel_.machine.pci;
    unsigned stopped = 0;
    for (const u32 segment : fabric.segments()) {
        std::vector<u8> buses{0};
        for (std::size_t i = 0; i < buses.size(); ++i)
            for (unsigned devfn = 0; devfn < 256; ++devfn) {
                const PciAddress address{segment, Bdf(buses[i], devfn)};
                if (fabric.config_read(address, pci::VENDOR_ID, 2) == nobody) continue;
                const u32 command = fabric.config_read(address, pci::COMMAND, 2);
                if (command & pci::COMMAND_MASTER) {
                    static_cast<void>(
                        fabric.config_write(address, pci::COMMAND, 2, command & ~u32{pci::COMMAND_MASTER}));
                    ++stopped;
                }
                if ((fabric.config_read(address, pci::HEADER_TYPE, 1) & 0x7f) != pci::HEADER_TYPE_BRIDGE) continue;
                const u8 secondary = static_cast<u8>(fabric.config_read(address, pci::SECONDARY_BUS, 1));
                if (std::ranges::find(buses, secondary) == buses.end()) buses.push_back(secondary);
            }
    }
    return stopped;
}

PciDevice& PciCore::add_device(PciAddress address, PciDevice* bridge) {
    devices_.push_back(std::make_unique<PciDevice>());
    PciDevice& device = *devices_.back();
    device.address = address;
    device.bridge = bridge;
    device.hardware = kernel_.machine.pci.at(address);
    device.vendor = static_cast<u16>(read(device, pci::VENDOR_ID, 2));
    device.device = static_cast<u16>(read(device, pci::DEVICE_ID, 2));
    device.is_bridge = (read(device, pci::HEADER_TYPE, 1) & 0x7f) == pci::HEADER_TYPE_BRIDGE;
    device.adopted = is_adopted(address);
    if (device.adopted) kernel_.machine.device_referee.function_matched(*device.hardware);
    find_capabilities(device);
    setup_acs(device);
    if (!device.is_bridge) setup_bars(device);
    for (const auto& call : found) call(device);
    return device;
}

bool PciCore::is_adopted(PciAddress address) const { return std::ranges::find(adopted, address) != adopted.end(); }

/// Whether something that is adopted lies behind the bridge, as its registers have it now.
bool PciCore::above_adopted(const PciDevice& device) const {
    if (!device.is_bridge) return false;
    const u8 secondary = static_cast<u8>(read(device, pci::SECONDARY_BUS, 1)),
             subordinate = static_cast<u8>(read(device, pci::SUBORDINATE_BUS, 1));
    return std::ranges::any_of(adopted, [&](const PciAddress& address) {
        return address.segment == device.address.segment && address.bdf.bus() >= secondary &&
               address.bdf.bus() <= subordinate;
    });
}

void PciCore::find_capabilities(PciDevice& device) {
    if (read(device, pci::STATUS, 2) & pci::STATUS_CAP_LIST) {
        u16 at = static_cast<u16>(read(device, pci::CAPABILITY_LIST, 1) & ~3u);
        for (unsigned i = 0; i < caps_max && at >= pci::pm_cap_at; ++i) {
            const u32 header = read(device, at, 2);
            if ((header & 0xff) == pci::CAP_ID_PM) device.pm_cap = at;
            if ((header & 0xff) == pci::CAP_ID_EXP) device.express_cap = at;
            if ((header & 0xff) == pci::CAP_ID_MSIX) device.msix_cap = at;
            at = static_cast<u16>(header >> 8 & ~3u);
        }
    }
    u16 at = pci::ext_caps_begin;
    for (unsigned i = 0; i < caps_max && at >= pci::ext_caps_begin; ++i) {
        const u32 header = read(device, at, 4);
        if (header == 0 || header == ~0u) break;
        if ((header & 0xffff) == pci::EXT_CAP_ID_ACS) device.acs_cap = at;
        at = static_cast<u16>(header >> 20 & ~3u);
    }
}

void PciCore::setup_acs(PciDevice& device) {
    if (!device.acs_cap) return;
    const bool incoming = device.adopted || above_adopted(device);
    if (incoming && !kernel_.machine.faults.skips(FaultPoint::pci_adopt_acs, device.hardware->name())) return;
    u16 wanted = acs_default;
    if (disable_acs_redir_) wanted &= static_cast<u16>(~(pci::ACS_RR | pci::ACS_CR));
    const u16 able = static_cast<u16>(read(device, static_cast<u16>(device.acs_cap + pci::ACS_CAP), 2));
    write(device, static_cast<u16>(device.acs_cap + pci::ACS_CTRL), 2, wanted & able);
}

void PciCore::setup_bars(PciDevice& device) {
    const bool take_as_they_are =
        device.adopted && !kernel_.machine.faults.skips(FaultPoint::pci_adopt_bars, device.hardware->name());
    for (unsigned bar = 0; bar < device.bars.size(); ++bar) {
        PciResource& resource = device.bars[bar];
        const u16 at = static_cast<u16>(pci::BASE_ADDRESS_0 + 4 * bar);
        const u32 low = read(device, at, 4);
        resource.address = low & ~0xfu;
        resource.is_64_bit = low & pci::BAR_MEM_TYPE_64;
        resource.prefetchable = low & pci::BAR_MEM_PREFETCH;
        if (resource.is_64_bit && bar < 5) {
            resource.address |= u64{read(device, static_cast<u16>(at + 4), 4)} << 32;
            ++bar;
        }
    }
    if (take_as_they_are) return;
    size_bars(device);
    if (!device.msix_cap) return;
    const u16 flags_at = static_cast<u16>(device.msix_cap + pci::MSIX_FLAGS);
    const u32 flags = read(device, flags_at, 2);
    write(device, flags_at, 2, flags & ~u32{pci::MSIX_FLAGS_ENABLE});
}

void PciCore::size_bars(PciDevice& device) {
    const u32 command = read(device, pci::COMMAND, 2);
    write(device, pci::COMMAND, 2, command & ~u32{pci::COMMAND_MEMORY | pci::COMMAND_IO});
    const auto probe = [&](u16 at) {
        const u32 old = read(device, at, 4);
        write(device, at, 4, ~0u);
        const u32 mask = read(device, at, 4);
        write(device, at, 4, old);
        return mask;
    };
    for (unsigned bar = 0; bar < device.bars.size(); ++bar) {
        PciResource& resource = device.bars[bar];
        const u16 at = static_cast<u16>(pci::BASE_ADDRESS_0 + 4 * bar);
        u64 mask = probe(at) & ~u64{0xf};
        if (resource.is_64_bit && bar < 5) {
            mask |= u64{probe(static_cast<u16>(at + 4))} << 32;
            ++bar;
        } else if (mask) {
            mask |= ~u64{0} << 32;
        }
        resource.bytes = mask ? ~mask + 1 : 0;
    }
    write(device, pci::COMMAND, 2, command);
}

bool PciCore::adopt_numbers(const PciDevice& bridge) const {
    return !adopted.empty() && !kernel_.machine.faults.skips(FaultPoint::pci_adopt_numbers, bridge.hardware->name());
}

void PciCore::clear_numbers(const PciDevice& bridge) {
    write(bridge, pci::PRIMARY_BUS, 4, read(bridge, pci::PRIMARY_BUS, 4) & 0xff000000);
}

void PciCore::scan_bridge(PciDevice& bridge, Numbers& numbers) {
    const u8 primary = bridge.address.bdf.bus();
    const u8 secondary = static_cast<u8>(read(bridge, pci::SECONDARY_BUS, 1)),
             subordinate = static_cast<u8>(read(bridge, pci::SUBORDINATE_BUS, 1));
    const bool sane = secondary > primary && subordinate >= secondary;
    if (adopt_numbers(bridge)) {
        if (!sane || secondary < numbers.next_bus) {
            // Renumbering is not safe, and what lies behind cannot be told apart.
            REACHED("pci.scan.bridge_invalid");
            kernel_.log.err("pci {}: bridge configuration invalid, not enumerated for live update", bridge.name());
            clear_numbers(bridge);
            return;
        }
        numbers.next_bus = subordinate + 1u;
        bridge.secondary = secondary;
        bridge.subordinate = subordinate;
        Numbers inside{secondary + 1u};
        scan_bus(bridge.address.segment, secondary, &bridge, inside);
        return;
    }
    // What was adopted was not, by a planned fault, or there is nothing to adopt.
    const bool reserve = hotplug_buses_ || !adopted.empty();
    const bool keep = sane && secondary >= numbers.next_bus && !assign_busses_ && adopted.empty();
    if (!keep && numbers.next_bus > bus_max) {
        REACHED("pci.scan.no_bus_left");
        clear_numbers(bridge);
        return;
    }
    bridge.secondary = keep ? secondary : static_cast<u8>(numbers.next_bus);
    if (!keep) {
        write(bridge, pci::PRIMARY_BUS, 4,
              (read(bridge, pci::PRIMARY_BUS, 4) & 0xff000000) | primary | u32{bridge.secondary} << 8 | 0xffu << 16);
    }
    Numbers inside{bridge.secondary + 1u};
    scan_bus(bridge.address.segment, bridge.secondary, &bridge, inside);
    if (keep) {
        bridge.subordinate = std::max<u8>(subordinate, static_cast<u8>(inside.next_bus - 1));
    } else {
        const unsigned extra = bridge.bridge || !reserve ? 0 : std::max<unsigned>(hotplug_buses_, 1);
        bridge.subordinate = static_cast<u8>(std::min(inside.next_bus - 1 + extra, bus_max));
    }
    if (!keep || bridge.subordinate != subordinate) write(bridge, pci::SUBORDINATE_BUS, 1, bridge.subordinate);
    numbers.next_bus = bridge.subordinate + 1u;
}

}  // namespace kexec_sim
