// The DMA engine: completions per second of the host's time, the event clock, routing, trace and referee included.
//
// Each iteration is one second of virtual time at one completion in a microsecond: 64 bytes from a page of RAM to
// another, by a circular ring of 512 descriptors. The engine sits behind a switch, so that every access passes three
// bridges.
//
// Reference: the same memory traffic with nothing around it but a queue of events.
#include "tests/bench/table.hpp"

#include <queue>
#include <vector>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "machine/device/dma_engine.hpp"
#include "machine/machine.hpp"

namespace {

using namespace kexec_sim;
using namespace kexec_sim::nic;

constexpr u64 second_ns = 1'000'000'000, interval_ns = 1'000;
constexpr u32 entries = 512;
constexpr u64 ring_at = 16 * MiB, source_at = 32 * MiB, destination_at = 48 * MiB;

PciDeviceConfig device(const char* name, const char* model, const char* behind) {
    PciDeviceConfig config;
    config.name = name;
    config.model = model;
    config.behind = behind;
    config.at.bdf = Bdf(0, 2 << 3);
    return config;
}

struct Bench {
    Bench(u32 bytes, bool attached, bool iommu) {
        MachineConfig config;
        config.node_bytes = {64 * MiB};
        config.iommu = iommu;
        config.devices = {device("rp0", "root-port", ""), device("sw0", "switch", "rp0"),
                          device("nic0", "dma-nic", "sw0.0")};
        machine = make_machine(config);
        machine->trace.keep = false;
        machine->trace.attached = machine->referee.attached = attached;
        machine->reset_devices();
        for (u32 slot = 0; slot < entries; ++slot)
            machine->ram.write(PhysAddr{ring_at + slot * sizeof(Descriptor)},
                               Descriptor{source_at + slot * page_bytes, destination_at + slot * page_bytes, bytes,
                                          DESC_OWNER, slot});
        PciFunction& nic = *machine->pci.find("nic0");
        const PciAddress address{0, nic.requester_id()};
        machine->pci.config_write(address, pci::COMMAND, 2, pci::COMMAND_MEMORY | pci::COMMAND_MASTER);
        registers = PhysAddr{nic.bar_address(registers_bar).value()};
        machine->mmio_write(registers + RING_BASE, 8, ring_at);
        machine->mmio_write(registers + RING_ENTRIES, 4, entries);
        machine->mmio_write(registers + INTERVAL, 4, interval_ns);
        machine->mmio_write(registers + CONTROL, 4, CONTROL_ENABLE | CONTROL_CIRCULAR);
    }
    u64 completed() { return machine->mmio_read(registers + COMPLETED, 8); }
    MachineHandle machine;
    PhysAddr registers;
};

void completions(benchmark::State& state, u32 bytes, bool attached, bool iommu) {
    Bench bench(bytes, attached, iommu);
    for (auto _ : state) bench.machine->clock.advance(second_ns);
    if (bench.completed() != static_cast<u64>(state.iterations()) * (second_ns / interval_ns))
        state.SkipWithError("completions are missing");
    state.SetItemsProcessed(static_cast<i64>(bench.completed()));
    if (bytes == 64) bench::set_target_ns(state, 200);
}
void attached_64(benchmark::State& state) { completions(state, 64, true, true); }
void detached_64(benchmark::State& state) { completions(state, 64, false, false); }
void attached_1500(benchmark::State& state) { completions(state, 1500, true, true); }
BENCHMARK(attached_64)->Name("DMA completion of 64 bytes, attached")->Iterations(3);
BENCHMARK(detached_64)->Name("DMA completion of 64 bytes, detached")->Iterations(3);
BENCHMARK(attached_1500)->Name("DMA completion of 1500 bytes, attached")->Iterations(3);

// --- reference -----------------------------------------------------------------------------------------------------

void plain(benchmark::State& state, u32 bytes) {
    std::vector<std::byte> ram(64 * MiB);
    for (u32 slot = 0; slot < entries; ++slot) {
        const Descriptor descriptor{source_at + slot * page_bytes, destination_at + slot * page_bytes, bytes,
                                    DESC_OWNER, slot};
        std::memcpy(&ram[ring_at + slot * sizeof(Descriptor)], &descriptor, sizeof descriptor);
    }
    std::priority_queue<u64, std::vector<u64>, std::greater<>> due;
    u64 sequence = 0, end = 0;
    due.push(interval_ns);
    for (auto _ : state) {
        for (end += second_ns; due.top() <= end;) {
            const u64 now = due.top();
            due.pop();
            std::byte* at = &ram[ring_at + sequence % entries * sizeof(Descriptor)];
            Descriptor descriptor;
            std::memcpy(&descriptor, at, sizeof descriptor);
            const u64 trailer[] = {descriptor.cookie ^ sequence++, XXH3_64bits(&ram[descriptor.src], descriptor.len)};
            std::memcpy(&ram[descriptor.dst + descriptor.len - sizeof trailer], trailer, sizeof trailer);
            descriptor.flags |= DESC_DONE;
            std::memcpy(at, &descriptor, sizeof descriptor);
            due.push(now + interval_ns);
        }
        benchmark::ClobberMemory();
    }
    state.SetItemsProcessed(static_cast<i64>(sequence));
}
void plain_64(benchmark::State& state) { plain(state, 64); }
void plain_1500(benchmark::State& state) { plain(state, 1500); }
BENCHMARK(plain_64)->Name("reference:DMA completion of 64 bytes, attached")->Iterations(3);
BENCHMARK(plain_64)->Name("reference:DMA completion of 64 bytes, detached")->Iterations(3);
BENCHMARK(plain_1500)->Name("reference:DMA completion of 1500 bytes, attached")->Iterations(3);

}  // namespace
