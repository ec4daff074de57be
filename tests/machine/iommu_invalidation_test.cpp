// What the IOMMU remembers, and how it is made to forget.
#include <catch2/catch.hpp>

#include "tests/machine/iommu_fixture.hpp"

using namespace kexec_sim;
using namespace kexec_sim::test;
using vtd::FaultReason;

namespace {

u64 phys_of(MappedWorld& world, u64 iova = MappedWorld::iova) {
    return world.unit->translate(MappedWorld::nic, iova, false).address;
}
constexpr u64 domain(u64 id) { return id << 16; }

}  // namespace

TEST_CASE("a changed mapping is not seen until its page is invalidated") {
    MappedWorld world;
    world.start_queue();
    CHECK(phys_of(world) == MappedWorld::target);
    world.map(world.top, MappedWorld::iova, 9 * MiB);
    CHECK(phys_of(world) == MappedWorld::target);  // stale

    // Invalidations of something else change nothing: another domain, another page.
    world.submit(vtd::QI_IOTLB | vtd::QI_DOMAIN | domain(8));
    world.submit(vtd::QI_IOTLB | vtd::QI_SELECTED | domain(8), MappedWorld::iova);
    world.submit(vtd::QI_IOTLB | vtd::QI_SELECTED | domain(7), MappedWorld::iova + page_bytes);
    world.submit(vtd::QI_CONTEXT | vtd::QI_ALL);
    CHECK(phys_of(world) == MappedWorld::target);
    CHECK(world.unit->counters.invalidations == 4);

    const u64 ways[][2] = {{vtd::QI_IOTLB | vtd::QI_SELECTED | domain(7), MappedWorld::iova},
                           {vtd::QI_IOTLB | vtd::QI_SELECTED | domain(7), 6},  // 64 pages from 0
                           {vtd::QI_IOTLB | vtd::QI_SELECTED | domain(7), MappedWorld::iova | 2},
                           {vtd::QI_IOTLB | vtd::QI_DOMAIN | domain(7), 0},
                           {vtd::QI_IOTLB | vtd::QI_ALL, 0}};
    u64 target = 9 * MiB;
    for (const auto& way : ways) {
        INFO(way[0] << " " << way[1]);
        world.submit(way[0], way[1]);
        CHECK(phys_of(world) == target);
        target += MiB;
        world.map(world.top, MappedWorld::iova, target);
    }
}

TEST_CASE("a large page goes with the invalidation of any page in it") {
    MappedWorld world;
    world.start_queue();
    for (const u64 mask : {0, 5}) {
        world.map(world.top, 4 * MiB, 16 * MiB, all_rights, 2);
        CHECK(phys_of(world, 4 * MiB + page_bytes) == 16 * MiB + page_bytes);
        world.map(world.top, 4 * MiB, 18 * MiB, all_rights, 2);
        CHECK(phys_of(world, 4 * MiB + page_bytes) == 16 * MiB + page_bytes);
        world.submit(vtd::QI_IOTLB | vtd::QI_SELECTED | domain(7), (5 * MiB) | mask);
        CHECK(phys_of(world, 4 * MiB + page_bytes) == 18 * MiB + page_bytes);
        world.submit(vtd::QI_IOTLB | vtd::QI_ALL);
    }
}

TEST_CASE("two domains with one id share what is cached: the second is translated by the first's tables") {
    MappedWorld world;
    world.start_queue();
    CHECK(phys_of(world) == MappedWorld::target);
    // Another device in a domain of its own, to which somebody gave the id 7 again.
    constexpr Bdf other{2, 16};
    const PhysAddr top = world.page();
    world.set_context(other, vtd::ContextEntry::translated(top, vtd::width_4_levels, 7));
    world.map(top, MappedWorld::iova, 20 * MiB);
    CHECK(world.unit->translate(other, MappedWorld::iova, false).address == MappedWorld::target);
    world.submit(vtd::QI_IOTLB | vtd::QI_DOMAIN | domain(7));
    CHECK(world.unit->translate(other, MappedWorld::iova, false).address == 20 * MiB);
    CHECK(phys_of(world) == 20 * MiB);  // and the other way round
}

