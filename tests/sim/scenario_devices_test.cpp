// Machines with devices, and the steps for devices and virtual machines: what is read, and what is refused.
#include <catch2/catch.hpp>

#include "sim/device_models.hpp"
#include "tests/sim/bad_scenarios.hpp"

using namespace kexec_sim;
using namespace kexec_sim::sim;

namespace {

Scenario with_machine(const std::string& machine) {
    return parse_scenario("format: 1\nscenario: s\nmachine: " + machine + "\nkernels: [{}]\nsteps: []\n", "s.yaml");
}

/// Two endpoints, one behind a switch: what the steps of these tests are for.
constexpr std::string_view head =
    "format: 1\nscenario: s\n"
    "machine: {memory: 1GiB, iommu: true, devices: [{name: rp0, model: root-port, at: \"00:02.0\"}, "
    "{name: sw0, model: switch, behind: rp0}, {name: nic0, model: dma-nic, behind: sw0.0}, "
    "{name: gpu0, model: p2p-gpu, at: \"00:04.0\"}]}\n"
    "kernels: [{}]\nsteps:\n";

Scenario with_steps(std::string_view steps) {
    return parse_scenario(std::string(head) + std::string(steps), "s.yaml");
}

std::vector<std::string> names(const std::vector<PciDeviceConfig>& devices) {
    std::vector<std::string> names;
    for (const PciDeviceConfig& device : devices) names.push_back(device.name);
    return names;
}

}  // namespace

TEST_CASE("a machine has no devices and no IOMMU unless it says so") {
    const MachineSpec plain = with_machine("{memory: 1G}").machine;
    CHECK_FALSE(plain.iommu);
    CHECK_FALSE(plain.has_devices());
    CHECK_FALSE(with_machine("{memory: 1G, iommu: false, devices: []}").machine.has_devices());
    CHECK(with_machine("{memory: 1G, iommu: true}").machine.has_devices());
    const MachineSpec patient = with_machine("{memory: 1G, iommu: {never_evict: true}}").machine;
    CHECK(patient.iommu);
    CHECK(patient.iommu_never_evicts);
    CHECK_FALSE(with_machine("{memory: 1G, iommu: {never_evict: false}}").machine.iommu_never_evicts);
}

TEST_CASE("devices are read with their places, and a bridge stands before what is behind it") {
    const MachineSpec machine = with_machine(R"({memory: 1G, devices: [
    {name: nic0, model: dma-nic, behind: sw1.31}, {name: sw1, model: switch, behind: sw0.1, ports: 32},
    {name: sw0, model: switch, behind: rp0}, {name: far, model: p2p-gpu, at: "10000:00:03.0"},
    {name: rp0, model: root-port, at: 00:02.0}, {name: nic_1, model: dma-nic, at: "0000:00:1f.1"},
    {name: nic-2, model: dma-nic, at: "ffffffff:00:1f.0"}, {name: nic3, model: dma-nic, at: "0:1f.0"}]})")
                                    .machine;
    CHECK(names(machine.devices) ==
          std::vector<std::string>{"far", "rp0", "nic_1", "nic-2", "nic3", "sw0", "sw1", "nic0"});
    CHECK(machine.devices[0].at == PciAddress{0x10000, Bdf(0, 3 << 3)});
    CHECK(machine.devices[0].model == "p2p-gpu");
    CHECK(machine.devices[1].at == PciAddress{0, Bdf(0, 2 << 3)});
    CHECK(machine.devices[2].at == PciAddress{0, Bdf(0, 0x1f << 3 | 1)});
    CHECK(machine.devices[3].at.segment == 0xffff'ffff);
    CHECK(machine.devices[5].behind == "rp0");
    CHECK(machine.devices[5].ports == 2);
    CHECK(machine.devices[6].ports == 32);
    CHECK(machine.devices[7].behind == "sw1.31");
}

TEST_CASE("a PCI address is hex, with or without a segment") {
    CHECK(parse_pci_address("02:1f.7") == PciAddress{0, Bdf(2, 0xff)});
    CHECK(parse_pci_address("abcd:ff:00.0") == PciAddress{0xabcd, Bdf(0xff, 0)});
    for (std::string_view bad :
         {"", ":", ".", "00:02", "02.0", "00:20.0", "00:02.8", "100:02.0", "00:002.0", "0_0:02.0",
          "100000000:00:02.0", ":00:02.0", "a:0:00:02.0", "00:02.0 ", "00:02.", "-1:02.0", "00:02.00", "0x0:02.0"}) {
        INFO(bad);
        CHECK_FALSE(parse_pci_address(bad));
    }
}

