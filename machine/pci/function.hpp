// One PCI function as hardware: its registers, what it decodes, what it sends.
//
//   config space   4 KiB at real offsets (pci/registers.hpp)
//   BARs           what memory cycles it answers; behind them mmio_read/mmio_write of the model
//   requester id   bus number as latched by the last type-0 config *write* that reached it, and its devfn: a
//                  renumbered bridge above changes it only once somebody writes to the function
//
// A model (dma-nic, p2p-gpu) derives from it. Bridges are functions too (header type 1); they have no BARs here.
//
// Resets. FLR (Device Control bit 15), a secondary bus reset of the bridge above, and D3hot to D0 (where the function
// has no "no soft reset") clear what a reset clears: command, BARs, MSI-X enable, Device Control 2 and the model's own
// state. The latched bus number stays after FLR and D3hot, and is 0 after a bus reset.
//
// Everything lives in the arena.
#pragma once

#include <array>
#include <memory_resource>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "machine/pci/address.hpp"
#include "machine/pci/config_space.hpp"
#include "machine/pci/registers.hpp"

namespace kexec_sim {

class PciFabric;

enum class PciModel : u8 { root_port, switch_upstream, switch_downstream, dma_nic, p2p_gpu };
/// "root-port", "switch" (both kinds of its ports), "dma-nic", "p2p-gpu".
std::string_view pci_model_name(PciModel model);

enum class ResetKind : u8 { power_on, flr, bus_reset, d3hot };
std::string_view reset_kind_name(ResetKind kind);  // "power-on", "FLR", "bus reset", "D3hot to D0"

struct PciBar {
    u64 bytes = 0;  // a power of two of at least 16; 0: there is no such BAR
    bool is_64_bit = false, prefetchable = false;
};

/// How an access that a function started, or one that was routed to it, ended.
enum class BusStatus : u8 {
    ok,
    no_bus_master,  // dropped at the function or a bridge: bus mastering is off there
    unsupported,    // nobody answers to the address
    translation,    // the IOMMU refused it (a fault is recorded there)
    reverse_map,    // the reverse map refused it
    lost,           // a planned fault dropped it
};
std::string_view bus_status_name(BusStatus status);  // "ok", "bus master off", …

class PciFunction {
public:
    PciFunction(PciFabric& fabric, u16 index, std::string_view name, PciModel model, u8 devfn,
                std::pmr::memory_resource* memory);
    virtual ~PciFunction() = default;
    PciFunction(const PciFunction&) = delete;
    PciFunction& operator=(const PciFunction&) = delete;

    /// Which function of the machine, from 0 in order of the scenario's list: the instruments' name for the physical
    /// thing, whatever address it has.
    const u16 index;
    const PciModel model;
    std::string_view name() const { return name_; }
    bool is_bridge() const { return model <= PciModel::switch_downstream; }
    u8 devfn() const { return devfn_; }
    PciFabric& fabric() { return fabric_; }

    ConfigSpace config;
    PciFunction* parent = nullptr;  // the bridge above; nullptr: on a root bus
    u32 segment = 0;

    // --- registers as they stand ---
    u16 command() const { return config.word(pci::COMMAND); }
    bool bus_master() const { return (command() & pci::COMMAND_MASTER) != 0; }
    bool memory_decode() const { return (command() & pci::COMMAND_MEMORY) != 0; }
    /// pci::d0 or pci::d3hot; there is nothing in between.
    u8 power_state() const { return config.word(pci::pm_cap_at + pci::PM_CTRL) & pci::PM_CTRL_STATE_MASK; }
    Bdf requester_id() const { return Bdf(latched_bus_, devfn_); }
    /// Bridges: the numbers and windows in the registers. A window with base above limit is closed.
    u8 secondary_bus() const;
    u8 subordinate_bus() const;
    bool window_contains(u64 address) const;

    /// The BAR's registers hold what the firmware put there at power-on, whether memory decode is on or not.
    bool bars_as_placed() const;
    const PciBar& bar(unsigned number) const { return bars_[number]; }
    /// Where a BAR lies; nullopt: there is no such BAR, memory decode is off, or the function is not in D0. A BAR that
    /// is being sized lies where the register says, all ones included.
    std::optional<u64> bar_address(unsigned number) const;
    /// The BAR and offset that an address falls into.
    struct Decoded {
        unsigned bar;
        u64 offset;
    };
    std::optional<Decoded> decode(u64 address) const;