TEST_CASE("a changed context entry is not seen until it is invalidated, in one of three ways") {
    const u64 ways[] = {vtd::QI_CONTEXT | vtd::QI_ALL, vtd::QI_CONTEXT | vtd::QI_DOMAIN | domain(7),
                        vtd::QI_CONTEXT | vtd::QI_SELECTED | u64{MappedWorld::nic.raw} << 32,
                        vtd::QI_CONTEXT | vtd::QI_SELECTED | u64{MappedWorld::nic.raw + 5u} << 32 | u64{3} << 48};
    for (const u64 way : ways) {
        INFO(way);
        MappedWorld world;
        world.start_queue();
        CHECK(phys_of(world) == MappedWorld::target);
        world.set_context(MappedWorld::nic, {});
        CHECK(phys_of(world) == MappedWorld::target);
        world.submit(vtd::QI_CONTEXT | vtd::QI_DOMAIN | domain(8));
        world.submit(vtd::QI_CONTEXT | vtd::QI_SELECTED | u64{MappedWorld::nic.raw + 5u} << 32);
        CHECK(phys_of(world) == MappedWorld::target);
        world.submit(way);
        CHECK(world.fault_of(MappedWorld::iova) == FaultReason::context_not_present);
    }
}

TEST_CASE("neither a new root pointer nor turning translation off and on empties a cache") {
    MappedWorld world;
    CHECK(phys_of(world) == MappedWorld::target);
    world.unit->write_register(vtd::RTADDR, 8, world.page().raw);
    world.command(vtd::SRTP);
    world.unit->write_register(vtd::GCMD, 4, 0);
    world.command(vtd::TE);
    CHECK(phys_of(world) == MappedWorld::target);
}

TEST_CASE("what failed is not cached, and a right that was added is found without an invalidation") {
    MappedWorld world;
    CHECK(world.fault_of(0x5000) == FaultReason::read_denied);
    world.map(world.top, 0x5000, 9 * MiB, vtd::PTE_READ);
    CHECK(world.fault_of(0x5000) == FaultReason::none);
    CHECK(world.fault_of(0x5000, true) == FaultReason::write_denied);
    world.map(world.top, 0x5000, 9 * MiB);
    CHECK(world.fault_of(0x5000, true) == FaultReason::none);
}

TEST_CASE("a full cache evicts; one that never evicts uses every stale entry") {
    constexpr u64 pages = 10000;
    for (const bool never : {false, true}) {
        MappedWorld world(never);
        for (u64 i = 0; i < pages; ++i) world.map(world.top, GiB + i * page_bytes, 8 * MiB);
        for (u64 i = 0; i < pages; ++i) phys_of(world, GiB + i * page_bytes);
        for (u64 i = 0; i < pages; ++i) world.map(world.top, GiB + i * page_bytes, 9 * MiB);
        u64 stale = 0;
        for (u64 i = 0; i < pages; ++i) stale += phys_of(world, GiB + i * page_bytes) == 8 * MiB;
        if (never) {
            CHECK(stale == pages);
            CHECK(world.unit->cached_pages() == pages);
            world.start_queue();
            world.submit(vtd::QI_IOTLB | vtd::QI_SELECTED | domain(7), (GiB + 77 * page_bytes) | 0);
            CHECK(phys_of(world, GiB + 77 * page_bytes) == 9 * MiB);
            CHECK(world.unit->cached_pages() == pages);
            world.submit(vtd::QI_IOTLB | vtd::QI_DOMAIN | domain(7));
            CHECK(world.unit->cached_pages() == 0);
        } else {
            CHECK(stale < 4096);
            CHECK(world.unit->cached_pages() <= 4096);
        }
    }
}

TEST_CASE("a cache keeps each key once, whichever way entries come and go") {
    MappedWorld world;
    TranslationCache cache(4, true, world.machine->arena);
    for (u64 key = 0; key < 100; ++key) cache.insert({key, key * 2, 0, static_cast<u16>(key % 3), true});
    for (u64 key = 0; key < 100; ++key) cache.insert({key, key * 3, 0, static_cast<u16>(key % 3), true});
    CHECK(cache.entries() == 100);
    cache.drop_domain(1);
    CHECK(cache.entries() == 67);
    for (u64 key = 0; key < 100; ++key) cache.insert({key, key * 5, 0, 9, true});
    CHECK(cache.entries() == 100);
    for (u64 key = 0; key < 100; ++key) {
        REQUIRE(cache.find(key));
        CHECK(cache.find(key)->low == key * 5);
        cache.drop(key);
        CHECK_FALSE(cache.find(key));
    }
    CHECK(cache.entries() == 0);
}

TEST_CASE("WAIT writes its status where it is told, after what stands before it") {
    MappedWorld world;
    world.start_queue();
    const PhysAddr status{3 * MiB};
    world.submit(vtd::QI_WAIT | u64{0xabcd} << 32, status.raw);  // without the bit: nothing
    CHECK(world.machine->ram.read<u32>(status) == 0);
    world.submit(vtd::QI_WAIT | vtd::QI_WAIT_STATUS_WRITE | u64{0xabcd} << 32, status.raw);
    CHECK(world.machine->ram.read<u32>(status) == 0xabcd);
    CHECK(world.unit->read_register(vtd::IQH, 8) == 2 * vtd::QI_BYTES);
    // To where there is no RAM: it goes nowhere.
    world.submit(vtd::QI_WAIT | vtd::QI_WAIT_STATUS_WRITE, 0x7'0000'0000);
    CHECK(world.fault_status() == 0);
}

