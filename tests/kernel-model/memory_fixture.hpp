// A page allocator on a small machine, and a generator for random tests.
#pragma once

#include <catch2/catch.hpp>
#include <vector>

#include "kernel-model/page_alloc.hpp"

namespace kexec_sim::test {

/// Numbers that are the same on every host: splitmix64.
class Random {
public:
    explicit Random(u64 seed) : state_(seed) {}
    u64 next() {
        u64 z = state_ += 0x9e37'79b9'7f4a'7c15;
        z = (z ^ (z >> 30)) * 0xbf58'476d'1ce4'e5b9;
        z = (z ^ (z >> 27)) * 0x94d0'49bb'1331'11eb;
        return z ^ (z >> 31);
    }
    u64 below(u64 bound) { return next() % bound; }
    bool one_in(u64 odds) { return below(odds) == 0; }

private:
    u64 state_;
};

/// A machine whose kernel is nothing but a page allocator: RAM from 1 MiB on, all of it released.
///
///   frame  0x100                                  nodes follow one another
///          |    node 0     |    node 1     | …
class MemoryFixture {
public:
    explicit MemoryFixture(std::vector<u64> node_bytes = {64 * MiB}, bool release = true)
        : machine(make_machine(config_of(std::move(node_bytes)))),
          log(*machine),
          pages(*machine, log) {
        machine->referee.kernel_boots(0, {});
        for (const NodeRange& node : machine->nodes)
            for (const MemoryMapEntry& entry : machine->memory_map) {
                const Pfn begin = std::max({node.range.begin, entry.range.begin, PhysAddr{MiB}}).pfn();
                const Pfn end = std::min(node.range.end, entry.range.end).pfn();
                if (entry.type != MemoryType::ram || begin >= end) continue;
                pages.add_memory({begin, end}, node.nid);
                if (release) pages.release_from_boot({begin, end});
                ram.push_back({begin, end});
            }
    }
    ~MemoryFixture() {
        pages.check_sane(true);
        if (!insane_expected) CHECK(findings() == std::vector<std::string>{});
    }

    std::vector<std::string> findings() const {
        std::vector<std::string> result;
        for (const Finding& finding : machine->referee.findings()) result.push_back(finding.message);
        return result;
    }
    void plan(std::string_view text) {
        const std::vector<PlannedFault> faults{parse_fault(text).value()};
        machine->faults.set_plan(faults);
    }
    /// Everything that a failed call must leave as it was: metadata and buddy blocks, frame by frame.
    std::vector<std::tuple<u64, u64, PageState, i32, u32>> state() const {
        std::vector<std::tuple<u64, u64, PageState, i32, u32>> result;
        for (const PfnRange& range : ram)
            for (Pfn at = range.begin; at < range.end;) {
                const PageMap::Block block = pages.block(at);
                result.emplace_back(block.head.raw, block.meta.order.raw, block.meta.state, block.meta.refcount,
                                    block.meta.pins);
                at = block.head + block.meta.order.pages();
            }
        return result;
    }
    static AllocRequest request(unsigned order, bool movable = false) {
        AllocRequest request;
        request.order = Order{order};
        request.site = "test.site";
        request.movable = movable;
        return request;
    }

    MachineHandle machine;
    KernelLog log;
    PageAllocator pages;
    std::vector<PfnRange> ram;
    bool insane_expected = false;

private:
    static MachineConfig config_of(std::vector<u64> node_bytes) {
        MachineConfig config;
        config.node_bytes = std::move(node_bytes);
        return config;
    }
};

}  // namespace kexec_sim::test
