// The strict reader: a scenario file as a small tree of our own, or one good error.
//
// YAML allows much that a scenario must not have, because it hides a mistake: a key written twice
// (the second one silently wins or loses), anchors and aliases, tags, merge keys, a second document.
// And it types scalars by their looks, which turns `no` into false and `0x10_0000` into a string. So
// the reader takes yaml-cpp's events, keeps every scalar as the text that was written, and refuses the rest.
//
//     bytes ──check──> yaml-cpp events ──build, refuse──> Node tree ──> scenario parser
//           NUL, UTF-8,                 anchors, aliases, tags, <<,
//           control characters          duplicate keys, depth > 64, second document
//
// Happy path: (1) the bytes are checked; (2) yaml-cpp emits events; (3) the builder turns them into
// Nodes, each with line and column; (4) a second document is looked for and must not be there.
// Unhappy paths, each a UserError that begins FILE:LINE:COL: (1) a byte that is no text; (2) YAML
// that does not parse; (3) something refused; (4) an empty file; (5) a file that cannot be read.
//
// Invariants: no exception of yaml-cpp leaves the reader; depth is bounded before yaml-cpp
// recurses (the builder throws out of the event); every Node of a map has as many keys as values.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "sim/source.hpp"

namespace kexec_sim::sim {

enum class NodeKind : u8 { null, scalar, sequence, map };

struct NodeEntry;

/// One node of the file. A scalar is the text as written (quotes removed); nothing is typed.
struct Node {
    NodeKind kind = NodeKind::null;
    std::string text;                // scalar
    bool quoted = false;             // scalar: in quotes or a block scalar
    SourcePos pos;                   // of a null: where its key stands
    std::vector<Node> items;         // sequence
    std::vector<NodeEntry> entries;  // map, in the order of the file

    bool is_null() const { return kind == NodeKind::null; }
    bool is_scalar() const { return kind == NodeKind::scalar; }
    bool is_sequence() const { return kind == NodeKind::sequence; }
    bool is_map() const { return kind == NodeKind::map; }
    /// The value of `key` in a map; nullptr where there is none.
    const Node* find(std::string_view key) const;
    /// "a list", "a map", "a value", "nothing": for messages.
    std::string_view kind_name() const;
};

struct NodeEntry {
    std::string key;
    SourcePos pos;
    Node value;
};

inline constexpr unsigned yaml_depth_max = 64;
inline constexpr u64 yaml_bytes_max = 4 * MiB;

/// The whole text of a file; UserError where it cannot be read or is longer than `yaml_bytes_max`.
std::string read_text_file(const std::filesystem::path& path);
/// Throws UserError; `file` was made from the same text.
Node read_yaml(const SourceFile& file, std::string_view text);

}  // namespace kexec_sim::sim