TEST_CASE("the queue is a ring; a queue that was left on writes into memory that is somebody else's by now") {
    MappedWorld world;
    world.start_queue();
    for (u32 i = 1; i <= 1000; ++i) {
        world.submit(vtd::QI_WAIT | vtd::QI_WAIT_STATUS_WRITE | u64{i} << 32, 3 * MiB);
        REQUIRE(world.machine->ram.read<u32>(PhysAddr{3 * MiB}) == i);
    }
    CHECK(world.unit->read_register(vtd::IQH, 8) == 1000 % 256 * vtd::QI_BYTES);
    world.unit->write_register(vtd::GCMD, 4, vtd::TE);  // QIE off: the head starts anew
    CHECK(world.unit->read_register(vtd::IQH, 8) == 0);
}

TEST_CASE("a bad descriptor stops the queue until software clears the error") {
    const u64 bad[] = {0, 3, 6, 15, vtd::QI_CONTEXT, vtd::QI_IOTLB, vtd::QI_IOTLB | vtd::QI_ALL | 1 << 9};
    for (const u64 low : bad) {
        INFO(low);
        MappedWorld world;
        world.start_queue();
        world.submit(vtd::QI_INTERRUPT);  // nothing to do, and no error
        world.submit(low);
        CHECK((world.fault_status() & vtd::FSTS_IQE) != 0);
        CHECK(world.unit->read_register(vtd::IQH, 8) == vtd::QI_BYTES);
        world.submit(vtd::QI_WAIT | vtd::QI_WAIT_STATUS_WRITE | u64{1} << 32, 3 * MiB);
        CHECK(world.machine->ram.read<u32>(PhysAddr{3 * MiB}) == 0);
        // Software puts something else in its place.
        world.put(world.queue + vtd::QI_BYTES, vtd::QI_IOTLB | vtd::QI_ALL);
        world.unit->write_register(vtd::FSTS, 4, vtd::FSTS_IQE);
        CHECK(world.machine->ram.read<u32>(PhysAddr{3 * MiB}) == 1);
        CHECK(world.fault_status() == 0);
    }
}

TEST_CASE("a queue outside RAM, of wide descriptors or with a tail beyond its end is an error too") {
    MappedWorld world;
    world.unit->write_register(vtd::IQA, 8, 0x7'0000'0000);
    world.unit->write_register(vtd::IQT, 8, vtd::QI_BYTES);
    CHECK(world.fault_status() == 0);  // the queue is off
    world.command(vtd::QIE);
    CHECK(world.fault_status() == vtd::FSTS_IQE);

    world.unit->write_register(vtd::GCMD, 4, 0);
    world.unit->write_register(vtd::IQA, 8, world.queue.raw | vtd::IQA_DW);
    world.command(vtd::QIE);
    world.unit->write_register(vtd::FSTS, 4, vtd::FSTS_IQE);  // tried again at once
    CHECK(world.fault_status() == vtd::FSTS_IQE);

    world.unit->write_register(vtd::IQA, 8, world.queue.raw);
    world.unit->write_register(vtd::IQT, 8, page_bytes);
    world.unit->write_register(vtd::FSTS, 4, vtd::FSTS_IQE);
    CHECK(world.fault_status() == vtd::FSTS_IQE);

    // A queue of 512 descriptors has room for that tail.
    world.put(world.queue, vtd::QI_WAIT);
    for (u64 i = 0; i < 256; ++i) world.put(world.queue + i * vtd::QI_BYTES, vtd::QI_INTERRUPT);
    world.unit->write_register(vtd::IQA, 8, world.queue.raw | 1);
    world.unit->write_register(vtd::FSTS, 4, vtd::FSTS_IQE);
    CHECK(world.fault_status() == 0);
    CHECK(world.unit->read_register(vtd::IQH, 8) == page_bytes);
}

TEST_CASE("an invalidation of too many pages at once is an error") {
    MappedWorld world;
    world.start_queue();
    world.submit(vtd::QI_IOTLB | vtd::QI_SELECTED | domain(7), vtd::address_mask_max);
    CHECK(world.fault_status() == 0);
    world.submit(vtd::QI_IOTLB | vtd::QI_SELECTED | domain(7), vtd::address_mask_max + 1);
    CHECK(world.fault_status() == vtd::FSTS_IQE);
}
