// A trace as a file: JSON Lines, one section a run.
//
//   {"format":"kexec-sim/trace-1","scenario":"…","file":"…","command":"kexec-sim run …"}          header
//   {"t":1000,"g":0,"layer":"kho","name":"kho.preserve","ph":"i","f":{"phys":"0x1000","order":0},"k":"xu"}
//   …
//   {"end":"pass","events":1234,"trace_hash":"…"}                                                  footer
//
// `t` is the virtual time in ns, `g` the generation, `ph` the phase: i(nstant), B(egin), E(nd). `f` holds the
// fields in order, easy to pick with jq, and `k` has one letter a field that says what it is, so that reading gives
// the very event that was written: u decimal, x hex as "0x…", i signed, s text, b text that is not UTF-8, as hex
// digits.
//
// `end` is `pass`, `fail`, `error` (with `message`: the run ended with exit 2 or 3) or `interrupted`. A section
// without a footer was cut short by SIGKILL or a full disk. Nothing of the view (colour, -q, -v) is in the file.
//
// Unhappy paths, each FILE:LINE: error: (1) a line that is no JSON object; (2) no header where one must be; (3)
// another format or version; (4) an event with a missing or wrong member, or whose letters do not fit its fields;
// (5) no footer.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "machine/trace.hpp"
#include "sim/output.hpp"

namespace kexec_sim::sim {

struct TraceHeader {
    std::string scenario, file, command;
};
struct TraceFooter {
    std::string end;      // pass, fail, error, interrupted
    std::string message;  // with error
    u64 events = 0;
    std::string trace_hash;
};

/// Writes sections one after another.
class TraceFileWriter {
public:
    explicit TraceFileWriter(Output& output) : output_(output) {}
    void begin(const TraceHeader& header);
    void event(const TraceEvent& event);
    void end(TraceFooter footer);

private:
    Output& output_;
    u64 events_ = 0;
};

struct TraceListener {
    std::function<void(const TraceHeader&)> begin;
    std::function<void(const TraceEvent&)> event;
    /// nullopt: the section was cut short.
    std::function<void(const TraceFooter*)> end;
};
/// Reads a whole file. A bad one is a UserError before the listener hears anything; one that was cut short is read
/// to its last whole line, and the UserError comes at the end.
void read_trace_file(const std::string& path, const TraceListener& listener);
/// The same for text in memory.
void read_trace_text(std::string_view text, const std::string& path, const TraceListener& listener);

}  // namespace kexec_sim::sim
