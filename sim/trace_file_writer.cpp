#include <fmt/format.h>
#include <iterator>

#include "sim/terminal_text.hpp"
#include "sim/trace_file.hpp"

namespace kexec_sim::sim {
namespace {

using Buffer = fmt::memory_buffer;

void put(Buffer& out, std::string_view text) { out.append(text.data(), text.data() + text.size()); }

/// A JSON string of text that is UTF-8.
void put_string(Buffer& out, std::string_view text) {
    out.push_back('"');
    for (char c : text) {
        const auto byte = static_cast<unsigned char>(c);
        if (c == '"' || c == '\\') {
            out.push_back('\\');
            out.push_back(c);
        } else if (byte < 0x20 || byte == 0x7f) {
            fmt::format_to(std::back_inserter(out), "\\u{:04x}", byte);
        } else {
            out.push_back(c);
        }
    }
    out.push_back('"');
}

/// Text of the command line, which nobody promises to be UTF-8.
void put_any(Buffer& out, std::string_view text) {
    put_string(out, is_utf8(text) ? std::string(text) : printable(text));
}

char put_value(Buffer& out, const TraceEvent::Field& field) {
    const auto back = std::back_inserter(out);
    switch (field.type) {
    case TraceField::Type::decimal: fmt::format_to(back, "{}", field.number); return 'u';
    case TraceField::Type::hex: fmt::format_to(back, "\"{:#x}\"", field.number); return 'x';
    case TraceField::Type::signed_decimal: fmt::format_to(back, "{}", static_cast<i64>(field.number)); return 'i';
    case TraceField::Type::text: break;
    }
    if (is_utf8(field.text)) {
        put_string(out, field.text);
        return 's';
    }
    out.push_back('"');
    for (char c : field.text) fmt::format_to(back, "{:02x}", static_cast<unsigned char>(c));
    out.push_back('"');
    return 'b';
}

char phase_letter(Phase phase) {
    switch (phase) {
    case Phase::instant: return 'i';
    case Phase::begin: return 'B';
    case Phase::end: return 'E';
    }
    return 'i';
}

}  // namespace

void TraceFileWriter::begin(const TraceHeader& header) {
    Buffer line;
    put(line, R"({"format":"kexec-sim/trace-1","scenario":)");
    put_any(line, header.scenario);
    put(line, R"(,"file":)");
    put_any(line, header.file);
    put(line, R"(,"command":)");
    put_any(line, header.command);
    put(line, "}\n");
    output_.write({line.data(), line.size()});
    events_ = 0;
}

void TraceFileWriter::event(const TraceEvent& event) {
    Buffer line;
    fmt::format_to(std::back_inserter(line), R"({{"t":{},"g":{},"layer":"{}","name":)", event.time_ns,
                   event.generation, layer_name(event.layer));
    put_string(line, event.name);
    fmt::format_to(std::back_inserter(line), R"(,"ph":"{}","f":{{)", phase_letter(event.phase));
    std::string letters;
    for (const TraceEvent::Field& field : event.fields) {
        if (!letters.empty()) line.push_back(',');
        put_string(line, field.key);
        line.push_back(':');
        letters += put_value(line, field);
    }
    fmt::format_to(std::back_inserter(line), "}},\"k\":\"{}\"}}\n", letters);
    output_.write({line.data(), line.size()});
    ++events_;
}

void TraceFileWriter::end(TraceFooter footer) {
    Buffer line;
    fmt::format_to(std::back_inserter(line), R"({{"end":"{}","events":{})", footer.end, events_);
    if (!footer.message.empty()) {
        put(line, R"(,"message":)");
        put_any(line, footer.message);
    }
    if (!footer.trace_hash.empty())
        fmt::format_to(std::back_inserter(line), R"(,"trace_hash":"{}")", footer.trace_hash);
    put(line, "}\n");
    output_.write({line.data(), line.size()});
}

}  // namespace kexec_sim::sim
