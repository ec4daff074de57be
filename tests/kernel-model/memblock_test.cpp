// memblock: ranges of memory and of reservations.
#include "kernel-model/memblock.hpp"

#include <catch2/catch.hpp>

#include "tests/kernel-model/memory_fixture.hpp"

using namespace kexec_sim;

namespace {

PhysRange range(u64 begin, u64 end) { return {PhysAddr{begin}, PhysAddr{end}}; }
using Ranges = std::vector<PhysRange>;

/// 64 MiB in two nodes: |0 … 32 MiB|32 MiB … 64 MiB|.
struct MemblockFixture {
    MemblockFixture() : machine(make_machine(config())), memblock(*machine) {
        machine->referee.kernel_boots(0, {});
        memblock.add(range(0, 32 * MiB), Nid{0});
        memblock.add(range(32 * MiB, 60 * MiB), Nid{1});
    }
    ~MemblockFixture() { CHECK(machine->referee.findings().empty()); }
    static MachineConfig config() {
        MachineConfig config;
        config.node_bytes = {32 * MiB, 32 * MiB};
        return config;
    }
    static Memblock::Request request(u64 bytes) {
        Memblock::Request request;
        request.bytes = bytes;
        request.site = "test.site";
        return request;
    }
    Ranges free() const {
        Ranges result;
        memblock.for_each_free([&](PhysRange part, Nid) { result.push_back(part); });
        return result;
    }
    Ranges reserved() const {
        Ranges result;
        for (const MemblockRegion& region : memblock.reserved()) result.push_back(region.range);
        return result;
    }
    MachineHandle machine;
    Memblock memblock;
};

}  // namespace

TEST_CASE("memory added twice keeps its first node, and gets one if it had none") {
    MemblockFixture fixture;
    Memblock memblock(*fixture.machine);
    memblock.add(range(8 * MiB, 12 * MiB), nid_none);
    CHECK(memblock.mark_scratch(range(8 * MiB, 12 * MiB)).has_value());
    memblock.add(range(0, 16 * MiB), Nid{0});
    memblock.add(range(4 * MiB, 20 * MiB), Nid{1});
    REQUIRE(memblock.memory().size() == 4);
    CHECK(memblock.memory()[1].range == range(8 * MiB, 12 * MiB));
    CHECK(memblock.memory()[1].scratch);
    CHECK(memblock.memory()[1].nid == Nid{0});
    CHECK(memblock.memory()[3].range == range(16 * MiB, 20 * MiB));
    CHECK(memblock.node_of(PhysAddr{17 * MiB}) == Nid{1});
    CHECK(memblock.clear_scratch(range(8 * MiB, 12 * MiB)).has_value());
    CHECK(memblock.memory().size() == 2);
    CHECK(memblock.is_memory(range(0, 20 * MiB)));
    CHECK_FALSE(memblock.is_memory(range(19 * MiB, 21 * MiB)));
}

TEST_CASE("scratch is flagged where there is memory, and nowhere else") {
    MemblockFixture fixture;
    CHECK(fixture.memblock.mark_scratch(range(60 * MiB, 64 * MiB)) == fail(Errno::einval));
    CHECK(fixture.memblock.mark_scratch(range(58 * MiB, 64 * MiB)).has_value());
    CHECK(fixture.memblock.memory().back().range == range(58 * MiB, 60 * MiB));
    CHECK(fixture.memblock.memory().back().scratch);
}

TEST_CASE("reservations that touch and are alike are one; what is reserved stays what it is") {
    MemblockFixture fixture;
    Memblock& memblock = fixture.memblock;
    memblock.reserve(range(MiB, 2 * MiB), nid_none, "a");
    memblock.reserve(range(3 * MiB, 4 * MiB), nid_none, "a");
    memblock.reserve(range(2 * MiB, 3 * MiB), nid_none, "a");
    CHECK(fixture.reserved() == Ranges{range(MiB, 4 * MiB)});
    memblock.reserve(range(0, 5 * MiB), Nid{0}, "b", true);
    CHECK(fixture.reserved() == Ranges{range(0, MiB), range(MiB, 4 * MiB), range(4 * MiB, 5 * MiB)});
    CHECK(memblock.reserved()[1].site == "a");
    memblock.free(range(MiB / 2, 4 * MiB + MiB / 2));
    CHECK(fixture.reserved() == Ranges{range(0, MiB / 2), range(4 * MiB + MiB / 2, 5 * MiB)});
    CHECK(memblock.is_reserved(range(0, MiB)));
    CHECK_FALSE(memblock.is_reserved(range(MiB / 2, MiB)));
    CHECK(fixture.free().front() == range(MiB / 2, 4 * MiB + MiB / 2));
}

