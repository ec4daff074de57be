// How a benchmark tells the table of `./dev bench` what it is measured against.
//
// The table has a line for every benchmark, with its reference beside: what is read is the ratio, because an absolute
// figure says as much about the machine it was taken on.
//
//     void preserve(benchmark::State& state) {
//         for (auto _ : state) …
//         state.SetItemsProcessed(state.iterations() * folio_count);   // makes it ns per folio
//         bench::set_target_ns(state, 5);                              // "at most 5 ns a folio"
//     }
//     BENCHMARK(preserve)->Name("kho-v1 preserve, in order");
//     BENCHMARK(preserve_bit_by_bit)->Name("reference:kho-v1 preserve, in order");
//
// A benchmark whose name starts with "reference:" is no line of its own: it is the reference of the benchmark that
// has the rest of the name. Other counters that a benchmark sets (resident_MiB, …) come last in its line.
#pragma once

#include <benchmark/benchmark.h>

namespace kexec_sim::bench {

/// At most so many ns: an item if the benchmark counts items, else an iteration.
inline void set_target_ns(benchmark::State& state, double target_ns) { state.counters["target_ns"] = target_ns; }

}  // namespace kexec_sim::bench
