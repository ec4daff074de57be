#include "sim/yaml_reader.hpp"

#include <fstream>
#include <optional>
#include <sstream>
#include <system_error>
#include <unordered_set>

#include <fmt/format.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include "machine/result.hpp"

namespace kexec_sim::sim {
namespace {

bool continues_character(char byte) { return (static_cast<unsigned char>(byte) & 0xc0) == 0x80; }

/// yaml-cpp counts from 0, and in bytes. Marks mostly come in the order of the file, so the count of a long
/// line goes on from the last mark instead of starting anew.
class Positions {
public:
    explicit Positions(const SourceFile& file) : file_(file) {}

    SourcePos of(const YAML::Mark& mark) {
        if (mark.line < 0 || mark.column < 0) return {1, 1};
        const u32 line = static_cast<u32>(mark.line) + 1;
        const std::size_t bytes = static_cast<std::size_t>(mark.column);
        if (line != line_ || bytes < bytes_) {
            line_ = line;
            bytes_ = continued_ = 0;
        }
        const std::string_view text = file_.line(line);
        for (; bytes_ < bytes; ++bytes_)
            if (bytes_ < text.size() && continues_character(text[bytes_])) ++continued_;
        return {line, static_cast<u32>(bytes - continued_) + 1};
    }

private:
    const SourceFile& file_;
    u32 line_ = 0;
    std::size_t bytes_ = 0, continued_ = 0;  // of that line: bytes counted, and those that begin no character
};

/// yaml-cpp takes a quote that nothing closes for one that ends with the file. The quote stands at `mark`.
bool is_closed(const SourceFile& file, const YAML::Mark& mark) {
    std::size_t at = static_cast<std::size_t>(mark.column) + 1;
    const std::string_view first = file.line(static_cast<u32>(mark.line) + 1);
    if (at > first.size()) return true;
    const char quote = first[at - 1];
    if (quote != '"' && quote != '\'') return true;  // a block scalar
    for (u32 line = static_cast<u32>(mark.line) + 1; line <= file.line_count(); ++line, at = 0) {
        const std::string_view text = file.line(line);
        for (; at < text.size(); ++at) {
            if (quote == '"' && text[at] == '\\')
                ++at;
            else if (text[at] != quote)
                continue;
            else if (quote == '\'' && at + 1 < text.size() && text[at + 1] == quote)
                ++at;
            else
                return true;
        }
    }
    return false;
}

/// Length of the UTF-8 character at the start of `text`; 0 where there is none: a wrong lead or continuation
/// byte, an overlong form, a surrogate, a value past the end of Unicode.
std::size_t character_bytes(std::string_view text) {
    const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
    const unsigned lead = byte(0);
    if (lead < 0x80) return 1;
    const std::size_t bytes = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
    if (lead < 0xc2 || lead > 0xf4 || text.size() < bytes) return 0;
    for (std::size_t i = 1; i < bytes; ++i)
        if (!continues_character(text[i])) return 0;
    if ((lead == 0xe0 && byte(1) < 0xa0) || (lead == 0xed && byte(1) > 0x9f)) return 0;
    if ((lead == 0xf0 && byte(1) < 0x90) || (lead == 0xf4 && byte(1) > 0x8f)) return 0;
    return bytes;
}

/// Unhappy path 1: what is no text is refused before YAML sees it (which would take it for UTF-16).
void check_bytes(const SourceFile& file, std::string_view text) {
    SourcePos pos{1, 1};
    for (std::size_t at = 0; at < text.size();) {
        const std::size_t bytes = character_bytes(text.substr(at));
        const unsigned char byte = static_cast<unsigned char>(text[at]);
        if (bytes == 0) file.error(pos, "this is not UTF-8 text");
        if (byte == 0) file.error(pos, "a NUL byte; a scenario is a text file");
        if (byte == '\r' && (at + 1 == text.size() || text[at + 1] != '\n'))
            file.error(pos, "a carriage return inside a line");
        if ((byte < 0x20 && byte != '\n' && byte != '\t' && byte != '\r') || byte == 0x7f)
            file.error(pos, fmt::format("control character 0x{:02x}", byte));
        pos = byte == '\n' ? SourcePos{pos.line + 1, 1} : SourcePos{pos.line, pos.column + 1};
        at += bytes;
    }
}

/// A directive (`%YAML`, `%TAG`) can only stand before the document, so the first line that is neither
/// blank nor a comment decides.
void refuse_directives(const SourceFile& file, std::string_view text) {
    for (u32 line = 1; !text.empty(); ++line) {
        const std::string_view content = file.line(line);
        if (content.starts_with('%')) file.error({line, 1}, "a YAML directive is not allowed in a scenario");
        const std::size_t first = content.find_first_not_of(" \t");
        if (first != std::string_view::npos && content[first] != '#') return;
        const std::size_t end = text.find('\n');
        if (end == std::string_view::npos) return;
        text.remove_prefix(end + 1);
    }
}

/// Takes yaml-cpp's events. The path from the root to the open collection lies on `open_`; a map there
/// alternates between waiting for a key and for the value of that key.
class Builder : public YAML::EventHandler {
public:
    explicit Builder(const SourceFile& file) : file_(file), positions_(file) {}

