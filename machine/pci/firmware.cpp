// What the firmware leaves behind at power-on.
//
//   1. every function is reset; no bus number, no BAR, no window
//   2. buses are numbered depth first, in order of devfn; each segment's root bus is 0
//   3. BARs get their places depth first: 32-bit ones from 0xc0000000 up to 0xfeb00000, 64-bit prefetchable ones from
//      0x100000000000; each bridge's windows hold exactly what is below it, in steps of 1 MiB. All segments share these
//      two ranges: there is one address space
//   4. memory decode goes on everywhere, bus mastering on bridges only
//   5. root ports and downstream ports redirect peer-to-peer requests to the root complex (ACS: source validation,
//      request and completion redirect, upstream forwarding), as a kernel that isolates devices by an IOMMU has it
//
// Real firmware leaves the fifth to the kernel; here it saves every kernel model from doing the same.
// These writes are not in the log and not in the trace: no kernel runs. They do latch bus numbers.
#include <fmt/format.h>

#include "machine/machine.hpp"

namespace kexec_sim {

using namespace pci;

class PciFirmware {
public:
    explicit PciFirmware(PciFabric& fabric) : fabric_(fabric) {}

    void run() {
        for (PciFunction* function : fabric_.functions_) function->reset(ResetKind::power_on);
        for (PciFunction* first : fabric_.roots_) {
            u8 last_bus = 0;
            number(first, 0, last_bus);
            place(first);
        }
        for (PciFunction* function : fabric_.functions_) {
            enable(*function);
            for (unsigned number = 0; number < 6; ++number)
                function->placed_[number] = function->config.read(static_cast<u16>(BASE_ADDRESS_0 + 4 * number), 4);
        }
    }

private:
    static constexpr u64 low_begin = 0xc000'0000, low_end = 0xfeb0'0000;
    static constexpr u64 high_begin = 0x1000'0000'0000, high_end = 0x2000'0000'0000;
    static constexpr u64 window_bytes = MiB;

    static void number(PciFunction* first, u8 bus, u8& last_bus) {
        for (PciFunction* function = first; function; function = function->next_sibling_) {
            function->latch_bus(bus);
            if (!function->is_bridge()) continue;
            if (last_bus == 255) throw UserError("kexec-sim: error: more than 256 PCI buses in a segment");
            const u8 secondary = ++last_bus;
            function->config.write(PRIMARY_BUS, 1, bus);
            function->config.write(SECONDARY_BUS, 1, secondary);
            number(function->first_child_, secondary, last_bus);
            function->config.write(SUBORDINATE_BUS, 1, last_bus);
        }
    }

    void place(PciFunction* first) {
        for (PciFunction* function = first; function; function = function->next_sibling_)
            if (function->is_bridge())
                place_behind(*function);
            else
                place_bars(*function);
    }

    void place_behind(PciFunction& bridge) {
        low_ = align_up(low_, window_bytes);
        high_ = align_up(high_, window_bytes);
        const u64 low = low_, high = high_;
        place(bridge.first_child_);
        low_ = align_up(low_, window_bytes);
        high_ = align_up(high_, window_bytes);
        // Nothing below: base above limit, which is a closed window.
        const u64 low_limit = low_ > low ? low_ - 1 : 0, low_base = low_ > low ? low : 0xfff0'0000;
        const u64 high_limit = high_ > high ? high_ - 1 : 0, high_base = high_ > high ? high : 0xfff0'0000;
        bridge.config.write(MEMORY_BASE, 2, static_cast<u16>(low_base >> 16));
        bridge.config.write(MEMORY_LIMIT, 2, static_cast<u16>(low_limit >> 16));
        bridge.config.write(PREF_MEMORY_BASE, 2, static_cast<u16>(high_base >> 16));
        bridge.config.write(PREF_MEMORY_LIMIT, 2, static_cast<u16>(high_limit >> 16));
        bridge.config.write(PREF_BASE_UPPER32, 4, static_cast<u32>(high_base >> 32));
        bridge.config.write(PREF_LIMIT_UPPER32, 4, static_cast<u32>(high_limit >> 32));
    }

    void place_bars(PciFunction& function) {
        for (unsigned number = 0; number < 6; ++number) {
            const PciBar& bar = function.bar(number);
            if (bar.bytes == 0) continue;
            const bool is_high = bar.is_64_bit && bar.prefetchable;
            u64& next = is_high ? high_ : low_;
            const u64 at = align_up(next, bar.bytes);
            next = at + bar.bytes;
            if (next > (is_high ? high_end : low_end))
                throw UserError(
                    fmt::format("kexec-sim: error: no address space is left for device '{}'", function.name()));
            const u16 offset = static_cast<u16>(BASE_ADDRESS_0 + 4 * number);
            function.config.write(offset, 4, static_cast<u32>(at));
            if (bar.is_64_bit) function.config.write(offset + 4, 4, static_cast<u32>(at >> 32));
        }
    }

    static void enable(PciFunction& function) {
        function.config.write(COMMAND, 2, COMMAND_MEMORY | (function.is_bridge() ? COMMAND_MASTER : 0));
        if (function.model == PciModel::root_port || function.model == PciModel::switch_downstream)
            function.config.write(acs_cap_at + ACS_CTRL, 2, ACS_SV | ACS_RR | ACS_CR | ACS_UF);
    }

    PciFabric& fabric_;
    u64 low_ = low_begin, high_ = high_begin;
};

void PciFabric::power_on() {
    const MachineEntry entry;
    PciFirmware(*this).run();
}

}  // namespace kexec_sim
