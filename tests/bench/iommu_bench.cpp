// What a request costs in the IOMMU, beside what the obvious program would need, and what a guest's step costs.
//
// References: one std::unordered_map as cache; a walk over tables in host memory, six reads that nothing checks; the
// bare arithmetic of the guest's program on a host array.
#include "tests/bench/table.hpp"

#include <array>
#include <bit>
#include <memory>
#include <unordered_map>
#include <vector>

#include "kernel-model/iommu/domain.hpp"
#include "kernel-model/kernel.hpp"

namespace {

using namespace kexec_sim;

constexpr Bdf nic{2, 8};
constexpr u64 all_rights = vtd::PTE_READ | vtd::PTE_WRITE;
constexpr u64 few_pages = 64, many_pages = 65536;  // what a ring uses; sixteen times what the IOTLB holds

/// One device, `pages` pages from IOVA 4 GiB on, each mapped by a 4 KiB entry.
struct Bench {
    explicit Bench(u64 pages) {
        MachineConfig config;
        config.node_bytes = {1 * GiB};
        machine = make_machine(config);
        machine->trace.keep = false;
        unit = machine->arena->make<Iommu>(*machine, 0u, PhysAddr{vtd::register_base}, false, machine->arena);
        const u64 root = page(), context = page(), top = page();
        put(root + nic.bus() * u64{16}, context | 1);
        put(context + nic.devfn() * u64{16}, top | 1);
        put(context + nic.devfn() * u64{16} + 8, vtd::width_4_levels | 7 << 8);
        const u64 upper = page(), lower = page();
        put(top, upper | all_rights);
        put(upper + (base >> 30) * 8, lower | all_rights);
        u64 table = 0;
        for (u64 i = 0; i < pages; ++i) {
            if (i % 512 == 0) put(lower + i / 512 * 8, (table = page()) | all_rights);
            put(table + i % 512 * 8, (256 * MiB + i * page_bytes) | all_rights);
        }
        unit->write_register(vtd::RTADDR, 8, root);
        unit->write_register(vtd::GCMD, 4, vtd::SRTP);
        unit->write_register(vtd::GCMD, 4, vtd::TE);
    }
    u64 page() { return next += page_bytes; }
    void put(u64 at, u64 value) { machine->ram.write(PhysAddr{at}, value); }

