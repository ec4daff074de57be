// The reverse map: who may touch which frame, and what a guest's private pages look like from elsewhere.
#include <catch2/catch.hpp>

#include <string>

#include "machine/machine.hpp"

using namespace kexec_sim;
using Catch::Matchers::Contains;

namespace {

constexpr PfnRange frames(u64 pfn, u64 count = 1) { return pfn_range(Pfn{pfn}, count); }

struct World {
    explicit World(u64 seed = 1) {
        MachineConfig config;
        config.node_bytes = {64 * MiB};
        config.seed = seed;
        machine = make_machine(config);
        snp().enable();
    }
    SnpFirmware& snp() { return machine->snp; }
    PhysicalMemory& ram() { return machine->ram; }
    Errno error_of(const Result<>& result) { return result ? Errno::ok : result.error(); }

    u64 read(u16 asid, u64 gfn, u64 phys) {
        u64 word = 0;
        REQUIRE(snp().guest_read(asid, gfn, PhysAddr{phys}, std::as_writable_bytes(std::span(&word, 1))));
        return word;
    }
    void write(u16 asid, u64 gfn, u64 phys, u64 word) {
        REQUIRE(snp().guest_write(asid, gfn, PhysAddr{phys}, std::as_bytes(std::span(&word, 1))));
    }
    bool refused(u16 asid, u64 gfn, u64 pfn) {
        u64 word = 0;
        const bool read = !snp().guest_read(asid, gfn, Pfn{pfn}.phys(), std::as_writable_bytes(std::span(&word, 1)));
        const bool wrote = !snp().guest_write(asid, gfn, Pfn{pfn}.phys(), std::as_bytes(std::span(&word, 1)));
        CHECK(read == wrote);
        return read;
    }
    /// What is in RAM, whoever owns it.
    u64 raw(u64 phys) {
        const MachineEntry entry;
        return ram().read<u64>(PhysAddr{phys});
    }
    void copy(u64 from_pfn, u64 to_pfn) {
        const MachineEntry entry;
        ram().write_bytes(Pfn{to_pfn}.phys(), ram().read_vector(Pfn{from_pfn}.phys(), page_bytes));
    }
    MachineHandle machine;
};

/// A guest of ASID 3, context in frame 1000, 16 pages from frame 2000 at gfn 0.
struct GuestWorld : World {
    explicit GuestWorld(u64 seed = 1) : World(seed) {
        REQUIRE(snp().create_context(Pfn{1000}, 3));
        REQUIRE(snp().assign(frames(2000, 16), 3, 0));
    }
    static constexpr u64 page0 = 2000 * page_bytes;
};

}  // namespace

TEST_CASE("while SNP is off every frame is the hypervisor's, and nothing can be assigned") {
    World world;
    world.snp().shutdown();
    CHECK_FALSE(world.snp().enabled());
    CHECK(world.error_of(world.snp().create_context(Pfn{1000}, 3)) == Errno::einval);
    CHECK(world.error_of(world.snp().assign(frames(2000), 3, 0)) == Errno::einval);
    CHECK(world.snp().owner(Pfn{2000}) == RmpOwner::hypervisor);
    CHECK(world.snp().allows_device(frames(2000).phys()));
    CHECK(world.machine->ram.reverse_map == nullptr);
}

TEST_CASE("a context page belongs to the firmware, and two guests have neither page nor ASID in common") {
    World world;
    SnpFirmware& snp = world.snp();
    CHECK(world.error_of(snp.create_context(Pfn{1000}, 0)) == Errno::einval);
    CHECK(world.error_of(snp.create_context(Pfn{64 * MiB / page_bytes}, 3)) == Errno::einval);
    REQUIRE(snp.create_context(Pfn{1000}, 3));
    CHECK(snp.owner(Pfn{1000}) == RmpOwner::firmware);
    CHECK(world.error_of(snp.create_context(Pfn{1000}, 4)) == Errno::ebusy);
    CHECK(world.error_of(snp.create_context(Pfn{1001}, 3)) == Errno::ebusy);
    REQUIRE(snp.assign(frames(1001), 3, 0));
    CHECK(world.error_of(snp.create_context(Pfn{1001}, 4)) == Errno::ebusy);
    CHECK(world.error_of(snp.assign(frames(999, 2), 3, 0)) == Errno::ebusy);
    CHECK(world.error_of(snp.reclaim(frames(999, 2))) == Errno::eperm);
    snp.enable();  // on already: nothing happens
    CHECK(snp.owner(Pfn{1000}) == RmpOwner::firmware);
}

