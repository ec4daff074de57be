// Promises as text, for a boot-params file: all that is needed to judge the successor in another process.
//
// One record a line, numbers in hex, names with everything unusual as %XX. Records refer to `source` lines by number,
// in order; `extent` lines belong to the `file` line before them.
//
//   promises 1              version
//   by 0                    generation that made them
//   fault                   a corrupting fault had fired
//   source memfd-v1 3 1001 1 1 0        who origin token|- intent promised state
//   frames 12345 12349 0 0 0            begin end order|- source metadata
//   name 12345 12346 kept               begin end name
//   file 1001 memfd-v1 1 800000 1000 0 0    token compatible shown size position state late
//   extent 0 12345 4                    index pfn pages
//   reserve trace 40000000 41000000 0   name begin end state
//   map 200                 the kernel had finalized, with bitmaps of so many bytes
//   area 12300 12345 12349  descriptor's frame begin end; several lines make one area
//   hash 12345 89ab0000000000000        pfn hash
#include <charconv>

#include "machine/referee_books.hpp"

namespace kexec_sim {
namespace {

bool plain(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '.' ||
           c == ':' || c == '/' || c == '-';
}
std::string quoted(std::string_view text) {
    std::string out;
    for (const char c : text) {
        if (plain(c))
            out += c;
        else
            out += fmt::format("%{:02x}", static_cast<unsigned char>(c));
    }
    return out.empty() ? "%" : out;
}

/// One line of the text, read word by word.
class Line {
public:
    Line(std::string_view text, u64 number) : rest_(text), number_(number) {}
    std::string_view word() {
        const std::size_t end = rest_.find(' ');
        const std::string_view result = rest_.substr(0, end);
        rest_ = end == std::string_view::npos ? std::string_view() : rest_.substr(end + 1);
        return result;
    }
    u64 number(u64 max = ~u64{0}) { return parse(word(), max); }
    std::optional<u64> maybe_number(u64 max = ~u64{0}) {
        const std::string_view text = word();
        if (text == "-") return std::nullopt;
        return parse(text, max);
    }
    bool flag() { return number(1) != 0; }
    PfnRange frames() {
        const u64 begin = number(u64{1} << 52), end = number(u64{1} << 52);
        if (end < begin) bad();
        return {Pfn{begin}, Pfn{end}};
    }
    std::string name() {
        const std::string_view text = word();
        std::string out;
        if (text == "%") return out;
        for (std::size_t i = 0; i < text.size(); ++i) {
            if (text[i] != '%') {
                out += text[i];
                continue;
            }
            if (i + 2 >= text.size()) bad();
            out += static_cast<char>(parse(text.substr(i + 1, 2), 255));
            i += 2;
        }
        return out;
    }
    [[noreturn]] void bad() const {
        throw UserError(fmt::format("kexec-sim: error: the referee's promises cannot be read: line {}", number_));
    }

private:
    u64 parse(std::string_view text, u64 max) const {
        u64 value = 0;
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
        if (error != std::errc{} || end != text.data() + text.size() || value > max) bad();
        return value;
    }
    std::string_view rest_;
    u64 number_;
};

void load_line(Line& line, std::string_view kind, RefereeBooks& books, CarriedFile*& file) {
    Carried& carried = books.carried;
    if (kind == "by") {
        carried.by = static_cast<Generation>(line.number(~u32{0}));
    } else if (kind == "fault") {
        books.corrupted_before = true;
    } else if (kind == "source") {
        Source source;
        source.who = books.names.id(line.name());
        source.origin = static_cast<Origin>(line.number(static_cast<u64>(Origin::direct)));
        const std::optional<u64> token = line.maybe_number();
        source.has_token = token.has_value();
        source.token = token.value_or(0);
        source.intent = line.flag();
        source.promised = line.flag();
        source.state = static_cast<PromiseState>(line.number(static_cast<u64>(PromiseState::over)));
        carried.sources.push_back(source);
    } else if (kind == "frames") {
        const PfnRange frames = line.frames();
        Kept kept;
        const std::optional<u64> order = line.maybe_number(51);
        kept.order = order ? static_cast<i32>(*order) : i32{-1};
        kept.source = static_cast<u32>(line.number(~u32{0}));
        kept.metadata = line.flag();
        if (kept.source >= carried.sources.size()) line.bad();
        carried.frames.assign(frames, kept);
    } else if (kind == "name") {
        const PfnRange frames = line.frames();
        carried.names.assign(frames, books.names.id(line.name()));
    } else if (kind == "file") {
        const u64 token = line.number();
        file = &carried.files.insert_or_assign(token, CarriedFile(books.memory)).first->second;
        file->compatible = books.names.id(line.name());
        file->has_view = line.flag();
        file->size = line.number();
        file->pos = line.number();
        file->state = static_cast<PromiseState>(line.number(static_cast<u64>(PromiseState::over)));
        file->late_handler = line.flag();
    } else if (kind == "extent" && file) {
        const u64 index = line.number(), pfn = line.number(u64{1} << 52), pages = line.number(u64{1} << 52);
        file->extents.push_back({index, Pfn{pfn}, pages});
    } else if (kind == "reserve") {
        const NameId name = books.names.id(line.name());
        const u64 begin = line.number(), end = line.number();
        if (end < begin) line.bad();
        const auto state = static_cast<PromiseState>(line.number(static_cast<u64>(PromiseState::over)));
        carried.reserves.insert_or_assign(name, CarriedReserve{{PhysAddr{begin}, PhysAddr{end}}, state});
    } else if (kind == "map") {
        carried.map_bitmap_bytes = line.number(page_bytes);
    } else if (kind == "area") {
        const u64 descriptor = line.number(u64{1} << 52);
        const PfnRange frames = line.frames();
        carried.areas.try_emplace(descriptor, std::pmr::vector<PfnRange>(books.memory))
            .first->second.push_back(frames);
    } else if (kind == "hash") {
        const u64 pfn = line.number(), hash = line.number();
        if (!carried.hashes.empty() && carried.hashes.back().pfn >= pfn) line.bad();
        carried.hashes.push_back({pfn, hash});
    } else {
        line.bad();
    }
}

}  // namespace

std::string Referee::save_promises() const {
    const RefereeBooks& books = *books_;
    const Carried& carried = books.carried.known || !books.staged.known ? books.carried : books.staged;
    std::string out = "promises 1\n";
    const auto add = [&]<typename... Args>(fmt::format_string<Args...> format, Args&&... args) {
        fmt::format_to(std::back_inserter(out), format, std::forward<Args>(args)...);
    };
    add("by {:x}\n", carried.by);
    if (books.corrupted_before || books.faults.corrupting_fired()) out += "fault\n";
    for (const Source& source : carried.sources)
        add("source {} {:x} {} {:d} {:d} {:x}\n", quoted(books.names.text(source.who)),
            static_cast<u32>(source.origin), source.has_token ? fmt::format("{:x}", source.token) : std::string("-"),
            source.intent, source.promised, static_cast<u32>(source.state));
    carried.frames.visit_all([&](PfnRange part, const Kept& kept) {
        add("frames {:x} {:x} {} {:x} {:d}\n", part.begin.raw, part.end.raw,
            kept.order >= 0 ? fmt::format("{:x}", static_cast<int>(kept.order)) : std::string("-"), kept.source,
            kept.metadata);
    });
    carried.names.visit_all([&](PfnRange part, NameId name) {
        add("name {:x} {:x} {}\n", part.begin.raw, part.end.raw, quoted(books.names.text(name)));
    });
    for (const auto& [token, file] : carried.files) {
        add("file {:x} {} {:d} {:x} {:x} {:x} {:d}\n", token, quoted(books.names.text(file.compatible)),
            file.has_view, file.size, file.pos, static_cast<u32>(file.state), file.late_handler);
        for (const FileExtent& extent : file.extents)
            add("extent {:x} {:x} {:x}\n", extent.index, extent.pfn.raw, extent.pages);
    }
    for (const auto& [name, reserve] : carried.reserves)
        add("reserve {} {:x} {:x} {:x}\n", quoted(books.names.text(name)), reserve.range.begin.raw,
            reserve.range.end.raw, static_cast<u32>(reserve.state));
    if (carried.map_bitmap_bytes) add("map {:x}\n", carried.map_bitmap_bytes);
    for (const auto& [descriptor, area] : carried.areas)
        for (const PfnRange& part : area) add("area {:x} {:x} {:x}\n", descriptor, part.begin.raw, part.end.raw);
    for (const PageHash& page : carried.hashes) add("hash {:x} {:x}\n", page.pfn, page.hash);
    return out;
}

void Referee::load_promises(std::string_view text) {
    RefereeBooks& books = *books_;
    books.carried.clear();
    CarriedFile* file = nullptr;
    for (u64 number = 1; !text.empty(); ++number) {
        const std::size_t end = std::min(text.find('\n'), text.size());
        Line line(text.substr(0, end), number);
        text.remove_prefix(std::min(end + 1, text.size()));
        const std::string_view kind = line.word();
        if (number == 1) {
            if (kind != "promises" || line.number() != 1) line.bad();
            books.carried.known = true;
        } else if (!kind.empty()) {
            load_line(line, kind, books, file);
        }
    }
}

}  // namespace kexec_sim
