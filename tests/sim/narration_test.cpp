#include <catch2/catch.hpp>

#include "sim/narration.hpp"
#include "tests/sim/trace_events.hpp"

using namespace kexec_sim;
using namespace kexec_sim::sim;

namespace {

std::string narrate(const std::vector<TraceEvent>& events, NarrationOptions options = {}) {
    std::string text;
    Narrator narrator([&](std::string_view piece) { text += piece; }, options, "kexec-sim run small.yaml --seed 1");
    for (const TraceEvent& event : events) narrator.event(event);
    narrator.finish();
    return text;
}

std::vector<std::string> lines_of(const std::string& text) {
    std::vector<std::string> lines;
    for (std::size_t at = 0; at < text.size();) {
        const std::size_t end = text.find('\n', at);
        lines.push_back(text.substr(at, end - at));
        at = end + 1;
    }
    return lines;
}

std::string line_with(const std::string& text, std::string_view piece) {
    for (const std::string& line : lines_of(text))
        if (line.find(piece) != std::string::npos) return line;
    return {};
}

}  // namespace

TEST_CASE("a narration fits 80 columns and sets generations apart") {
    const std::string text = narrate(small_update());
    for (const std::string& line : lines_of(text)) {
        INFO(line);
        CHECK(text_columns(line) <= terminal_columns);
    }
    CHECK(line_with(text, "generation 0").starts_with("══ generation 0 · luo-v3 6.16.0 ═"));
    CHECK(text_columns(line_with(text, "generation 1 · luo-v3 6.17.0")) == terminal_columns);
}

TEST_CASE("a step is one line with its time, text and result") {
    const std::string text = narrate(small_update());
    const std::string line = line_with(text, "luo.preserve:");
    CHECK(line.starts_with("   27.000 ms  luo.preserve: {fd: guest, token: 0x1001}"));
    CHECK(line.ends_with("✓"));
    CHECK(line_with(text, "memfd.truncate").ends_with("→ EPERM (expected)"));
    CHECK(text.find("because a reason") != std::string::npos);
}

TEST_CASE("a step in which a kernel ends is written in both generations") {
    const std::string text = narrate(small_update());
    CHECK(line_with(text, "ms  kexec").ends_with("…"));
    CHECK(line_with(text, "end of kexec").ends_with("✓"));
    CHECK(text.find("end of kexec") > text.find("generation 1"));
    CHECK(text.find("ms  kexec") < text.find("generation 1"));
}

TEST_CASE("callbacks carry their result, states both names, and ranges are folded after the third") {
    const std::string text = narrate(small_update());
    CHECK(line_with(text, "prepare  subsystem iommu").ends_with("✓"));
    CHECK(text.find("state  normal ──► prepared") != std::string::npos);
    CHECK(text.find("preserve  0x10000000–0x10200000  2 MiB  memfd-v1") != std::string::npos);
    CHECK(text.find("preserve  … and 2 more ranges: 2 folios, 4 MiB") != std::string::npos);
    CHECK(narrate(small_update(), {.verbose = true}).find("0x11000000–0x11200000") != std::string::npos);
}

TEST_CASE("log lines of KHO are shown with their stamp, others only when verbose") {
    CHECK(narrate(small_update()).find("[    0.040000] KHO: found kexec handover data") != std::string::npos);
    CHECK(narrate(small_update()).find("Linux version") == std::string::npos);
    CHECK(narrate(small_update(), {.verbose = true}).find("[    0.000000] Linux version") != std::string::npos);
}

TEST_CASE("the summary takes the blackout apart") {
    const std::string text = narrate(small_update());
    CHECK(text.find("39.000 ms = freeze 2 + shutdown 5 + relocation 5 + boot 27") != std::string::npos);
    CHECK(text.find("5 folios, 10 MiB; the map takes 3 pages") != std::string::npos);
    CHECK(text.find("small: passed") != std::string::npos);
}

TEST_CASE("quiet prints nothing of a run that passes and the failure of one that fails") {
    CHECK(narrate(small_update(), {.quiet = true}).empty());
    const std::string text = narrate(small_update("fail"), {.quiet = true});
    CHECK(text.find("luo.prepare") == std::string::npos);
    CHECK(text.find("small failed:") != std::string::npos);
    CHECK(text.ends_with("    kexec-sim run small.yaml --seed 1\n"));
}