TEST_CASE("a context is recognised by its address and by what the firmware wrote there") {
    World world;
    REQUIRE(world.snp().create_context(Pfn{1000}, 3));
    CHECK(world.snp().context_asid(Pfn{1000}).value() == 3);
    world.copy(1000, 1001);
    CHECK(world.raw(1001 * page_bytes) == world.raw(1000 * page_bytes));
    CHECK(world.snp().context_asid(Pfn{1001}).error() == Errno::enoent);
    {
        const MachineEntry entry;
        world.ram().write(PhysAddr{1000 * page_bytes + 16}, u64{1});
    }
    CHECK(world.snp().context_asid(Pfn{1000}).error() == Errno::enoent);
}

TEST_CASE("only frames of the hypervisor are given to a guest, all or none") {
    GuestWorld world;
    SnpFirmware& snp = world.snp();
    REQUIRE(snp.create_context(Pfn{1001}, 4));
    CHECK(world.error_of(snp.assign(frames(3000), 5, 0)) == Errno::einval);  // no such guest
    CHECK(world.error_of(snp.assign(frames(3000, 1000000), 3, 0)) == Errno::einval);
    CHECK(world.error_of(snp.assign(frames(2015, 2), 4, 0)) == Errno::ebusy);
    CHECK(snp.owner(Pfn{2016}) == RmpOwner::hypervisor);
    CHECK(world.error_of(snp.assign(frames(2000), 3, 7)) == Errno::ebusy);  // its own, but elsewhere
    world.write(3, 1, GuestWorld::page0 + page_bytes, 0x1234);
    CHECK(snp.assign(frames(1999, 20), 3, ~u64{0}));  // what it has already, and around it
    CHECK(world.read(3, 1, GuestWorld::page0 + page_bytes) == 0x1234);
}

TEST_CASE("a kernel that touches a page of a guest or the firmware dies, by whatever way it comes") {
    GuestWorld world;
    PhysicalMemory& ram = world.ram();
    std::array<std::byte, 64> bytes{};
    const PhysAddr page{GuestWorld::page0};
    CHECK_THROWS_AS(ram.read<u64>(page), KernelPanic);
    CHECK_THROWS_AS(ram.write(page + 8, u64{1}), KernelPanic);
    CHECK_THROWS_AS(ram.read_bytes(page, bytes), KernelPanic);
    CHECK_THROWS_AS(ram.write_bytes(page, bytes), KernelPanic);
    CHECK_THROWS_AS(ram.read_vector(page, 1), KernelPanic);
    CHECK_THROWS_AS(ram.zero(frames(1990, 20).phys()), KernelPanic);
    CHECK_THROWS_AS(ram.fill_byte(frames(2015, 2).phys(), std::byte{1}), KernelPanic);
    CHECK_THROWS_AS(ram.writable(frames(1999, 2).phys()), KernelPanic);
    CHECK_THROWS_AS(ram.readable(Pfn{2000}), KernelPanic);
    CHECK_THROWS_AS(ram.write(page + (page_bytes * 16 - 1), u16{1}), KernelPanic);
    CHECK_THROWS_AS(ram.write(page + (u64{0} - 1), u16{1}), KernelPanic);  // the last byte before it, and its first
    CHECK_THROWS_AS(ram.read<u64>(Pfn{1000}.phys()), KernelPanic);
    CHECK_THROWS_WITH(ram.write(page + 0x18, u64{1}),
                      "RMP fault: the kernel wrote to 0x7d0018, a page of the guest of ASID 3");
    CHECK_THROWS_WITH(ram.read<u64>(Pfn{1000}.phys()),
                      "RMP fault: the kernel read from 0x3e8000, a page of the firmware");
    // Its neighbours are anybody's.
    CHECK_NOTHROW(ram.write(page + 16 * page_bytes, u64{1}));
    CHECK_NOTHROW(ram.write(page + (u64{0} - 8), u64{1}));
}

