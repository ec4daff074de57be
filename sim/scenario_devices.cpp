// `devices:` of a machine: which functions there are, and what is plugged into what.
//
//     {name: rp0, model: root-port, at: "00:02.0"}         on the root bus of a segment
//     {name: sw0, model: switch, behind: rp0, ports: 2}    behind a root port
//     {name: nic0, model: dma-nic, behind: sw0.1}          behind a port of a switch
//
// The list may be in any order; what comes out has each bridge before what is behind it. Checked here:
//   1. one place a device: `at` or `behind`, a slot of its own, a port that exists and leads to nothing else
//   2. root ports are on bus 0, switches are not, nothing is behind an endpoint
//   3. a second function of a device only where there is a function 0
//   4. no loop, and no more buses than a segment can number
#include <algorithm>

#include <fmt/format.h>

#include "sim/scenario_parts.hpp"

namespace kexec_sim::sim {
namespace {

constexpr std::size_t devices_max = 256;
/// Each segment has an IOMMU, and their registers share a page range of the machine.
constexpr std::size_t segments_max = 64;
constexpr u64 ports_min = 1, ports_max = 32;
constexpr u64 buses_max = 256;
constexpr std::string_view models[] = {"root-port", "switch", "dma-nic", "p2p-gpu"};

struct Entry {
    PciDeviceConfig config;
    SourcePos name_pos, place_pos;  // of `name`; of `at` or `behind`
    const Entry* parent = nullptr;  // the bridge above
    bool placed = false;            // stands in the list that comes out
};

class DeviceParser {
public:
    DeviceParser(const Node& node, const Scalars& scalars) : node_(node), scalars_(scalars) {}

    std::vector<PciDeviceConfig> parse() {
        scalars_.check_sequence(node_, "devices");
        if (node_.items.size() > devices_max)
            scalars_.error(node_.pos, fmt::format("a machine has at most {} devices", devices_max));
        for (const Node& item : node_.items) read(item);
        for (Entry& entry : entries_)
            if (!entry.config.behind.empty()) plug_in(entry);
        check_slots();
        std::vector<PciDeviceConfig> ordered = in_order();
        check_buses();
        return ordered;
    }

private:
    void read(const Node& item);
    void read_name(const Node& node, Entry& entry) const;
    void read_place(const Node& item, Entry& entry) const;
    void read_at(const Node& node, Entry& entry) const;
    void plug_in(Entry& entry) const;
    [[noreturn]] void wrong(const Entry& entry, const std::string& text) const {
        scalars_.error(entry.place_pos, text);
    }
    void check_slots() const;
    std::vector<PciDeviceConfig> in_order();
    void check_buses() const;

    const Entry* find(std::string_view name) const {
        const auto at = std::ranges::find(entries_, name,
                                          [](const Entry& entry) -> std::string_view { return entry.config.name; });
        return at == entries_.end() ? nullptr : &*at;
    }
    /// What `behind` may say.
    std::vector<std::string> port_names() const;