// Preserved blocks arrive order by order, each time from the bottom; a corrupted map names a frame twice.
TEST_CASE("blocks of a handover are reserved in any order, overlapping or not") {
    MemblockFixture fixture;
    Memblock& memblock = fixture.memblock;
    memblock.reserve(range(0x100000, 0x104000), nid_none, "image", true);
    for (const u64 pfn : {0x110, 0x111, 0x118, 0x120})
        memblock.reserve_noinit(Folio{Pfn{pfn}, Order{0}}.phys(), Order{0});
    memblock.reserve_noinit(Folio{Pfn{0x112}, Order{1}}.phys(), Order{1});
    memblock.reserve_noinit(Folio{Pfn{0x118}, Order{3}}.phys(), Order{3});  // around frame 0x118
    memblock.reserve_noinit(Folio{Pfn{0x102}, Order{2}}.phys(), Order{2});  // half in the image
    CHECK(fixture.reserved() == Ranges{range(0x100000, 0x102000), range(0x102000, 0x104000),
                                       range(0x104000, 0x106000), range(0x110000, 0x112000),
                                       range(0x112000, 0x114000), range(0x118000, 0x120000),
                                       range(0x120000, 0x121000)});
    const auto& reserved = memblock.reserved();
    CHECK(reserved[1].kern);
    CHECK(reserved[1].no_init);
    CHECK(reserved[1].site == "image");
    CHECK(reserved[5].order == Order{3});
    CHECK(memblock.reserved_kern_bytes(PhysAddr{~u64{0}}, std::nullopt) == 0x4000);
}

TEST_CASE("allocation is top-down, aligned, in the limits, on the node asked for if it can be") {
    MemblockFixture fixture;
    Memblock& memblock = fixture.memblock;
    Memblock::Request request = MemblockFixture::request(page_bytes);
    CHECK(memblock.alloc(request) == range(60 * MiB - page_bytes, 60 * MiB));
    request.align = 2 * MiB;
    CHECK(memblock.alloc(request) == range(58 * MiB, 58 * MiB + page_bytes));
    request.nid = Nid{0};
    CHECK(memblock.alloc(request) == range(30 * MiB, 30 * MiB + page_bytes));
    request.max = PhysAddr{16 * MiB};
    CHECK(memblock.alloc(request) == range(14 * MiB, 14 * MiB + page_bytes));
    request.min = PhysAddr{15 * MiB};
    CHECK(memblock.alloc(request) == fail(Errno::enomem));
    CHECK(memblock.alloc(MemblockFixture::request(0)) == fail(Errno::einval));
}

TEST_CASE("what does not fit on the node asked for comes from another, unless only that node will do") {
    MemblockFixture fixture;
    Memblock::Request request = MemblockFixture::request(30 * MiB);
    request.nid = Nid{1};  // 28 MiB
    request.exact_nid = true;
    CHECK(fixture.memblock.alloc(request) == fail(Errno::enomem));
    request.exact_nid = false;
    CHECK(fixture.memblock.alloc(request) == range(2 * MiB, 32 * MiB));
}

TEST_CASE("an allocation on another node than asked for carries no node") {
    MemblockFixture fixture;
    Memblock& memblock = fixture.memblock;
    memblock.reserve(range(32 * MiB, 60 * MiB), nid_none, "full");
    Memblock::Request request = MemblockFixture::request(MiB);
    request.nid = Nid{1};
    CHECK(memblock.alloc(request).has_value());
    request.nid = Nid{0};
    CHECK(memblock.alloc(request).has_value());
    const PhysAddr any{~u64{0}};
    CHECK(memblock.reserved_kern_bytes(any, std::nullopt) == 2 * MiB);
    CHECK(memblock.reserved_kern_bytes(any, Nid{0}) == MiB);
    CHECK(memblock.reserved_kern_bytes(any, Nid{1}) == 0);
    CHECK(memblock.reserved_kern_bytes(PhysAddr{31 * MiB + MiB / 2}, std::nullopt) == MiB + MiB / 2);
    memblock.numa = false;
    CHECK(memblock.reserved_kern_bytes(any, Nid{0}) == 2 * MiB);
    CHECK(memblock.reserved_kern_bytes(any, Nid{1}) == 0);
}

