// A machine of 64 MiB with an IOMMU whose tables a test builds by hand.
//
//   1 MiB      root table, then whatever `page()` hands out: context tables, page tables
//   8 MiB      what tests map
#pragma once

#include <string>

#include "machine/machine.hpp"
#include "tests/support/machine_look.hpp"

namespace kexec_sim::test {

inline constexpr u64 all_rights = vtd::PTE_READ | vtd::PTE_WRITE;

struct IommuWorld {
    explicit IommuWorld(bool never_evicts = false, const std::string& plan = {}) {
        MachineConfig config;
        config.node_bytes = {64 * MiB};
        machine = make_machine(config);
        unit = machine->arena->make<Iommu>(*machine, 0u, PhysAddr{vtd::register_base}, never_evicts, machine->arena);
        machine->iommus.push_back(unit);
        if (!plan.empty()) {
            const PlannedFault fault = parse_fault(plan).value();
            machine->faults.set_plan(std::span(&fault, 1));
        }
    }

    PhysAddr page() {
        const PhysAddr result{next};
        next += page_bytes;
        return result;
    }
    u64 word(PhysAddr at) { return machine->ram.read<u64>(at); }
    void put(PhysAddr at, u64 value) { machine->ram.write(at, value); }

    // --- tables ---
    void use_root(PhysAddr at) {
        root = at;
        unit->write_register(vtd::RTADDR, 8, at.raw);
        unit->write_register(vtd::GCMD, 4, states() | vtd::SRTP);
    }
    PhysAddr context_table(u8 bus) {
        const PhysAddr entry = root + bus * u64{16};
        if (!(word(entry) & 1)) put(entry, page().raw | 1);
        return PhysAddr{word(entry) & ~u64{0xfff}};
    }
    void set_context(Bdf source, vtd::ContextEntry entry) {
        const PhysAddr at = context_table(source.bus()) + source.devfn() * u64{16};
        put(at, entry.low);
        put(at + 8, entry.high);
    }
    /// The place of the entry of `level` for an IOVA, with the tables above it made.
    PhysAddr entry_at(PhysAddr top, u64 iova, unsigned level, unsigned levels = 4) {
        PhysAddr table = top;
        for (unsigned here = levels;; --here) {
            const PhysAddr at = table + (iova >> vtd::level_shift(here) & 511) * 8;
            if (here == level) return at;
            if (!(word(at) & all_rights)) put(at, page().raw | all_rights);
            table = PhysAddr{word(at) & vtd::PTE_ADDRESS};
        }
    }
    void map(PhysAddr top, u64 iova, u64 phys, u64 bits = all_rights, unsigned level = 1, unsigned levels = 4) {
        put(entry_at(top, iova, level, levels), phys | bits | (level > 1 ? vtd::PTE_LARGE : 0));
    }

    // --- commands ---
    u32 states() const {
        return static_cast<u32>(unit->read_register(vtd::GSTS, 4)) & (vtd::TE | vtd::QIE | vtd::IRE);
    }
    void command(u32 bits) { unit->write_register(vtd::GCMD, 4, states() | bits); }
    u32 status() { return static_cast<u32>(unit->read_register(vtd::GSTS, 4)); }
    u32 fault_status() { return static_cast<u32>(unit->read_register(vtd::FSTS, 4)); }
    u64 record_low(unsigned index) { return unit->read_register(vtd::FRCD + 16 * index, 8); }
    u64 record_high(unsigned index) { return unit->read_register(vtd::FRCD + 16 * index + 8, 8); }

    /// The invalidation queue, at 2 MiB.
    void start_queue() {
        unit->write_register(vtd::IQT, 8, 0);
        unit->write_register(vtd::IQA, 8, queue.raw);
        command(vtd::QIE);
    }
    void submit(u64 low, u64 high = 0) {
        const u64 tail = unit->read_register(vtd::IQT, 8);
        put(queue + tail, low);
        put(queue + tail + 8, high);
        unit->write_register(vtd::IQT, 8, (tail + vtd::QI_BYTES) % page_bytes);
    }

    std::vector<TraceEvent> events(std::string_view name) { return test::drained(*machine, name); }

    MachineHandle machine;
    Iommu* unit;
    u64 next = MiB;
    PhysAddr root, queue{2 * MiB};
};

/// The usual case: one device of domain 7, 8 MiB mapped at IOVA 0x10000, translation on.
struct MappedWorld : IommuWorld {
    explicit MappedWorld(bool never_evicts = false, const std::string& plan = {}) : IommuWorld(never_evicts, plan) {
        use_root(page());
        top = page();
        set_context(nic, vtd::ContextEntry::translated(top, vtd::width_4_levels, 7));
        map(top, iova, target);
        command(vtd::TE);
    }
    vtd::FaultReason fault_of(u64 at, bool write = false) { return unit->translate(nic, at, write).fault; }

    static constexpr Bdf nic{2, 8};
    static constexpr u64 iova = 0x10000, target = 8 * MiB;
    PhysAddr top;
};

}  // namespace kexec_sim::test
