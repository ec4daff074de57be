// PCI over a live update: reference counts of bridges, the list of slots, and the next kernel's view of it.
#include "tests/support/device_world.hpp"

namespace kexec_sim::luo {
namespace {

struct PciListWorld : DeviceWorld {
    explicit PciListWorld(LuoOptions wanted = {}) : DeviceWorld(std::move(wanted)) {
        // KHO's tracking pages are made with the first folio, and stay.
        if (!pci().ensure_registered()) return;
        PciDevice& first = *kernel().pci.devices().back();
        static_cast<void>(pci().preserve(first));
        pci().unpreserve(first);
        before = held();
    }
    PciParticipant& pci() { return participants().pci; }
    Errno preserve_one(std::string_view name) { return errno_of(pci().preserve(device(name))); }
    void unpreserve_one(std::string_view name) { pci().unpreserve(device(name)); }

    using Counts = std::vector<u32>;
    Counts kept(const std::vector<std::string>& names) {
        Counts counts;
        for (const std::string& name : names) counts.push_back(device(name).keep_running);
        return counts;
    }

    abi::PciSer header() { return ram().read<abi::PciSer>(handle("pci")); }
    /// The slots of each block, from RAM.
    std::vector<std::vector<abi::PciDevSer>> blocks() {
        std::vector<std::vector<abi::PciDevSer>> all;
        for (u64 at = header().devices; at; at = ram().read<abi::PciBlock>(PhysAddr{at}).next) {
            const u64 slots = ram().read<abi::PciBlock>(PhysAddr{at}).slots;
            all.emplace_back();
            for (u64 slot = 0; slot < slots; ++slot)
                all.back().push_back(
                    ram().read<abi::PciDevSer>(PhysAddr{at + sizeof(abi::PciBlock) + slot * sizeof(abi::PciDevSer)}));
        }
        return all;
    }
    /// Refcounts in the order of slots.
    Counts slots() {
        Counts counts;
        for (const auto& block : blocks())
            for (const abi::PciDevSer& slot : block) counts.push_back(slot.refcount);
        return counts;
    }
    Held before{};
};

using Counts = PciListWorld::Counts;
const std::vector<std::string> shared_path{"nic0", "sw0.0", "gpu0", "sw0.1", "sw0", "rp0"};

}  // namespace

// --- the old kernel ----------------------------------------------------------------------------------------------

TEST_CASE("bridges count the endpoints below them, and go with the last one") {
    PciListWorld world;
    REQUIRE(world.preserve_one("nic0") == Errno::ok);
    CHECK(world.kept(shared_path) == Counts{1, 1, 0, 0, 1, 1});
    REQUIRE(world.preserve_one("gpu0") == Errno::ok);
    CHECK(world.kept(shared_path) == Counts{1, 1, 1, 1, 2, 2});
    CHECK(world.header().version == abi::PCI_VERSION);
    CHECK(world.header().nr_devices == 6);
    CHECK(world.slots() == Counts{1, 1, 2, 2, 1, 1});  // nic0 sw0.0 sw0 rp0 gpu0 sw0.1
    world.unpreserve_one("nic0");
    CHECK(world.kept(shared_path) == Counts{0, 0, 1, 1, 1, 1});
    CHECK(world.slots() == Counts{0, 0, 1, 1, 1, 1});
    CHECK_FALSE(world.pci().preserved(world.device("nic0")));
    CHECK(world.header().nr_devices == 4);
    world.unpreserve_one("nic0");  // is not preserved
    CHECK(world.kept(shared_path) == Counts{0, 0, 1, 1, 1, 1});
    world.unpreserve_one("gpu0");
    CHECK(world.kept(shared_path) == Counts{0, 0, 0, 0, 0, 0});
    CHECK(world.handle("pci").raw == 0);
    CHECK(world.held() == world.before);
}

TEST_CASE("whichever function of the path is refused, those before it are taken back") {
    for (const bool shared : {false, true}) {
        for (unsigned nth = 1; nth <= 4; ++nth) {
            PciListWorld world;
            if (shared) REQUIRE(world.preserve_one("gpu0") == Errno::ok);
            const Counts kept = world.kept(shared_path);
            const auto held = world.held();
            world.plan(fmt::format("pci.preserve#{}=fail(ENOMEM)", nth));
            CHECK(world.preserve_one("nic0") == Errno::enomem);
            CHECK(world.kept(shared_path) == kept);
            CHECK(world.held() == held);
            CHECK((world.handle("pci").raw != 0) == shared);
            CHECK(world.preserve_one("nic0") == Errno::ok);
        }
    }
}

TEST_CASE("without a page for the list nothing is preserved") {
    for (const char* fault : {"mm.folio_alloc[pci.ser]#1=fail(ENOMEM)", "mm.folio_alloc[pci.block]#1=fail(ENOMEM)",
                              "kho.preserve[pci]#1=fail(ENOMEM)", "kho.preserve[pci]#2=fail(ENOMEM)"}) {
        INFO(fault);
        PciListWorld world;
        world.plan(fault);
        CHECK(world.preserve_one("nic0") == Errno::enomem);
        CHECK(world.kept(shared_path) == Counts{0, 0, 0, 0, 0, 0});
        CHECK(world.handle("pci").raw == 0);
        CHECK(world.held() == world.before);
        CHECK(world.preserve_one("nic0") == Errno::ok);
    }
}

TEST_CASE("preserve says EBUSY for a second time, EINVAL for a bridge and after shutdown") {
    PciListWorld world;
    REQUIRE(world.preserve_one("nic0") == Errno::ok);
    CHECK(world.preserve_one("nic0") == Errno::ebusy);
    CHECK(world.kept(shared_path) == Counts{1, 1, 0, 0, 1, 1});
    CHECK(world.preserve_one("sw0") == Errno::einval);
    world.kernel().pci.shutdown();
    CHECK(world.preserve_one("gpu0") == Errno::einval);
}

TEST_CASE("a kernel without PCI's part in LUO preserves no function") {
    PciListWorld world({.without = {"pci"}});
    CHECK_FALSE(world.pci().ensure_registered());
    CHECK(world.preserve_one("nic0") == Errno::enodev);
    CHECK(world.kept(shared_path) == Counts{0, 0, 0, 0, 0, 0});
}

TEST_CASE("a slot that was freed is used again") {
    PciListWorld world;
    for (const char* name : {"nic0", "gpu0", "nic2"}) REQUIRE(world.preserve_one(name) == Errno::ok);
    REQUIRE(world.slots() == Counts{1, 1, 2, 2, 1, 1, 1});
    world.unpreserve_one("nic0");
    CHECK(world.slots() == Counts{0, 0, 1, 1, 1, 1, 1});
    REQUIRE(world.preserve_one("nic1") == Errno::ok);
    CHECK(world.slots() == Counts{1, 1, 1, 1, 1, 1, 1});
    CHECK(world.blocks()[0][0].bdf == world.device("nic1").address.bdf.raw);
}

TEST_CASE("the list grows by a page after 510 functions, and every page goes with the last") {
    PciListWorld world({.devices = test::many_nics(600)});
    const auto& devices = world.kernel().pci.devices();
    for (std::size_t index = 0; index < 510; ++index) REQUIRE(world.pci().preserve(*devices[index]));
    CHECK(world.blocks().size() == 1);
    for (std::size_t index = 510; index < 600; ++index) REQUIRE(world.pci().preserve(*devices[index]));
    CHECK(world.blocks().size() == 2);
    CHECK(world.blocks()[0].size() == abi::pci_block_slots);
    CHECK(world.blocks()[1].size() == 90);
    CHECK(world.header().nr_devices == 600);
    // The first page empties and fills again; the second one stays as it is.
    for (std::size_t index = 0; index < 510; ++index) world.pci().unpreserve(*devices[index]);
    CHECK(world.header().nr_devices == 90);
    REQUIRE(world.pci().preserve(*devices[7]));
    CHECK(world.blocks()[0][0].refcount == 1);
    CHECK(world.blocks()[1].size() == 90);
    world.pci().unpreserve(*devices[7]);
    for (std::size_t index = 510; index < 600; ++index) world.pci().unpreserve(*devices[index]);
    CHECK(world.held() == world.before);
}

TEST_CASE("a preserved function that is removed is unpreserved, and its bridges with it") {
    PciListWorld world;
    REQUIRE(world.preserve_one("nic0") == Errno::ok);
    PciDevice& nic = world.device("nic0");
    world.kernel().pci.remove(nic);
    CHECK(nic.keep_running == 0);
    CHECK(world.device("rp0").keep_running == 0);
    CHECK(world.held() == world.before);
}

// --- the new kernel ----------------------------------------------------------------------------------------------

TEST_CASE("the next kernel adopts what is on the list until the last endpoint is finished") {
    PciListWorld world;
    for (const char* name : {"nic0", "gpu0"}) REQUIRE(world.preserve_one(name) == Errno::ok);
    const PhysAddr list = world.handle("pci"), block{world.header().devices};
    REQUIRE(world.prepare() == Errno::ok);
    REQUIRE(world.kexec() == Errno::ok);
    const auto incoming = [&](std::string_view name) { return world.pci().incoming(world.device(name).address); };
    for (const std::string& name : shared_path) {
        CHECK(incoming(name));
        CHECK(world.device(name).adopted);
    }
    CHECK_FALSE(incoming("nic1"));
    world.pci().finish(world.device("nic0"));
    CHECK_FALSE(incoming("nic0"));
    CHECK_FALSE(incoming("sw0.0"));
    CHECK(incoming("sw0"));
    CHECK_FALSE(world.device("sw0.0").adopted);
    CHECK(world.device("sw0").adopted);
    CHECK(world.is_folio(list));
    world.pci().finish(world.device("nic0"));  // is finished
    CHECK(incoming("rp0"));
    world.pci().finish(world.device("gpu0"));
    for (const std::string& name : shared_path) {
        CHECK_FALSE(incoming(name));
        CHECK_FALSE(world.device(name).adopted);
    }
    CHECK(world.kernel().pci.adopted.empty());
    CHECK_FALSE(world.is_folio(list));
    CHECK_FALSE(world.is_folio(block));
}

TEST_CASE("a list of more than one page comes over whole") {
    PciListWorld world({.devices = test::many_nics(520)});
    for (const auto& device : world.kernel().pci.devices())
        if (device->address.bdf.function() != 3) REQUIRE(world.pci().preserve(*device));
    REQUIRE(world.blocks().size() == 1);
    for (const auto& device : world.kernel().pci.devices())
        if (device->address.bdf.function() == 3) REQUIRE(world.pci().preserve(*device));
    REQUIRE(world.blocks().size() == 2);
    REQUIRE(world.prepare() == Errno::ok);
    REQUIRE(world.kexec() == Errno::ok);
    CHECK(world.kernel().pci.adopted.size() == 520);
    for (const auto& device : world.kernel().pci.devices()) {
        if (!device->adopted) FAIL(device->name());
        world.pci().finish(*device);
    }
    CHECK(world.kernel().pci.adopted.empty());
}

TEST_CASE("an incoming function that is removed is finished") {
    PciListWorld world;
    REQUIRE(world.preserve_one("nic0") == Errno::ok);
    REQUIRE(world.prepare() == Errno::ok);
    REQUIRE(world.kexec() == Errno::ok);
    const PciAddress address = world.device("nic0").address;
    world.kernel().pci.remove(world.device("nic0"));
    CHECK_FALSE(world.pci().incoming(address));
    CHECK(world.kernel().pci.adopted.empty());
}

TEST_CASE("a function may be preserved again before the update that brought it is finished") {
    PciListWorld world;
    REQUIRE(world.preserve_one("nic0") == Errno::ok);
    REQUIRE(world.prepare() == Errno::ok);
    REQUIRE(world.kexec() == Errno::ok);
    CHECK(world.preserve_one("nic0") == Errno::ok);
    CHECK(world.pci().incoming(world.device("nic0").address));
    CHECK(world.pci().preserved(world.device("nic0")));
    world.pci().finish(world.device("nic0"));
    CHECK(world.pci().preserved(world.device("nic0")));
    CHECK(world.kept(shared_path) == Counts{1, 1, 0, 0, 1, 1});
}

// --- lists that are not what they should be ----------------------------------------------------------------------

TEST_CASE("a list of another version, or one that is nowhere, panics") {
    struct Row {
        const char* what;
        std::function<void(PciListWorld&)> damage;
        const char* panic;
    };
    const Row rows[] = {
        {"version", [](PciListWorld& world) { world.ram().write<u32>(world.handle("pci"), 3); },
         "pci: live update version 3 is not 2"},
        {"a handle outside RAM",
         [](PciListWorld& world) {
             for (Subsystem* one : world.luo().subsystems())
                 if (one->name == "pci") one->prepare = [](u64* data) { return *data = GiB, 0; };
         },
         "pci: the list of preserved devices cannot be restored"},
    };
    for (const Row& row : rows) {
        INFO(row.what);
        PciListWorld world;
        REQUIRE(world.preserve_one("nic0") == Errno::ok);
        row.damage(world);
        REQUIRE(world.prepare() == Errno::ok);
        CHECK_THROWS_WITH(world.kexec(), row.panic);
    }
}

TEST_CASE("blocks outside RAM, unaligned, or in a circle end the list with a log line") {
    struct Row {
        const char* what;
        std::function<u64(u64 first)> next;
    };
    for (const Row& row :
         {Row{"outside RAM", [](u64) { return GiB; }},
          Row{"the end of the address space", [](u64) { return ~u64{0xfff}; }},
          Row{"unaligned", [](u64 first) { return first + 8; }}, Row{"itself", [](u64 first) { return first; }}}) {
        INFO(row.what);
        PciListWorld world;
        REQUIRE(world.preserve_one("nic0") == Errno::ok);
        const PhysAddr first{world.header().devices};
        world.ram().write<u64>(first, row.next(first.raw));
        REQUIRE(world.prepare() == Errno::ok);
        REQUIRE(world.kexec() == Errno::ok);
        CHECK(world.logged("pci: a block of preserved devices at "));
        CHECK(world.kernel().pci.adopted.size() == 4);
        world.pci().finish(world.device("nic0"));
        CHECK_FALSE(world.is_folio(first));
        CHECK_FALSE(world.logged("Bad page state"));
    }
}

TEST_CASE("a count of slots beyond the page is cut to the page") {
    PciListWorld world;
    REQUIRE(world.preserve_one("nic0") == Errno::ok);
    world.ram().write<u64>(PhysAddr{world.header().devices + offsetof(abi::PciBlock, slots)}, ~u64{0});
    REQUIRE(world.prepare() == Errno::ok);
    REQUIRE(world.kexec() == Errno::ok);
    CHECK(world.kernel().pci.adopted.size() == 4);
}

}  // namespace kexec_sim::luo
