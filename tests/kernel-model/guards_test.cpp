// The small instruments of a kernel that report to the referee: bounded views, watchdog, early mappings, locks, accounts.
#include <catch2/catch.hpp>

#include "kernel-model/bounded_view.hpp"
#include "kernel-model/early_map.hpp"
#include "kernel-model/init_lock.hpp"
#include "kernel-model/loop_guard.hpp"
#include "kernel-model/mutants.hpp"
#include "tests/kernel-model/memory_fixture.hpp"

using namespace kexec_sim;
using kexec_sim::test::MemoryFixture;

namespace {

u64 findings(const MemoryFixture& memory, InvariantId invariant) {
    u64 count = 0;
    for (const Finding& finding : memory.machine->referee.findings()) count += finding.invariant == invariant;
    return count;
}

}  // namespace

TEST_CASE("a view of handed-over memory reads inside in silence, and beyond its end with a finding") {
    MemoryFixture memory;
    memory.insane_expected = true;
    const PhysRange page = phys_range(PhysAddr{0x100000}, page_bytes);
    memory.machine->ram.write(page.end, u64{42});
    const BoundedView view(*memory.machine, page, "a chunk", "vmalloc");
    CHECK(view.read<u64>(page_bytes - 8) == 0);
    CHECK(findings(memory, InvariantId::abi_bounded) == 0);
    CHECK(view.read<u64>(page_bytes) == 42);
    CHECK(findings(memory, InvariantId::abi_bounded) == 1);
}

TEST_CASE("a loop may turn as often as it was said, and not once more") {
    MemoryFixture memory;
    memory.insane_expected = true;
    LoopGuard guard(memory.log, "a loop", 3);
    for (int i = 0; i < 3; ++i) guard.turn();
    CHECK(findings(memory, InvariantId::kernel_sane) == 0);
    CHECK_THROWS_AS(guard.turn(), KernelPanic);
    CHECK(findings(memory, InvariantId::kernel_sane) == 1);
    CHECK(memory.log.contains("soft lockup"));
}

TEST_CASE("early mappings have slots, and those that are left are reported") {
    MemoryFixture memory;
    memory.insane_expected = true;
    EarlyMaps maps;
    CHECK_FALSE(maps.map(0));
    CHECK_FALSE(maps.map(EarlyMaps::slot_pages * page_bytes + 1));
    for (u64 i = 0; i < EarlyMaps::slots; ++i) CHECK(maps.map(page_bytes));
    CHECK_FALSE(maps.map(page_bytes));
    for (u64 i = 0; i < EarlyMaps::slots; ++i) maps.unmap();
    maps.check(memory.log);
    CHECK(findings(memory, InvariantId::kernel_sane) == 0);
    CHECK(maps.map(page_bytes));
    maps.check(memory.log);
    CHECK(findings(memory, InvariantId::kernel_sane) == 1);
}

TEST_CASE("a lock that nobody has initialised is reported when it is taken") {
    MemoryFixture memory;
    memory.insane_expected = true;
    InitLock made, zeroed;
    made.init();
    made.acquire(*memory.machine, memory.log, true, "made");
    CHECK(findings(memory, InvariantId::kernel_sane) == 0);
    zeroed.acquire(*memory.machine, memory.log, true, "zeroed");
    CHECK(findings(memory, InvariantId::kernel_sane) == 1);
    CHECK(memory.log.contains("non-static key"));
}

TEST_CASE("restored pages that accounting was not told of show when they are freed") {
    for (const bool accounted : {true, false}) {
        MemoryFixture memory;
        memory.insane_expected = true;
        memory.pages.mark_preserved(Pfn{0x408}, 1, Order{3}, 3);
        memory.pages.adopt_folio({Pfn{0x408}, Order{3}}, "restore", FrameClass::bench, {true, accounted});
        memory.pages.check_sane();
        CHECK(findings(memory, InvariantId::kernel_sane) == 0);
        memory.pages.free_folio({Pfn{0x408}, Order{3}});
        memory.pages.check_sane(accounted);
        CHECK(findings(memory, InvariantId::kernel_sane) == (accounted ? 0 : 1));
    }
}

TEST_CASE("a folio restored without its tail pages is insane, and stays when it is freed") {
    MemoryFixture memory;
    memory.insane_expected = true;
    memory.pages.mark_preserved(Pfn{0x408}, 1, Order{3}, 3);
    memory.pages.adopt_folio({Pfn{0x408}, Order{3}}, "restore", FrameClass::bench, {false, true});
    CHECK(findings(memory, InvariantId::kernel_sane) > 0);
    memory.pages.free_folio({Pfn{0x408}, Order{3}});
    CHECK(memory.pages.block(Pfn{0x408}).meta.state == PageState::folio);
}

TEST_CASE("every mutant has a name of its own, and a line that says what it does") {
    for (const MutantInfo& info : mutants()) {
        INFO(info.name);
        CHECK(mutant_by_name(info.name) == info.id);
        CHECK_FALSE(info.title.empty());
        CHECK_FALSE(info.symptom.empty());
        CHECK_FALSE(info.fixed_in.empty());
    }
    CHECK_FALSE(mutant_by_name("KB-99"));
}
