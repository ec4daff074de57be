// The PCI core of a kernel: what it finds, what it writes, what it leaves alone.
#include "device_kernel.hpp"

#include "machine/device/p2p_gpu.hpp"

namespace kexec_sim {
namespace {

std::vector<std::string> names(const DeviceKernel& world) {
    std::vector<std::string> found;
    for (const auto& device : world.kernel->pci.devices()) found.emplace_back(device->hardware->name());
    return found;
}

/// Functions that the running kernel has written to.
std::vector<std::string> written(const DeviceKernel& world) {
    std::vector<std::string> result;
    for (const ConfigWrite& write : world.machine->pci.config_writes())
        if (write.generation == world.machine->generation)
            result.emplace_back(world.machine->pci.functions()[write.function]->name());
    return result;
}
/// Whether it has given a bridge other numbers.
bool renumbered(const DeviceKernel& world) {
    return std::ranges::any_of(world.machine->pci.config_writes(), [&](const ConfigWrite& write) {
        return write.generation == world.machine->generation && write.offset >= pci::PRIMARY_BUS &&
               write.offset <= pci::SUBORDINATE_BUS && world.machine->pci.functions()[write.function]->is_bridge();
    });
}
bool contains(const std::vector<std::string>& all, std::string_view one) {
    return std::ranges::find(all, one) != all.end();
}

/// What a participant in a live update tells the core: nic0 and the bridges above it.
const std::vector<std::string> path_of_nic0{"nic0", "sw0.0", "sw0", "rp0"};
DeviceKernel::Prepare adopting(DeviceKernel& world) {
    std::vector<PciAddress> addresses;
    for (const std::string& name : path_of_nic0) addresses.push_back(world.device(name).address);
    return [addresses](Kernel& kernel) { kernel.pci.adopted = addresses; };
}

/// Matches bridges, and notes what is called.
class BridgeDriver final : public PciDriver {
public:
    BridgeDriver(std::string name, std::vector<std::string>& calls, Result<> answer = {})
        : name_(std::move(name)),
          calls_(calls),
          answer_(answer) {}
    std::string_view name() const override { return name_; }
    bool matches(const PciDevice& device) const override { return device.is_bridge; }
    Result<> probe(PciDevice& device) override { return note("probe", device), answer_; }
    void remove(PciDevice& device) override { note("remove", device); }
    void shutdown(PciDevice& device) override { note("shutdown", device); }

private:
    void note(std::string_view what, const PciDevice& device) {
        calls_.push_back(fmt::format("{}.{} {}", name_, what, device.hardware->name()));
    }
    std::string name_;
    std::vector<std::string>& calls_;
    Result<> answer_;
};

}  // namespace

// --- finding -----------------------------------------------------------------------------------------------------

TEST_CASE("a scan finds a bus before what is behind its bridges, and knows who is above whom") {
    DeviceKernel world;
    CHECK(names(world) == std::vector<std::string>{"rp0", "rp1", "nic2", "sw0", "sw0.0", "sw0.1", "nic0", "gpu0",
                                                   "nic1", "rp2", "nic3"});
    for (const auto& device : world.kernel->pci.devices()) {
        const PciFunction* above = device->hardware->parent;
        CHECK((device->bridge ? device->bridge->hardware : nullptr) == above);
        CHECK(device->is_bridge == device->hardware->is_bridge());
        CHECK(device->express_cap == pci::express_cap_at);
        CHECK(device->acs_cap == pci::acs_cap_at);
        CHECK(device->msix_cap == (device->is_bridge ? 0 : pci::msix_cap_at));
    }
    CHECK(world.device("nic3").address == PciAddress{1, Bdf(1, 0)});
}

TEST_CASE("bus numbers that make sense are kept") {
    DeviceKernel world;
    CHECK_FALSE(renumbered(world));
    CHECK(world.device("rp0").secondary == 1);
    CHECK(world.device("rp0").subordinate == 4);
    CHECK(world.device("rp1").secondary == 5);
}

TEST_CASE("assign-busses numbers every bridge anew and hpbussize leaves room behind root ports") {
    DeviceKernel world({.cmdline = "pci=assign-busses,hpbussize=4"});
    struct Row {
        const char* bridge;
        unsigned secondary, subordinate;
    };
    for (const Row& row :
         {Row{"rp0", 1, 8}, Row{"sw0", 2, 4}, Row{"sw0.0", 3, 3}, Row{"sw0.1", 4, 4}, Row{"rp1", 9, 13}}) {
        INFO(row.bridge);
        CHECK(world.device(row.bridge).secondary == row.secondary);
        CHECK(world.function(row.bridge).secondary_bus() == row.secondary);
        CHECK(world.function(row.bridge).subordinate_bus() == row.subordinate);
    }
    CHECK(world.device("nic1").address.bdf.bus() == 9);
}

TEST_CASE("a bridge that makes no sense is numbered where nothing is adopted") {
    for (const u32 numbers : {0x0000'0000u, 0x0001'0500u, 0x0002'0200u}) {  // unset; ends before it begins; taken
        DeviceKernel world({.before_power_on = [numbers](Machine& machine) {
            machine.pci.config_write({0, Bdf(0, 3 << 3)}, pci::PRIMARY_BUS, 4, numbers);
        }});
        CHECK(world.device("nic1").address.bdf.bus() == 5);
    }
}

TEST_CASE("a root port for which no bus number is left gets none, and what is behind it is not found") {
    // Sixteen ports with 17 numbers each: the last one would begin at 256.
    std::vector<PciDeviceConfig> devices;
    for (unsigned port = 0; port < 16; ++port) {
        devices.push_back(test::on_root(fmt::format("rp{}", port), "root-port", port + 1));
        devices.push_back(test::behind(fmt::format("rp{}", port), fmt::format("nic{}", port), "dma-nic"));
    }
    DeviceKernel world({.devices = devices, .cmdline = "pci=assign-busses,hpbussize=16"});
    CHECK(world.device("rp14").secondary == 239);
    CHECK(world.device("rp14").subordinate == 255);
    CHECK(world.device("nic14").address.bdf.bus() == 239);
    CHECK(world.device("rp15").secondary == 0);
    CHECK(world.function("rp15").secondary_bus() == 0);
    CHECK(world.function("rp15").subordinate_bus() == 0);
    CHECK(world.kernel->pci.find_by_name("nic15") == nullptr);
}

TEST_CASE("words that pci= does not know are malformed") {
    for (const char* words : {"pci=frobnicate", "pci=hpbussize=17", "pci=hpbussize=x", "pci=assign-busses,x"}) {
        INFO(words);
        CHECK(DeviceKernel({.cmdline = words}).logged("Malformed early option 'pci'"));
    }
    CHECK_FALSE(DeviceKernel({.cmdline = "pci=hpbussize=16"}).logged("Malformed"));
}

// --- configuration -----------------------------------------------------------------------------------------------

TEST_CASE("BARs are sized and put back") {
    DeviceKernel world;
    for (const char* name : {"nic0", "gpu0", "nic2"}) {
        const PciDevice& device = world.device(name);
        const PciFunction& function = world.function(name);
        for (unsigned bar = 0; bar < 6; ++bar) {
            CHECK(device.bars[bar].bytes == function.bar(bar).bytes);
            if (!device.bars[bar].bytes) continue;
            CHECK(device.bars[bar].address == function.bar_address(bar));
            CHECK(device.bars[bar].is_64_bit == function.bar(bar).is_64_bit);
            CHECK(device.bars[bar].prefetchable == function.bar(bar).prefetchable);
        }
        CHECK(function.memory_decode());
        CHECK(function.bars_as_placed());
    }
}

TEST_CASE("a scan turns MSI-X off") {
    DeviceKernel world({.before_power_on = [](Machine& machine) {
        machine.pci.config_write({0, Bdf(0, 4 << 3)}, pci::msix_cap_at + pci::MSIX_FLAGS, 2, pci::MSIX_FLAGS_ENABLE);
    }});
    CHECK_FALSE(world.function("nic2").msix_enabled());
}

TEST_CASE("ACS gets its default, without redirection if the command line says so") {
    struct Row {
        const char* cmdline;
        u16 control;
    };
    for (const Row& row : {Row{"", pci::ACS_SV | pci::ACS_RR | pci::ACS_CR | pci::ACS_UF},
                           Row{"pci=disable_acs_redir", pci::ACS_SV | pci::ACS_UF}}) {
        DeviceKernel world({.cmdline = row.cmdline});
        for (const char* name : {"rp0", "sw0.0", "sw0.1"})
            CHECK(world.config(name, pci::acs_cap_at + pci::ACS_CTRL) == row.control);
    }
}

// --- adoption ----------------------------------------------------------------------------------------------------

TEST_CASE("an adopted function and the bridges above it see no config write") {
    DeviceKernel world;
    world.next_kernel(adopting(world), "pci=assign-busses,disable_acs_redir");
    const auto touched = written(world);
    for (const std::string& name : path_of_nic0) {
        INFO(name);
        CHECK_FALSE(contains(touched, name));
        CHECK(world.device(name).adopted);
    }
    CHECK(contains(touched, "gpu0"));
    CHECK_FALSE(world.device("gpu0").adopted);
}

TEST_CASE("with something adopted every bridge keeps its numbers, whatever the command line says") {
    DeviceKernel world;
    const PciAddress before = world.device("nic1").address;
    world.machine->pci.config_write(world.device("rp1").address, pci::PRIMARY_BUS, 4, 0x0909'00);
    world.next_kernel(adopting(world), "pci=assign-busses,hpbussize=4");
    CHECK_FALSE(renumbered(world));
    CHECK(before.bdf.bus() == 5);
    CHECK(world.device("nic1").address.bdf.bus() == 9);
}

TEST_CASE("of an adopted function the BARs are known but not their sizes, and MSI-X stays on") {
    DeviceKernel world;
    world.machine->pci.config_write(world.device("nic0").address, pci::msix_cap_at + pci::MSIX_FLAGS, 2,
                                    pci::MSIX_FLAGS_ENABLE | pci::MSIX_FLAGS_MASKALL);
    const u32 resets = world.function("nic0").resets;
    world.next_kernel(adopting(world));
    const PciDevice& nic = world.device("nic0");
    CHECK(nic.bars[0].address == world.function("nic0").bar_address(0));
    CHECK(nic.bars[2].address == world.function("nic0").bar_address(2));
    CHECK(nic.bars[0].bytes == 0);
    CHECK(world.function("nic0").msix_enabled());
    CHECK(world.function("nic0").resets == resets);
    CHECK(nic.driver == world.kernel->pci.driver("vfio-pci"));
}

TEST_CASE("ACS of an adopted path is taken as it stands, and of others set") {
    DeviceKernel world;
    for (const char* name : {"sw0.0", "sw0.1"})
        world.machine->pci.config_write(world.device(name).address, pci::acs_cap_at + pci::ACS_CTRL, 2, pci::ACS_SV);
    world.next_kernel(adopting(world));
    CHECK(world.config("sw0.0", pci::acs_cap_at + pci::ACS_CTRL) == pci::ACS_SV);
    CHECK((world.config("sw0.1", pci::acs_cap_at + pci::ACS_CTRL) & pci::ACS_RR) != 0);
}

TEST_CASE("a misconfigured bridge is cleared, and not enumerated, while something is adopted") {
    // Numbers unset; subordinate below secondary; secondary below what the bridge before it took.
    for (const u32 numbers : {0x00'00'00u, 0x05'06'00u, 0x02'02'00u}) {
        DeviceKernel world;
        const PciAddress bridge = world.device("rp1").address;
        world.machine->pci.config_write(bridge, pci::PRIMARY_BUS, 4, numbers);
        world.next_kernel(adopting(world));
        CHECK(world.kernel->pci.find_by_name("nic1") == nullptr);
        CHECK(world.kernel->pci.find_by_name("nic0") != nullptr);
        CHECK(world.function("rp1").secondary_bus() == 0);
        CHECK(world.function("rp1").subordinate_bus() == 0);
        CHECK(world.logged("pci 0000:00:03.0: bridge configuration invalid, not enumerated for live update"));
    }
}

TEST_CASE("a bridge that has all buses up to the last one leaves none to those after it") {
    DeviceKernel world;
    world.machine->pci.config_write(world.device("rp0").address, pci::PRIMARY_BUS, 4, 0xff'01'00);
    world.next_kernel(adopting(world));
    CHECK(world.device("rp0").subordinate == 255);
    CHECK(world.kernel->pci.find_by_name("nic0") != nullptr);
    CHECK(world.kernel->pci.find_by_name("nic1") == nullptr);
    CHECK(world.function("rp1").secondary_bus() == 0);
}

// --- drivers -----------------------------------------------------------------------------------------------------

TEST_CASE("drivers are asked in order of registration, and the first whose probe succeeds has the function") {
    std::vector<std::string> calls;
    DeviceKernel world({.devices = {test::on_root("rp0", "root-port", 2), test::behind("rp0", "nic0", "dma-nic")},
                        .before_boot = [&](Kernel& kernel) {
                            kernel.pci.add_driver(std::make_unique<BridgeDriver>("a", calls, fail(Errno::eio)));
                            kernel.pci.add_driver(std::make_unique<BridgeDriver>("b", calls));
                            kernel.pci.add_driver(std::make_unique<BridgeDriver>("c", calls));
                        }});
    CHECK(calls == std::vector<std::string>{"a.probe rp0", "b.probe rp0"});
    CHECK(world.device("rp0").driver->name() == "b");
    CHECK(world.device("nic0").driver->name() == "dma-nic");
    calls.clear();
    REQUIRE(world.kernel->pci.rebind(world.device("rp0"), *world.kernel->pci.driver("c")));
    CHECK(calls == std::vector<std::string>{"b.remove rp0", "c.probe rp0"});
    REQUIRE(world.kernel->pci.rebind(world.device("rp0"), *world.kernel->pci.driver("c")));
    CHECK(calls.size() == 2);  // it has it already
    calls.clear();
    CHECK(errno_of(world.kernel->pci.rebind(world.device("rp0"), *world.kernel->pci.driver("a"))) == Errno::eio);
    CHECK(calls == std::vector<std::string>{"c.remove rp0", "a.probe rp0", "c.probe rp0"});
    CHECK(world.device("rp0").driver == world.kernel->pci.driver("c"));
}

TEST_CASE("shutdown goes in reverse order and turns bus mastering off") {
    std::vector<std::string> calls;
    DeviceKernel world(
        {.before_boot = [&](Kernel& kernel) { kernel.pci.add_driver(std::make_unique<BridgeDriver>("d", calls)); }});
    const auto nic = world.open("nic0");
    REQUIRE(world.master("nic0"));
    calls.clear();
    world.kernel->pci.shutdown();
    CHECK(calls == std::vector<std::string>{"d.shutdown rp2", "d.shutdown sw0.1", "d.shutdown sw0.0",
                                            "d.shutdown sw0", "d.shutdown rp1", "d.shutdown rp0"});
    for (const PciFunction* function : world.machine->pci.functions()) CHECK_FALSE(function->bus_master());
    CHECK(world.kernel->pci.frozen());
}

TEST_CASE("shutdown leaves bus mastering on for what is kept running, and for nothing else") {
    DeviceKernel world;
    const auto kept = world.open("nic0"), other = world.open("nic1");
    for (const std::string& name : path_of_nic0) ++world.device(name).keep_running;
    world.kernel->pci.shutdown();
    for (const std::string& name : path_of_nic0) CHECK(world.master(name));
    for (const char* name : {"nic1", "rp1", "sw0.1"}) CHECK_FALSE(world.master(name));
    CHECK(world.function("nic1").resets == world.function("nic0").resets + 1);  // open, and quiesced
}

TEST_CASE("a function-level reset keeps configuration; a bridge has none") {
    DeviceKernel world;
    PciDevice& nic = world.device("nic2");
    world.kernel->pci.set_master(nic, true);
    const u32 resets = world.function("nic2").resets;
    REQUIRE(world.kernel->pci.reset_function(nic));
    CHECK(world.function("nic2").resets == resets + 1);
    CHECK(world.function("nic2").bars_as_placed());
    CHECK(world.master("nic2"));
    CHECK(world.function("nic2").memory_decode());
    CHECK(errno_of(world.kernel->pci.reset_function(world.device("rp0"))) == Errno::enotty);
}

TEST_CASE("a function that is removed is found no more, and whoever keeps it is told") {
    DeviceKernel world;
    std::vector<const PciDevice*> told;
    world.kernel->pci.removed.push_back([&](PciDevice& device) { told.push_back(&device); });
    PciDevice &nic = world.device("nic1"), &kept = world.device("nic2");
    world.kernel->pci.remove(nic);
    CHECK(told.empty());
    CHECK(world.kernel->pci.find(nic.address) == nullptr);
    CHECK(world.kernel->pci.find_by_name("nic1") == nullptr);
    CHECK(nic.driver == nullptr);
    CHECK(errno_of(world.kernel->pci.rebind(nic, *world.kernel->pci.driver("dma-nic"))) == Errno::enodev);
    ++kept.keep_running;
    world.kernel->pci.remove(kept);
    CHECK(told == std::vector<const PciDevice*>{&kept});
    CHECK(world.logged("pci 0000:00:04.0: removed while it is preserved"));
}

TEST_CASE("with a bridge goes what is below it, the deepest first") {
    DeviceKernel world;
    std::vector<std::string> told;
    world.kernel->pci.removed.push_back([&](PciDevice& device) { told.emplace_back(device.hardware->name()); });
    for (const std::string& name : path_of_nic0) ++world.device(name).keep_running;
    world.kernel->pci.remove(world.device("rp0"));
    CHECK(told == path_of_nic0);
    for (const char* name : {"rp0", "sw0", "sw0.0", "sw0.1", "nic0", "gpu0"})
        CHECK(world.kernel->pci.find_by_name(name) == nullptr);
    CHECK(world.kernel->pci.find_by_name("nic1") != nullptr);
}

}  // namespace kexec_sim
