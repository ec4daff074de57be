#include "kernel-model/pci/pci.hpp"

#include <algorithm>
#include <utility>

#include "kernel-model/kernel.hpp"
#include "machine/reached.hpp"

namespace kexec_sim {

PciCore::PciCore(Kernel& kernel) : kernel_(kernel) {
    kernel.hooks.early_param.push_back({"pci", [this](std::string_view value) -> Result<> {
                                            while (!value.empty()) {
                                                const auto comma = value.find(',');
                                                const std::string_view word = value.substr(0, comma);
                                                value.remove_prefix(comma == value.npos ? value.size() : comma + 1);
                                                if (word == "assign-busses") {
                                                    assign_busses_ = true;
                                                } else if (word == "disable_acs_redir") {
                                                    disable_acs_redir_ = true;
                                                } else if (word.starts_with("hpbussize=")) {
                                                    const u64 count = TRY(parse_size_param(word.substr(10)));
                                                    if (count > 16) return fail(Errno::einval);
                                                    hotplug_buses_ = static_cast<u8>(count);
                                                } else {
                                                    return fail(Errno::einval);
                                                }
                                            }
                                            return {};
                                        }});
}
PciCore::~PciCore() = default;

void PciCore::add_driver(std::unique_ptr<PciDriver> driver) { drivers_.push_back(std::move(driver)); }

PciDriver* PciCore::driver(std::string_view name) const {
    for (const auto& driver : drivers_)
        if (driver->name() == name) return driver.get();
    return nullptr;
}

PciDevice* PciCore::find(PciAddress address) const {
    for (const auto& device : devices_)
        if (device->address == address && !device->removed) return device.get();
    return nullptr;
}

PciDevice* PciCore::find_by_name(std::string_view name) const {
    for (const auto& device : devices_)
        if (!device->removed && device->hardware->name() == name) return device.get();
    return nullptr;
}

u32 PciCore::read(const PciDevice& device, u16 offset, unsigned bytes) const {
    return kernel_.machine.pci.config_read(device.address, offset, bytes);
}

void PciCore::write(const PciDevice& device, u16 offset, unsigned bytes, u32 value) {
    // A completion with an error is repeated once, and said to be lost then.
    for (int attempt = 0; attempt < 2; ++attempt) {
        kernel_.machine.clock.advance(config_write_ns);
        if (kernel_.machine.pci.config_write(device.address, offset, bytes, value)) return;
        REACHED("pci.config_write.failed");
    }
    kernel_.log.err("pci {}: config write at {:#x} failed", device.address.text(), offset);
}

void PciCore::set_master(PciDevice& device, bool on) {
    const u32 command = read(device, pci::COMMAND, 2);
    const u32 wanted = on ? command | pci::COMMAND_MASTER : command & ~u32{pci::COMMAND_MASTER};
    if (wanted != command) write(device, pci::COMMAND, 2, wanted);
}

Result<> PciCore::reset_function(PciDevice& device) {
    if (!device.express_cap ||
        !(read(device, static_cast<u16>(device.express_cap + pci::EXP_DEVCAP), 4) & pci::EXP_DEVCAP_FLR))
        return fail(Errno::enotty);
    const u32 command = read(device, pci::COMMAND, 2);
    std::array<u32, 6> bars{};
    for (unsigned bar = 0; bar < bars.size(); ++bar)
        bars[bar] = read(device, static_cast<u16>(pci::BASE_ADDRESS_0 + 4 * bar), 4);
    const u16 control_at = static_cast<u16>(device.express_cap + pci::EXP_DEVCTL);
    write(device, control_at, 2, read(device, control_at, 2) | pci::EXP_DEVCTL_BCR_FLR);
    for (unsigned bar = 0; bar < bars.size(); ++bar)
        write(device, static_cast<u16>(pci::BASE_ADDRESS_0 + 4 * bar), 4, bars[bar]);
    write(device, pci::COMMAND, 2, command);
    return {};
}

Result<> PciCore::rebind(PciDevice& device, PciDriver& driver) {
    if (device.removed) return fail(Errno::enodev);
    if (device.driver == &driver) return {};
    PciDriver* const old = std::exchange(device.driver, nullptr);
    if (old) old->remove(device);
    if (const auto probed = driver.probe(device); !probed) {
        REACHED("pci.rebind.undone");
        if (old && old->probe(device)) device.driver = old;
        return probed;
    }
    device.driver = &driver;
    return {};
}

void PciCore::bind_drivers() {
    for (const auto& device : devices_) {
        for (const auto& driver : drivers_) {
            if (device->driver || !driver->matches(*device)) continue;
            if (driver->probe(*device)) {
                device->driver = driver.get();
            } else {
                REACHED("pci.probe.failed");
            }
        }
    }
}

void PciCore::shutdown() {
    frozen_ = true;
    for (auto at = devices_.rbegin(); at != devices_.rend(); ++at) {
        PciDevice& device = **at;
        if (device.removed) continue;
        if (device.driver) device.driver->shutdown(device);
        const bool keeps = kernel_.keeps_running(device);
        const FaultPoint point = keeps ? FaultPoint::pci_keep_bus_master : FaultPoint::pci_clear_bus_master;
        const bool astray = kernel_.machine.faults.skips(point, device.hardware->name());
        if (keeps == astray) set_master(device, false);
    }
}

void PciCore::remove(PciDevice& device) {
    // What was found last goes first: endpoints before the bridges above them.
    for (auto at = devices_.rbegin(); at != devices_.rend(); ++at)
        if ((*at)->bridge == &device && !(*at)->removed) remove(**at);
    if (device.keep_running || device.adopted) {
        REACHED("pci.remove.kept");
        kernel_.log.warn("pci {}: removed while it is preserved", device.name());
        for (const auto& call : removed) call(device);
    }
    if (device.driver) device.driver->remove(device);
    device.driver = nullptr;
    device.removed = true;
}

}  // namespace kexec_sim
