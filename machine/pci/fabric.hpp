// The PCI fabric: root buses, bridges and endpoints as wired, and the routing of cycles between them.
//
//   CPU ── root complex ── IOMMU ──┐
//                                  │ bus 0 (one root bus a segment)
//              ┌───────────────────┼─────────────┐
//            rp0 (00:02.0)       nic1 (00:03.0)  …
//              │ secondary bus
//            sw0 (upstream port)
//              │ the switch's own bus
//         ┌────┴────┐
//       sw0.0     sw0.1      (downstream ports)
//         │         │
//       nic0       gpu0
//
// The wiring is fixed; everything else follows from the registers as they stand at that moment. Nothing is cached.
//
// Config cycles (down): a bridge whose [secondary, subordinate] holds the bus passes them on; on its secondary bus the
// device with that number answers. Only device 0 lies behind a root port or a downstream port. Nobody: all ones.
// Memory cycles (down): a bridge passes on what lies in its windows, if it decodes memory; a function takes what lies
// in a BAR. Two that answer: the first in order of devfn, which is what a transient wrong decode comes to.
// Requests (up): 1. Bus mastering must be on at the function and at every bridge on the way, else the request is
// dropped and counted. 2. At a downstream port of a switch whose ACS lets it (P2P request redirect, bit 2, off) a
// request for an address in a sibling port's window turns around there. 3. At the root complex the IOMMU of the
// segment translates, where it is on; what comes out is RAM, MMIO below the root complex, or nothing. A write to
// 0xfeexxxxx is an interrupt.
//
// Interrupts raised while MSI-X is off are counted and gone.
//
// Firmware: what power_on() leaves is described in firmware.cpp.
//
// Unhappy paths. 1. A gate is closed: the request is dropped and counted at the function. 2. Nobody answers: reads give
// all ones, requests are `unsupported`. 3. A bus is held in reset: nobody below answers, nothing goes out. 4. A planned
// fault loses a config write: it latches nothing, and is in no log.
//
// Config writes are kept in a log with time, generation, function, offset, old and new value.
// Simplified: no I/O space, no posted-write ordering, one root complex for all segments.
#pragma once

#include <memory_resource>
#include <span>
#include <string>
#include <vector>

#include "machine/pci/function.hpp"
#include "machine/result.hpp"

namespace kexec_sim {

struct Machine;
class Iommu;

/// One entry of the scenario's `machine: devices`.
struct PciDeviceConfig {
    std::string name;
    std::string model;   // "root-port", "switch", "dma-nic", "p2p-gpu"
    std::string behind;  // a root port, or a switch's port "sw0.1"; empty: on the root bus
    PciAddress at;       // where `behind` is empty
    unsigned ports = 2;  // of a switch: downstream ports
};

struct ConfigWrite {
    u64 time_ns;
    Generation generation;
    u16 function;  // PciFunction::index
    u16 bdf;       // the address that the cycle had
    u16 offset;
    u8 bytes;
    u32 old_value, new_value;
};

class PciFabric {
public:
    PciFabric(Machine& machine, std::span<const PciDeviceConfig> devices, std::pmr::memory_resource* memory);
    ~PciFabric();
    PciFabric(const PciFabric&) = delete;
    PciFabric& operator=(const PciFabric&) = delete;

    // --- the CPU's side ---
    /// All ones where nobody answers. 1 µs of virtual time is the caller's to charge.
    u32 config_read(PciAddress address, u16 offset, unsigned bytes);
    /// Fault point pci.config_write[function]: `drop` and `skip` lose it, `fail` loses it and says so (EIO: the completion
    /// reports an error).
    Result<> config_write(PciAddress address, u16 offset, unsigned bytes, u32 value);
    /// A CPU access (or one that the IOMMU let through) to an address outside RAM.
    BusStatus memory_read(u64 address, std::span<std::byte> out);
    BusStatus memory_write(u64 address, std::span<const std::byte> in, const PciFunction* from = nullptr);