TEST_CASE("a failure names the rule, the two facts and the last events that touched the resource") {
    const std::string text = narrate(small_update("fail"));
    CHECK(text.find("frame.intact (corruption) is violated in generation 1") != std::string::npos);
    CHECK(text.find("But: guest was 0xaa at the jump, it is 0x00 at restore") != std::string::npos);
    const std::string tail = text.substr(text.find("The last events that touched file 0x1001:"));
    CHECK(tail.find("luo.preserve: {fd: guest, token: 0x1001} → ok") != std::string::npos);
    // Frame 0x10400 lies in the second of the preserved ranges, at 0x10400000, and in no other.
    CHECK(tail.find("kho.preserve phys 0x10400000") != std::string::npos);
    CHECK(tail.find("kho.preserve phys 0x10000000") == std::string::npos);
}

TEST_CASE("completions are added up per step and per phase, and go on while no kernel runs") {
    const std::string text = narrate(guest_update());
    CHECK(line_with(text, "nic0: DMA starts") ==
          "                nic0: DMA starts, ring of 64 at 0x2000, circular, every 10 µs");
    // Two events of one step.
    CHECK(line_with(text, "sequence 0–") == "                nic0: 200 completions, sequence 0–199, every 10 µs");
    CHECK(text.find("nic0 in freeze: 200 completions, 300–499, every 10 µs") != std::string::npos);
    CHECK(text.find("nic0 in shutdown: 500 completions, 500–999, every 10 µs") != std::string::npos);
    CHECK(text.find("nic0 in relocation: 500 completions, 1000–1499, every 10 µs") < text.find("jump:"));
    const std::size_t boot = text.find("nic0 in boot: 2900 completions, 1500–4399, every 10 µs");
    CHECK(text.find("generation 1") < boot);
    CHECK(boot < text.find("user space runs", text.find("generation 1")));
    CHECK(text.find("nic0 in resume: 1 completion, 4400\n") != std::string::npos);
    for (const std::string& line : lines_of(text)) CHECK(text_columns(line) <= terminal_columns);
}

TEST_CASE("guests pause, wait, and go on after a gap") {
    const std::string text = narrate(guest_update());
    CHECK(line_with(text, "guests:").ends_with("guests: web 4000 steps, render 2000 steps"));
    CHECK(text.find("guest web pauses") < text.find("nic0 in freeze"));
    CHECK(text.find("user space runs after 41.002 ms; 2 guests wait") != std::string::npos);
    CHECK(text.find("guest render goes on, paused 41.005 ms") != std::string::npos);
    CHECK(text.find("guest web goes on, paused 41.006 ms") != std::string::npos);
    CHECK(text.find("all guests run; blackout was 41.007 ms") > text.find("guest web goes on"));
}

TEST_CASE("the summary takes the blackout of guests apart, and counts completions around it") {
    const std::string text = narrate(guest_update());
    CHECK(text.find("41.007 ms = pause 0.002 + freeze 2 + shutdown 5 + relocation 5") != std::string::npos);
    CHECK(text.find("boot 29 + resume 0.005") != std::string::npos);
    CHECK(text.find("nic0 300 completions before, 4101 in blackout, 200 after, no gaps") != std::string::npos);
    CHECK(line_with(text, "  guests  ").ends_with("web 4000 steps, paused 41.006 ms; render 2000 steps, paused"));
}

TEST_CASE("the phases of a blackout sum up to it, to the microsecond that is shown") {
    UpdateStory story;
    const auto event = [&](u64 time_ns, std::string_view name) {
        story.event(make_event(time_ns, 0, Layer::kernel, name, {}));
    };
    event(1'000'400, "kernel.blackout");
    event(2'000'900, "kernel.shutdown");
    event(3'001'100, "kernel.relocation");
    event(4'000'300, "kexec.jump");
    CHECK(story.phase() == UpdatePhase::boot);
    event(5'000'500, "kernel.user_space");
    CHECK(story.phase() == UpdatePhase::outside);
    REQUIRE(story.blackout());
    u64 end_ns = story.blackout()->begin_ns;
    for (const Blackout::Part& part : story.blackout()->parts()) {
        CHECK(part.begin_ns == end_ns);
        end_ns = part.end_ns;
    }
    CHECK(end_ns == story.blackout()->end_ns);
}