    void OnDocumentStart(const YAML::Mark& mark) override {
        if (documents_++ == 0) return;
        const bool marked = file_.line(static_cast<u32>(mark.line) + 1).starts_with("---");
        refuse(mark, marked ? "a second document; a scenario is one document"
                            : "not valid YAML: this does not belong to what stands before; is it indented rightly?");
    }
    void OnDocumentEnd() override {}

    void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
        refuse_decoration(mark, anchor);
        if (waits_for_key()) refuse(mark, "a key must be a name, not nothing");
        Node node;
        // The mark of an empty value is that of whatever comes next; the key is what the reader looks at.
        node.pos = open_.empty() || !open_.back().node.is_map() ? positions_.of(mark) : open_.back().key_pos;
        add(std::move(node));
    }

    void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override { refuse(mark, "aliases (*name) are not allowed"); }

    void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  const std::string& value) override {
        refuse_decoration(mark, anchor);
        if (tag != "?" && tag != "!") refuse(mark, "tags (!name) are not allowed");
        const bool quoted = tag == "!";
        if (quoted && !is_closed(file_, mark)) refuse(mark, "this quote is not closed");
        if (waits_for_key()) return take_key(mark, value, quoted);
        Node node{.kind = NodeKind::scalar,
                  .text = value,
                  .quoted = quoted,
                  .pos = positions_.of(mark),
                  .items = {},
                  .entries = {}};
        add(std::move(node));
    }

    void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                         YAML::EmitterStyle::value) override {
        open(mark, tag, anchor, NodeKind::sequence);
    }
    void OnSequenceEnd() override { close(); }
    void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                    YAML::EmitterStyle::value) override {
        open(mark, tag, anchor, NodeKind::map);
    }
    void OnMapEnd() override { close(); }

    Node take_root() {
        if (!root_) file_.error({1, 1}, "the file is empty; a scenario begins with 'format: 1'");
        return std::move(*root_);
    }