    // --- a function's side ---
    BusStatus dma_read(PciFunction& from, u64 address, std::span<std::byte> out);
    BusStatus dma_write(PciFunction& from, u64 address, std::span<const std::byte> in);
    /// The way up, for several requests in a row that find it but once. It stands while config space and the IOMMU's
    /// registers do.
    struct Route {
        PciFunction& from;
        Iommu* iommu;   // that translates; nullptr: none does
        bool open;      // every gate on the way
        bool may_turn;  // at a downstream port that does not redirect
    };
    Route route_of(PciFunction& from);
    BusStatus dma_read(const Route& route, u64 address, std::span<std::byte> out);
    BusStatus dma_write(const Route& route, u64 address, std::span<const std::byte> in);
    /// As dma_read(), but what lies in one frame of RAM is not copied: it is at `bytes`, there or in `room`, until
    /// somebody writes.
    struct InPlace {
        BusStatus status;
        const std::byte* bytes;
    };
    InPlace dma_read_in_place(const Route& route, u64 address, std::span<std::byte> room);

    // --- facts, for instruments and firmware ---
    std::span<PciFunction* const> functions() const { return functions_; }
    PciFunction* find(std::string_view name) const;
    /// The function that answers at an address now; nullptr: none.
    PciFunction* at(PciAddress address) const;
    /// Children of a bridge, or (nullptr) the functions of a segment's root bus, ascending by devfn.
    std::vector<PciFunction*> children(const PciFunction* bridge, u32 segment) const;
    std::span<const u32> segments() const { return segments_; }
    std::span<const ConfigWrite> config_writes() const { return writes_; }
    Machine& machine() { return machine_; }
    std::pmr::memory_resource* memory() const { return memory_; }

    /// Power-on and reset of the machine: every function is reset, then the firmware numbers buses depth first, gives
    /// BARs and windows their places and turns memory decode on (bus mastering only on bridges).
    void power_on();
    /// The card in the slot is another one from now on: same registers, other identity (a swap while nobody looks).
    void swap_identity(PciFunction& function, u16 vendor, u16 device);

    /// Interrupts that were raised with MSI-X off, and turns of peer-to-peer requests, by where they turned.
    struct Counters {
        u64 interrupts_unheard = 0, turned_at_switch = 0, turned_at_root = 0;
    } counters;

private:
    friend class PciFunction;  // resets what is below it
    friend class PciFirmware;
    /// Who answers to a memory cycle, and where in it.
    struct Target {
        PciFunction* function = nullptr;
        PciFunction::Decoded at{};
    };
    struct Turn {
        bool claimed = false;  // a port's window has the address, whether or not anybody below it answers
        Target target;
    };
    struct Request {
        const Route& route;
        bool write;
        const std::byte** in_place = nullptr;  // of a read: where to say that the whole lies in RAM
    };
    PciFunction* make(const PciDeviceConfig& config, std::string_view name, PciModel model, PciFunction* parent,
                      u8 devfn);
    void add(const PciDeviceConfig& config);
    PciFunction* bridge_for(const PciDeviceConfig& config) const;
    void insert(PciFunction* function);
    void declare_places();
    void place_bus(PciFunction* first);
    PciFunction* first_on_root(u32 segment) const;

    Target target_at(u64 address) const;
    Target target_among(PciFunction* first, u64 address) const;
    Turn turn_at_switch(const PciFunction& from, u64 address) const;
    BusStatus request(Request request, u64 address, std::span<std::byte> data);
    BusStatus arrive(const Request& request, u64 iova, u64 phys, std::span<std::byte> data);
    BusStatus hand_over(const Request& request, u64 iova, const Target& target, std::span<std::byte> data);
    void reset_below(PciFunction& bridge);

    Machine& machine_;
    std::pmr::memory_resource* memory_;
    std::pmr::vector<PciFunction*> roots_;  // first function of each segment's root bus, in order of segments_
    std::pmr::vector<PciFunction*> functions_;
    std::pmr::vector<u32> segments_;
    std::pmr::vector<ConfigWrite> writes_;
};

}  // namespace kexec_sim
