// A domain's page table: the pages it uses, what it refuses, and what a failed call leaves.
#include "device_kernel.hpp"

namespace kexec_sim {
namespace {

constexpr u64 rw = vtd::PTE_READ | vtd::PTE_WRITE;

/// No devices: only the table itself is looked at.
struct TableWorld : DeviceKernel {
    TableWorld() : DeviceKernel({.devices = {}, .iommu = false}) {
        frames_before = free_frames();
        REQUIRE(domain.create());
    }
    ~TableWorld() {
        domain.free_tables();
        CHECK(free_frames() == frames_before);  // whatever a case did, every table page is known
    }
    Errno map(u64 iova, u64 phys, u64 bytes) {
        return errno_of(domain.map(iova, phys_range(PhysAddr{phys}, bytes), rw));
    }
    Errno unmap(u64 iova, u64 bytes) { return errno_of(domain.unmap(iova, bytes)); }

    u64 frames_before = 0;
    IommuDomain domain{*kernel, "d"};
};

}  // namespace

TEST_CASE("a mapping uses the largest pages that address and length allow") {
    struct Row {
        const char* what;
        u64 iova, phys, bytes;
        std::size_t tables;  // top, level 3, level 2, level 1 …
    };
    const Row rows[] = {
        {"one page", 0x5000, 0x9000, page_bytes, 4},
        {"2 MiB", 2 * MiB, 8 * MiB, 2 * MiB, 3},
        {"2 MiB that are not aligned alike", 2 * MiB, 8 * MiB + page_bytes, 2 * MiB, 4},
        {"a page, 2 MiB, a page", 2 * MiB - page_bytes, 4 * MiB - page_bytes, 2 * MiB + 2 * page_bytes, 5},
        {"1 GiB", GiB, 4 * GiB, GiB, 2},
        {"1 GiB and 2 MiB", GiB, 4 * GiB, GiB + 2 * MiB, 3},
        {"2 MiB before 1 GiB", GiB - 2 * MiB, 2 * GiB - 2 * MiB, GiB + 2 * MiB, 3},
    };
    for (const Row& row : rows) {
        INFO(row.what);
        TableWorld world;
        REQUIRE(world.map(row.iova, row.phys, row.bytes) == Errno::ok);
        CHECK(world.domain.tables().size() == row.tables);
        for (u64 at = 0; at < row.bytes; at += page_bytes)
            if (world.domain.lookup(row.iova + at + 8) != row.phys + at + 8) FAIL("page at " << at);
        CHECK_FALSE(world.domain.lookup(row.iova - 1));
        CHECK_FALSE(world.domain.lookup(row.iova + row.bytes));
        CHECK(world.unmap(row.iova, row.bytes) == Errno::ok);
        CHECK_FALSE(world.domain.lookup(row.iova));
        CHECK_FALSE(world.domain.lookup(row.iova + row.bytes - 1));
    }
}

TEST_CASE("a large mapping stays below tables that are there from small ones") {
    TableWorld world;
    REQUIRE(world.map(2 * MiB, 0x7000, page_bytes) == Errno::ok);
    REQUIRE(world.unmap(2 * MiB, page_bytes) == Errno::ok);
    REQUIRE(world.map(2 * MiB, 8 * MiB, 2 * MiB) == Errno::ok);
    CHECK(world.domain.tables().size() == 4);
    CHECK(world.domain.lookup(4 * MiB - 1) == 10 * MiB - 1);
    CHECK(world.unmap(3 * MiB, page_bytes) == Errno::ok);  // it is made of small pages
}

TEST_CASE("map says EEXIST where part of the range is mapped, and leaves no part of it behind") {
    TableWorld world;
    REQUIRE(world.map(0x10000, 0x10000, 0x10000) == Errno::ok);
    REQUIRE(world.map(4 * MiB, 4 * MiB, 2 * MiB) == Errno::ok);
    struct Row {
        const char* what;
        u64 iova, bytes;
    };
    for (const Row& row :
         {Row{"the same", 0x10000, 0x10000}, Row{"over its begin", 0xe000, 0x4000},
          Row{"over its end", 0x1e000, 0x4000}, Row{"around it", 0x8000, 0x20000},
          Row{"inside a large page", 5 * MiB, page_bytes}, Row{"up to a large page", 4 * MiB - 0x3000, 0x4000},
          Row{"a larger page around", 0, 2 * MiB}}) {
        INFO(row.what);
        CHECK(world.map(row.iova, 64 * MiB, row.bytes) == Errno::eexist);
        for (u64 at = row.iova; at < row.iova + row.bytes; at += page_bytes) {
            const auto found = world.domain.lookup(at);
            if (found && *found != at) FAIL("left behind at " << at);
        }
    }
    CHECK(world.map(0x20000, 0x20000, 0x1000) == Errno::ok);  // the neighbour fits
    CHECK(world.domain.lookup(0x1ffff) == 0x1ffff);
}

TEST_CASE("map and unmap refuse what is not whole pages below 48 bits") {
    TableWorld world;
    constexpr u64 end = IommuDomain::iova_end;
    struct Row {
        u64 iova, phys, bytes;
    };
    for (const Row& row : {Row{0x1000, 0x1000, 0}, Row{0x1001, 0x1000, 0x1000}, Row{0x1000, 0x1001, 0x1000},
                           Row{0x1000, 0x1000, 0x1001}, Row{end, 0x1000, 0x1000}, Row{end - 0x1000, 0x1000, 0x2000}})
        CHECK(world.map(row.iova, row.phys, row.bytes) == Errno::einval);
    CHECK(world.map(end - 0x1000, 0x1000, 0x1000) == Errno::ok);
    for (const Row& row : {Row{0x1000, 0, 0}, Row{0x1001, 0, 0x1000}, Row{0x1000, 0, 0x1001}, Row{end, 0, 0x1000},
                           Row{end - 0x1000, 0, 0x2000}})
        CHECK(world.unmap(row.iova, row.bytes) == Errno::einval);
}

TEST_CASE("unmap says ENOENT for holes and does not split a large page") {
    TableWorld world;
    REQUIRE(world.map(0x10000, 0x10000, 0x2000) == Errno::ok);
    REQUIRE(world.map(4 * MiB, 4 * MiB, 2 * MiB) == Errno::ok);
    for (const u64 iova : {u64{0x9000}, u64{0x12000}, u64{GiB}, u64{512 * GiB}})
        CHECK(world.unmap(iova, page_bytes) == Errno::enoent);
    CHECK(world.unmap(0xf000, 0x2000) == Errno::enoent);
    CHECK(world.unmap(4 * MiB, page_bytes) == Errno::enoent);
    CHECK(world.unmap(4 * MiB + page_bytes, 2 * MiB) == Errno::enoent);
    CHECK(world.domain.lookup(0x10000));
    CHECK(world.domain.lookup(4 * MiB));
}

TEST_CASE("an unmap that fails in the middle has unmapped nothing") {
    TableWorld world;
    REQUIRE(world.map(0x10000, 0x10000, 0x2000) == Errno::ok);
    REQUIRE(world.map(4 * MiB - page_bytes, 4 * MiB - page_bytes, 2 * MiB + page_bytes) == Errno::ok);
    CHECK(world.unmap(0x10000, 0x3000) == Errno::enoent);
    CHECK(world.domain.lookup(0x10000) == 0x10000);
    CHECK(world.domain.lookup(0x11000) == 0x11000);
    CHECK(world.unmap(4 * MiB - page_bytes, 2 * page_bytes) == Errno::enoent);  // would split the large page
    CHECK(world.domain.lookup(4 * MiB - page_bytes) == 4 * MiB - page_bytes);
    CHECK(world.domain.lookup(4 * MiB) == 4 * MiB);
    CHECK(world.unmap(0x10000, 0x2000) == Errno::ok);
}

TEST_CASE("whichever table cannot be had, a failed map leaves nothing mapped and can be repeated") {
    // Over the end of a level 1 table: three tables for the first page, one more for the second.
    for (unsigned nth = 1; nth <= 4; ++nth) {
        TableWorld world;
        world.plan(fmt::format("mm.folio_alloc[iommu.table]#{}=fail(ENOMEM)", nth));
        CHECK(world.map(2 * MiB - page_bytes, 0x5000, 2 * page_bytes) == Errno::enomem);
        CHECK_FALSE(world.domain.lookup(2 * MiB - page_bytes));
        CHECK_FALSE(world.domain.lookup(2 * MiB));
        CHECK(world.domain.tables().size() == nth);
        CHECK(world.map(2 * MiB - page_bytes, 0x5000, 2 * page_bytes) == Errno::ok);
        CHECK(world.domain.tables().size() == 5);
    }
}

TEST_CASE("an immutable domain neither maps nor unmaps") {
    TableWorld world;
    REQUIRE(world.map(0x1000, 0x1000, 0x1000) == Errno::ok);
    world.domain.immutable = true;
    CHECK(world.map(0x5000, 0x5000, 0x1000) == Errno::eperm);
    CHECK(world.unmap(0x1000, 0x1000) == Errno::eperm);
    CHECK(world.domain.lookup(0x1000));
}

TEST_CASE("the fault point of map names the domain") {
    TableWorld world;
    world.plan("iommu.map[d]#1=fail(ENOMEM)");
    CHECK(world.map(0x1000, 0x1000, 0x1000) == Errno::enomem);
    world.plan("iommu.map[other]#1=fail(ENOMEM)");
    CHECK(world.map(0x1000, 0x1000, 0x1000) == Errno::ok);
}

}  // namespace kexec_sim