private:
    struct Open {
        Node node;
        bool has_key = false;  // of a map: a key waits for its value
        std::string key;
        SourcePos key_pos;
        std::unordered_set<std::string> keys;
    };

    [[noreturn]] void refuse(const YAML::Mark& mark, std::string_view text) {
        file_.error(positions_.of(mark), text);
    }

    /// An explicit tag and the implied one of a quoted scalar have the same name `!`; the source tells them apart.
    void refuse_decoration(const YAML::Mark& mark, YAML::anchor_t anchor) {
        if (anchor != 0) refuse(mark, "anchors (&name) are not allowed");
        if (mark.line < 0 || mark.column < 0) return;
        const std::string_view line = file_.line(static_cast<u32>(mark.line) + 1);
        const std::size_t column = static_cast<std::size_t>(mark.column);
        if (column < line.size() && line[column] == '!') refuse(mark, "tags (!name) are not allowed");
    }

    bool waits_for_key() const { return !open_.empty() && open_.back().node.is_map() && !open_.back().has_key; }

    void take_key(const YAML::Mark& mark, const std::string& key, bool quoted) {
        if (key == "<<" && !quoted) refuse(mark, "merge keys (<<) are not allowed");
        Open& map = open_.back();
        if (!map.keys.insert(key).second) {
            for (const NodeEntry& entry : map.node.entries)
                if (entry.key == key)
                    refuse(mark,
                           fmt::format("'{}' is written twice; the first one is in line {}", key, entry.pos.line));
        }
        map.has_key = true;
        map.key = key;
        map.key_pos = positions_.of(mark);
    }

    void open(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor, NodeKind kind) {
        refuse_decoration(mark, anchor);
        if (!tag.empty() && tag != "?") refuse(mark, "tags (!name) are not allowed");
        if (waits_for_key()) refuse(mark, "a key must be a name, not a list or a map; is a bracket not closed?");
        if (open_.size() >= yaml_depth_max) refuse(mark, fmt::format("nested deeper than {} levels", yaml_depth_max));
        Open collection;
        collection.node.kind = kind;
        collection.node.pos = positions_.of(mark);
        open_.push_back(std::move(collection));
    }

    void close() {
        INVARIANT(!open_.empty());
        Node node = std::move(open_.back().node);
        open_.pop_back();
        add(std::move(node));
    }

    void add(Node node) {
        if (open_.empty()) {
            root_ = std::move(node);
        } else if (open_.back().node.is_map()) {
            Open& map = open_.back();
            INVARIANT(map.has_key);
            map.node.entries.push_back({std::move(map.key), map.key_pos, std::move(node)});
            map.has_key = false;
        } else {
            open_.back().node.items.push_back(std::move(node));
        }
    }

    const SourceFile& file_;
    Positions positions_;
    std::vector<Open> open_;
    std::optional<Node> root_;
    unsigned documents_ = 0;
};

}  // namespace

const Node* Node::find(std::string_view key) const {
    for (const NodeEntry& entry : entries)
        if (entry.key == key) return &entry.value;
    return nullptr;
}

std::string_view Node::kind_name() const {
    switch (kind) {
    case NodeKind::null: return "nothing";
    case NodeKind::scalar: return "a value";
    case NodeKind::sequence: return "a list";
    case NodeKind::map: return "a map";
    }
    return {};
}

std::string read_text_file(const std::filesystem::path& path) {
    const auto refuse = [&](std::string_view why) -> void {
        throw UserError(fmt::format("kexec-sim: error: {}: {}", path.string(), why));
    };
    std::error_code error;
    const auto status = std::filesystem::status(path, error);
    if (status.type() == std::filesystem::file_type::not_found) refuse("no such file");
    if (error) refuse(error.message());
    if (std::filesystem::is_directory(status)) refuse("this is a folder, not a scenario file");
    std::ifstream in(path, std::ios::binary);
    if (!in) refuse("cannot be opened");
    std::string text;
    char block[65536];
    while (in.read(block, sizeof block) || in.gcount() > 0) {
        text.append(block, static_cast<std::size_t>(in.gcount()));
        if (text.size() > yaml_bytes_max)
            throw UserError(fmt::format("{}:1:1: error: longer than 4 MiB; this is no scenario file", path.string()));
    }
    if (in.bad()) refuse("cannot be read");
    return text;
}

Node read_yaml(const SourceFile& file, std::string_view text) {
    if (text.size() > yaml_bytes_max) file.error({}, "longer than 4 MiB; this is no scenario file");
    check_bytes(file, text);
    refuse_directives(file, text);
    Builder builder(file);
    try {
        std::istringstream in{std::string(text)};
        YAML::Parser parser(in);
        while (parser.HandleNextDocument(builder)) {}
    } catch (const YAML::Exception& failure) {
        file.error(failure.mark.is_null() ? SourcePos{1, 1} : Positions(file).of(failure.mark),
                   fmt::format("not valid YAML: {}", failure.msg));
    }
    return builder.take_root();
}

}  // namespace kexec_sim::sim