TEST_CASE("a blackout that is called off never was") {
    UpdateStory story;
    const auto ticks = [&](u64 first, u64 count) {
        story.event(make_event(0, 0, Layer::machine, "dma.completions",
                               {{"device", "nic0"}, {"first_sequence", first}, {"count", count}}));
    };
    ticks(0, 10);
    story.event(make_event(1, 0, Layer::kernel, "kernel.blackout", {}));
    ticks(10, 5);
    CHECK(story.devices().front().in_blackout == 5);
    story.event(make_event(2, 0, Layer::kernel, "kernel.blackout_off", {}));
    ticks(15, 1);
    CHECK(story.phase() == UpdatePhase::outside);
    CHECK_FALSE(story.blackout());
    CHECK(story.devices().front().before == 16);
    CHECK(story.devices().front().in_blackout == 0);
}

TEST_CASE("lost ticks and refused requests are red and say why") {
    const auto during_a_step = [](const std::vector<TraceEvent>& events, NarrationOptions options = {}) {
        std::vector<TraceEvent> all = small_update();
        all.insert(all.begin() + 8, events.begin(), events.end());
        return narrate(all, options);
    };
    std::vector<TraceEvent> events;
    for (u64 i = 0; i < 2; ++i)
        events.push_back(make_event(0, 0, Layer::machine, "dma.lost",
                                    {{"device", "nic0"},
                                     {"first_sequence", 300 + i * 6},
                                     {"count", u64{6}},
                                     {"status", "translation fault"},
                                     {"first_ns", u64{0}},
                                     {"last_ns", u64{0}}}));
    events.push_back(config_write("nic0", 0x10));
    for (u64 i = 0; i < 3; ++i)
        events.push_back(make_event(0, 0, Layer::machine, "iommu.fault",
                                    {{"unit", u64{0}},
                                     {"source", "03:00.0"},
                                     hex_field("address", 0x1000 * i),
                                     {"write", u32{1}},
                                     {"reason", u32{5}},
                                     {"text", "no write permission"}}));
    events.push_back(make_event(0, 0, Layer::machine, "irq.lost",
                                {{"device", "nic0"}, {"vector", u32{49}}, {"why", "APIC disabled"}}));
    const std::string text = during_a_step(events);
    CHECK(text.find("nic0: 12 ticks lost, sequence 300–311: translation fault") != std::string::npos);
    // The name of the function that sent them is known from config cycles.
    CHECK(text.find("IOMMU 0 refuses nic0 a write: no write permission (× 3)") != std::string::npos);
    CHECK(text.find("nic0: interrupt lost: APIC disabled") != std::string::npos);
    CHECK(text.find("nic0 0 completions before, 0 in blackout, 0 after, 12 lost") != std::string::npos);
    CHECK(during_a_step(events, {.color = true}).find("\x1b[1;31mnic0: 12 ticks lost") != std::string::npos);
}

TEST_CASE("config writes are counted, or told one by one when verbose; commands and resets are told") {
    std::vector<TraceEvent> all = small_update();
    const std::vector<TraceEvent> events{
        config_write("nic0", 0x10),
        config_write("nic0", 0x14),
        config_write("gpu0", 0x10),
        make_event(0, 0, Layer::machine, "pci.reset", {{"device", "nic0"}, {"kind", "FLR"}}),
        make_event(0, 0, Layer::machine, "pci.reset", {{"device", "gpu0"}, {"kind", "power-on"}}),
        make_event(0, 0, Layer::machine, "iommu.command", {{"unit", u64{0}}, {"command", "translation on"}}),
        make_event(0, 0, Layer::machine, "dma.stop",
                   {{"device", "nic0"}, {"by", "reset"}, {"sequence", u64{7}}, {"completed", u64{7}}}),
    };
    all.insert(all.begin() + 8, events.begin(), events.end());
    const std::string text = narrate(all), verbose = narrate(all, {.verbose = true});
    CHECK(text.find("config writes: nic0 2, gpu0 1") != std::string::npos);
    CHECK(text.find("config write at") == std::string::npos);
    CHECK(verbose.find("nic0: config write at 0x14: 0x0 → 0x1") != std::string::npos);
    CHECK(verbose.find("config writes:") == std::string::npos);
    CHECK(text.find("nic0: reset, FLR") != std::string::npos);
    CHECK(text.find("power-on") == std::string::npos);
    CHECK(verbose.find("gpu0: reset, power-on") != std::string::npos);
    CHECK(text.find("IOMMU 0: translation on") != std::string::npos);
    CHECK(text.find("nic0: DMA stops before sequence 7, by a reset") != std::string::npos);
}