TEST_CASE("the first page is never allocated") {
    MemblockFixture fixture;
    fixture.memblock.reserve(range(2 * page_bytes, 60 * MiB), nid_none, "full");
    CHECK(fixture.memblock.alloc(MemblockFixture::request(page_bytes)) == range(page_bytes, 2 * page_bytes));
    CHECK(fixture.memblock.alloc(MemblockFixture::request(page_bytes)) == fail(Errno::enomem));
}

TEST_CASE("in scratch-only mode memory comes from scratch") {
    MemblockFixture fixture;
    Memblock& memblock = fixture.memblock;
    CHECK(memblock.mark_scratch(range(4 * MiB, 6 * MiB)).has_value());
    memblock.set_scratch_only(true);
    Memblock::Request request = MemblockFixture::request(2 * MiB);
    request.nid = Nid{1};  // has no scratch
    CHECK(memblock.alloc(request) == range(4 * MiB, 6 * MiB));
    CHECK(memblock.alloc(MemblockFixture::request(page_bytes)) == fail(Errno::enomem));
    memblock.set_scratch_only(false);
    CHECK(memblock.alloc(MemblockFixture::request(page_bytes)) == range(60 * MiB - page_bytes, 60 * MiB));
}

TEST_CASE("what memblock allocates reads as zeros, two in one frame too") {
    MemblockFixture fixture;
    fixture.machine->ram.fill_byte(range(59 * MiB, 60 * MiB), std::byte{7});
    Memblock::Request request = MemblockFixture::request(64);
    request.align = 64;
    const PhysRange first = fixture.memblock.alloc(request).value();
    const PhysRange second = fixture.memblock.alloc(request).value();
    CHECK(second.end == first.begin);
    CHECK(fixture.machine->ram.read<u64>(second.begin) == 0);
    CHECK(fixture.machine->ram.read<u64>(first.begin) == 0);
    fixture.memblock.free(first);
    fixture.memblock.free(second);
    CHECK(fixture.reserved().empty());
}

TEST_CASE("a fault at any visit of a boot allocation leaves no trace") {
    for (u64 visit = 1; visit <= 3; ++visit) {
        MemblockFixture fixture;
        const std::vector<PlannedFault> faults{
            parse_fault("memblock.alloc[test.site]#" + std::to_string(visit) + "=fail(ENOMEM)").value()};
        fixture.machine->faults.set_plan(faults);
        for (u64 i = 1; i <= 3; ++i) {
            const Ranges before = fixture.reserved();
            const bool worked = fixture.memblock.alloc(MemblockFixture::request(MiB)).has_value();
            CHECK(worked == (i != visit));
            if (!worked) CHECK(fixture.reserved() == before);
        }
    }
}

// Reservations, releases and allocations at random, against one flag a page.
TEST_CASE("random reservations agree with a bitmap") {
    for (u64 seed = 1; seed <= 10; ++seed) {
        CAPTURE(seed);
        test::Random random(seed);
        MemblockFixture fixture;
        constexpr u64 pages = 60 * MiB / page_bytes;
        std::vector<bool> taken(pages);
        u64 wrong = 0;
        for (unsigned step = 0; step < 600; ++step) {
            const u64 begin = random.below(pages),
                      end = std::min(pages, begin + 1 + random.below(random.one_in(4) ? 2000 : 8));
            const PhysRange part = range(begin * page_bytes, end * page_bytes);
            const u64 choice = random.below(5);
            bool use = true;
            PhysRange changed = part;
            if (choice == 0) {
                fixture.memblock.reserve(part, nid_none, random.one_in(2) ? "a" : "b");
            } else if (choice == 1) {
                fixture.memblock.reserve_noinit(part, Order{static_cast<unsigned>(random.below(3))});
            } else if (choice == 2) {
                fixture.memblock.free(part);
                use = false;
            } else if (const auto got =
                           fixture.memblock.alloc(MemblockFixture::request((end - begin) * page_bytes))) {
                for (u64 pfn = got->begin.pfn().raw; pfn < got->end.pfn().raw; ++pfn) wrong += taken[pfn];
                changed = *got;
            } else {
                continue;
            }
            for (u64 pfn = changed.begin.pfn().raw; pfn < changed.end.pfn().raw; ++pfn) taken[pfn] = use;
            u64 at = 0;
            for (const MemblockRegion& region : fixture.memblock.reserved()) {
                for (; at < region.range.begin.pfn().raw; ++at) wrong += taken[at];
                for (; at < region.range.end.pfn().raw; ++at) wrong += !taken[at];
            }
            for (; at < pages; ++at) wrong += taken[at];
            fixture.memblock.for_each_free([&](PhysRange free, Nid) { wrong += fixture.memblock.is_reserved(free); });
        }
        CHECK(wrong == 0);
    }
}
