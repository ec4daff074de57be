#include "sim/inspect.hpp"

#include <algorithm>
#include <cstring>
#include <fmt/format.h>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "machine/memory_image.hpp"
#include "sim/boot_params_file.hpp"
#include "sim/host_file.hpp"
#include "sim/inspect_decode.hpp"
#include "sim/output.hpp"
#include "sim/steps.hpp"

namespace kexec_sim::sim {
namespace {

using json = nlohmann::ordered_json;

std::string readable_size(u64 bytes) {
    if (bytes && bytes % GiB == 0) return fmt::format("{} GiB", bytes / GiB);
    if (bytes && bytes % MiB == 0) return fmt::format("{} MiB", bytes / MiB);
    if (bytes && bytes % KiB == 0) return fmt::format("{} KiB", bytes / KiB);
    return fmt::format("{} bytes", bytes);
}

std::string indented(const std::string& text, std::string_view pad) {
    std::string out;
    for (std::size_t at = 0; at < text.size();) {
        const std::size_t end = std::min(text.find('\n', at), text.size());
        out += fmt::format("{}{}\n", pad, text.substr(at, end - at));
        at = end + 1;
    }
    return out;
}

/// A file that is a devicetree itself; nullopt: it is something else.
std::optional<std::string> as_tree(const std::string& path) {
    constexpr std::string_view magic = "\xd0\x0d\xfe\xed";
    require_regular_file(path, "this");
    std::string head(magic.size(), '\0');
    if (!std::ifstream(path, std::ios::binary).read(head.data(), static_cast<std::streamsize>(head.size())))
        return std::nullopt;
    return head == magic ? std::optional(read_host_file(path)) : std::nullopt;
}

int inspect_tree(Output& out, const InspectOptions& options, const std::string& blob) {
    const std::string text = printable_blob(blob);
    if (!text.starts_with("/ {") && text.find(" {\n") == std::string::npos) {
        out.print("{}: a devicetree header, but no valid devicetree ({} bytes)\n", options.file, blob.size());
        return 1;
    }
    out.print("{}: devicetree, {} bytes\n{}", options.file, blob.size(), text);
    return 0;
}

void print_trees(Output& out, const Inspected& image) {
    for (const Inspected::Tree& tree : image.trees) {
        out.print("\n{} tree at {:#x}, {} bytes\n", tree.name, tree.phys.raw, tree.bytes);
        out.print("{}", indented(tree.text, "  "));
        for (const Inspected::MemoryFile& file : image.files)
            if (file.tree == tree.phys)
                out.print("  token {:#x}: size {}, position {}, {} folios\n", file.token, file.size, file.pos,
                          file.folios);
    }
}

/// Whose memory a range is, as far as the trees tell: the owners with most of it first.
std::string owner_of(const Inspected& image, PhysRange range) {
    std::map<std::string, u64> bytes_by_name;
    for (const Inspected::Owner& owner : image.owners)
        if (owner.range.overlaps(range) && owner.name != "scratch")
            bytes_by_name[owner.name] +=
                std::min(owner.range.end, range.end) - std::max(owner.range.begin, range.begin);
    if (bytes_by_name.empty()) return "?";
    std::vector<std::pair<u64, std::string>> ranked;
    for (const auto& [name, bytes] : bytes_by_name) ranked.emplace_back(bytes, name);
    std::ranges::sort(ranked, [](const auto& left, const auto& right) {
        return left.first != right.first ? left.first > right.first : left.second < right.second;
    });
    std::string text;
    for (std::size_t i = 0; i < ranked.size() && i < 3; ++i) text += (i ? ", " : "") + ranked[i].second;
    return ranked.size() > 3 ? text + ", …" : text;
}

void print_records(Output& out, const Inspected& image) {
    for (const Inspected::Record& record : image.records) {
        out.print("\n{} at {:#x}: {}\n", record.name, record.phys.raw, record.what);
        for (const std::string& line : record.lines) out.print("  {}\n", line);
    }
}

void print_ranges(Output& out, const Inspected& image) {
    if (!image.map_address) return;
    u64 blocks = 0, bytes = 0;
    for (const kho::BlockRun& run : image.runs) {
        blocks += run.count;
        bytes += run.count * run.order.bytes();
    }
    out.print("\npreserved memory: {} blocks, {}; map at {:#x}: {} chunks, {} bitmaps of {} bytes\n", blocks,
              readable_size(bytes), *image.map_address, image.directory.chunks.size(),
              image.directory.elements.size(), image.bitmap_bytes);
    for (const kho::BlockRun& run : image.runs)
        out.print("  {:#014x}-{:#014x}  order {:2}  {:8} blocks  {}\n", run.frames().phys().begin.raw,
                  run.frames().phys().end.raw, run.order.raw, run.count, owner_of(image, run.frames().phys()));
    for (const kho::MapElement& element : image.directory.elements) {
        const u64 bits = image.bitmap_bytes * 8;
        u64 set = 0;
        for (const kho::BlockRun& run : image.runs)
            if (run.order == element.order) {
                const PhysRange covered = phys_range(element.phys_start, bits * run.order.bytes());
                const PhysRange blocks_range = run.frames().phys();
                if (!covered.overlaps(blocks_range)) continue;
                const u64 from = std::max(covered.begin.raw, blocks_range.begin.raw),
                          to = std::min(covered.end.raw, blocks_range.end.raw);
                set += (to - from) / run.order.bytes();
            }
        out.print("  bitmap {:#x}: order {}, from {:#x}, {} of {} bits\n", element.bitmap.raw, element.order.raw,
                  element.phys_start.raw, set, bits);
    }
    if (!image.scratch.empty()) out.print("\nscratch areas\n");
    for (const PhysRange& area : image.scratch)
        out.print("  {:#014x}-{:#014x}  {}\n", area.begin.raw, area.end.raw, readable_size(area.bytes()));
}

/// One character for a stretch of memory: what lies in it.
void print_map(Output& out, const Machine& machine, const Inspected& image) {
    constexpr u64 width = 64;
    const u64 step = align_up(std::max<u64>(machine.ram.bytes_max() / (width * 16), page_bytes), page_bytes);
    out.print(
        "\nmemory, {} a character: P preserved, T tree, M map, S scratch, # written, . never written, blank no RAM\n",
        readable_size(step));
    const auto letter = [&](PhysRange range) {
        if (!std::ranges::any_of(machine.ram.ranges(), [&](const PhysRange& ram) { return ram.overlaps(range); }))
            return ' ';
        char found = 0;
        for (const Inspected::Owner& owner : image.owners) {
            if (!owner.range.overlaps(range)) continue;
            if (owner.name.ends_with("tree")) return 'T';
            if (owner.name == "KHO chunk" || owner.name == "KHO bitmap") found = 'M';
            if (owner.name == "scratch" && !found) found = 'S';
        }
        if (found == 'M') return found;
        for (const kho::BlockRun& run : image.runs)
            if (run.frames().phys().overlaps(range)) return 'P';
        if (found) return found;
        const Pfn end = range.end.pfn();
        return machine.ram.next_written(range.begin.pfn(), end) < end ? '#' : '.';
    };
    for (u64 row = 0; row < machine.ram.bytes_max(); row += step * width) {
        std::string line;
        for (u64 at = row; at < std::min(row + step * width, machine.ram.bytes_max()); at += step)
            line += letter(phys_range(PhysAddr{at}, std::min(step, machine.ram.bytes_max() - at)));
        if (line.find_first_not_of(' ') != std::string::npos) out.print("  {:#014x} {}\n", row, line);
    }
    out.print("\nowners\n");
    std::vector<Inspected::Owner> owners = image.owners;
    std::ranges::sort(owners, {}, [](const Inspected::Owner& owner) { return owner.range; });
    for (const Inspected::Owner& owner : owners)
        out.print("  {:#014x}-{:#014x}  {:>10}  {}\n", owner.range.begin.raw, owner.range.end.raw,
                  readable_size(owner.range.bytes()), owner.name);
}

json to_json(const InspectOptions& options, const Inspected& image) {
    const auto hex = [](u64 value) { return fmt::format("{:#x}", value); };
    json root;
    root["format"] = "kexec-sim/inspect-1";
    root["file"] = options.file;
    root["root"] = image.root ? json(hex(image.root->raw)) : json(nullptr);
    root["map"] = image.map_address ? json(hex(*image.map_address)) : json(nullptr);
    root["bitmap_bytes"] = image.bitmap_bytes;
    root["chunks"] = image.directory.chunks.size();
    root["bitmaps"] = image.directory.elements.size();
    root["ranges"] = json::array();
    for (const kho::BlockRun& run : image.runs)
        root["ranges"].push_back({{"begin", hex(run.frames().phys().begin.raw)},
                                  {"end", hex(run.frames().phys().end.raw)},
                                  {"order", run.order.raw},
                                  {"blocks", run.count},
                                  {"owner", owner_of(image, run.frames().phys())}});
    root["scratch"] = json::array();
    for (const PhysRange& area : image.scratch)
        root["scratch"].push_back({{"addr", hex(area.begin.raw)}, {"size", hex(area.bytes())}});
    root["trees"] = json::array();
    for (const Inspected::Tree& tree : image.trees)
        root["trees"].push_back(
            {{"name", tree.name}, {"phys", hex(tree.phys.raw)}, {"bytes", tree.bytes}, {"text", tree.text}});
    root["files"] = json::array();
    for (const Inspected::MemoryFile& file : image.files)
        root["files"].push_back({{"token", hex(file.token)},
                                 {"handler", file.handler},
                                 {"size", file.size},
                                 {"pos", file.pos},
                                 {"folios", file.folios},
                                 {"tree", hex(file.tree.raw)}});
    root["records"] = json::array();
    for (const Inspected::Record& record : image.records)
        root["records"].push_back(
            {{"name", record.name}, {"phys", hex(record.phys.raw)}, {"what", record.what}, {"lines", record.lines}});
    root["owners"] = json::array();
    for (const Inspected::Owner& owner : image.owners)
        root["owners"].push_back(
            {{"begin", hex(owner.range.begin.raw)}, {"end", hex(owner.range.end.raw)}, {"name", owner.name}});
    root["problems"] = image.problems;
    return root;
}

void write_json(const InspectOptions& options, const Inspected& image) {
    Output out(options.json_file);
    out.write(to_json(options, image).dump(2) + "\n");
    out.flush();
}

}  // namespace

int run_inspect(const InspectOptions& options) {
    Output out("-");
    if (const auto blob = as_tree(options.file)) {
        const int code = inspect_tree(out, options, *blob);
        out.flush();
        return code;
    }
    MachineConfig config;
    HandoverAddress where;
    where.fdt = options.fdt_addr;
    const u64 bytes = image_file_bytes(options.file);
    if (bytes < MiB)
        throw UserError(fmt::format("kexec-sim: error: {}: neither a devicetree nor a RAM image", options.file));
    config.memory_map = {{{PhysAddr{0}, PhysAddr{align_up(bytes, page_bytes)}}, MemoryType::ram}};
    config.node_count = 1;
    if (!options.boot_params.empty()) {
        const BootParamsFile file = read_boot_params_file(options.boot_params, options.file);
        if (!file.memory_map.empty()) config.memory_map = file.memory_map;
        if (file.kho_payload) {
            u64 words[4];
            std::memcpy(words, file.kho_payload->data(), sizeof words);
            if (!where.fdt) where.fdt = words[0];
            where.scratch = words[2];
            where.scratch_bytes = words[3];
        }
    }
    const MachineHandle machine = make_machine(config);
    machine->ram.load_image(options.file);
    const Inspected image = decode_image(*machine, where);
    if (!image.root)
        throw UserError(
            fmt::format("kexec-sim: error: {}: no root tree of \"kho-v1\" was found in it; say where it is with "
                        "--fdt or --boot-params",
                        options.file));
    if (options.json_file != "-") {
        out.print("{}: RAM of {}, {} frames written\n", options.file, readable_size(bytes),
                  machine->ram.frames_written());
        print_trees(out, image);
        print_records(out, image);
        print_ranges(out, image);
        if (options.map) print_map(out, *machine, image);
        for (const std::string& problem : image.problems) out.print("problem: {}\n", problem);
    }
    out.flush();
    if (!options.json_file.empty()) write_json(options, image);
    return image.problems.empty() ? 0 : 1;
}

}  // namespace kexec_sim::sim