TEST_CASE("a ring that runs empty again and again is one line") {
    std::vector<TraceEvent> all = small_update(), events;
    for (u64 i = 0; i < 3; ++i) {
        events.push_back(make_event(0, 0, Layer::machine, "dma.dry", {{"device", "nic0"}, {"sequence", 64 * i}}));
        events.push_back(make_event(0, 0, Layer::machine, "dma.resume",
                                    {{"device", "nic0"}, {"sequence", 64 * i}, {"dry_ns", u64{100'000}}}));
    }
    all.insert(all.begin() + 8, events.begin(), events.end());
    CHECK(narrate(all).find("nic0: ring empty 3 times from sequence 0, 0.300 ms without work") != std::string::npos);
}

TEST_CASE("the last events that touched a device or a guest are told in words, runs of them as one") {
    std::vector<TraceEvent> all = guest_update();
    all.pop_back();
    for (std::string_view resource : {"nic0", "guest web"}) {
        all.push_back(make_event(72'000'000, 1, Layer::machine, "referee.finding",
                                 {{"invariant", "dma.contained"},
                                  {"message", resource},
                                  {"resource", resource},
                                  {"frames", u64{0}},
                                  hex_field("first_frame", 0)}));
        all.push_back(make_event(72'000'000, 1, Layer::sim, "run.failure",
                                 {{"text", "finding dma.contained: " + std::string(resource)}}));
    }
    all.push_back(make_event(72'000'000, 1, Layer::sim, "run.end", {{"outcome", "fail"}}));
    const std::string text = narrate(all, {.quiet = true});
    const std::size_t guest_at = text.find("The last events that touched guest web:");
    REQUIRE(guest_at != std::string::npos);
    const std::string nic = text.substr(0, guest_at), guest = text.substr(guest_at);
    CHECK(nic.find("nic0: DMA starts, ring of 64") != std::string::npos);
    CHECK(nic.find("nic0: 4601 completions, sequence 0–4600") != std::string::npos);
    CHECK(guest.find("guest web pauses") != std::string::npos);
    CHECK(guest.find("guest web goes on") != std::string::npos);
    CHECK(guest.find("render") == std::string::npos);
}

TEST_CASE("what was held back is written when a run is cut short") {
    std::vector<TraceEvent> events = small_update();
    events.resize(9);  // up to the begin of a callback that never returned
    const std::string text = narrate(events);
    CHECK(line_with(text, "luo.prepare").ends_with("…"));
    CHECK(line_with(text, "prepare  subsystem iommu").ends_with("…"));
}

TEST_CASE("text out of handed-over memory cannot steer the terminal") {
    std::vector<TraceEvent> events = small_update();
    events.insert(events.begin() + 3,
                  make_event(0, 0, Layer::kernel, "kernel.log",
                             {{"level", u32{4}}, {"text", std::string_view("bad \x1b[2J\xff\0 node", 15)}}));
    const std::string text = narrate(events);
    CHECK(text.find('\x1b') == std::string::npos);
    CHECK(text.find("bad \\x1b[2J\\xff\\x00 node") != std::string::npos);
}

TEST_CASE("colour takes no columns") {
    const std::string plain = narrate(small_update()), colored = narrate(small_update(), {.color = true});
    std::string stripped;
    for (std::size_t at = 0; at < colored.size(); ++at) {
        if (colored[at] == '\x1b')
            at = colored.find('m', at);
        else
            stripped += colored[at];
    }
    CHECK(stripped == plain);
    CHECK(colored != plain);
}

TEST_CASE("text is wrapped, shortened and measured in columns") {
    CHECK(text_columns("a·═") == 3);
    CHECK(shortened("abcdef", 4) == "abc…");
    CHECK(shortened("══════", 4) == "═══…");
    CHECK(shortened("abc", 3) == "abc");
    CHECK(wrapped("one two three", 7) == std::vector<std::string>{"one two", "three"});
    CHECK(wrapped("abcdefgh", 3) == std::vector<std::string>{"abc", "def", "gh"});
    CHECK(wrapped("one two three four", 9, 5) == std::vector<std::string>{"one two", "three", "four"});
    CHECK(wrapped("", 5) == std::vector<std::string>{""});
    CHECK(bytes_text(4096) == "4 KiB");
    CHECK(bytes_text(0) == "0 bytes");
    CHECK(bytes_text(8 * MiB + 8 * KiB) == "8.008 MiB");
    CHECK(bytes_text(MiB - 1) == "1023.999 KiB");
    CHECK(milliseconds_text(27'001'500) == "27.001 ms");
    CHECK(is_utf8("a·═"));
    CHECK_FALSE(is_utf8("\xc0\x80"));
    CHECK_FALSE(is_utf8("\xed\xa0\x80"));
    CHECK_FALSE(is_utf8("\xe2\x95"));
}
