// What a run remembers beside the machine, over kexecs and process borders.
//
// The supervisor and the process of the running kernel share it: it lies in the machine's arena. It holds what the
// *bench* knows (a test's notes: where an object was, of what order, how it was filled), never anything of a kernel.
//
//   bench objects   name -> physical address, order, fill; stay over a kexec
//   marks           name -> frames in use at that step
//   subsystems      names of the scripted subsystems that were registered at the last jump (for the epilogue)
//   mailbox         the outcome of the step that a kernel process has just run
#pragma once

#include <array>
#include <map>
#include <memory_resource>
#include <set>
#include <string>
#include <vector>

#include "machine/machine.hpp"
#include "sim/values.hpp"

namespace kexec_sim::sim {

struct BenchObject {
    enum class Kind : u8 { none, folio, pages, vmalloc, reserve_mem, subtree };
    Kind kind = Kind::none;
    u64 phys =
        0;  // folio, pages, reserve_mem, subtree: first byte; vmalloc: its descriptor's first chunk, if preserved
    u64 count = 0;  // pages
    u8 order = 0;   // folio, vmalloc
    u64 bytes = 0;
    u8 fill_kind = 0;  // Fill::Kind: zero, byte or pattern
    u64 fill_value = 0;
    u64 vmalloc_address = 0;  // of the running generation; 0 after a jump
    u32 vmalloc_pages = 0;    // descriptor's total_pages
    u16 vmalloc_flags = 0, vmalloc_order = 0;
    Generation generation = 0;  // that made it, or restored it last
    bool preserved = false;

    Fill fill() const { return {static_cast<Fill::Kind>(fill_kind), fill_value, {}}; }
};

/// How a step, or a boot, ended for the supervisor.
enum class OutcomeKind : u8 {
    result,  // `text`: ok, an errno, mismatch, deadlock, …
    jump,    // the kernel has gone through its reboot path: boot the next one
    panic,   // the kernel is dead; `detail` says why
    power_loss,
    user_error,  // `detail` is the whole line: exit 2
    bug,         // exit 3
};

struct Mailbox {
    OutcomeKind kind = OutcomeKind::result;
    std::pmr::string text, detail;
    explicit Mailbox(std::pmr::memory_resource* memory) : text(memory), detail(memory) {}
};

struct RunState {
    explicit RunState(std::pmr::memory_resource* memory)
        : mailbox(memory),
          bench(memory),
          marks(memory),
          subsystems(memory),
          agent("main", memory),
          blackouts_ns(memory),
          kernel_index_by_generation(memory) {}

    Mailbox mailbox;
    std::pmr::map<std::pmr::string, BenchObject, std::less<>> bench;
    std::pmr::map<std::pmr::string, u64, std::less<>> marks;
    std::pmr::vector<std::pmr::string> subsystems;
    std::pmr::string agent;  // the one that makes the calls
    std::pmr::vector<u64> blackouts_ns;
    std::pmr::vector<u32> kernel_index_by_generation;  // entry of `kernels` that each generation booted

    /// Of the running kernel, filled in by its process.
    u64 boot_params_begin = 0, boot_params_bytes = 0;  // of the image that is about to start, at a jump
    u32 next_kernel_index = 0;
    u64 crash_begin = 0, crash_end = 0;
    bool blackout_running = false;
    u64 blackout_start_ns = 0;
    u32 last_step = 0;             // of the script, that was begun
    bool guests_run = false;       // the running kernel has virtual machines: time passes inside it
    bool own_process = false;      // the running kernel has a process of its own (never in the trace)
    bool handover_passed = false;  // a setup_data entry of KHO went over

    /// Counters of the last jump.
    u64 map_pages = 0, preserved_folios = 0, preserved_bytes = 0, overhead_pages = 0, luo_files = 0;

    /// The map as last serialized (kho.expect_map on a dead machine).
    bool map_known = false;
    u64 map_folios = 0, map_bytes = 0;
    std::array<u64, 64> map_orders{};

    /// Where a fatal signal hit the kernel process (written by its signal handler).
    u64 fault_address = 0;
    int fault_signal = 0;
    bool no_room = false;  // SIGBUS in RAM: the host could not back it

    BenchObject* find_bench(std::string_view name) {
        const auto at = bench.find(name);
        return at == bench.end() ? nullptr : &at->second;
    }
    BenchObject& bind_bench(std::string_view name, const BenchObject& object) {
        const MachineEntry entry;
        return bench[std::pmr::string(name, bench.get_allocator().resource())] = object;
    }
};

}  // namespace kexec_sim::sim
