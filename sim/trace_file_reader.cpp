#include <algorithm>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <optional>

#include "sim/host_file.hpp"
#include "sim/terminal_text.hpp"
#include "sim/trace_file.hpp"
#include "sim/values.hpp"

namespace kexec_sim::sim {
namespace {

using Json = nlohmann::ordered_json;

/// What is wrong with a line; the reader adds where.
struct BadLine {
    std::string text;
};

const Json& member(const Json& object, const char* name) {
    const auto at = object.find(name);
    if (at == object.end()) throw BadLine{fmt::format("'{}' is missing", name)};
    return *at;
}
std::string text_member(const Json& object, const char* name) {
    const Json& value = member(object, name);
    if (!value.is_string()) throw BadLine{fmt::format("'{}' must be a text", name)};
    return value.get<std::string>();
}
u64 number_member(const Json& object, const char* name, u64 max) {
    const Json& value = member(object, name);
    if (!value.is_number_unsigned() || value.get<u64>() > max)
        throw BadLine{fmt::format("'{}' must be a number", name)};
    return value.get<u64>();
}
std::string optional_text(const Json& object, const char* name) {
    return object.contains(name) ? text_member(object, name) : std::string();
}

TraceEvent::Field read_field(const std::string& key, const Json& value, char letter) {
    TraceEvent::Field field{key, TraceField::Type::text, 0, {}};
    const auto wrong = [&]() -> BadLine {
        return {fmt::format("field '{}' does not fit its letter '{}'", key, letter)};
    };
    switch (letter) {
    case 'u':
        if (!value.is_number_unsigned()) throw wrong();
        field.type = TraceField::Type::decimal;
        field.number = value.get<u64>();
        return field;
    case 'i':
        if (!value.is_number_integer()) throw wrong();
        field.type = TraceField::Type::signed_decimal;
        field.number = static_cast<u64>(value.get<i64>());
        return field;
    case 'x':
    case 's':
    case 'b': break;
    default:
        throw BadLine{
            fmt::format("unknown letter '{}' for field '{}'", printable(std::string_view(&letter, 1)), key)};
    }
    if (!value.is_string()) throw wrong();
    const std::string text = value.get<std::string>();
    if (letter == 's') {
        field.text = text;
    } else if (letter == 'b') {
        const auto bytes = parse_hex_bytes(text);
        if (!bytes) throw wrong();
        field.text = *bytes;
    } else {
        const auto number = text.starts_with("0x") ? parse_u64(text) : std::nullopt;
        if (!number) throw wrong();
        field.type = TraceField::Type::hex;
        field.number = *number;
    }
    return field;
}

TraceEvent read_event(const Json& line) {
    TraceEvent event;
    event.time_ns = number_member(line, "t", ~u64{0});
    event.generation = static_cast<Generation>(number_member(line, "g", ~Generation{0}));
    event.name = text_member(line, "name");
    const std::string layer = text_member(line, "layer"), phase = text_member(line, "ph"),
                      letters = text_member(line, "k");
    bool known = false;
    for (Layer one : {Layer::machine, Layer::kernel, Layer::kho, Layer::luo, Layer::sim}) {
        if (layer_name(one) != layer) continue;
        event.layer = one;
        known = true;
    }
    if (!known) throw BadLine{fmt::format("unknown layer '{}'", printable(layer))};
    if (phase != "i" && phase != "B" && phase != "E")
        throw BadLine{fmt::format("unknown phase '{}'", printable(phase))};
    event.phase = phase == "i" ? Phase::instant : phase == "B" ? Phase::begin : Phase::end;
    const Json& fields = member(line, "f");
    if (!fields.is_object() || fields.size() != letters.size())
        throw BadLine{"'k' must have one letter for each field of 'f'"};
    std::size_t at = 0;
    for (const auto& [key, value] : fields.items()) event.fields.push_back(read_field(key, value, letters[at++]));
    return event;
}

/// Takes the lines of a file one by one and knows what may come next.
class Reader {
public:
    Reader(std::string_view text, const std::string& path, const TraceListener& listener)
        : rest_(text),
          path_(path),
          listener_(listener) {}

    void read() {
        while (!rest_.empty()) {
            ++line_;
            const std::size_t end = rest_.find('\n');
            if (end == std::string_view::npos) return;  // a line that was cut in the middle
            const std::string_view text = rest_.substr(0, end);
            rest_.remove_prefix(end + 1);
            try {
                take(Json::parse(text));
            } catch (const Json::exception&) {
                error("this is no line of a trace: no JSON");
            } catch (const BadLine& bad) {
                error(bad.text);
            }
        }
    }
    /// Complains about a section that has no end.
    void finish() {
        if (!rest_.empty() || inside_ || line_ == 0) {
            if (inside_) listener_.end(nullptr);
            error(line_ == 0 ? "the trace is empty"
                             : "the trace ends here without its last line; the run was cut short");
        }
    }

private:
    [[noreturn]] void error(const std::string& text) const {
        throw UserError(fmt::format("{}:{}:1: error: {}", path_, std::max<u64>(line_, 1), text));
    }
    void take(const Json& line) {
        if (!line.is_object()) throw BadLine{"a line of a trace is a JSON object"};
        if (!inside_) {
            if (!line.contains("format"))
                throw BadLine{"this is no trace: the first line must say \"format\":\"kexec-sim/trace-1\""};
            const std::string format = text_member(line, "format");
            if (format != "kexec-sim/trace-1")
                throw BadLine{
                    fmt::format("the format is '{}', this program reads 'kexec-sim/trace-1'", printable(format))};
            listener_.begin({text_member(line, "scenario"), text_member(line, "file"), text_member(line, "command")});
            inside_ = true;
        } else if (line.contains("end")) {
            const TraceFooter footer{text_member(line, "end"), optional_text(line, "message"),
                                     number_member(line, "events", ~u64{0}), optional_text(line, "trace_hash")};
            if (footer.events != events_)
                throw BadLine{fmt::format("{} events were written, {} are here", footer.events, events_)};
            listener_.end(&footer);
            inside_ = false;
            events_ = 0;
        } else {
            listener_.event(read_event(line));
            ++events_;
        }
    }

    std::string_view rest_;
    const std::string& path_;
    const TraceListener& listener_;
    u64 line_ = 0, events_ = 0;
    bool inside_ = false;
};

}  // namespace

void read_trace_text(std::string_view text, const std::string& path, const TraceListener& listener) {
    const TraceListener deaf{[](const TraceHeader&) {}, [](const TraceEvent&) {}, [](const TraceFooter*) {}};
    Reader(text, path, deaf).read();
    Reader reader(text, path, listener);
    reader.read();
    reader.finish();
}

void read_trace_file(const std::string& path, const TraceListener& listener) {
    read_trace_text(read_host_file(path), path, listener);
}

}  // namespace kexec_sim::sim
