#include "machine/pci/fabric.hpp"

#include <algorithm>
#include <array>
#include <fmt/format.h>

#include "machine/device/dma_nic.hpp"
#include "machine/device/p2p_gpu.hpp"
#include "machine/machine.hpp"
#include "machine/reached.hpp"

namespace kexec_sim {
namespace {

[[noreturn]] void bad_device(const PciDeviceConfig& config, std::string_view why) {
    throw UserError(fmt::format("kexec-sim: error: device '{}': {}", config.name, why));
}

u32 all_ones(unsigned bytes) { return bytes == 4 ? ~u32{0} : (u32{1} << (8 * bytes)) - 1; }

}  // namespace

// --- wiring --------------------------------------------------------------------------------------------------------

PciFabric::PciFabric(Machine& machine, std::span<const PciDeviceConfig> devices, std::pmr::memory_resource* memory)
    : machine_(machine),
      memory_(memory),
      roots_(memory),
      functions_(memory),
      segments_(memory),
      writes_(memory) {
    for (const PciDeviceConfig& device : devices)
        if (device.behind.empty()) segments_.push_back(device.at.segment);
    if (segments_.empty()) segments_.push_back(0);
    std::sort(segments_.begin(), segments_.end());
    segments_.erase(std::unique(segments_.begin(), segments_.end()), segments_.end());
    roots_.resize(segments_.size(), nullptr);
    for (const PciDeviceConfig& device : devices) add(device);
    declare_places();
}

PciFabric::~PciFabric() {
    for (auto function = functions_.rbegin(); function != functions_.rend(); ++function) std::destroy_at(*function);
}

PciFunction* PciFabric::make(const PciDeviceConfig& config, std::string_view name, PciModel model,
                             PciFunction* parent, u8 devfn) {
    if (find(name)) bad_device(config, fmt::format("there is a function '{}' already", name));
    const u16 index = static_cast<u16>(functions_.size());
    Arena& arena = *machine_.arena;
    PciFunction* function = nullptr;
    switch (model) {
    case PciModel::root_port:
    case PciModel::switch_upstream:
    case PciModel::switch_downstream:
        function = arena.make<PciFunction>(*this, index, name, model, devfn, memory_);
        break;
    case PciModel::dma_nic: function = arena.make<DmaNic>(*this, index, name, devfn, memory_); break;
    case PciModel::p2p_gpu: function = arena.make<P2pGpu>(*this, index, name, devfn, memory_); break;
    }
    function->parent = parent;
    function->segment = parent ? parent->segment : config.at.segment;
    for (const PciFunction* other = parent ? parent->first_child_ : first_on_root(function->segment); other;
         other = other->next_sibling_)
        if (other->devfn() == devfn) bad_device(config, fmt::format("'{}' is in its place already", other->name()));
    insert(function);
    functions_.push_back(function);
    return function;
}

PciFunction* PciFabric::bridge_for(const PciDeviceConfig& config) const {
    PciFunction* bridge = find(config.behind);
    if (!bridge) bad_device(config, fmt::format("there is no '{}' before it in the list", config.behind));
    if (bridge->model != PciModel::root_port && bridge->model != PciModel::switch_downstream)
        bad_device(config, fmt::format("'{}' is neither a root port nor a port of a switch", config.behind));
    return bridge;
}

void PciFabric::add(const PciDeviceConfig& config) {
    PciFunction* parent = config.behind.empty() ? nullptr : bridge_for(config);
    if (!parent && config.at.bdf.bus() != 0) bad_device(config, "only bus 0 is a root bus");
    const u8 devfn = parent ? 0 : config.at.bdf.devfn();
    if (config.model == "root-port") {
        if (parent) bad_device(config, "a root port is on a root bus");
        make(config, config.name, PciModel::root_port, nullptr, devfn);
    } else if (config.model == "switch") {
        if (!parent) bad_device(config, "a switch is behind a root port or behind a port of another switch");
        if (config.ports < 1 || config.ports > 32) bad_device(config, "a switch has 1 to 32 ports");
        PciFunction* upstream = make(config, config.name, PciModel::switch_upstream, parent, 0);
        for (unsigned port = 0; port < config.ports; ++port)
            make(config, fmt::format("{}.{}", config.name, port), PciModel::switch_downstream, upstream,
                 static_cast<u8>(port << 3));
    } else if (config.model == "dma-nic") {
        make(config, config.name, PciModel::dma_nic, parent, devfn);
    } else if (config.model == "p2p-gpu") {
        make(config, config.name, PciModel::p2p_gpu, parent, devfn);
    } else {
        bad_device(config, fmt::format("there is no model '{}'", config.model));
    }
}

void PciFabric::insert(PciFunction* function) {
    const auto segment = std::lower_bound(segments_.begin(), segments_.end(), function->segment);
    PciFunction** at = function->parent
                           ? &function->parent->first_child_
                           : &roots_[static_cast<std::size_t>(std::distance(segments_.begin(), segment))];
    while (*at && (*at)->devfn() < function->devfn()) at = &(*at)->next_sibling_;
    function->next_sibling_ = *at;
    *at = function;
}

void PciFabric::declare_places() {
    for (PciFunction* first : roots_) place_bus(first);
}

void PciFabric::place_bus(PciFunction* first) {
    for (PciFunction* function = first; function; function = function->next_sibling_) {
        unsigned functions = 0;
        for (const PciFunction* other = first; other; other = other->next_sibling_)
            functions += other->devfn() >> 3 == function->devfn() >> 3;
        function->declare_place(functions > 1);
        place_bus(function->first_child_);
    }
}

// --- facts ---------------------------------------------------------------------------------------------------------

PciFunction* PciFabric::first_on_root(u32 segment) const {
    const auto found = std::lower_bound(segments_.begin(), segments_.end(), segment);
    if (found == segments_.end() || *found != segment) return nullptr;
    return roots_[static_cast<std::size_t>(std::distance(segments_.begin(), found))];
}

PciFunction* PciFabric::find(std::string_view name) const {
    for (PciFunction* function : functions_)
        if (function->name() == name) return function;
    return nullptr;
}

std::vector<PciFunction*> PciFabric::children(const PciFunction* bridge, u32 segment) const {
    std::vector<PciFunction*> result;
    for (PciFunction* child = bridge ? bridge->first_child_ : first_on_root(segment); child;
         child = child->next_sibling_)
        result.push_back(child);
    return result;
}

PciFunction* PciFabric::at(PciAddress address) const {
    const u8 bus = address.bdf.bus();
    PciFunction* function = first_on_root(address.segment);
    for (u8 here = 0; here != bus;) {
        // The first bridge on this bus that claims the number passes the cycle on.
        while (function && !(function->is_bridge() && function->passes_config() && function->secondary_bus() != 0 &&
                             function->secondary_bus() <= bus && bus <= function->subordinate_bus()))
            function = function->next_sibling_;
        if (!function) return nullptr;
        here = function->secondary_bus();
        function = function->first_child_;
    }
    while (function && function->devfn() != address.bdf.devfn()) function = function->next_sibling_;
    return function;
}

// --- config cycles -------------------------------------------------------------------------------------------------

u32 PciFabric::config_read(PciAddress address, u16 offset, unsigned bytes) {
    const MachineEntry entry;
    const PciFunction* function = at(address);
    return function ? function->config.read(offset, bytes) : all_ones(bytes);
}

Result<> PciFabric::config_write(PciAddress address, u16 offset, unsigned bytes, u32 value) {
    PciFunction* function = at(address);
    if (!function) return {};
    if (const auto fault = machine_.faults.visit(FaultPoint::pci_config_write, function->name())) {
        if (fault->kind == FaultKind::fail) return fail(fault->error);
        if (fault->kind == FaultKind::drop || fault->kind == FaultKind::skip) {
            REACHED("pci.config_write.lost");
            return {};
        }
    }
    const MachineEntry entry;
    function->latch_bus(address.bdf.bus());
    const PciFunction::Sensitive before = function->sensitive();
    const u32 old_value = function->config.read(offset, bytes);
    const u32 new_value = function->config.write(offset, bytes, value);
    writes_.push_back({machine_.clock.now_ns(), machine_.generation, function->index, address.bdf.raw, offset,
                       static_cast<u8>(bytes), old_value, new_value});
    std::array<char, 24> text{};
    const Bdf bdf = address.bdf;
    const auto end = fmt::format_to_n(text.data(), text.size(), "{:04x}:{:02x}:{:02x}.{:x}", address.segment,
                                      bdf.bus(), bdf.device(), bdf.function());
    machine_.trace.emit(Layer::machine, "pci.config_write",
                        {{"device", function->name()},
                         {"address", std::string_view(text.data(), end.size)},
                         hex_field("offset", offset),
                         hex_field("old", old_value),
                         hex_field("new", new_value)});
    if (new_value != old_value)
        machine_.device_referee.config_changed(*function, offset, bytes, old_value, new_value);
    function->config_written(before);
    return {};
}

void PciFabric::reset_below(PciFunction& bridge) {
    for (PciFunction* child = bridge.first_child_; child; child = child->next_sibling_) {
        child->reset(ResetKind::bus_reset);
        reset_below(*child);
    }
}

void PciFabric::swap_identity(PciFunction& function, u16 vendor, u16 device) {
    const MachineEntry entry;
    function.declare_identity(vendor, device);
}

}  // namespace kexec_sim
