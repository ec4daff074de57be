// From a node of the file to a value, or to an error at the node.
//
// Every scalar of a scenario is read through here, so that `${…}` is replaced everywhere and a wrong
// type always sounds the same: "'size' needs a size, as 4096 or 2MiB, not '12Q'".
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "sim/source.hpp"
#include "sim/values.hpp"
#include "sim/yaml_reader.hpp"

namespace kexec_sim::sim {

struct TextAt {
    std::string text;
    SourcePos pos;
};

/// How much text may be read out of one file, `each` unrolled and `${…}` replaced: a small file could
/// otherwise ask for any amount.
inline constexpr u64 read_bytes_max = 64 * MiB;

class Scalars {
public:
    /// `read_bytes` counts for the whole file. It, `file` and the texts of `values` outlive this.
    Scalars(const SourceFile& file, std::vector<Substitution> values, u64& read_bytes)
        : file_(file),
          values_(std::move(values)),
          read_bytes_(read_bytes) {}

    /// The same with one value more.
    Scalars with(Substitution value) const {
        Scalars more = *this;
        more.values_.push_back(value);
        return more;
    }
    bool knows(std::string_view name) const;

    const SourceFile& file() const { return file_; }
    [[noreturn]] void error(SourcePos pos, std::string_view text) const { file_.error(pos, text); }

    /// Each takes the name of what is read, for the message.
    std::string text(const Node& node, std::string_view what, std::string_view wanted = "a text") const;
    /// Text that is not empty and has no line break.
    std::string line(const Node& node, std::string_view what, std::string_view wanted = "a text") const;
    u64 size(const Node& node, std::string_view what, u64 max = ~u64{0}) const;
    u64 duration(const Node& node, std::string_view what, u64 max_ns = ~u64{0}) const;
    u64 number(const Node& node, std::string_view what, u64 max = ~u64{0}) const;
    bool boolean(const Node& node, std::string_view what) const;
    std::string choice(const Node& node, std::string_view what, std::span<const std::string_view> values) const;
    /// A list of scalars.
    std::vector<TextAt> list(const Node& node, std::string_view what) const;

    /// Refuses what is no map and every key that is not one of `keys`.
    void check_map(const Node& node, std::string_view what, std::span<const std::string_view> keys) const;
    void check_map(const Node& node, std::string_view what, std::initializer_list<std::string_view> keys) const {
        check_map(node, what, std::span(keys.begin(), keys.size()));
    }
    void check_sequence(const Node& node, std::string_view what) const;
    /// The value of a key that must be there.
    const Node& require(const Node& map, std::string_view key, std::string_view what) const;

private:
    [[noreturn]] void wrong_type(const Node& node, std::string_view what, std::string_view wanted,
                                 std::string_view text) const;

    const SourceFile& file_;
    std::vector<Substitution> values_;
    u64& read_bytes_;
};

}  // namespace kexec_sim::sim
