// KHO's codec: what a folio costs to preserve, to hand over and to reserve, beside what the obvious program would need.
//
// References: std::vector<bool> beside a std::map of vectors (what one would write first), set and walked bit by bit.
#include "tests/bench/table.hpp"

#include <map>
#include <memory>
#include <vector>

#include "kho/deserialize.hpp"
#include "kho/kho.hpp"
#include "kho/state.hpp"

namespace {

using namespace kexec_sim;
using namespace kexec_sim::kho;

constexpr u64 folio_count = 16'777'216;  // 64 GiB in pages
constexpr u64 random_count = 4'194'304;
constexpr u64 random_span = 256 * GiB / page_bytes;

/// A kernel with KHO in user space, on a machine large enough.
struct Bench {
    explicit Bench(u64 bytes, bool attached) {
        MachineConfig config;
        config.node_bytes = {bytes};
        machine = make_machine(config);
        machine->trace.keep = false;
        machine->trace.attached = machine->referee.attached = attached;
        machine->referee.kernel_boots(0, {.edition = "linux-6.16"});
        KexecRequest request;
        request.cmdline = "kho=on kho_scratch=64M,64M,2G";
        boot(firmware_boot(*machine, request));
    }
    void boot(BootParams params) {
        kernel = std::make_unique<Kernel>(*machine, KernelConfig{}, std::move(params));
        kho = std::make_unique<Kho>(*kernel, edition_for_profile("linux-6.16"));
        kernel->boot();
    }
    MachineHandle machine;
    std::unique_ptr<Kernel> kernel;
    std::unique_ptr<Kho> kho;
};

/// Distinct page numbers in an order that jumps all over the span.
class Scattered {
public:
    u64 next() {
        at_ = at_ * 6364136223846793005u + 1442695040888963407u;
        return (at_ >> 24) & (random_span - 1);
    }

private:
    u64 at_ = 1;
};
static_assert((random_span & (random_span - 1)) == 0);

void preserve_in_order(benchmark::State& state, bool attached) {
    for (auto _ : state) {
        state.PauseTiming();
        auto bench = std::make_unique<Bench>(72 * GiB, attached);
        state.ResumeTiming();
        for (u64 i = 0; i < folio_count; ++i)
            benchmark::DoNotOptimize(bench->kho->preserve_folio({Pfn{0x100000 + i}, Order{0}}, "bench", false));
        state.PauseTiming();
        if (bench->kho->preserved_folios() != folio_count) state.SkipWithError("wrong count");
        bench.reset();
        state.ResumeTiming();
    }
    state.SetItemsProcessed(state.iterations() * static_cast<i64>(folio_count));
}
void preserve_detached(benchmark::State& state) {
    preserve_in_order(state, false);
    bench::set_target_ns(state, 5);
}
void preserve_attached(benchmark::State& state) {
    preserve_in_order(state, true);
    bench::set_target_ns(state, 25);
}
BENCHMARK(preserve_detached)
    ->Name("kho-v1 preserve in address order, detached")
    ->Iterations(1)
    ->Unit(benchmark::kMillisecond);
BENCHMARK(preserve_attached)
    ->Name("kho-v1 preserve in address order, attached")
    ->Iterations(1)
    ->Unit(benchmark::kMillisecond);

void preserve_random(benchmark::State& state) {
    for (auto _ : state) {
        state.PauseTiming();
        auto bench = std::make_unique<Bench>(260 * GiB, false);
        Scattered scattered;
        state.ResumeTiming();
        for (u64 i = 0; i < random_count; ++i)
            benchmark::DoNotOptimize(bench->kho->preserve_folio({Pfn{scattered.next()}, Order{0}}, "bench", false));
        state.PauseTiming();
        bench.reset();
        state.ResumeTiming();
    }
    state.SetItemsProcessed(state.iterations() * static_cast<i64>(random_count));
    bench::set_target_ns(state, 40);
}
BENCHMARK(preserve_random)
    ->Name("kho-v1 preserve at random over 256 GiB")
    ->Iterations(1)
    ->Unit(benchmark::kMillisecond);

/// The successor's walk over a map, with metadata and memblock.
void reserve_in_successor(benchmark::State& state) {
    for (auto _ : state) {
        state.PauseTiming();
        auto bench = std::make_unique<Bench>(72 * GiB, false);
        if (!bench->kho->preserve_folios(pfn_range(Pfn{0x100000}, folio_count), "bench", false))
            state.SkipWithError("preserve failed");
        if (!bench->kho->finalize()) state.SkipWithError("finalize failed");
        KexecRequest request;
        request.cmdline = "kho=on";
        if (!bench->kernel->kexec.load(request)) state.SkipWithError("load failed");
        const auto where = bench->kernel->kexec_reboot();
        const BootParams params = read_boot_params(bench->machine->ram, *where);
        bench->kho.reset();
        bench->kernel.reset();
        bench->machine->set_generation(1);
        state.ResumeTiming();
        bench->boot(params);  // all of a boot, of which the walk is the part that grows
        state.PauseTiming();
        if (bench->kernel->pages.block(Pfn{0x100000}).meta.state != PageState::preserved)
            state.SkipWithError("not reserved");
        bench.reset();
        state.ResumeTiming();
    }
    state.SetItemsProcessed(state.iterations() * static_cast<i64>(folio_count));
    bench::set_target_ns(state, 2.5);
}
BENCHMARK(reserve_in_successor)->Name("kho-v1 deserialize and reserve")->Iterations(1)->Unit(benchmark::kMillisecond);

// --- references
// -------------------------------------------------------------------------------------------------------------

using PlainMap = std::map<u64, std::vector<bool>>;  // index -> 4096 bits
void plain_set(PlainMap& map, u64 pfn) {
    std::vector<bool>& bits = map[pfn / 4096];
    if (bits.empty()) bits.resize(4096);
    bits[pfn % 4096] = true;
}

void plain_preserve(benchmark::State& state) {
    for (auto _ : state) {
        PlainMap map;
        for (u64 i = 0; i < folio_count; ++i) plain_set(map, 0x100000 + i);
        benchmark::DoNotOptimize(map);
    }
    state.SetItemsProcessed(state.iterations() * static_cast<i64>(folio_count));
}
BENCHMARK(plain_preserve)->Name("reference:kho-v1 preserve in address order, detached")->Iterations(1);
BENCHMARK(plain_preserve)->Name("reference:kho-v1 preserve in address order, attached")->Iterations(1);

void plain_preserve_random(benchmark::State& state) {
    for (auto _ : state) {
        PlainMap map;
        Scattered scattered;
        for (u64 i = 0; i < random_count; ++i) plain_set(map, scattered.next());
        benchmark::DoNotOptimize(map);
    }
    state.SetItemsProcessed(state.iterations() * static_cast<i64>(random_count));
}
BENCHMARK(plain_preserve_random)->Name("reference:kho-v1 preserve at random over 256 GiB")->Iterations(1);

/// Bit by bit, and for each folio an entry of its own in a list of reservations.
void plain_reserve(benchmark::State& state) {
    for (auto _ : state) {
        state.PauseTiming();
        PlainMap map;
        for (u64 i = 0; i < folio_count; ++i) plain_set(map, 0x100000 + i);
        std::vector<PfnRange> reserved;
        reserved.reserve(folio_count);
        state.ResumeTiming();
        for (const auto& [index, bits] : map)
            for (u64 bit = 0; bit < bits.size(); ++bit)
                if (bits[bit]) reserved.push_back(pfn_range(Pfn{index * 4096 + bit}, 1));
        benchmark::DoNotOptimize(reserved);
    }
    state.SetItemsProcessed(state.iterations() * static_cast<i64>(folio_count));
}
BENCHMARK(plain_reserve)->Name("reference:kho-v1 deserialize and reserve")->Iterations(1);

}  // namespace