    const Node& node_;
    const Scalars& scalars_;
    std::vector<Entry> entries_;
};

void DeviceParser::read(const Node& item) {
    scalars_.check_map(item, "devices", {"name", "model", "at", "behind", "ports"});
    Entry entry;
    read_name(scalars_.require(item, "name", "devices"), entry);
    entry.config.model = scalars_.choice(scalars_.require(item, "model", "devices"), "model", models);
    read_place(item, entry);
    if (const Node* ports = item.find("ports")) {
        if (entry.config.model != "switch")
            scalars_.error(ports->pos, fmt::format("'ports' belongs to a switch; '{}' is a {}", entry.config.name,
                                                   entry.config.model));
        const u64 count = scalars_.number(*ports, "ports", ports_max);
        if (count < ports_min) scalars_.error(ports->pos, "a switch has at least one port");
        entry.config.ports = static_cast<unsigned>(count);
    }
    entries_.push_back(std::move(entry));
}

void DeviceParser::read_name(const Node& node, Entry& entry) const {
    entry.name_pos = node.pos;
    entry.config.name = scalars_.line(node, "name", "a name");
    const std::string& name = entry.config.name;
    if (!is_parameter_name(name) || name.find('.') != std::string::npos)
        scalars_.error(node.pos, fmt::format("'{}' cannot name a device; use letters, digits, '-' and '_'", name));
    if (const Entry* other = find(name))
        scalars_.error(node.pos, fmt::format("two devices are called '{}'; the first one is in line {}", name,
                                             other->name_pos.line));
}

void DeviceParser::read_place(const Node& item, Entry& entry) const {
    const Node* at = item.find("at");
    const Node* behind = item.find("behind");
    const std::string &name = entry.config.name, &model = entry.config.model;
    if (at && behind) scalars_.error(std::max(at->pos, behind->pos), "'at' and 'behind' exclude each other");
    if (model == "root-port" && !at)
        scalars_.error(behind ? behind->pos : item.pos,
                       fmt::format("root port '{}' is on bus 0: it needs 'at'", name));
    if (model == "switch" && !behind)
        scalars_.error(
            at ? at->pos : item.pos,
            fmt::format("switch '{}' needs 'behind': it is behind a root port or the port of a switch", name));
    if (!at && !behind) scalars_.error(item.pos, fmt::format("device '{}' needs 'at' or 'behind'", name));
    entry.place_pos = at ? at->pos : behind->pos;
    if (at) return read_at(*at, entry);
    entry.config.behind = scalars_.line(*behind, "behind", "the name of a root port, or of a port of a switch");
}

void DeviceParser::read_at(const Node& node, Entry& entry) const {
    constexpr std::string_view wanted = "a PCI address, as 00:02.0";
    const std::string text = scalars_.text(node, "at", wanted);
    const auto address = parse_pci_address(text);
    if (!address) scalars_.error(node.pos, fmt::format("'at' needs {}, not '{}'", wanted, text));
    if (address->bdf.bus() != 0)
        scalars_.error(node.pos, "'at' is an address on bus 0; other buses get their numbers from the firmware");
    entry.config.at = *address;
}

std::vector<std::string> DeviceParser::port_names() const {
    std::vector<std::string> names;
    for (const Entry& entry : entries_) {
        if (entry.config.model == "root-port") names.push_back(entry.config.name);
        for (unsigned port = 0; entry.config.model == "switch" && port < entry.config.ports; ++port)
            names.push_back(fmt::format("{}.{}", entry.config.name, port));
    }
    return names;
}

void DeviceParser::plug_in(Entry& entry) const {
    const std::string& behind = entry.config.behind;
    const std::vector<std::string> ports = port_names();
    const std::string name = behind.substr(0, behind.find('.'));
    const Entry* bridge = find(name);
    if (!bridge) {
        const std::vector<std::string_view> names(ports.begin(), ports.end());
        wrong(entry, fmt::format("this machine has no root port or port of a switch '{}'{}", behind,
                                 did_you_mean(behind, names)));
    }
    const std::string_view model = bridge->config.model;
    if (model != "root-port" && model != "switch")
        wrong(entry, fmt::format("'{}' is a {}, and nothing can be behind one", name, model));
    if (std::ranges::find(ports, behind) == ports.end()) {
        if (model == "root-port")
            wrong(entry, fmt::format("'{}' is a root port, with one place behind it: 'behind: {}'", name, name));
        wrong(
            entry,
            fmt::format("'{}' is a switch with {} port{}: 'behind: {}.0'{}", name, bridge->config.ports,
                        bridge->config.ports == 1 ? "" : "s", name,
                        bridge->config.ports == 1 ? "" : fmt::format(" to '{}.{}'", name, bridge->config.ports - 1)));
    }
    for (const Entry& other : entries_)
        if (&other != &entry && other.parent && other.config.behind == behind)
            wrong(entry,
                  fmt::format("'{}' is behind '{}' already, and there is room for one", other.config.name, behind));
    entry.parent = bridge;
}

void DeviceParser::check_slots() const {
    const auto on_root_bus = [](const Entry& entry) { return entry.config.behind.empty(); };
    const auto is_at = [&](PciAddress address) {
        return std::ranges::find_if(
            entries_, [&](const Entry& entry) { return on_root_bus(entry) && entry.config.at == address; });
    };
    std::vector<u32> segments;
    for (const Entry& entry : entries_) {
        if (!on_root_bus(entry)) continue;
        const PciAddress at = entry.config.at;
        if (const auto first = is_at(at); &*first != &entry)
            scalars_.error(entry.place_pos, fmt::format("'{}' has this address already, in line {}",
                                                        first->config.name, first->place_pos.line));
        const PciAddress function_0{at.segment, Bdf(0, at.bdf.devfn() & ~7u)};
        if (is_at(function_0) == entries_.end())
            scalars_.error(entry.place_pos, "a device whose function 0 is missing is not found; nothing is there");
        if (std::ranges::find(segments, at.segment) == segments.end()) segments.push_back(at.segment);
        if (segments.size() > segments_max)
            scalars_.error(entry.place_pos, fmt::format("a machine has at most {} PCI segments", segments_max));
    }
}

/// Round by round, what hangs on something that has its place already. What is left over hangs on itself.
std::vector<PciDeviceConfig> DeviceParser::in_order() {
    std::vector<PciDeviceConfig> ordered;
    for (bool found = true; found;) {
        found = false;
        for (Entry& entry : entries_) {
            if (entry.placed || (entry.parent && !entry.parent->placed)) continue;
            ordered.push_back(entry.config);
            entry.placed = found = true;
        }
    }
    for (const Entry& entry : entries_)
        if (!entry.placed)
            scalars_.error(entry.place_pos,
                           fmt::format("'{}' is behind itself: no root port leads to it", entry.config.name));
    return ordered;
}

/// A root port has one bus behind it; a switch one inside and one behind each port.
void DeviceParser::check_buses() const {
    std::map<u32, u64> buses;  // by segment
    for (const Entry& entry : entries_) {
        const Entry* root = &entry;
        while (root->parent) root = root->parent;
        u64& count = buses.try_emplace(root->config.at.segment, 1).first->second;
        if (entry.config.model == "root-port") ++count;
        if (entry.config.model == "switch") count += 1 + entry.config.ports;
        if (count > buses_max)
            scalars_.error(entry.name_pos,
                           fmt::format("with '{}' a segment has more than {} buses", entry.config.name, buses_max));
    }
}

}  // namespace

std::vector<PciDeviceConfig> parse_devices(const Node& node, const Scalars& scalars) {
    return DeviceParser(node, scalars).parse();
}

}  // namespace kexec_sim::sim
