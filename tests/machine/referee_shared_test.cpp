// What files of devices share, and need of each other: checks D7, F1, F2.
#include "tests/machine/referee_devices_fixture.hpp"

using namespace kexec_sim;
using namespace kexec_sim::test;
using Catch::Matchers::Contains;
using Shared = DeviceWorld::Shared;

TEST_CASE("the list of preserved devices may change while LUO is prepared, and not once it is frozen (D7)") {
    DeviceWorld world;
    world.open();
    world.promise();
    world.list(0);
    world.list(1);
    CHECK(world.ids() == "");
    world.freeze();
    SECTION("taken off") {
        world.devices.function_listed(world.nic, 0);
        CHECK_THAT(world.message("pci.stable"), Contains("nic0 was taken off the list"));
    }
    SECTION("put on") {
        world.devices.function_listed(world.other, 1);
        CHECK_THAT(world.message("pci.stable"), Contains("nic1 was put on the list"));
    }
    SECTION("by LUO, which gives up") {
        world.referee.file_callback(vfio_token, "vfio-pci", LuoCallback::cancel, {});
        world.devices.function_listed(world.nic, 0);
        CHECK(world.of("pci.stable").empty());
    }
}

TEST_CASE("what files share is there at the jump exactly if one of them is promised (F1)") {
    DeviceWorld world;
    world.open();
    SECTION("as it should be") {
        world.promise();
        world.jump();
        CHECK(world.of("luo.resource").empty());
    }
    SECTION("without the list of functions") {
        world.promise();
        world.shares("pci", Shared::gone);
        world.jump();
        CHECK_THAT(world.message("luo.resource"), Contains("subsystem pci has nothing to hand over"));
    }
    SECTION("without the list of tables") {
        world.promise();
        world.shares("iommu", Shared::gone);
        world.jump();
        CHECK_THAT(world.message("luo.resource"), Contains("subsystem iommu has nothing to hand over"));
    }
    SECTION("for nobody") {
        world.prepare();
        world.shares("iommu", Shared::made);
        world.jump();
        CHECK_THAT(world.message("luo.resource"), Contains("subsystem iommu has a record to hand over"));
    }
}

TEST_CASE("what files shared is read once and finished once (F1)") {
    DeviceWorld world;
    world.open();
    world.promise();
    world.jump();
    world.claim();
    world.attach(2, 21);
    world.shares("pci", Shared::read);
    SECTION("as it should be") {
        world.shares("pci", Shared::finished);
        world.finish();
        CHECK(world.of("luo.resource").empty());
    }
    SECTION("never finished") {
        world.finish();
        CHECK_THAT(world.message("luo.resource"), Contains("has not finished what generation 0 handed to it"));
    }
    SECTION("read again") {
        world.shares("pci", Shared::read);
        CHECK_THAT(world.message("luo.resource"), Contains("is read a second time"));
    }
    SECTION("read after it was finished") {
        world.shares("pci", Shared::finished);
        world.shares("pci", Shared::read);
        CHECK_THAT(world.message("luo.resource"), Contains("after it was finished"));
    }
    SECTION("finished twice") {
        world.shares("pci", Shared::finished);
        world.shares("pci", Shared::finished);
        CHECK_THAT(world.message("luo.resource"), Contains("it has done so before"));
    }
    SECTION("finished, and never read") {
        world.shares("iommu", Shared::finished);
        CHECK_THAT(world.message("luo.resource"), Contains("it never read it"));
    }
}

TEST_CASE("what a promised file needs is promised with it (F2)") {
    DeviceWorld world;
    world.open();
    SECTION("the iommufd of a device") {
        world.promise(false);
        world.jump();
        CHECK_THAT(world.message("luo.resource"), Contains("the iommufd that it is attached to is not"));
    }
    SECTION("the device whose BAR is mapped") {
        world.devices.device_opened(12, world.gpu);
        world.devices.domain_mapped_peer(1, 0x80000, page_bytes, world.gpu);
        world.promise();
        world.jump();
        CHECK_THAT(world.message("luo.resource"), Contains("gpu0, whose BAR it writes to, is not"));
    }
    SECTION("the memory of a guest") {
        world.devices.guest_created("vm0", 30);
        world.devices.guest_memory("vm0", 99);
        world.referee.file_preserved(0x13, "kvm", 30);
        world.promise();
        world.jump();
        CHECK_THAT(world.message("luo.resource"), Contains("guest vm0 is promised, memory of it is not"));
    }
}

TEST_CASE("a bridge above preserved devices is on the list once for each of them (D2)") {
    DeviceWorld world;
    world.open();
    world.promise();
    SECTION("as it should be") {
        world.freeze();
        CHECK(world.of("pci.stable").empty());
    }
    SECTION("not even itself") {
        world.list(0);
        world.freeze();
        CHECK_THAT(world.message("pci.stable"), Contains("nic0 is promised; it is not on the list"));
    }
    SECTION("left out") {
        world.devices.function_listed(world.port, 0);
        world.freeze();
        CHECK_THAT(world.message("pci.stable"),
                   Contains("rp0 leads to 1 preserved device(s)") && Contains("0 reference"));
    }
    SECTION("counted twice") {
        world.devices.function_listed(world.port, 2);
        world.freeze();
        CHECK_THAT(world.message("pci.stable"), Contains("2 reference"));
    }
}

TEST_CASE("a device that was handed over is found by the next kernel (D1)") {
    DeviceWorld world;
    world.open();
    world.promise();
    SECTION("found") { world.jump(); }
    SECTION("overlooked") {
        world.found = false;
        world.jump();
    }
    CHECK(world.of("pci.stable").empty() == world.found);
}
