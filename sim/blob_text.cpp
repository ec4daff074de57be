// Blobs for a reader: a devicetree as source, other bytes as text.
#include <algorithm>
#include <cctype>
#include <fmt/format.h>
#include <libfdt.h>

#include "kho/fdt.hpp"
#include "sim/steps.hpp"

namespace kexec_sim::sim {
namespace {

/// A property value as dtc prints it: a string where it is one, else bytes.
std::string value_text(const char* data, int bytes) {
    const bool text = bytes > 1 && data[bytes - 1] == '\0' &&
                      std::all_of(data, data + bytes - 1, [](unsigned char c) { return std::isprint(c); });
    if (text) return fmt::format("\"{}\"", data);
    std::string out = "[";
    for (int i = 0; i < bytes; ++i) out += fmt::format("{}{:02x}", i ? " " : "", static_cast<unsigned char>(data[i]));
    return out + "]";
}

std::string tree_text(const char* fdt) {
    std::string out;
    int depth = -1;
    int previous_depth = -1;
    for (int node = fdt_next_node(fdt, -1, &depth); node >= 0 && depth >= 0;
         node = fdt_next_node(fdt, node, &depth)) {
        for (; previous_depth >= depth; --previous_depth)
            out += std::string(static_cast<std::size_t>(previous_depth) * 2, ' ') + "};\n";
        const std::string pad(static_cast<std::size_t>(depth) * 2, ' ');
        const char* name = fdt_get_name(fdt, node, nullptr);
        out += fmt::format("{}{} {{\n", pad, name && *name ? name : "/");
        int property = 0;
        fdt_for_each_property_offset(property, fdt, node) {
            int bytes = 0;
            const char* key = nullptr;
            const void* value = fdt_getprop_by_offset(fdt, property, &key, &bytes);
            if (value)
                out += fmt::format("{}  {} = {};\n", pad, key, value_text(static_cast<const char*>(value), bytes));
        }
        previous_depth = depth;
    }
    for (; previous_depth >= 0; --previous_depth)
        out += std::string(static_cast<std::size_t>(previous_depth) * 2, ' ') + "};\n";
    return out;
}

}  // namespace

std::string printable_blob(const std::string& content) {
    // Not fdt_check_full: it refuses a root node with a name, which the file-descriptor tree of LUO has. The walk's own
    // checks stay inside what the header says, and that must lie inside the blob.
    if (content.size() >= sizeof(fdt_header) && fdt_check_header(content.data()) == 0 &&
        fdt_totalsize(content.data()) <= content.size())
        return tree_text(content.data());
    std::string out;
    for (const char c : content) {
        const auto byte = static_cast<unsigned char>(c);
        if (std::isprint(byte) || c == '\n' || c == '\t')
            out += c;
        else
            out += fmt::format("\\x{:02x}", byte);
    }
    return out;
}

void write_bench_tree(PhysicalMemory& ram, PhysRange where) {
    kho::FdtWriter tree(ram, where, "bench.tree");
    int code = tree.create();
    code |= tree.begin_node("");
    code |= tree.property_text("compatible", "bench-v1");
    code |= tree.end_node();
    code |= tree.finish();
    INVARIANT(code == 0);
}

}  // namespace kexec_sim::sim
