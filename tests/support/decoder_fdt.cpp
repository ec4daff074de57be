// The container of every tree: header, reserve map, structure block, strings.
//
//   0    header (40 bytes, big-endian)
//   40   reserve map: pairs of u64, ended by a pair of zeros
//   56   structure: BEGIN name, PROP len nameoff value, END, ..., FDT_END; each token on a multiple of 4
//   ...  strings: names of the properties
//
// The blob is read in one piece after its length is known, then walked with an index that is compared with the end of
// its block before every step. A walk consumes at least four bytes a step, so it ends.
#include <algorithm>

#include "tests/support/decoder_reader.hpp"

namespace decoder {

namespace {

constexpr std::uint32_t fdt_magic = 0xd00dfeed;
constexpr std::size_t header_bytes = 40;
constexpr std::uint32_t token_begin = 1;
constexpr std::uint32_t token_end = 2;
constexpr std::uint32_t token_prop = 3;
constexpr std::uint32_t token_nop = 4;
constexpr std::uint32_t token_fdt_end = 9;

struct Header {
    std::uint32_t total_size = 0;
    std::uint32_t struct_offset = 0;
    std::uint32_t strings_offset = 0;
    std::uint32_t reserve_offset = 0;
    std::uint32_t version = 0;
    std::uint32_t compatible_version = 0;
    std::uint32_t strings_bytes = 0;
    std::uint32_t struct_bytes = 0;
};

using Failure = std::unexpected<Problem>;

Failure broken(std::uint64_t phys, std::string what) { return Failure{Problem{phys, std::move(what)}}; }

// True if [offset, offset + bytes) lies in [header, total): sums in 64 bits, so they cannot wrap.
bool inside(std::uint32_t offset, std::uint32_t bytes, std::uint32_t total) {
    return offset >= header_bytes && std::uint64_t{offset} + bytes <= total;
}

std::expected<Header, Problem> parse_header(std::span<const std::uint8_t> raw, std::uint64_t phys,
                                            std::uint64_t bytes_max) {
    if (load_big32(raw, 0) != fdt_magic) return broken(phys, "not a tree: magic is " + hex(load_big32(raw, 0)));
    Header header;
    header.total_size = load_big32(raw, 4);
    header.struct_offset = load_big32(raw, 8);
    header.strings_offset = load_big32(raw, 12);
    header.reserve_offset = load_big32(raw, 16);
    header.version = load_big32(raw, 20);
    header.compatible_version = load_big32(raw, 24);
    header.strings_bytes = load_big32(raw, 32);
    header.struct_bytes = load_big32(raw, 36);
    if (header.version < 17 || header.compatible_version > 17)
        return broken(phys + 20, "tree version " + std::to_string(header.version) + " is not readable as 17");
    if (header.total_size < header_bytes || header.total_size > bytes_max)
        return broken(phys + 4, "tree size " + std::to_string(header.total_size) + " is not between 40 and " +
                                    std::to_string(bytes_max));
    if (header.struct_offset % 4 != 0 || !inside(header.struct_offset, header.struct_bytes, header.total_size))
        return broken(phys + 8, "structure block does not fit into the tree");
    if (!inside(header.strings_offset, header.strings_bytes, header.total_size))
        return broken(phys + 12, "strings block does not fit into the tree");
    if (header.reserve_offset % 8 != 0 || !inside(header.reserve_offset, 16, header.total_size))
        return broken(phys + 16, "reserve map does not fit into the tree");
    return header;
}

class Parser {
public:
    Parser(std::span<const std::uint8_t> blob, const Header& header, std::uint64_t phys, std::size_t depth_max)
        : blob_(blob),
          header_(header),
          phys_(phys),
          depth_max_(depth_max),
          at_(header.struct_offset),
          end_(std::size_t{header.struct_offset} + header.struct_bytes) {}

    std::expected<Node, Problem> run() {
        if (auto done = check_reserve_map(); !done) return Failure{done.error()};
        while (!finished_)
            if (auto done = step(); !done) return Failure{done.error()};
        return std::move(root_);
    }

private:
    std::uint64_t where(std::size_t offset) const { return phys_ + offset; }

    std::expected<void, Problem> check_reserve_map() const {
        for (std::size_t at = header_.reserve_offset; at + 16 <= blob_.size(); at += 16)
            if (load_big64(blob_, at) == 0 && load_big64(blob_, at + 8) == 0) return {};
        return broken(where(header_.reserve_offset), "reserve map has no end");
    }

    std::expected<void, Problem> step() {
        if (end_ - at_ < 4) return broken(where(at_), "structure block ends without FDT_END");
        const std::size_t token_at = at_;
        const std::uint32_t token = load_big32(blob_, at_);
        at_ += 4;
        switch (token) {
        case token_nop: return {};
        case token_begin: return begin_node(token_at);
        case token_prop: return property(token_at);
        case token_end:
            if (open_.empty()) return broken(where(token_at), "END without a node");
            open_.pop_back();
            return {};
        case token_fdt_end:
            if (!open_.empty() || !root_seen_) return broken(where(token_at), "FDT_END inside the tree");
            finished_ = true;
            return {};
        }
        return broken(where(token_at), "unknown token " + hex(token));
    }

