// The DMA engine: completions per second of the host's time, the event clock, routing, trace and referee included.
//
// Each iteration is one second of virtual time at one completion in a microsecond: 64 bytes from a page of RAM to
// another, by a circular ring of 512 descriptors. The engine sits behind a switch, so that every access passes three
// bridges. "Translated": the IOMMU walks tables of 4 KiB pages (and finds nearly all in its IOTLB), and the referee
// knows of the device's domain, as in a run. "Two engines": the other one writes to a device on another port meanwhile,
// half as often, so that half of the ticks take the way through the queue of events.
//
// Reference: the same memory traffic with nothing around it but a queue of events.
#include "tests/bench/table.hpp"

#include <queue>
#include <vector>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "machine/device/dma_nic.hpp"
#include "machine/device/p2p_gpu.hpp"
#include "machine/machine.hpp"

namespace {

using namespace kexec_sim;
using namespace kexec_sim::nic;

constexpr u64 second_ns = 1'000'000'000, interval_ns = 1'000;
constexpr u32 entries = 512;
constexpr u64 ring_at = 30 * MiB, source_at = 32 * MiB, destination_at = 34 * MiB;

PciDeviceConfig device(const char* name, const char* model, const char* behind) {
    PciDeviceConfig config;
    config.name = name;
    config.model = model;
    config.behind = behind;
    config.at.bdf = Bdf(0, 2 << 3);
    return config;
}

enum class Setting { bare, attached, translated, two_engines };

struct Bench {
    Bench(u32 bytes, Setting setting) {
        MachineConfig config;
        config.node_bytes = {64 * MiB};
        config.iommu = setting != Setting::bare;
        config.devices = {device("rp0", "root-port", ""), device("sw0", "switch", "rp0"),
                          device("nic0", "dma-nic", "sw0.0"), device("gpu0", "p2p-gpu", "sw0.1")};
        machine = make_machine(config);
        machine->trace.keep = false;
        machine->trace.attached = machine->referee.attached = setting != Setting::bare;
        machine->reset_devices();
        PciFunction& nic = *machine->pci.find("nic0");
        const PciAddress address{0, nic.requester_id()};
        machine->pci.config_write(address, pci::COMMAND, 2, pci::COMMAND_MEMORY | pci::COMMAND_MASTER);
        if (setting >= Setting::translated) translate(nic);
        registers = PhysAddr{nic.bar_address(registers_bar).value()};
        start(0, ring_at, destination_at, bytes, interval_ns);
        if (setting == Setting::two_engines) start(1, peer_ring_at, peer_iova, bytes, 2 * interval_ns);
    }
    /// One domain of 4 KiB pages: RAM at iova_offset, the GPU's memory at peer_iova; for the unit, and by intent. The
    /// port above sends requests for peers up to it.
    void translate(PciFunction& nic) {
        const PciAddress port{0, Bdf(machine->pci.find("sw0")->secondary_bus(), 0)};
        machine->pci.config_write(port, pci::acs_cap_at + pci::ACS_CTRL, 2, pci::ACS_RR);
        const PciFunction& gpu = *machine->pci.find("gpu0");
        const u64 root = page(), context = page(), top = page(), upper = page(), lower = page();
        const auto put = [&](u64 at, u64 value) { machine->ram.write(PhysAddr{at}, value); };
        constexpr u64 rights = vtd::PTE_READ | vtd::PTE_WRITE;
        put(root + nic.requester_id().bus() * u64{16}, context | 1);
        put(context + nic.devfn() * u64{16}, top | 1);
        put(context + nic.devfn() * u64{16} + 8, vtd::width_4_levels | 7 << 8);
        put(top, upper | rights);
        put(upper, lower | rights);
        const auto map = [&](u64 iova, u64 phys, u64 bytes) {
            u64 table = 0;
            for (u64 at = 0; at < bytes; at += page_bytes) {
                if (at % (512 * page_bytes) == 0) put(lower + ((iova + at) >> 21) * 8, (table = page()) | rights);
                put(table + ((iova + at) >> page_shift) % 512 * 8, (phys + at) | rights);
            }
        };
        map(iova_offset + ring_at, ring_at, 6 * MiB);
        map(peer_iova, gpu.bar_address(gpu::memory_bar).value(), gpu::memory_bytes);
        Iommu& unit = *machine->iommu_of(0);
        unit.write_register(vtd::RTADDR, 8, root);
        unit.write_register(vtd::GCMD, 4, vtd::SRTP);
        unit.write_register(vtd::GCMD, 4, vtd::TE);
        DeviceReferee& referee = machine->device_referee;
        const PfnRange frames = pfn_range(PhysAddr{ring_at}.pfn(), 6 * MiB / page_bytes);
        referee.domain_mapped(1, iova_offset + ring_at, std::span(&frames, 1));
        referee.domain_mapped_peer(1, peer_iova, gpu::memory_bytes, gpu);
        referee.domain_attached(1, nic);
        offset = iova_offset;
    }
    /// A ring at `ring` whose descriptors write to pages from `destination` on (below peer_iova: in RAM).
    void start(unsigned engine, u64 ring, u64 destination, u32 bytes, u64 interval) {
        const bool to_peer = destination >= peer_iova;
        const u64 to = to_peer ? destination : destination + offset;
        const u64 stride = to_peer ? gpu::memory_bytes / entries : page_bytes;
        for (u32 slot = 0; slot < entries; ++slot)
            machine->ram.write(
                PhysAddr{ring + slot * sizeof(Descriptor)},
                Descriptor{offset + source_at + slot * page_bytes, to + slot * stride, bytes, DESC_OWNER, slot});
        const PhysAddr at = registers + engine * engine_stride;
        machine->mmio_write(at + RING_BASE, 8, offset + ring);
        machine->mmio_write(at + RING_ENTRIES, 4, entries);
        machine->mmio_write(at + INTERVAL, 4, interval);
        machine->mmio_write(at + CONTROL, 4, CONTROL_ENABLE | CONTROL_CIRCULAR);
    }
    u64 page() { return next += page_bytes; }
    u64 completed(unsigned engine) { return machine->mmio_read(registers + engine * engine_stride + COMPLETED, 8); }

