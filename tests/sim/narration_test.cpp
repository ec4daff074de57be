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