TEST_CASE("kernels with an orchestrator preserve devices unless told otherwise") {
    const auto preserves = [](const std::string& kernel) {
        return parse_scenario("format: 1\nscenario: s\nmachine: {memory: 1G}\nkernels: [" + kernel + "]\nsteps: []\n",
                              "s.yaml")
            .kernels[0]
            .preserve_devices;
    };
    CHECK(preserves("{}"));
    CHECK(preserves("{profile: luo-v2}"));
    CHECK_FALSE(preserves("{profile: linux-6.16}"));
    CHECK_FALSE(preserves("{profile: linux-6.18}"));
    CHECK(preserves("{devices: preserve, profile: linux-6.18}"));
    CHECK_FALSE(preserves("{devices: teardown}"));
}

TEST_CASE("the steps of devices and virtual machines give their fields") {
    const Scenario scenario = with_steps(R"(
  - vm.create: {name: vm0, memory: 16MiB}
  - vm.create: {name: vm1, memory: 1MiB, vcpus: 4, snp: true}
  - vfio.open: {device: nic0, as: nic}
  - vm.attach: {vm: vm0, device: nic}
  - nic.start: {device: nic0, buffer: {vm: vm0, offset: 4MiB, length: 1MiB}, interval: 10us}
  - vm.run: 1ms
  - vm.run: {vm: vm1, for: 2ms}
  - iommufd.create: {as: dom}
  - memfd.create: {name: m, size: 1M}
  - iommufd.map: {domain: dom, fd: m, iova: 0x1000, size: 4K, access: w}
  - iommufd.attach: {domain: dom, device: nic}
  - nic.start: {device: nic0, buffer: {fd: m, offset: 0, length: 64K}, interval: 1ns, ring: 16}
  - pci.read: {device: sw0.1, offset: 0x18, bytes: 2, value: 0x0102}
  - pci.write: {device: rp0, offset: 4, value: 6}
  - pci.expect: {device: nic0, bus: 3, bars: kept, bus_master: true, resets: 0, driver: vfio-pci, requester: "03:00.0"}
  - p2p.start: {from: nic0, to: gpu0, interval: 1us}
  - vm.preserve: {vm: vm0, tokens: 0x100}
  - kexec: {vmm: none}
  - vm.restore: {vm: vm0, tokens: 0x100, spurious: false}
  - kexec.exec:
  - nic.expect: {completions_ge: 1, gaps: 0}
  - pci.swap: {device: gpu0, vendor: 0x8086, id: 1}
)");
    const auto& steps = scenario.steps;
    CHECK(steps[0].get_u64("vcpus") == 1);
    CHECK_FALSE(steps[0].get_bool("snp"));
    CHECK(steps[1].get_u64("vcpus") == 4);
    CHECK(steps[3].get_name("device") == "nic");
    const BufferField& guest = steps[4].get_buffer("buffer");
    CHECK(guest.of_vm);
    CHECK(guest.offset == 4 * MiB);
    CHECK(guest.length == MiB);
    CHECK(steps[4].get_name("buffer") == "vm0");
    CHECK(steps[4].get_u64("interval") == 10'000);
    CHECK_FALSE(steps[4].find_u64("ring"));
    CHECK(steps[4].text ==
          "nic.start: {device: nic0, buffer: {vm: vm0, offset: 4MiB, length: 1MiB}, interval: 10us}");
    CHECK(steps[5].get_u64("for") == 1'000'000);
    CHECK_FALSE(steps[5].has("vm"));
    CHECK(steps[5].text == "vm.run: 1ms");
    CHECK(steps[6].get_name("vm") == "vm1");
    CHECK(steps[9].get_text("access") == "w");
    CHECK(steps[9].get_u64("offset") == 0);
    CHECK_FALSE(steps[11].get_buffer("buffer").of_vm);
    CHECK(steps[11].get_u64("ring") == 16);
    CHECK(steps[12].get_u64("bytes") == 2);
    CHECK(steps[13].get_u64("bytes") == 4);
    CHECK(steps[14].get_u64("requester") == Bdf(3, 0).raw);
    CHECK(steps[14].get_text("bars") == "kept");
    CHECK(steps[16].get_text("order") == "default");
    CHECK(steps[17].get_text("vmm") == "none");
    CHECK_FALSE(steps[18].get_bool("spurious"));
    CHECK(steps[18].get_bool("hotswap"));
    CHECK(steps[19].get_text("vmm") == "duties");
    CHECK(steps[19].text == "kexec.exec");
    CHECK(steps[20].find("device") == nullptr);
    CHECK(steps[21].get_u64("vendor") == 0x8086);
}

TEST_CASE("faults of devices are those that their points carry out") {
    const Scenario scenario = parse_scenario(
        "format: 1\nscenario: s\nmachine: {memory: 1G}\nkernels: [{}]\nsteps: []\nfaults:\n"
        "  - {at: dma.write, match: nic0, visit: 3, do: {misdirect: 0x7000000}}\n"
        "  - {at: dma.write, do: duplicate}\n  - {at: dma.write, do: {flip: {offset: 0, bit: 1}}}\n"
        "  - {at: dma.read, do: drop}\n  - {at: dma.read, do: {delay: 1ms}}\n  - {at: irq.deliver, do: drop}\n"
        "  - {at: irq.deliver, do: duplicate}\n  - {at: iommu.invalidate, do: drop}\n"
        "  - {at: iommu.invalidate, do: skip}\n  - {at: iommu.walk, do: {fail: EIO}}\n"
        "  - {at: iommu.walk, do: {zero: {offset: 0, length: 8}}}\n  - {at: pci.config_write, do: drop}\n"
        "  - {at: pci.config_write, do: {fail: EIO}}\n  - {at: iommu.preserve_table, visit: 2, do: skip}\n",
        "s.yaml");
    CHECK(scenario.faults.size() == 14);
    CHECK(scenario.faults[0].text() == "dma.write[nic0]#3=misdirect(0x7000000)");
}

TEST_CASE("the models that are listed are those that a machine can have") {
    for (const DeviceModelInfo& info : device_models()) {
        INFO(info.name);
        const bool behind = info.name == "switch";
        CHECK_NOTHROW(with_machine(
            "{memory: 1G, devices: [{name: rp, model: root-port, at: \"00:02.0\"}, {name: d, model: " + info.name +
            (behind ? ", behind: rp}]}" : ", at: \"00:03.0\"}]}")));
    }
    CHECK(device_models().size() == 4);
}

// One case a line, with the place that it is about.
// clang-format off
TEST_CASE("an error in the list of devices") {
    constexpr std::string_view before = "format: 1\nscenario: s\nmachine:\n  memory: 1G\n  devices:\n"
                                        "    - {name: rp0, model: root-port, at: \"00:02.0\"}\n"
                                        "    - {name: sw0, model: switch, behind: rp0}\n"
                                        "    - {name: nic0, model: dma-nic, behind: sw0.0}\n    - ";
    constexpr std::string_view after = "\nkernels: [{}]\nsteps: []\n";
    const BadCase cases[] = {
        {"nic1", "9:7: error: 'devices' needs a map, not 'nic1'"},
        {"{model: dma-nic, at: \"00:03.0\"}", "9:7: error: 'devices' needs 'name'"},
        {"{name: n, at: \"00:03.0\"}", "9:7: error: 'devices' needs 'model'"},
        {"{name: n, model: dmanic, at: \"00:03.0\"}", "9:24: error: 'model' needs one of root-port, switch, dma-nic, p2p-gpu, not 'dmanic'; did you mean 'dma-nic'?"},
        {"{name: n, model: dma-nic, behnd: \"00:03.0\"}", "9:33: error: unknown key 'behnd' in 'devices'; did you mean 'behind'?"},
        {"{name: n.1, model: dma-nic, at: \"00:03.0\"}", "9:14: error: 'n.1' cannot name a device; use letters, digits, '-' and '_'"},
        {"{name: nic0, model: dma-nic, at: \"00:03.0\"}", "9:14: error: two devices are called 'nic0'; the first one is in line 8"},
        {"{name: n, model: dma-nic}", "9:7: error: device 'n' needs 'at' or 'behind'"},
        {"{name: n, model: dma-nic, at: \"00:03.0\", behind: sw0.1}", "9:56: error: 'at' and 'behind' exclude each other"},
        {"{name: n, model: root-port, behind: sw0.1}", "9:43: error: root port 'n' is on bus 0: it needs 'at'"},
        {"{name: n, model: switch, at: \"00:03.0\"}", "9:36: error: switch 'n' needs 'behind': it is behind a root port or the port of a switch"},
        {"{name: n, model: dma-nic, at: \"00:03\"}", "9:37: error: 'at' needs a PCI address, as 00:02.0, not '00:03'"},
        {"{name: n, model: dma-nic, at: \"01:03.0\"}", "9:37: error: 'at' is an address on bus 0; other buses get their numbers from the firmware"},
        {"{name: n, model: dma-nic, at: \"00:02.0\"}", "9:37: error: 'rp0' has this address already, in line 6"},
        {"{name: n, model: dma-nic, at: \"00:03.1\"}", "9:37: error: a device whose function 0 is missing is not found; nothing is there"},
        {"{name: n, model: dma-nic, at: \"00:03.0\", ports: 2}", "9:55: error: 'ports' belongs to a switch; 'n' is a dma-nic"},
        {"{name: n, model: switch, behind: sw0.1, ports: 0}", "9:54: error: a switch has at least one port"},
        {"{name: n, model: switch, behind: sw0.1, ports: 33}", "9:54: error: 'ports' is at most 32, not 33"},
        {"{name: n, model: dma-nic, behind: rp1}", "9:41: error: this machine has no root port or port of a switch 'rp1'; did you mean 'rp0'?"},
        {"{name: n, model: dma-nic, behind: nic0}", "9:41: error: 'nic0' is a dma-nic, and nothing can be behind one"},
        {"{name: n, model: dma-nic, behind: rp0}", "9:41: error: 'sw0' is behind 'rp0' already, and there is room for one"},
        {"{name: n, model: dma-nic, behind: sw0.0}", "9:41: error: 'nic0' is behind 'sw0.0' already, and there is room for one"},
        {"{name: n, model: dma-nic, behind: rp0.0}", "9:41: error: 'rp0' is a root port, with one place behind it: 'behind: rp0'"},
        {"{name: n, model: dma-nic, behind: sw0}", "9:41: error: 'sw0' is a switch with 2 ports: 'behind: sw0.0' to 'sw0.1'"},
        {"{name: n, model: dma-nic, behind: sw0.2}", "9:41: error: 'sw0' is a switch with 2 ports: 'behind: sw0.0' to 'sw0.1'"},
        {"{name: n, model: switch, behind: n.0}", "9:40: error: 'n' is behind itself: no root port leads to it"},
        {"{name: n, model: switch, behind: sw0.1, ports: 32}\n"
         "    - {name: a, model: switch, behind: n.0, ports: 32}\n    - {name: b, model: switch, behind: n.1, ports: 32}\n"
         "    - {name: c, model: switch, behind: n.2, ports: 32}\n    - {name: d, model: switch, behind: n.3, ports: 32}\n"
         "    - {name: e, model: switch, behind: n.4, ports: 32}\n    - {name: f, model: switch, behind: n.5, ports: 32}\n"
         "    - {name: g, model: switch, behind: n.6, ports: 32}", "16:14: error: with 'g' a segment has more than 256 buses"},
    };
    check_cases(before, cases, after);
    const BadCase machines[] = {
        {"{memory: 1G, devices: {name: n}}", "3:32: error: 'devices' needs a list, not a map"},
        {"{memory: 1G, iommu: 1}", "3:30: error: 'iommu' needs true or false, not '1'"},
        {"{memory: 1G, iommu: {never_evct: true}}", "3:31: error: unknown key 'never_evct' in 'iommu'; did you mean 'never_evict'?"},
        {"{image: a, boot-params: b, devices: []}", "3:37: error: 'devices' makes no sense beside 'image': a machine with devices cannot be resumed"},
        {"{image: a, boot-params: b, iommu: true}", "3:37: error: 'iommu' makes no sense beside 'image': a machine with devices cannot be resumed"},
    };
    check_cases("format: 1\nscenario: s\nmachine: ", machines, after);
    std::string many = "format: 1\nscenario: s\nmachine: {memory: 1G, devices: [";
    for (int i = 0; i < 65; ++i)
        many += (i ? ", {name: n" : "{name: n") + std::to_string(i) + ", model: dma-nic, at: \"" + std::to_string(i) + ":00:01.0\"}";
    CHECK(first_line(many + "]}\nkernels: [{}]\nsteps: []\n").find("error: a machine has at most 64 PCI segments") != std::string::npos);
    for (int i = 65; i < 257; ++i) many += ", {name: n" + std::to_string(i) + "}";
    CHECK(first_line(many + "]}\nkernels: [{}]\nsteps: []\n").find("error: a machine has at most 256 devices") != std::string::npos);
}

TEST_CASE("an error in a step for a device or a virtual machine") {
    const BadCase cases[] = {
        {"  - vfio.open: {device: nic1, as: n}\n", "6:25: error: this machine has no device 'nic1'; did you mean 'nic0'?"},
        {"  - vfio.open: {device: nic0, as: n}\n  - pci.expect: {device: n}\n", "7:26: error: this machine has no device 'n' (it is a descriptor)"},
        {"  - vfio.close: {device: nic0}\n", "6:26: error: no step of this file binds 'nic0' as a descriptor (it is a device)"},
        {"  - vm.run: {vm: vm0, for: 1ms}\n", "6:18: error: no step of this file binds 'vm0'"},
        {"  - vm.create: {name: vm0, memory: 1M}\n  - memfd.close: {fd: vm0}\n", "7:23: error: no step of this file binds 'vm0' as a descriptor (it is a virtual machine)"},
        {"  - vm.run: soon\n", "6:13: error: 'vm.run' needs a duration, as 10us or 3ms, not 'soon'"},
        {"  - vm.run:\n", "6:5: error: step 'vm.run' needs 'for'"},
        {"  - vm.run: [1ms]\n", "6:13: error: 'vm.run' needs a map, not a list"},
        {"  - vm.create: {name: v, memory: 0}\n", "6:34: error: 'memory' is at least 1"},
        {"  - vm.create: {name: v, memory: 1M, vcpus: 0}\n", "6:45: error: 'vcpus' is at least 1"},
        {"  - vm.create: {name: v, memory: 1M, vcpus: 257}\n", "6:45: error: 'vcpus' is at most 16, not 257"},
        {"  - nic.stop: {device: gpu0}\n", "6:24: error: 'device' of 'nic.stop' needs a dma-nic, and 'gpu0' is a p2p-gpu"},
        {"  - nic.stop: {device: sw0.1}\n", "6:24: error: 'device' of 'nic.stop' needs a dma-nic, and 'sw0.1' is a switch"},
        {"  - p2p.start: {from: nic0, to: gpu0, interval: 0ns}\n", "6:49: error: 'interval' is at least 1ns"},
        {"  - p2p.start: {from: nic0, to: gpu0, interval: 5s}\n", "6:49: error: 'interval' is at most 4294967295ns, not 5s"},
        {"  - nic.start: {device: nic0, buffer: vm0, interval: 1us}\n", "6:39: error: 'buffer' needs a map, not 'vm0'"},
        {"  - nic.start: {device: nic0, buffer: {offset: 0, length: 1}, interval: 1us}\n", "6:39: error: 'buffer' needs one of vm, fd"},
        {"  - nic.start: {device: nic0, buffer: {vm: a, fd: b, offset: 0, length: 1}, interval: 1us}\n", "6:51: error: 'vm' and 'fd' exclude each other"},
        {"  - nic.start: {device: nic0, buffer: {vm: a, length: 1}, interval: 1us}\n", "6:39: error: 'buffer' needs 'offset'"},
        {"  - nic.start: {device: nic0, buffer: {vm: a, offset: 0, length: 0}, interval: 1us}\n", "6:66: error: 'length' is at least 1"},
        {"  - nic.start: {device: nic0, buffer: {vm: a, offset: 0, lenght: 1}, interval: 1us}\n", "6:58: error: unknown key 'lenght' in 'buffer'; did you mean 'length'?"},
        {"  - nic.start: {device: nic0, buffer: {vm: a, offset: 0, length: 1}, interval: 1us}\n", "6:44: error: no step of this file binds 'a'"},
        {"  - nic.start: {device: nic0, buffer: {fd: a, offset: 0, length: 1}, interval: 1us, ring: 0}\n", "6:91: error: 'ring' is at least 1"},
        {"  - nic.expect: {completions: 1, completions_ge: 1}\n", "6:50: error: 'completions_ge' makes no sense beside 'completions'"},
        {"  - pci.expect: {device: nic0, requester: here}\n", "6:43: error: 'requester' needs a PCI address, as 02:00.0, not 'here'"},
        {"  - pci.expect: {device: nic0, bars: [1]}\n", "6:38: error: 'bars' needs one of kept, moved, not a list"},
        {"  - pci.read: {device: nic0, offset: 4096, value: 0}\n", "6:38: error: 'offset' is at most 4095, not 4096"},
        {"  - pci.read: {device: nic0, offset: 0, bytes: 3, value: 0}\n", "6:48: error: 'bytes' needs one of 1, 2, 4, not '3'"},
    };
    check_cases(head, cases);
}
// clang-format on