    // --- what the model implements ---
    /// `bytes` is 1, 2, 4 or 8, never across the end of the BAR.
    virtual u64 mmio_read(unsigned bar, u64 offset, unsigned bytes);
    virtual void mmio_write(unsigned bar, u64 offset, unsigned bytes, u64 value);
    /// A request of another device that was routed here. Default: in words of up to 8 bytes through mmio_*.
    virtual void memory_write(unsigned bar, u64 offset, std::span<const std::byte> bytes, const PciFunction& from);
    virtual void memory_read(unsigned bar, u64 offset, std::span<std::byte> bytes);
    /// What a CPU stores, in words of up to 8 bytes through mmio_write.
    void cpu_write(unsigned bar, u64 offset, std::span<const std::byte> bytes);
    /// The model's own state back to what it is after power-on. Registers of config space are done already.
    virtual void model_reset() {}

    void reset(ResetKind kind);
    /// Times that this function was reset since power-on, power-on not counted.
    u32 resets = 0;
    /// Requests of this function that a closed gate dropped, here or above: bus mastering off, not in D0, or the bus
    /// below a bridge held in reset.
    u64 dropped = 0;

    // --- MSI-X; the table and its pending bits lie in `msix_bar` ---
    bool msix_enabled() const { return (msix_flags() & pci::MSIX_FLAGS_ENABLE) != 0; }
    u16 msix_vectors() const { return msix_count_; }
    struct MsixEntry {
        u64 address = 0;
        u32 data = 0;
        u32 control = pci::MSIX_ENTRY_CTRL_MASKBIT;
    };
    const MsixEntry& msix_entry(u16 vector) const { return msix_[vector]; }
    bool msix_pending(u16 vector) const { return msix_pending_[vector]; }
    /// The function has something to say. Enabled and not masked: a posted write of `data` to `address`. Masked: the
    /// pending bit. MSI-X off: nobody hears of it (counted by the fabric).
    void raise_interrupt(u16 vector);

protected:
    void implement_bar(unsigned number, PciBar bar);
    static constexpr u16 msix_max = 16;
    /// The table at `table_offset` of `bar`, the pending bits at `pba_offset`.
    void implement_msix(unsigned bar, u16 vectors, u64 table_offset, u64 pba_offset);
    /// True if the access was to the MSI-X table or its pending bits; to be called first by a model's mmio_*.
    bool msix_mmio_read(unsigned bar, u64 offset, unsigned bytes, u64& value) const;
    bool msix_mmio_write(unsigned bar, u64 offset, unsigned bytes, u64 value);

private:
    friend class PciFabric;
    friend class PciFirmware;
    void declare_identity(u16 vendor, u16 device);
    void declare_header();
    void declare_bridge_header();
    void declare_capabilities();
    /// What follows from where the fabric wired it: port type, and whether the device has several functions.
    void declare_place(bool multifunction);
    /// What a config write can set off, as it stood before it.
    struct Sensitive {
        u8 power_state;
        bool bus_held;
    };
    Sensitive sensitive() const { return {power_state(), bus_held()}; }
    /// A config write has been taken: what follows from it in hardware (FLR, bus reset, D-state, unmasking).
    void config_written(const Sensitive& before);
    void latch_bus(u8 bus);
    u16 msix_flags() const { return config.word(pci::msix_cap_at + pci::MSIX_FLAGS); }
    bool msix_masked(u16 vector) const {
        return (msix_flags() & pci::MSIX_FLAGS_MASKALL) || (msix_[vector].control & pci::MSIX_ENTRY_CTRL_MASKBIT);
    }
    void send_pending();
    void send_message(u16 vector);

    /// Bridges. Below it everything is held in reset; it lets config cycles, memory cycles, requests through.
    bool bus_held() const {
        return is_bridge() && (config.word(pci::BRIDGE_CONTROL) & pci::BRIDGE_CTL_BUS_RESET) != 0;
    }
    bool passes_config() const { return power_state() == pci::d0 && !bus_held(); }
    bool passes_memory(u64 address) const { return memory_decode() && passes_config() && window_contains(address); }
    /// A downstream port: ACS sends requests for peers up instead of letting them turn here.
    bool redirects_requests() const { return (config.word(pci::acs_cap_at + pci::ACS_CTRL) & pci::ACS_RR) != 0; }
    /// Of a function itself, and of a bridge above it.
    bool lets_requests_out() const { return bus_master() && power_state() == pci::d0 && !bus_held(); }

    PciFabric& fabric_;
    std::pmr::string name_;
    PciFunction* first_child_ = nullptr;   // of a bridge, ascending by devfn
    PciFunction* next_sibling_ = nullptr;  // on the same bus
    u8 devfn_;
    u8 latched_bus_ = 0;
    std::array<PciBar, 6> bars_{};
    std::array<u32, 6> placed_{};  // the registers as the firmware left them
    unsigned msix_bar_ = 0;
    u16 msix_count_ = 0;
    u64 msix_table_offset_ = 0, msix_pba_offset_ = 0;
    std::array<MsixEntry, msix_max> msix_{};
    std::array<bool, msix_max> msix_pending_{};
};

}  // namespace kexec_sim