TEST_CASE("instruments see all of memory") {
    GuestWorld world;
    world.write(3, 0, GuestWorld::page0, 1);
    CHECK_NOTHROW(world.ram().hash());
    CHECK(world.ram().hash_range(frames(2000)) != world.ram().hash_range(frames(2001)));
    CHECK_NOTHROW(world.ram().lose_content());
    CHECK(world.raw(GuestWorld::page0) == 0);
}

TEST_CASE("a device reaches none of a guest's private pages") {
    GuestWorld world;
    CHECK(world.snp().allows_device(frames(1990, 10).phys()));
    CHECK_FALSE(world.snp().allows_device(frames(1990, 11).phys()));
    CHECK_FALSE(world.snp().allows_device(phys_range(PhysAddr{GuestWorld::page0 + 100}, 4)));
    CHECK_FALSE(world.snp().allows_device(frames(1000).phys()));
}

TEST_CASE("a guest reads what it wrote, at any place and length, and nobody else does") {
    GuestWorld world;
    CHECK(world.read(3, 0, GuestWorld::page0 + 8) == 0);  // given as zeros
    world.write(3, 0, GuestWorld::page0 + 8, 0x1122'3344'5566'7788);
    CHECK(world.read(3, 0, GuestWorld::page0 + 8) == 0x1122'3344'5566'7788);
    CHECK(world.read(3, 0, GuestWorld::page0) == 0);
    CHECK(world.read(3, 0, GuestWorld::page0 + 4000) == 0);
    CHECK(world.raw(GuestWorld::page0 + 8) != 0x1122'3344'5566'7788);
    CHECK(world.raw(GuestWorld::page0) != 0);  // the rest of the page is encrypted too
    const std::string text = "a text of some length, at an odd address";
    REQUIRE(world.snp().guest_write(3, 2, PhysAddr{GuestWorld::page0 + 2 * page_bytes + 13},
                                    std::as_bytes(std::span(text))));
    for (u64 skip = 0; skip < 9; ++skip) {
        std::string out(text.size() - skip, '\0');
        REQUIRE(world.snp().guest_read(3, 2, PhysAddr{GuestWorld::page0 + 2 * page_bytes + 13 + skip},
                                       std::as_writable_bytes(std::span(out))));
        CHECK(out == text.substr(skip));
    }
}

TEST_CASE("a guest is launched with what the page held") {
    World world;
    world.ram().write(PhysAddr{2000 * page_bytes + 24}, u64{77});
    REQUIRE(world.snp().create_context(Pfn{1000}, 3));
    REQUIRE(world.snp().assign(frames(2000), 3, 9));
    CHECK(world.read(3, 9, 2000 * page_bytes + 24) == 77);
    CHECK(world.raw(2000 * page_bytes + 24) != 77);
}

TEST_CASE("a guest is refused at another guest's pages, at the firmware's and at its own in the wrong place") {
    GuestWorld world;
    REQUIRE(world.snp().create_context(Pfn{1001}, 4));
    REQUIRE(world.snp().assign(frames(2500), 4, 0));
    CHECK_FALSE(world.refused(3, 5, 2005));
    CHECK(world.refused(3, 6, 2005));
    CHECK(world.refused(3, 0, 2500));
    CHECK(world.refused(3, 0, 1000));
    CHECK(world.refused(0, 0, 2000));  // a guest that is not confidential
    CHECK(world.refused(3, 0, 64 * MiB / page_bytes));
    // A page of the hypervisor is shared: both sides read the same.
    world.write(3, 40, 3000 * page_bytes, 0xabcd);
    CHECK(world.ram().read<u64>(PhysAddr{3000 * page_bytes}) == 0xabcd);
    CHECK(world.read(3, 40, 3000 * page_bytes) == 0xabcd);
}

TEST_CASE("a private page that was moved reads as noise") {
    GuestWorld world;
    world.write(3, 5, GuestWorld::page0 + 5 * page_bytes, 0x1234);
    REQUIRE(world.snp().reclaim(frames(2005)));
    // Taken away, it is not decrypted …
    CHECK(world.ram().read<u64>(PhysAddr{2005 * page_bytes}) != 0x1234);
    // … and a copy, given to the same guest at the same guest address, is not what it was.
    world.ram().write_bytes(Pfn{3000}.phys(), world.ram().read_vector(Pfn{2005}.phys(), page_bytes));
    REQUIRE(world.snp().assign(frames(3000), 3, 5));
    CHECK(world.read(3, 5, 3000 * page_bytes) != 0x1234);
    CHECK(world.read(3, 5, 3000 * page_bytes + 8) != 0);
    // Nor is the page itself, once it has been given back.
    REQUIRE(world.snp().assign(frames(2005), 3, 6 - 1));
    CHECK(world.read(3, 5, 2005 * page_bytes) != 0x1234);
}

TEST_CASE("a guest that has lost its context reads nothing, and with a new one noise") {
    GuestWorld world;
    world.write(3, 0, GuestWorld::page0, 0x1234);
    REQUIRE(world.snp().destroy_context(Pfn{1000}));
    CHECK(world.error_of(world.snp().destroy_context(Pfn{1000})) == Errno::enoent);
    CHECK(world.snp().owner(Pfn{1000}) == RmpOwner::hypervisor);
    CHECK(world.snp().owner(Pfn{2000}) == RmpOwner::guest);
    CHECK(world.refused(3, 0, 2000));
    REQUIRE(world.snp().create_context(Pfn{1000}, 3));
    CHECK(world.read(3, 0, GuestWorld::page0) != 0x1234);
    CHECK(world.read(3, 1, GuestWorld::page0 + page_bytes) != 0);  // never written, zeros to the old key only
}

TEST_CASE("shutdown makes every page the hypervisor's and forgets every key") {
    GuestWorld world;
    world.write(3, 0, GuestWorld::page0, 0x1234);
    world.snp().shutdown();
    CHECK(world.snp().context_asid(Pfn{1000}).error() == Errno::enoent);
    CHECK_NOTHROW(world.ram().read<u64>(Pfn{1000}.phys()));
    CHECK(world.read(3, 0, GuestWorld::page0) != 0x1234);  // as the page stands: encrypted
    world.snp().enable();
    CHECK(world.snp().owner(Pfn{2000}) == RmpOwner::hypervisor);
    REQUIRE(world.snp().create_context(Pfn{1000}, 3));
    REQUIRE(world.snp().assign(frames(2000, 16), 3, 0));
    CHECK(world.read(3, 0, GuestWorld::page0) != 0x1234);
}

TEST_CASE("keys are drawn from the machine's seed") {
    const auto noise = [](u64 seed) {
        GuestWorld world(seed);
        world.write(3, 0, GuestWorld::page0, 0x1234);
        return world.raw(GuestWorld::page0);
    };
    const u64 first = noise(1);
    CHECK(noise(1) == first);
    CHECK(noise(2) != first);
}

TEST_CASE("the IOMMU's own writes stop at a guest's pages") {
    GuestWorld world;
    Iommu unit(*world.machine, 0, PhysAddr{vtd::register_base}, false, world.machine->arena);
    const PhysAddr queue{4 * MiB};
    world.ram().write(queue, vtd::QI_WAIT | vtd::QI_WAIT_STATUS_WRITE | u64{1} << 32);
    world.ram().write(queue + 8, GuestWorld::page0);
    unit.write_register(vtd::IQA, 8, queue.raw);
    unit.write_register(vtd::IQT, 8, vtd::QI_BYTES);
    unit.write_register(vtd::GCMD, 4, vtd::QIE);
    CHECK(unit.read_register(vtd::IQH, 8) == vtd::QI_BYTES);
    CHECK(world.read(3, 0, GuestWorld::page0) == 0);
}
