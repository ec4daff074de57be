// Events made by hand, for the tests of what shows them.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "machine/trace.hpp"

namespace kexec_sim::sim {

inline TraceEvent make_event(u64 time_ns, Generation generation, Layer layer, std::string_view name,
                             std::initializer_list<TraceField> fields, Phase phase = Phase::instant) {
    TraceEvent event;
    event.time_ns = time_ns;
    event.generation = generation;
    event.layer = layer;
    event.phase = phase;
    event.name = name;
    for (const TraceField& field : fields)
        event.fields.push_back({std::string(field.key), field.type, field.number, std::string(field.text)});
    return event;
}

/// A live update as the layers report it: two kernels, one subsystem, one file.
inline std::vector<TraceEvent> small_update(std::string_view outcome = "pass") {
    const u64 ms = 1'000'000;
    const auto step = [](u64 time_ns, Generation generation, u32 index, std::string_view text,
                         std::string_view expected = "ok") {
        return make_event(time_ns, generation, Layer::sim, "step",
                          {{"index", index},
                           {"line", i64{index} + 10},
                           {"text", text},
                           {"expected", expected},
                           {"note", "a reason"}},
                          Phase::begin);
    };
    const auto step_end = [](u64 time_ns, Generation generation, u32 index, std::string_view result = "ok",
                             std::string_view step_outcome = "pass") {
        return make_event(time_ns, generation, Layer::sim, "step",
                          {{"index", index}, {"result", result}, {"detail", ""}, {"outcome", step_outcome}},
                          Phase::end);
    };
    std::vector<TraceEvent> events{
        make_event(0, 0, Layer::sim, "run.begin",
                   {{"scenario", "small"},
                    {"summary", "A file survives."},
                    {"seed", u64{1}},
                    {"memory", GiB},
                    {"nodes", u64{1}}}),
        make_event(0, 0, Layer::sim, "generation", {{"index", u32{0}}, {"profile", "luo-v3"}, {"release", "6.16.0"}}),
        make_event(0, 0, Layer::kernel, "kernel.boot", {{"profile", "luo-v3"}, {"release", "6.16.0"}}),
        make_event(0, 0, Layer::kernel, "kernel.log", {{"level", u32{6}}, {"text", "Linux version 6.16.0"}}),
        make_event(27 * ms, 0, Layer::kernel, "kernel.user_space", {{"release", "6.16.0"}}),
        step(27 * ms, 0, 0, "luo.preserve: {fd: guest, token: 0x1001}"),
        step_end(27 * ms + 1000, 0, 0),
        step(27 * ms + 1000, 0, 1, "luo.prepare"),
        make_event(27 * ms + 2000, 0, Layer::luo, "luo.subsystem.prepare",
                   {{"subsystem", "iommu"}, hex_field("data", 0)}, Phase::begin),
        make_event(27 * ms + 2000, 0, Layer::luo, "luo.subsystem.prepare",
                   {{"subsystem", "iommu"}, hex_field("data", 0), {"result", i32{0}}}, Phase::end),
    };
    for (u64 i = 0; i < 5; ++i)
        events.push_back(make_event(27 * ms + 2000, 0, Layer::kho, "kho.preserve",
                                    {hex_field("phys", 0x10000000 + i * 0x400000),
                                     {"order", Order{9}},
                                     {"count", u64{1}},
                                     {"who", "memfd-v1"}}));
    const std::vector<TraceEvent> rest{
        make_event(27 * ms + 2000, 0, Layer::luo, "luo.state", {{"from", "normal"}, {"to", "prepared"}}),
        step_end(27 * ms + 2000, 0, 1),
        step(28 * ms, 0, 2, "memfd.truncate: {fd: guest, size: 16MiB}", "EPERM"),
        step_end(28 * ms, 0, 2, "EPERM"),
        step(28 * ms, 0, 3, "kexec"),
        make_event(28 * ms, 0, Layer::kernel, "kernel.blackout", {}),
        make_event(30 * ms, 0, Layer::kernel, "kernel.shutdown", {}),
        make_event(35 * ms, 0, Layer::kernel, "kernel.relocation", {}),
        make_event(40 * ms, 0, Layer::machine, "kexec.jump", {{"handover", u64{1}}, {"entry", PhysAddr{0x1000}}}),
        make_event(40 * ms, 0, Layer::sim, "kernel.end", {{"how", "kexec"}}),
        make_event(40 * ms, 1, Layer::sim, "generation",
                   {{"index", u32{1}}, {"profile", "luo-v3"}, {"release", "6.17.0"}}),
        make_event(40 * ms, 1, Layer::kernel, "kernel.log",
                   {{"level", u32{6}}, {"text", "KHO: found kexec handover data"}}),
        make_event(67 * ms, 1, Layer::kernel, "kernel.user_space", {{"release", "6.17.0"}}),
        step_end(67 * ms, 1, 3),
    };
    events.insert(events.end(), rest.begin(), rest.end());
    if (outcome == "fail") {
        const char* message = "guest was 0xaa at the jump, it is 0x00 at restore";
        events.push_back(make_event(68 * ms, 1, Layer::machine, "referee.finding",
                                    {{"invariant", "frame.intact"},
                                     {"message", message},
                                     {"resource", "file 0x1001"},
                                     {"frames", u64{2}},
                                     hex_field("first_frame", 0x10400)}));
        events.push_back(make_event(68 * ms, 1, Layer::sim, "run.failure",
                                    {{"text", std::string("finding frame.intact: ") + message}}));
    }
    events.push_back(make_event(68 * ms, 1, Layer::sim, "run.end",
                                {{"outcome", outcome},
                                 {"blackout", 39 * ms},
                                 {"folios", u64{5}},
                                 {"bytes", 10 * MiB},
                                 {"map_pages", u64{3}},
                                 {"stopped", u64{0}}}));
    return events;
}

inline TraceEvent config_write(std::string_view device, u64 offset) {
    return make_event(0, 0, Layer::machine, "pci.config_write",
                      {{"device", device},
                       {"address", device == "nic0" ? "0000:03:00.0" : "0000:04:00.0"},
                       hex_field("offset", offset),
                       hex_field("old", 0),
                       hex_field("new", 1)});
}

/// Two guests and a NIC that completes something every 10 µs, over a live update.
inline std::vector<TraceEvent> guest_update() {
    const u64 ms = 1'000'000, us = 1000;
    std::vector<TraceEvent> events;
    const auto add = [&](u64 time_ns, Generation generation, Layer layer, std::string_view name,
                         std::initializer_list<TraceField> fields, Phase phase = Phase::instant) {
        events.push_back(make_event(time_ns, generation, layer, name, fields, phase));
    };
    u32 steps = 0;
    const auto begin_step = [&](u64 time_ns, Generation generation, std::string_view text) {
        add(time_ns, generation, Layer::sim, "step",
            {{"index", steps}, {"line", i64{1}}, {"text", text}, {"expected", "ok"}, {"note", ""}}, Phase::begin);
    };
    const auto end_step = [&](u64 time_ns, Generation generation) {
        add(time_ns, generation, Layer::sim, "step",
            {{"index", steps++}, {"result", "ok"}, {"detail", ""}, {"outcome", "pass"}}, Phase::end);
    };
    // The first tick is at 27.055 ms.
    const auto ticks = [&](u64 time_ns, Generation generation, u64 first, u64 count) {
        const u64 first_ns = 27 * ms + 55 * us + first * 10 * us;
        add(time_ns, generation, Layer::machine, "dma.completions",
            {{"device", "nic0"},
             {"first_sequence", first},
             {"count", count},
             {"first_ns", first_ns},
             {"last_ns", first_ns + (count - 1) * 10 * us}});
    };
    const auto guest = [&](u64 time_ns, Generation generation, std::string_view name, std::string_view vm,
                           std::string_view by) {
        add(time_ns, generation, Layer::sim, name, {{"vm", vm}, {"by", by}});
    };
    add(0, 0, Layer::sim, "run.begin",
        {{"scenario", "guests"}, {"summary", ""}, {"seed", u64{1}}, {"memory", GiB}, {"nodes", u64{1}}});
    add(0, 0, Layer::sim, "generation", {{"index", u32{0}}, {"profile", "luo-v3"}, {"release", "6.16.0"}});
    add(27 * ms, 0, Layer::kernel, "kernel.user_space", {{"release", "6.16.0"}});
    begin_step(27 * ms + 44 * us, 0, "nic.start: {device: nic0}");
    add(27 * ms + 45 * us, 0, Layer::machine, "dma.start",
        {{"device", "nic0"},
         hex_field("ring_base", 0x2000),
         {"entries", u64{64}},
         {"interval_ns", 10 * us},
         {"circular", u32{1}},
         {"first_sequence", u64{0}}});
    end_step(27 * ms + 45 * us, 0);
    begin_step(27 * ms + 45 * us, 0, "vm.run: 2ms");
    ticks(28 * ms, 0, 0, 90);
    ticks(29 * ms + 46 * us, 0, 90, 110);
    add(29 * ms + 46 * us, 0, Layer::sim, "vm.run", {{"vm", "web"}, {"steps", u64{4000}}});
    add(29 * ms + 46 * us, 0, Layer::sim, "vm.run", {{"vm", "render"}, {"steps", u64{2000}}});
    end_step(29 * ms + 46 * us, 0);
    begin_step(30 * ms + 50 * us, 0, "kexec");
    ticks(30 * ms + 51 * us, 0, 200, 100);
    add(30 * ms + 51 * us, 0, Layer::kernel, "kernel.blackout", {});
    guest(30 * ms + 51 * us, 0, "vm.pause", "render", "kexec");
    guest(30 * ms + 52 * us, 0, "vm.pause", "web", "kexec");
    add(30 * ms + 53 * us, 0, Layer::kernel, "kernel.reboot", {});
    ticks(32 * ms + 53 * us, 0, 300, 200);
    add(32 * ms + 53 * us, 0, Layer::kernel, "kernel.shutdown", {});
    ticks(37 * ms + 53 * us, 0, 500, 500);
    add(37 * ms + 53 * us, 0, Layer::kernel, "kernel.relocation", {});
    ticks(42 * ms + 53 * us, 0, 1000, 500);
    add(42 * ms + 53 * us, 0, Layer::machine, "kexec.jump", {{"handover", u64{1}}, {"entry", PhysAddr{0x1000}}});
    add(42 * ms + 53 * us, 0, Layer::sim, "kernel.end", {{"how", "kexec"}});
    add(42 * ms + 53 * us, 1, Layer::sim, "generation",
        {{"index", u32{1}}, {"profile", "luo-v3"}, {"release", "6.17.0"}});
    ticks(52 * ms, 1, 1500, 1000);
    ticks(71 * ms + 53 * us, 1, 2500, 1900);
    add(71 * ms + 53 * us, 1, Layer::kernel, "kernel.user_space", {{"release", "6.17.0"}});
    end_step(71 * ms + 53 * us, 1);
    begin_step(71 * ms + 54 * us, 1, "vm.restore: {vm: render, tokens: 0x200}");
    ticks(71 * ms + 55 * us, 1, 4400, 1);
    guest(71 * ms + 56 * us, 1, "vm.resume", "render", "restore");
    end_step(71 * ms + 56 * us, 1);
    begin_step(71 * ms + 56 * us, 1, "vm.restore: {vm: web, tokens: 0x100}");
    guest(71 * ms + 58 * us, 1, "vm.resume", "web", "restore");
    end_step(71 * ms + 58 * us, 1);
    begin_step(71 * ms + 58 * us, 1, "advance: 2ms");
    ticks(73 * ms + 59 * us, 1, 4401, 200);
    end_step(73 * ms + 59 * us, 1);
    add(74 * ms, 1, Layer::sim, "run.end", {{"outcome", "pass"}, {"blackout", 41 * ms + 7 * us}});
    return events;
}

}  // namespace kexec_sim::sim
