// What a whole machine costs: booting one of 1 TiB, and a whole `kexec-sim run`, from the start of the process to its
// exit.
#include "tests/bench/table.hpp"

#include <cstdio>
#include <memory>
#include <spawn.h>
#include <string>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

#include "kho/kho.hpp"

extern char** environ;

namespace {

using namespace kexec_sim;

double resident_mib() {
    long total = 0, resident = 0;
    if (std::FILE* file = std::fopen("/proc/self/statm", "r")) {
        if (std::fscanf(file, "%ld %ld", &total, &resident) != 2) resident = 0;
        std::fclose(file);
    }
    return static_cast<double>(resident) * static_cast<double>(sysconf(_SC_PAGESIZE)) / (1024.0 * 1024.0);
}

// --- boot
// -------------------------------------------------------------------------------------------------------------------

void boot_of_a_tebibyte(benchmark::State& state) {
    double grown = 0;
    for (auto _ : state) {
        const double before = resident_mib();
        MachineConfig config;
        config.node_bytes = {1024 * GiB};
        MachineHandle machine = make_machine(config);
        machine->referee.kernel_boots(0, {.edition = "linux-6.18"});
        KexecRequest request;
        request.cmdline = "kho=on";
        Kernel kernel(*machine, KernelConfig{}, firmware_boot(*machine, request));
        kho::Kho kho(kernel, kho::edition_for_profile("linux-6.18"));
        kernel.boot();
        if (!kho.enabled()) state.SkipWithError("KHO is off");
        grown = resident_mib() - before;
    }
    state.counters["resident_MiB"] = grown;
    bench::set_target_ns(state, 50e6);
}
BENCHMARK(boot_of_a_tebibyte)->Name("boot of 1 TiB")->Iterations(20)->Unit(benchmark::kMillisecond);

/// A byte for every page, as the plainest of page metadata.
void byte_a_page(benchmark::State& state) {
    for (auto _ : state) {
        std::vector<unsigned char> pages(1024 * GiB / page_bytes, 1);
        benchmark::DoNotOptimize(pages.data());
    }
}
BENCHMARK(byte_a_page)->Name("reference:boot of 1 TiB")->Iterations(3)->Unit(benchmark::kMillisecond);

// --- a whole run
// --------------------------------------------------------------------------------------------------------------

/// Runs a program with its output thrown away; false unless it ends with exit code 0. `peak_mib`: the most memory that
/// it, or one of its own processes, had resident.
bool run_program(std::vector<std::string> words, double* peak_mib = nullptr) {
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", 1 /* O_WRONLY */, 0);
    pid_t child = 0;
    const int failed = posix_spawn(&child, arguments[0], &actions, nullptr, arguments.data(), environ);
    posix_spawn_file_actions_destroy(&actions);
    int status = 0;
    rusage usage{};
    const bool ended = failed == 0 && wait4(child, &status, 0, &usage) == child && status == 0;
    if (peak_mib) *peak_mib = static_cast<double>(usage.ru_maxrss) / 1024.0;
    return ended;
}

void run_of_a_small_update(benchmark::State& state) {
    for (auto _ : state)
        if (!run_program({KEXEC_SIM_PROGRAM, "run", KEXEC_SIM_SOURCE_DIR "/scenarios/memfd-survives.yaml"}))
            state.SkipWithError("the run failed");
    bench::set_target_ns(state, 50e6);
}
BENCHMARK(run_of_a_small_update)
    ->Name("kexec-sim run of the small update")
    ->Iterations(20)
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();

/// The main scenario with a guest of 256 GiB, in pages of 2 MiB, and another as large.
void run_of_large_guests(benchmark::State& state) {
    for (auto _ : state)
        if (!run_program({KEXEC_SIM_PROGRAM, "run", "--set", "memory=256GiB", "--set", "ram=560GiB",
                          KEXEC_SIM_SOURCE_DIR "/scenarios/vm/vm-live-update.yaml"},
                         &state.counters["resident_MiB"].value))
            state.SkipWithError("the run failed");
    bench::set_target_ns(state, 2e9);
}
BENCHMARK(run_of_large_guests)
    ->Name("live update of two guests of 256 GiB")
    ->Iterations(1)
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();

void run_of_small_guests(benchmark::State& state) {
    for (auto _ : state)
        if (!run_program({KEXEC_SIM_PROGRAM, "run", KEXEC_SIM_SOURCE_DIR "/scenarios/vm/vm-live-update.yaml"}))
            state.SkipWithError("the run failed");
}
BENCHMARK(run_of_small_guests)
    ->Name("reference:live update of two guests of 256 GiB")
    ->Iterations(1)
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();

/// A process that does nothing.
void run_of_nothing(benchmark::State& state) {
    for (auto _ : state)
        if (!run_program({"/bin/true"})) state.SkipWithError("the run failed");
}
BENCHMARK(run_of_nothing)
    ->Name("reference:kexec-sim run of the small update")
    ->Iterations(20)
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();

}  // namespace