    std::expected<void, Problem> begin_node(std::size_t token_at) {
        if (open_.empty() && root_seen_) return broken(where(token_at), "second root node");
        if (open_.size() >= depth_max_) return broken(where(token_at), "tree is too deep");
        const auto first = blob_.begin() + static_cast<std::ptrdiff_t>(at_);
        const auto last = blob_.begin() + static_cast<std::ptrdiff_t>(end_);
        const auto nul = std::find(first, last, std::uint8_t{0});
        if (nul == last) return broken(where(at_), "node name has no end");
        Node node{.name = std::string(first, nul), .phys = where(token_at), .properties = {}, .children = {}};
        if (auto done = advance(node.name.size() + 1); !done) return done;
        if (open_.empty()) {
            root_ = std::move(node);
            root_seen_ = true;
            open_.push_back(&root_);
            return {};
        }
        // Only the innermost open node's list of children grows, so the addresses of its ancestors stay.
        auto& siblings = open_.back()->children;
        siblings.push_back(std::move(node));
        open_.push_back(&siblings.back());
        return {};
    }

    std::expected<void, Problem> property(std::size_t token_at) {
        if (open_.empty()) return broken(where(token_at), "property outside a node");
        if (!open_.back()->children.empty()) return broken(where(token_at), "property after a child node");
        if (end_ - at_ < 8) return broken(where(token_at), "property header is cut off");
        const std::uint32_t length = load_big32(blob_, at_);
        const std::uint32_t name_offset = load_big32(blob_, at_ + 4);
        at_ += 8;
        if (length > end_ - at_) return broken(where(token_at), "property value is cut off");
        auto name = string_at(name_offset);
        if (!name) return broken(where(token_at), "property name lies outside the strings block");
        const auto value = blob_.subspan(at_, length);
        open_.back()->properties.push_back(
            Property{.name = *name, .phys = where(at_), .value = Bytes(value.begin(), value.end())});
        return advance(length);
    }

    // Past `bytes` and the padding up to the next multiple of 4, counted from the start of the block.
    std::expected<void, Problem> advance(std::size_t bytes) {
        const std::size_t padded = (bytes + 3) & ~std::size_t{3};
        if (padded > end_ - at_) return broken(where(at_), "padding leaves the structure block");
        at_ += padded;
        return {};
    }

    std::optional<std::string> string_at(std::uint32_t offset) const {
        if (offset >= header_.strings_bytes) return std::nullopt;
        const auto strings = blob_.subspan(header_.strings_offset, header_.strings_bytes).subspan(offset);
        const auto nul = std::find(strings.begin(), strings.end(), std::uint8_t{0});
        if (nul == strings.end()) return std::nullopt;
        return std::string(strings.begin(), nul);
    }

    std::span<const std::uint8_t> blob_;
    Header header_;
    std::uint64_t phys_;
    std::size_t depth_max_;
    std::size_t at_;
    std::size_t end_;
    Node root_;
    std::vector<Node*> open_;
    bool root_seen_ = false;
    bool finished_ = false;
};

}  // namespace

std::expected<Tree, Problem> read_tree(Reader& reader, std::uint64_t phys, std::uint64_t bytes_max) {
    auto raw_header = reader.read(phys, header_bytes, "tree header");
    if (!raw_header) return Failure{raw_header.error()};
    auto header = parse_header(*raw_header, phys, bytes_max);
    if (!header) return Failure{header.error()};
    auto blob = reader.read(phys, header->total_size, "tree");
    if (!blob) return Failure{blob.error()};
    auto root = Parser(*blob, *header, phys, reader.limits().tree_depth_max).run();
    if (!root) return Failure{root.error()};
    return Tree{.phys = phys, .total_size = header->total_size, .root = std::move(*root)};
}

const Property* Node::property(std::string_view wanted) const {
    const auto found = std::ranges::find(properties, wanted, &Property::name);
    return found == properties.end() ? nullptr : &*found;
}

const Node* Node::child(std::string_view wanted) const {
    const auto found = std::ranges::find(children, wanted, &Node::name);
    return found == children.end() ? nullptr : &*found;
}

namespace {

std::expected<const Property*, Problem> sized_property(const Node& node, std::string_view name, std::size_t bytes) {
    const Property* property = node.property(name);
    if (property == nullptr)
        return broken(node.phys, "node '" + node.name + "' has no property '" + std::string(name) + "'");
    if (property->value.size() != bytes)
        return broken(property->phys, "property '" + std::string(name) + "' has length " +
                                          std::to_string(property->value.size()) + ", not " + std::to_string(bytes));
    return property;
}

}  // namespace

std::expected<std::uint64_t, Problem> u64_property(const Node& node, std::string_view name) {
    const auto property = sized_property(node, name, 8);
    if (!property) return Failure{property.error()};
    return load_host64((*property)->value, 0);
}

std::expected<std::uint32_t, Problem> u32_property(const Node& node, std::string_view name) {
    const auto property = sized_property(node, name, 4);
    if (!property) return Failure{property.error()};
    return load_host32((*property)->value, 0);
}

std::expected<std::string, Problem> string_property(const Node& node, std::string_view name) {
    const Property* property = node.property(name);
    if (property == nullptr)
        return broken(node.phys, "node '" + node.name + "' has no property '" + std::string(name) + "'");
    const Bytes& value = property->value;
    if (value.empty() || value.back() != 0 || std::ranges::find(value, std::uint8_t{0}) != value.end() - 1)
        return broken(property->phys, "property '" + std::string(name) + "' is not one string");
    return std::string(value.begin(), value.end() - 1);
}

std::expected<void, Problem> require_compatible(const Node& node, std::string_view wanted) {
    const auto compatible = string_property(node, "compatible");
    if (!compatible) return Failure{compatible.error()};
    if (*compatible != wanted)
        return broken(node.property("compatible")->phys,
                      "compatible is '" + *compatible + "', not '" + std::string(wanted) + "'");
    return {};
}

}  // namespace decoder
