// expect.* and mark: what the bench knows, compared with what the instruments counted.
#include <fmt/format.h>

#include "sim/device_counters.hpp"
#include "sim/steps.hpp"

namespace kexec_sim::sim {
namespace {

/// The counters of the JSON result, by name: those of the last jump; frames in use and those of devices: now.
std::optional<u64> counter(const Machine& machine, const RunState& state, std::string_view name) {
    if (name == "kho.preserved_folios") return state.preserved_folios;
    if (name == "kho.preserved_bytes") return state.preserved_bytes;
    if (name == "kho.overhead_pages") return state.overhead_pages;
    if (name == "kho.map_pages") return state.map_pages;
    if (name == "luo.files") return state.luo_files;
    if (name == "mm.frames_in_use") return machine.referee.frames_in_use();
    const DeviceCounters devices = device_counters(machine);
    for (const DeviceCounterName& device : device_counter_names)
        if (name == device.name) return devices.*device.value;
    return std::nullopt;
}

StepResult expect_counter(const Machine& machine, const RunState& state, const Step& step) {
    const std::string& name = step.get_text("name");
    const auto value = counter(machine, state, name);
    if (!value) return StepResult::mismatch(fmt::format("there is no counter '{}'", name));
    const auto differs = [&](std::string_view relation, u64 bound) {
        return StepResult::mismatch(fmt::format("{} is {}, expected {} {}", name, *value, relation, bound));
    };
    if (const auto bound = step.find_u64("eq"); bound && *value != *bound) return differs("=", *bound);
    if (const auto bound = step.find_u64("le"); bound && *value > *bound) return differs("<=", *bound);
    if (const auto bound = step.find_u64("ge"); bound && *value < *bound) return differs(">=", *bound);
    return {};
}

}  // namespace

StepResult check_last_map(const RunState& state, const Step& step) {
    if (!state.map_known) return Errno::enoent;
    kho::MapStatistics map;
    map.folios = state.map_folios;
    map.bytes = state.map_bytes;
    for (unsigned order = 0; order < state.map_orders.size(); ++order)
        if (state.map_orders[order]) map.orders[order] = state.map_orders[order];
    return compare_map(map, step);
}

StepResult run_check_step(Machine& machine, RunState& state, const LogLines& log, const Step& step) {
    if (step.id == StepId::mark) {
        const MachineEntry entry;
        auto& marks = state.marks;
        marks[std::pmr::string(step.get_text(step.spec->fields.front().name), marks.get_allocator().resource())] =
            machine.referee.frames_in_use();
        return {};
    }
    if (step.id == StepId::expect_log) {
        const std::string& text = step.get_text(step.spec->fields.front().name);
        for (const auto& [generation, line] : log)
            if (generation == machine.generation && line.find(text) != std::string::npos) return {};
        return StepResult::mismatch(fmt::format("no line of the running kernel's log holds \"{}\"", text));
    }
    if (step.id == StepId::expect_counter) return expect_counter(machine, state, step);
    if (step.id == StepId::expect_frames) {
        const u64 found = machine.referee.frames_of(step.get_text("owner"));
        if (found == step.get_u64("count")) return {};
        return StepResult::mismatch(fmt::format("{} frames belong to '{}', expected {}", found,
                                                step.get_text("owner"), step.get_u64("count")));
    }
    INVARIANT(step.id == StepId::expect_memory_in_use);
    const auto mark = state.marks.find(std::string_view(step.get_text("same_as")));
    if (mark == state.marks.end())
        return StepResult::mismatch(fmt::format("no mark '{}' was set in this run", step.get_text("same_as")));
    const u64 now = machine.referee.frames_in_use();
    if (now == mark->second) return {};
    return StepResult::mismatch(
        fmt::format("{} frames in use, {} at mark '{}'", now, mark->second, step.get_text("same_as")));
}

}  // namespace kexec_sim::sim
