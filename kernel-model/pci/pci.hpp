// The PCI core of a kernel: finds the functions, numbers buses, places BARs, binds drivers, shuts down.
//
//   scan bus 0 ──► for each bridge: keep its numbers, or assign ──► scan its secondary bus ──► …
//   for each function found: capabilities ──► ACS ──► BARs ──► driver
//
// Everything is learned by config cycles. What the kernel knows of a function is a PciDevice; it ends with the kernel.
//
// Two plain concepts let a function live through a kexec; who sets them is none of the core's business.
//   adopted       (new kernel) the function's configuration is taken as it stands: numbers of all bridges, BARs, ACS,
//                 MSI-X; no sizing, no driver but the one that claims it
//   keep_running  (old kernel) a count on the function and on each bridge above it: shutdown leaves bus mastering on
//
// Happy path of a scan: 1. Without adopted functions a bridge keeps numbers that are sane (secondary above primary and
// not taken), else gets the next free one; `pci=assign-busses` gives every bridge new ones, `pci=hpbussize=N` reserves N
// more behind each root port. 2. Each BAR is sized: decode off, all ones, read, restore. 3. MSI-X is turned off. 4. ACS
// gets its default (SV RR CR UF; `pci=disable_acs_redir` leaves RR and CR out).
// With adopted functions: 1. every bridge keeps the numbers found; one whose numbers make no sense gets none, and what
// is behind it is not enumerated. 2. to 4. are left out for adopted functions and the bridges above them.
//
// Shutdown for kexec, in reverse order of registration: the driver's shutdown hook, then bus mastering off, but where
// keep_running says otherwise.
//
// Removal: what is below a bridge goes first, the deepest before all; the driver lets go while the function answers.
//
// Unhappy paths: 1. A bridge that makes no sense (above), or for which no bus number is left: its numbers are cleared,
// and what is behind it is not enumerated. 2. A driver's probe fails: the function stays unbound; one that was to be
// bound anew goes back to its driver. 3. A function is removed while it is kept or adopted: WARN, and whoever cares is
// told (`removed`).
//
// Source: Linux 7.3, drivers/pci/probe.c, pci-driver.c; the series "PCI core support for Live Update".
// Simplified: no I/O space, no windows are moved, no hot-plug but removal, no runtime power management.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "machine/pci/address.hpp"
#include "machine/pci/registers.hpp"
#include "machine/result.hpp"

namespace kexec_sim {

class Kernel;
class PciFunction;
class PciDriver;

struct PciResource {
    u64 address = 0;
    u64 bytes = 0;  // 0: there is no such BAR, or (adopted) it was not sized
    bool is_64_bit = false, prefetchable = false;
};

struct PciDevice {
    PciAddress address;
    u16 vendor = 0, device = 0;
    bool is_bridge = false;
    PciDevice* bridge = nullptr;  // above it; nullptr: on a root bus
    u8 secondary = 0, subordinate = 0;
    u16 pm_cap = 0, express_cap = 0, msix_cap = 0, acs_cap = 0;  // 0: none
    std::array<PciResource, 6> bars{};
    bool adopted = false;
    u32 keep_running = 0;  // references of those that preserve it
    bool removed = false;
    PciDriver* driver = nullptr;
    /// What answered when it was found: for the instruments, who know things and no addresses. No decision looks at it.
    PciFunction* hardware = nullptr;
    std::string name() const { return address.text(); }
};

class PciDriver {
public:
    virtual ~PciDriver() = default;
    virtual std::string_view name() const = 0;
    virtual bool matches(const PciDevice& device) const = 0;
    virtual Result<> probe(PciDevice& device) = 0;
    virtual void remove(PciDevice& device) = 0;
    /// On the way into kexec.
    virtual void shutdown(PciDevice& device) = 0;
};

class PciCore {
public:
    explicit PciCore(Kernel& kernel);
    ~PciCore();
    PciCore(const PciCore&) = delete;
    PciCore& operator=(const PciCore&) = delete;

    // --- what others set before the scan ---
    /// Functions whose configuration is to be adopted.
    std::vector<PciAddress> adopted;
    /// Called for each function as it is found, before any driver.
    std::vector<std::function<void(PciDevice&)>> found;
    /// A function that was kept or adopted is being removed.
    std::vector<std::function<void(PciDevice&)>> removed;

    void add_driver(std::unique_ptr<PciDriver> driver);
    /// Finds everything. Charges the kernel's `cost.pci`, of which each config write takes 1 µs.
    void scan();
    /// Drivers that match are bound, in order of registration.
    void bind_drivers();

    const std::vector<std::unique_ptr<PciDevice>>& devices() const { return devices_; }  // in order of discovery
    PciDevice* find(PciAddress address) const;
    /// By the name that the instruments have for the thing in the slot.
    PciDevice* find_by_name(std::string_view name) const;

    u32 read(const PciDevice& device, u16 offset, unsigned bytes) const;
    void write(const PciDevice& device, u16 offset, unsigned bytes, u32 value);
    /// Function-level reset with the configuration saved and restored. ENOTTY: the function has none.
    Result<> reset_function(PciDevice& device);
    void set_master(PciDevice& device, bool on);
    /// Before the scan, on whatever answers behind the bridges as they stand: nothing sends any more. Not charged. How many were on.
    unsigned quiesce_early();
    /// Unbinds its driver and binds that one. ENODEV: it has gone. The probe's errno, and it has its old driver back.
    Result<> rebind(PciDevice& device, PciDriver& driver);
    PciDriver* driver(std::string_view name) const;

    /// Nothing may be added to or taken from what is kept running. Set by shutdown().
    bool frozen() const { return frozen_; }
    void shutdown();
    /// Hot removal of the function and all below it.
    void remove(PciDevice& device);

private:
    struct Numbers {
        unsigned next_bus;  // 256: none is left
    };
    void scan_bus(u32 segment, u8 bus, PciDevice* bridge, Numbers& numbers);
    PciDevice& add_device(PciAddress address, PciDevice* bridge);
    void scan_bridge(PciDevice& bridge, Numbers& numbers);
    void clear_numbers(const PciDevice& bridge);
    bool adopt_numbers(const PciDevice& bridge) const;
    void find_capabilities(PciDevice& device);
    void setup_acs(PciDevice& device);
    void setup_bars(PciDevice& device);
    void size_bars(PciDevice& device);
    bool above_adopted(const PciDevice& device) const;
    bool is_adopted(PciAddress address) const;

    Kernel& kernel_;
    std::vector<std::unique_ptr<PciDevice>> devices_;
    std::vector<std::unique_ptr<PciDriver>> drivers_;
    bool frozen_ = false;
    bool assign_busses_ = false, disable_acs_redir_ = false;
    u8 hotplug_buses_ = 0;
    u64 spent_ns_ = 0;
};

/// 1 µs of virtual time a config write.
inline constexpr u64 config_write_ns = 1000;

}  // namespace kexec_sim
