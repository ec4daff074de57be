#include "machine/pci/function.hpp"

#include <algorithm>

#include "machine/machine.hpp"
#include "machine/reached.hpp"

namespace kexec_sim {

using namespace pci;

namespace {

struct ModelInfo {
    std::string_view name;
    u16 device, class_code;
    u8 express_type;
};
ModelInfo model_info(PciModel model) {
    switch (model) {
    case PciModel::root_port: return {"root-port", device_root_port, CLASS_BRIDGE_PCI, EXP_TYPE_ROOT_PORT};
    case PciModel::switch_upstream: return {"switch", device_switch_up, CLASS_BRIDGE_PCI, EXP_TYPE_UPSTREAM};
    case PciModel::switch_downstream: return {"switch", device_switch_down, CLASS_BRIDGE_PCI, EXP_TYPE_DOWNSTREAM};
    case PciModel::dma_nic: return {"dma-nic", device_dma_nic, CLASS_NETWORK_ETHERNET, EXP_TYPE_ENDPOINT};
    case PciModel::p2p_gpu: return {"p2p-gpu", device_p2p_gpu, CLASS_DISPLAY_3D, EXP_TYPE_ENDPOINT};
    }
    return {};
}

constexpr u16 bar_offset(unsigned number) { return static_cast<u16>(BASE_ADDRESS_0 + 4 * number); }

}  // namespace

std::string_view pci_model_name(PciModel model) { return model_info(model).name; }

std::string_view reset_kind_name(ResetKind kind) {
    switch (kind) {
    case ResetKind::power_on: return "power-on";
    case ResetKind::flr: return "FLR";
    case ResetKind::bus_reset: return "bus reset";
    case ResetKind::d3hot: return "D3hot to D0";
    }
    return "?";
}

std::string_view bus_status_name(BusStatus status) {
    switch (status) {
    case BusStatus::ok: return "ok";
    case BusStatus::no_bus_master: return "bus master off";
    case BusStatus::unsupported: return "unsupported";
    case BusStatus::translation: return "translation fault";
    case BusStatus::reverse_map: return "reverse-map fault";
    case BusStatus::lost: return "lost";
    }
    return "?";
}

PciFunction::PciFunction(PciFabric& fabric, u16 index_, std::string_view name, PciModel model_, u8 devfn,
                         std::pmr::memory_resource* memory)
    : index(index_),
      model(model_),
      fabric_(fabric),
      name_(name, memory),
      devfn_(devfn) {
    declare_identity(vendor_id, model_info(model).device);
    declare_header();
    declare_capabilities();
}

void PciFunction::declare_identity(u16 vendor, u16 device) {
    config.declare(VENDOR_ID, 2, vendor);
    config.declare(DEVICE_ID, 2, device);
    // The serial number: another card of another make has another one.
    config.declare(ext_caps_begin + 4, 4, 0x1000u + index);
    config.declare(ext_caps_begin + 8, 4, u32{vendor} << 16 | device);
}

void PciFunction::declare_header() {
    config.declare(
        COMMAND, 2, 0,
        COMMAND_IO | COMMAND_MEMORY | COMMAND_MASTER | COMMAND_PARITY | COMMAND_SERR | COMMAND_INTX_DISABLE);
    config.declare(STATUS, 2, STATUS_CAP_LIST, 0, 0xf900);
    config.declare(REVISION, 1, 1);
    config.declare(CLASS_DEVICE, 2, model_info(model).class_code);
    config.declare(CACHE_LINE_SIZE, 1, 0, 0xff);
    config.declare(HEADER_TYPE, 1, is_bridge() ? HEADER_TYPE_BRIDGE : HEADER_TYPE_NORMAL);
    config.declare(CAPABILITY_LIST, 1, pm_cap_at);
    config.declare(INTERRUPT_LINE, 1, 0, 0xff);
    if (is_bridge()) declare_bridge_header();
}

void PciFunction::declare_bridge_header() {
    for (const u16 offset : {PRIMARY_BUS, SECONDARY_BUS, SUBORDINATE_BUS}) config.declare(offset, 1, 0, 0xff);
    config.declare(SEC_STATUS, 2, 0, 0, 0xf900);
    for (const u16 offset : {MEMORY_BASE, MEMORY_LIMIT}) config.declare(offset, 2, 0, 0xfff0);
    // Bit 0: addresses of 64 bits.
    for (const u16 offset : {PREF_MEMORY_BASE, PREF_MEMORY_LIMIT}) config.declare(offset, 2, 1, 0xfff0);
    for (const u16 offset : {PREF_BASE_UPPER32, PREF_LIMIT_UPPER32}) config.declare(offset, 4, 0, ~u32{0});
    config.declare(BRIDGE_CONTROL, 2, 0, 0x1f | BRIDGE_CTL_BUS_RESET);
}

/// 40 power management → 60 PCI Express → b0 MSI-X (endpoints); 100 serial number → 140 ACS.
void PciFunction::declare_capabilities() {
    config.declare(pm_cap_at, 2, CAP_ID_PM | express_cap_at << 8);
    config.declare(pm_cap_at + PM_PMC, 2, 3);  // version 3; no D1, no D2, no PME
    config.declare(pm_cap_at + PM_CTRL, 2, is_bridge() ? PM_CTRL_NO_SOFT_RESET : 0, PM_CTRL_STATE_MASK);

    const bool port = model == PciModel::root_port || model == PciModel::switch_downstream;
    config.declare(express_cap_at, 2, CAP_ID_EXP);
    config.declare(express_cap_at + EXP_FLAGS, 2, 2u | u32{model_info(model).express_type} << 4);
    config.declare(express_cap_at + EXP_DEVCAP, 4, 1u << 15 | (is_bridge() ? 0 : EXP_DEVCAP_FLR));
    config.declare(express_cap_at + EXP_DEVCTL, 2, 0x2810, is_bridge() ? 0x7fff : 0x7fff | EXP_DEVCTL_BCR_FLR);
    config.declare(express_cap_at + EXP_DEVSTA, 2, 0, 0, 0xf);
    config.declare(express_cap_at + EXP_DEVCAP2, 4, port ? EXP_DEVCAP2_ARI : 0);
    config.declare(express_cap_at + EXP_DEVCTL2, 2, 0, 0x1f | (port ? EXP_DEVCTL2_ARI : 0));

    config.declare(ext_caps_begin, 4, EXT_CAP_ID_DSN | 1u << 16 | u32{acs_cap_at} << 20);
    const u16 acs = ACS_SV | ACS_TB | ACS_RR | ACS_CR | ACS_UF | ACS_DT;
    config.declare(acs_cap_at, 4, EXT_CAP_ID_ACS | 1u << 16);
    config.declare(acs_cap_at + ACS_CAP, 2, acs);
    config.declare(acs_cap_at + ACS_CTRL, 2, 0, acs);
}

void PciFunction::declare_place(bool multifunction) {
    const u8 type = is_bridge() ? HEADER_TYPE_BRIDGE : HEADER_TYPE_NORMAL;
    config.declare(HEADER_TYPE, 1, type | (multifunction ? HEADER_TYPE_MULTI : 0));
    if (!is_bridge() && !parent) config.declare(express_cap_at + EXP_FLAGS, 2, 2u | u32{EXP_TYPE_RC_END} << 4);
}

void PciFunction::implement_bar(unsigned number, PciBar bar) {
    INVARIANT(number < bars_.size());
    INVARIANT(bar.bytes >= 16);
    INVARIANT(std::has_single_bit(bar.bytes));
    INVARIANT(!is_bridge());
    bars_[number] = bar;
    const u64 mask = ~(bar.bytes - 1);
    const u32 type = (bar.is_64_bit ? BAR_MEM_TYPE_64 : 0) | (bar.prefetchable ? BAR_MEM_PREFETCH : 0);
    config.declare(bar_offset(number), 4, type, static_cast<u32>(mask));
    if (bar.is_64_bit) config.declare(bar_offset(number + 1), 4, 0, static_cast<u32>(mask >> 32));
}

u8 PciFunction::secondary_bus() const { return static_cast<u8>(config.read(SECONDARY_BUS, 1)); }
u8 PciFunction::subordinate_bus() const { return static_cast<u8>(config.read(SUBORDINATE_BUS, 1)); }

bool PciFunction::window_contains(u64 address) const {
    const auto base = [&](u16 offset) { return u64{config.word(offset) & 0xfff0u} << 16; };
    const auto limit = [&](u16 offset) { return base(offset) | 0xfffff; };
    if (address >= base(MEMORY_BASE) && address <= limit(MEMORY_LIMIT)) return true;
    const u64 base_upper = u64{config.read(PREF_BASE_UPPER32, 4)} << 32;
    const u64 limit_upper = u64{config.read(PREF_LIMIT_UPPER32, 4)} << 32;
    return address >= (base_upper | base(PREF_MEMORY_BASE)) && address <= (limit_upper | limit(PREF_MEMORY_LIMIT));
}

bool PciFunction::bars_as_placed() const {
    for (unsigned number = 0; number < placed_.size(); ++number)
        if (config.read(static_cast<u16>(pci::BASE_ADDRESS_0 + 4 * number), 4) != placed_[number]) return false;
    return true;
}

std::optional<u64> PciFunction::bar_address(unsigned number) const {
    if (bars_[number].bytes == 0 || !memory_decode() || power_state() != d0) return std::nullopt;
    const u64 low = config.read(bar_offset(number), 4) & ~u32{0xf};
    return bars_[number].is_64_bit ? low | u64{config.read(bar_offset(number + 1), 4)} << 32 : low;
}

std::optional<PciFunction::Decoded> PciFunction::decode(u64 address) const {
    for (unsigned number = 0; number < bars_.size(); ++number) {
        const auto base = bar_address(number);
        if (base && address >= *base && address - *base < bars_[number].bytes)
            return Decoded{number, address - *base};
    }
    return std::nullopt;
}

u64 PciFunction::mmio_read(unsigned, u64, unsigned bytes) {
    return bytes == 8 ? ~u64{0} : (u64{1} << (8 * bytes)) - 1;
}
void PciFunction::mmio_write(unsigned, u64, unsigned, u64) {}

namespace {
/// The largest naturally aligned word at `offset` of at most `rest` bytes.
unsigned word_at(u64 offset, u64 rest) {
    unsigned bytes = 8;
    while (bytes > rest || offset % bytes != 0) bytes /= 2;
    return bytes;
}
}  // namespace

void PciFunction::memory_write(unsigned bar, u64 offset, std::span<const std::byte> bytes, const PciFunction&) {
    cpu_write(bar, offset, bytes);
}

void PciFunction::cpu_write(unsigned bar, u64 offset, std::span<const std::byte> bytes) {
    for (u64 done = 0; done < bytes.size();) {
        const unsigned word = word_at(offset + done, bytes.size() - done);
        u64 value = 0;
        std::memcpy(&value, bytes.data() + done, word);
        mmio_write(bar, offset + done, word, value);
        done += word;
    }
}

void PciFunction::memory_read(unsigned bar, u64 offset, std::span<std::byte> bytes) {
    for (u64 done = 0; done < bytes.size();) {
        const unsigned word = word_at(offset + done, bytes.size() - done);
        const u64 value = mmio_read(bar, offset + done, word);
        std::memcpy(bytes.data() + done, &value, word);
        done += word;
    }
}

void PciFunction::latch_bus(u8 bus) {
    const Bdf from = requester_id();
    latched_bus_ = bus;
    if (requester_id() != from) fabric_.machine().device_referee.requester_id_changed(*this, from, requester_id());
}

void PciFunction::reset(ResetKind kind) {
    Machine& machine = fabric_.machine();
    config.reset();
    msix_.fill({});
    msix_pending_.fill(false);
    if (kind == ResetKind::power_on)
        resets = 0, dropped = 0;
    else
        ++resets;
    machine.trace.emit(Layer::machine, "pci.reset", {{"device", name()}, {"kind", reset_kind_name(kind)}});
    machine.device_referee.function_reset(*this, kind);
    model_reset();
    if (kind == ResetKind::power_on || kind == ResetKind::bus_reset) latch_bus(0);
}

void PciFunction::config_written(const Sensitive& before) {
    const u8 state = power_state();
    if (state != d0 && state != d3hot) {
        // D1 and D2 are not there: the write of the state has no effect.
        const u16 control = config.word(pm_cap_at + PM_CTRL);
        config.set(pm_cap_at + PM_CTRL, 2, (control & ~u32{PM_CTRL_STATE_MASK}) | before.power_state);
    } else if (before.power_state == d3hot && state == d0 &&
               !(config.word(pm_cap_at + PM_CTRL) & PM_CTRL_NO_SOFT_RESET)) {
        REACHED("pci.reset.d3hot");
        reset(ResetKind::d3hot);
    }
    if (!is_bridge() && (config.word(express_cap_at + EXP_DEVCTL) & EXP_DEVCTL_BCR_FLR)) {
        REACHED("pci.reset.flr");
        reset(ResetKind::flr);
    }
    if (bus_held() && !before.bus_held) {
        REACHED("pci.reset.bus");
        fabric_.reset_below(*this);
    }
    send_pending();
}

}  // namespace kexec_sim
