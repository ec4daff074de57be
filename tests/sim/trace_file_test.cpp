#include <catch2/catch.hpp>
#include <fcntl.h>
#include <fstream>
#include <iterator>
#include <sys/mman.h>
#include <unistd.h>

#include "sim/trace_file.hpp"
#include "tests/sim/trace_events.hpp"

using namespace kexec_sim;
using namespace kexec_sim::sim;
using Catch::Matchers::Contains;

namespace {

/// What a writer writes, through a file in memory.
std::string written(const std::vector<TraceEvent>& events) {
    const int fd = memfd_create("trace", 0);
    {
        Output output(fd, "trace");
        TraceFileWriter writer(output);
        writer.begin({"small", "small.yaml", "kexec-sim run 'small one.yaml' --seed 1"});
        for (const TraceEvent& event : events) writer.event(event);
        writer.end({"pass", {}, 0, "00ff"});
        output.flush();
    }
    std::string text(static_cast<std::size_t>(lseek(fd, 0, SEEK_END)), '\0');
    REQUIRE(pread(fd, text.data(), text.size(), 0) == static_cast<ssize_t>(text.size()));
    close(fd);
    return text;
}

struct Read {
    std::vector<TraceEvent> events;
    std::vector<TraceHeader> headers;
    std::vector<TraceFooter> footers;
    u64 cut_short = 0;
    std::string error;
};
Read read(const std::string& text) {
    Read result;
    TraceListener listener{[&](const TraceHeader& header) { result.headers.push_back(header); },
                           [&](const TraceEvent& event) { result.events.push_back(event); },
                           [&](const TraceFooter* footer) {
                               if (footer)
                                   result.footers.push_back(*footer);
                               else
                                   ++result.cut_short;
                           }};
    try {
        read_trace_text(text, "t.jsonl", listener);
    } catch (const UserError& error) {
        result.error = error.what();
    }
    return result;
}

std::string replaced(std::string text, std::string_view from, std::string_view to) {
    const std::size_t at = text.find(from);
    REQUIRE(at != std::string::npos);
    return text.replace(at, from.size(), to);
}

}  // namespace

TEST_CASE("a trace file gives back the very events that were written") {
    std::vector<TraceEvent> events = small_update("fail");
    // Every type of field, at its limits, and text that JSON and UTF-8 have trouble with.
    events.push_back(make_event(~u64{0}, ~Generation{0}, Layer::luo, "odd \"name\"",
                                {{"max", ~u64{0}},
                                 hex_field("hex", ~u64{0}),
                                 {"min", static_cast<i64>(u64{1} << 63)},
                                 {"minus", i32{-12}},
                                 {"zero", i32{0}},
                                 {"like_hex", "0x10"},
                                 {"quoted", "a \"b\" \\ \n\t\x01 ═"},
                                 {"empty", ""},
                                 {"raw", std::string_view("\xff\0\xfe", 3)}},
                                Phase::end));
    events.push_back(make_event(1, 2, Layer::machine, "bare", {}, Phase::begin));
    const Read back = read(written(events));
    CHECK(back.error.empty());
    REQUIRE(back.events.size() == events.size());
    for (std::size_t i = 0; i < events.size(); ++i) {
        INFO(events[i].name);
        CHECK(encode_trace_record(back.events[i]) == encode_trace_record(events[i]));
    }
    REQUIRE(back.headers.size() == 1);
    CHECK(back.headers[0].command == "kexec-sim run 'small one.yaml' --seed 1");
    REQUIRE(back.footers.size() == 1);
    CHECK(back.footers[0].end == "pass");
    CHECK(back.footers[0].trace_hash == "00ff");
}

TEST_CASE("a file may hold the traces of several runs") {
    const std::string one = written(small_update());
    const Read back = read(one + one);
    CHECK(back.error.empty());
    CHECK(back.headers.size() == 2);
    CHECK(back.events.size() == 2 * small_update().size());
}

TEST_CASE("a bad trace file is an error with its line, and nothing of it is told") {
    const std::string good = written(small_update());
    struct Case {
        std::string text, error;
    };
    const Case cases[] = {
        {"", "t.jsonl:1:1: error: the trace is empty"},
        {"hello\n", "t.jsonl:1:1: error: this is no line of a trace"},
        {"[1]\n", "t.jsonl:1:1: error: a line of a trace is a JSON object"},
        {"{\"a\":1}\n", "t.jsonl:1:1: error: this is no trace"},
        {replaced(good, "trace-1", "trace-9"), "t.jsonl:1:1: error: the format is 'kexec-sim/trace-9'"},
        {replaced(good, "\"layer\":\"kernel\"", "\"layer\":\"kernal\""),
         "t.jsonl:4:1: error: unknown layer 'kernal'"},
        {replaced(good, "\"ph\":\"i\"", "\"ph\":\"x\""), "t.jsonl:2:1: error: unknown phase 'x'"},
        {replaced(good, "\"seed\":1", "\"seed\":\"1\""),
         "t.jsonl:2:1: error: field 'seed' does not fit its letter 'u'"},
        {replaced(good, "\"k\":\"ss", "\"k\":\"s"), "t.jsonl:2:1: error: 'k' must have one letter for each field"},
        {replaced(good, "{\"t\":0,", "{"), "t.jsonl:2:1: error: 't' is missing"},
        {replaced(good, "\"events\":", "\"events\":9"), "events were written"},
    };
    for (const Case& one : cases) {
        INFO(one.error);
        const Read back = read(one.text);
        CHECK_THAT(back.error, Contains(one.error));
        CHECK(back.events.empty());
    }
}

TEST_CASE("a trace that was cut short is told to its last whole line, then it is an error") {
    std::string text = written(small_update());
    text.resize(text.size() - 100);
    const Read back = read(text);
    CHECK_THAT(back.error, Contains("the trace ends here without its last line"));
    CHECK(back.cut_short == 1);
    CHECK(back.events.size() >= small_update().size() - 2);
}