    static constexpr u64 iova_offset = 256 * MiB, peer_iova = 512 * MiB, peer_ring_at = ring_at + 16 * KiB;
    MachineHandle machine;
    PhysAddr registers;
    u64 offset = 0, next = MiB;
};

void completions(benchmark::State& state, u32 bytes, Setting setting) {
    Bench bench(bytes, setting);
    for (auto _ : state) bench.machine->clock.advance(second_ns);
    const u64 due = static_cast<u64>(state.iterations()) * (second_ns / interval_ns);
    const bool two = setting == Setting::two_engines;
    if (bench.completed(0) != due || bench.completed(1) != (two ? due / 2 : 0))
        state.SkipWithError("completions are missing");
    if (setting >= Setting::translated) {
        if (!bench.machine->referee.findings().empty()) state.SkipWithError("the referee has findings");
        const Iommu::Counters& counters = bench.machine->iommu_of(0)->counters;
        state.counters["IOTLB_hits_percent"] = 100.0 * static_cast<double>(counters.iotlb_hits) /
                                               static_cast<double>(counters.iotlb_hits + counters.iotlb_misses);
    }
    state.SetItemsProcessed(static_cast<i64>(bench.completed(0) + bench.completed(1)));
    if (bytes == 64 && !two) bench::set_target_ns(state, 200);
}
void attached_64(benchmark::State& state) { completions(state, 64, Setting::attached); }
void translated_64(benchmark::State& state) { completions(state, 64, Setting::translated); }
void two_engines_64(benchmark::State& state) { completions(state, 64, Setting::two_engines); }
void detached_64(benchmark::State& state) { completions(state, 64, Setting::bare); }
void attached_1500(benchmark::State& state) { completions(state, 1500, Setting::attached); }
BENCHMARK(attached_64)->Name("DMA completion of 64 bytes, attached")->Iterations(3);
BENCHMARK(translated_64)->Name("DMA completion of 64 bytes, translated")->Iterations(3);
BENCHMARK(two_engines_64)->Name("DMA completion of 64 bytes, two engines")->Iterations(3);
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
BENCHMARK(plain_64)->Name("reference:DMA completion of 64 bytes, translated")->Iterations(3);
BENCHMARK(plain_64)->Name("reference:DMA completion of 64 bytes, two engines")->Iterations(3);
BENCHMARK(plain_64)->Name("reference:DMA completion of 64 bytes, detached")->Iterations(3);
BENCHMARK(plain_1500)->Name("reference:DMA completion of 1500 bytes, attached")->Iterations(3);

}  // namespace
