// Slab caches, vmalloc and the kernel log.
#include <catch2/catch.hpp>

#include "kernel-model/page_alloc.hpp"
#include "tests/kernel-model/memory_fixture.hpp"

using namespace kexec_sim;
using test::MemoryFixture;

TEST_CASE("objects of a cache are packed, zeroed, and give their pages back") {
    for (u64 bytes = 8; bytes <= page_bytes; bytes *= 2) {
        CAPTURE(bytes);
        MemoryFixture memory;
        const auto before = memory.state();
        SlabCache cache(memory.pages, *memory.machine, bytes, "test.slab", FrameClass::slab);
        const u64 count = 2 * page_bytes / bytes + 1;
        std::vector<PhysAddr> objects;
        for (u64 i = 0; i < count; ++i) {
            objects.push_back(cache.alloc().value());
            CHECK(objects.back().raw % bytes == 0);
            memory.machine->ram.write<u64>(objects.back(), ~u64{0});
            CHECK(objects.back().pfn() == objects.front().pfn() + i * bytes / page_bytes);
        }
        CHECK(cache.pages_used() == 3);
        cache.free(objects[1]);
        const PhysAddr again = cache.alloc().value();
        CHECK(again == objects[1]);
        CHECK(memory.machine->ram.read<u64>(again) == 0);
        for (const PhysAddr object : objects) cache.free(object);
        CHECK(cache.pages_used() == 0);
        CHECK(memory.state() == before);
    }
}

TEST_CASE("a slab allocation fails at its own fault point and at that of its page") {
    MemoryFixture memory;
    SlabCache cache(memory.pages, *memory.machine, 512, "test.slab", FrameClass::slab);
    const auto before = memory.state();
    memory.plan("mm.slab_alloc[test.slab]#1=fail(ENOMEM)");
    CHECK(cache.alloc() == fail(Errno::enomem));
    memory.plan("mm.folio_alloc[test.slab]#1=fail(ENOMEM)");
    CHECK(cache.alloc() == fail(Errno::enomem));
    CHECK(memory.state() == before);
    CHECK(cache.pages_used() == 0);
    CHECK(cache.alloc().has_value());
}

TEST_CASE("freeing what is no object of the cache is a warning") {
    for (const u64 offset : {u64{512}, u64{8}, 64 * page_bytes}) {
        MemoryFixture memory;
        memory.insane_expected = true;
        SlabCache cache(memory.pages, *memory.machine, 512, "test.slab", FrameClass::slab);
        cache.free(cache.alloc().value() + offset);
        CHECK(memory.findings().size() == 1);
        CHECK(cache.pages_used() == 1);
    }
}

TEST_CASE("an area is mapped from single pages, or from huge ones where they are allowed and fit") {
    MemoryFixture memory;
    const auto free = memory.pages.free_frames();
    Vmalloc vmalloc(*memory.machine, memory.pages);
    const VmallocArea small = *vmalloc.alloc(5 * page_bytes - 1, "test.vm", FrameClass::bench).value();
    CHECK(small.blocks.size() == 5);
    CHECK(small.order == Order{0});
    const VmallocArea huge = *vmalloc.alloc(3 * MiB, "test.vm", FrameClass::bench, true).value();
    CHECK(huge.order == Order{9});
    CHECK(huge.blocks.size() == 2);
    CHECK(huge.address % (2 * MiB) == 0);
    CHECK(huge.address > small.address + 5 * page_bytes);  // a page between them is not mapped
    const VmallocArea allowed = *vmalloc.alloc(MiB, "test.vm", FrameClass::bench, true).value();
    CHECK(allowed.order == Order{0});
    CHECK(allowed.allow_huge);
    CHECK(vmalloc.find(small.address + 4 * page_bytes)->address == small.address);
    CHECK(vmalloc.find(small.address + 5 * page_bytes) == nullptr);
    CHECK(vmalloc.find(small.address - 1) == nullptr);
    for (const u64 address : {small.address, huge.address, allowed.address}) vmalloc.free(address);
    CHECK(vmalloc.find(small.address) == nullptr);
    CHECK(memory.pages.free_frames() == free);
}

TEST_CASE("where huge pages run out an area is made of small ones") {
    MemoryFixture memory;
    const u64 free = memory.pages.free_frames();
    memory.plan("mm.folio_alloc[test.vm]#2=fail(ENOMEM)");
    Vmalloc vmalloc(*memory.machine, memory.pages);
    const VmallocArea* area = vmalloc.alloc(4 * MiB, "test.vm", FrameClass::bench, true).value();
    CHECK(area->order == Order{0});
    CHECK(area->blocks.size() == 1024);
    CHECK(memory.pages.free_frames() == free - 1024);
}

TEST_CASE("a failed vmalloc leaves no trace") {
    for (const char* plan : {"mm.vmalloc[test.vm]#1=fail(ENOMEM)", "mm.folio_alloc[test.vm]#3=fail(ENOMEM)"}) {
        MemoryFixture memory;
        const auto before = memory.state();
        memory.plan(plan);
        Vmalloc vmalloc(*memory.machine, memory.pages);
        CHECK(vmalloc.alloc(5 * page_bytes, "test.vm", FrameClass::bench) == fail(Errno::enomem));
        CHECK(memory.state() == before);
        CHECK(vmalloc.alloc(0, "test.vm", FrameClass::bench) == fail(Errno::einval));
        CHECK(vmalloc.map({}, Order{0}, page_bytes, "test.vm") == fail(Errno::einval));
    }
}

TEST_CASE("freeing an address that vmalloc does not know is a warning") {
    MemoryFixture memory;
    memory.insane_expected = true;
    Vmalloc vmalloc(*memory.machine, memory.pages);
    vmalloc.free(0x1234000);
    CHECK(memory.log.contains("WARNING: Trying to vfree() nonexistent vm area (0x1234000)"));
}

TEST_CASE("log lines keep their virtual time and reach the trace") {
    MemoryFixture memory;
    memory.machine->trace.drain([](TraceEvent&&) {});
    memory.machine->clock.advance(1500);
    memory.log.info("KHO: {} areas", 3);
    memory.log.err("out of {}", "memory");
    REQUIRE(memory.log.lines().size() == 2);
    CHECK(memory.log.lines()[0].time_ns == 1500);
    CHECK(memory.log.lines()[1].level == LogLevel::err);
    CHECK(memory.log.contains("3 areas"));
    CHECK_FALSE(memory.log.contains("4 areas"));
    std::vector<std::string> texts;
    std::vector<u64> levels;
    memory.machine->trace.drain([&](TraceEvent&& event) {
        if (event.name != "kernel.log") return;
        texts.push_back(event.text("text"));
        levels.push_back(event.number("level"));
    });
    CHECK(texts == std::vector<std::string>{"KHO: 3 areas", "out of memory"});
    CHECK(levels == std::vector<u64>{6, 3});
}

TEST_CASE("a warning that the edition names is no finding") {
    MemoryFixture memory;
    memory.log.warn_on("expected by the specification", true);
    CHECK(memory.log.contains("WARNING: expected by the specification"));
    CHECK(memory.findings().empty());
    memory.insane_expected = true;
    memory.log.warn_on("unexpected", false);
    CHECK(memory.findings().size() == 1);
}