    static constexpr u64 base = 4 * GiB;
    MachineHandle machine;
    Iommu* unit;
    u64 next = MiB;
};

void hit(benchmark::State& state) {
    Bench bench(few_pages);
    u64 i = 0;
    for (auto _ : state)
        benchmark::DoNotOptimize(bench.unit->translate(nic, Bench::base + (i++ % few_pages) * page_bytes, true));
    state.SetItemsProcessed(state.iterations());
    bench::set_target_ns(state, 15);
}
BENCHMARK(hit)->Name("IOMMU request, in the caches");

void miss(benchmark::State& state) {
    Bench bench(many_pages);
    u64 i = 0;
    for (auto _ : state)
        benchmark::DoNotOptimize(bench.unit->translate(nic, Bench::base + (i++ % many_pages) * page_bytes, true));
    if (bench.unit->counters.iotlb_hits > bench.unit->counters.iotlb_misses / 8) state.SkipWithError("it hits");
    state.SetItemsProcessed(state.iterations());
    bench::set_target_ns(state, 150);
}
BENCHMARK(miss)->Name("IOMMU request, walked");

void remap(benchmark::State& state) {
    Bench bench(1);
    bench.machine->ram.write(PhysAddr{512 * MiB}, vtd::InterruptEntry::delivering(0x51, nic.raw));
    bench.unit->write_register(vtd::IRTA, 8, 512 * MiB);
    bench.unit->write_register(vtd::GCMD, 4, vtd::SIRTP);
    bench.unit->write_register(vtd::GCMD, 4, vtd::IRE);
    for (auto _ : state) benchmark::DoNotOptimize(bench.unit->remap(nic, vtd::remappable_message(0), 0));
    state.SetItemsProcessed(state.iterations());
}
BENCHMARK(remap)->Name("IOMMU interrupt, remapped");

// --- mapping -------------------------------------------------------------------------------------------------------

constexpr u64 mapped_bytes = GiB;

/// 1 GiB in a domain of a kernel, in leaves of one size: IOVA and memory are off by one of them against each other.
void map(benchmark::State& state, bool small) {
    MachineConfig config;
    config.node_bytes = {4 * GiB};
    MachineHandle machine = make_machine(config);
    machine->trace.keep = false;
    machine->referee.kernel_boots(0, {.edition = "linux-6.16"});
    Kernel kernel(*machine, KernelConfig{}, firmware_boot(*machine, KexecRequest{}));
    kernel.boot();
    const u64 iova = 4 * GiB + (small ? page_bytes : 2 * MiB);
    const PhysRange phys = phys_range(PhysAddr{GiB}, mapped_bytes);
    for (auto _ : state) {
        IommuDomain domain(kernel, "bench");
        const bool mapped = domain.create() && domain.map(iova, phys, all_rights);
        if (!mapped || domain.tables().size() != (small ? 517 : 4)) {
            state.SkipWithError("not mapped as expected");
            break;
        }
        state.PauseTiming();
        domain.free_tables();
        state.ResumeTiming();
    }
    state.SetItemsProcessed(state.iterations() * static_cast<i64>(mapped_bytes >> (small ? 12 : 21)));
}
void map_small(benchmark::State& state) { map(state, true); }
void map_large(benchmark::State& state) { map(state, false); }
BENCHMARK(map_small)->Name("IOMMU map of 1 GiB, a leaf of 4 KiB")->Unit(benchmark::kMicrosecond);
BENCHMARK(map_large)->Name("IOMMU map of 1 GiB, a leaf of 2 MiB")->Unit(benchmark::kMicrosecond);

/// The reference: the same tables in host memory, filled by a loop that checks nothing.
void map_on_host(benchmark::State& state, u64 leaf_bytes) {
    constexpr u64 entries = 512;
    for (auto _ : state) {
        std::vector<std::unique_ptr<std::array<u64, entries>>> tables;
        for (u64 done = 0; done < mapped_bytes; done += leaf_bytes) {
            const u64 index = done / leaf_bytes % entries;
            if (index == 0) tables.push_back(std::make_unique<std::array<u64, entries>>());
            (*tables.back())[index] = (GiB + done) | all_rights;
        }
        benchmark::DoNotOptimize(tables);
    }
    state.SetItemsProcessed(state.iterations() * static_cast<i64>(mapped_bytes / leaf_bytes));
}
void map_small_on_host(benchmark::State& state) { map_on_host(state, page_bytes); }
void map_large_on_host(benchmark::State& state) { map_on_host(state, 2 * MiB); }
BENCHMARK(map_small_on_host)->Name("reference:IOMMU map of 1 GiB, a leaf of 4 KiB");
BENCHMARK(map_large_on_host)->Name("reference:IOMMU map of 1 GiB, a leaf of 2 MiB");

// --- the guest's processor -----------------------------------------------------------------------------------------

constexpr u64 guest_bytes = 64 * MiB, guest_steps = 1000;

struct FlatBus final : GuestBus {
    Result<PhysAddr> translate(u64 gpa) override { return PhysAddr{256 * MiB + gpa}; }
    u64 device_completed(unsigned) override { return 0; }
    void device_tail(unsigned, u32) override {}
    u16 asid() const override { return guest_asid; }
    u16 guest_asid = 0;
};

void guest(benchmark::State& state, bool confidential) {
    Bench bench(1);
    bench.machine->trace.attached = bench.machine->referee.attached = false;
    FlatBus bus;
    if (confidential) {
        SnpFirmware& snp = bench.machine->snp;
        snp.enable();
        bus.guest_asid = 1;
        if (!snp.create_context(Pfn{300}, 1) || !snp.assign(pfn_range(Pfn{65536}, guest_bytes / page_bytes), 1, 0))
            state.SkipWithError("no guest");
    }
    GuestRegisters registers;
    for (auto _ : state)
        if (!bench.machine->guest_cpu.run("vm0", 0, registers, bus, guest_bytes, guest_steps))
            state.SkipWithError("the guest faults");
    state.SetItemsProcessed(state.iterations() * static_cast<i64>(guest_steps));
    bench::set_target_ns(state, 1000);
}
void plain_guest(benchmark::State& state) { guest(state, false); }
void confidential_guest(benchmark::State& state) { guest(state, true); }
BENCHMARK(plain_guest)->Name("guest step");
BENCHMARK(confidential_guest)->Name("guest step, confidential");

// --- references ----------------------------------------------------------------------------------------------------

void map_lookup(benchmark::State& state) {
    std::unordered_map<u64, u64> cache;
    for (u64 i = 0; i < few_pages; ++i) cache[(Bench::base >> page_shift) + i] = i;
    u64 i = 0;
    for (auto _ : state) benchmark::DoNotOptimize(cache.find((Bench::base >> page_shift) + i++ % few_pages)->second);
    state.SetItemsProcessed(state.iterations());
}
BENCHMARK(map_lookup)->Name("reference:IOMMU request, in the caches");

void bare_walk(benchmark::State& state) {
    using Table = std::vector<u64>;
    std::vector<std::unique_ptr<Table>> tables;
    const auto table = [&] {
        tables.push_back(std::make_unique<Table>(512));
        return reinterpret_cast<u64>(tables.back()->data());
    };
    const auto at = [](u64 address, u64 index) -> u64& { return reinterpret_cast<u64*>(address)[index]; };
    const u64 root = table(), context = table(), top = table(), upper = table(), lower = table();
    at(root, 4) = context;
    at(context, 16) = top;
    at(top, 0) = upper;
    at(upper, 4) = lower;
    for (u64 i = 0; i < many_pages; ++i) {
        if (i % 512 == 0) at(lower, i / 512) = table();
        at(at(lower, i / 512), i % 512) = i;
    }
    u64 i = 0;
    for (auto _ : state) {
        const u64 iova = Bench::base + (i++ % many_pages) * page_bytes;
        u64 here = at(at(root, 4), 16);
        for (unsigned level = 4; level > 0; --level) here = at(here, iova >> vtd::level_shift(level) & 511);
        benchmark::DoNotOptimize(here);
    }
    state.SetItemsProcessed(state.iterations());
}
BENCHMARK(bare_walk)->Name("reference:IOMMU request, walked");

void bare_guest(benchmark::State& state) {
    const u64 pages = guest_layout::work_pages(guest_bytes);
    std::vector<u64> memory(guest_bytes / 8);
    u64 steps = 0, accumulator = 0x6b65786563;
    for (auto _ : state)
        for (u64 i = 0; i < guest_steps; ++i, ++steps) {
            u64& word = memory[guest_layout::work_word(0, steps, pages) / 8];
            word = accumulator = std::rotl(accumulator ^ word, 7) * guest_layout::multiplier + steps;
        }
    benchmark::DoNotOptimize(accumulator);
    state.SetItemsProcessed(state.iterations() * static_cast<i64>(guest_steps));
}
BENCHMARK(bare_guest)->Name("reference:guest step");
BENCHMARK(bare_guest)->Name("reference:guest step, confidential");

}  // namespace
