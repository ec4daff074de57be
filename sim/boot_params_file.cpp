#include "sim/boot_params_file.hpp"

#include <algorithm>
#include <cstring>
#include <fmt/format.h>
#include <fstream>
#include <nlohmann/json.hpp>

#include "machine/memory_image.hpp"
#include "sim/host_file.hpp"
#include "sim/values.hpp"

namespace kexec_sim::sim {
namespace {

using json = nlohmann::ordered_json;

constexpr std::array<const char*, 5> counter_names = {"kho.map_pages", "kho.preserved_folios", "kho.preserved_bytes",
                                                      "kho.overhead_pages", "luo.files"};

constexpr const char* format_name = "kexec-sim/boot-params-1";
constexpr u64 nodes_max = 1024, generations_max = 1'000'000;

std::string hex(u64 value) { return fmt::format("{:#x}", value); }

/// A number, or a string of one in hex or decimal.
u64 number(const json& value, u64 max = ~u64{0}) {
    std::optional<u64> result;
    if (value.is_number_unsigned()) result = value.get<u64>();
    if (value.is_string()) result = parse_u64(value.get<std::string>());
    if (!result) throw std::invalid_argument(fmt::format("{} is no number of hex or decimal digits", value.dump()));
    if (*result > max) throw std::invalid_argument(fmt::format("{} is more than {}", value.dump(), max));
    return *result;
}

constexpr std::array<std::string_view, 6> kind_names = {"none",    "folio",       "pages",
                                                        "vmalloc", "reserve_mem", "subtree"};

json bench_json(const BenchObject& object) {
    return {{"kind", kind_names.at(static_cast<std::size_t>(object.kind))},
            {"phys", hex(object.phys)},
            {"count", object.count},
            {"order", object.order},
            {"bytes", object.bytes},
            {"fill_kind", object.fill_kind},
            {"fill_value", object.fill_value},
            {"vmalloc_pages", object.vmalloc_pages},
            {"vmalloc_flags", object.vmalloc_flags},
            {"vmalloc_order", object.vmalloc_order},
            {"generation", object.generation},
            {"preserved", object.preserved}};
}

BenchObject bench_object(const json& value) {
    BenchObject object;
    const auto kind = std::ranges::find(kind_names, value.at("kind").get<std::string>());
    if (kind == kind_names.end())
        throw std::invalid_argument(fmt::format("'kind' {} of a bench object is none", value.at("kind").dump()));
    object.kind = static_cast<BenchObject::Kind>(kind - kind_names.begin());
    object.phys = number(value.at("phys"));
    object.count = number(value.at("count"));
    object.order = static_cast<u8>(number(value.at("order")));
    object.bytes = number(value.at("bytes"));
    object.fill_kind = static_cast<u8>(number(value.at("fill_kind")));
    object.fill_value = number(value.at("fill_value"));
    object.vmalloc_pages = static_cast<u32>(number(value.at("vmalloc_pages")));
    object.vmalloc_flags = static_cast<u16>(number(value.at("vmalloc_flags")));
    object.vmalloc_order = static_cast<u16>(number(value.at("vmalloc_order")));
    object.generation = static_cast<Generation>(number(value.at("generation")));
    object.preserved = value.at("preserved").get<bool>();
    return object;
}

json load_json(const std::filesystem::path& path) {
    const std::string text = read_host_file(path);
    try {
        return json::parse(text);
    } catch (const json::parse_error& error) {
        throw UserError(fmt::format("kexec-sim: error: {}: not JSON (byte {})", path.string(), error.byte));
    }
}

std::vector<std::byte> payload_of(const json& entry) {
    const u64 words[4] = {number(entry.at("fdt_addr")), number(entry.at("fdt_size")),
                          number(entry.at("scratch_addr")), number(entry.at("scratch_size"))};
    std::vector<std::byte> payload(sizeof words);
    std::memcpy(payload.data(), words, sizeof words);
    return payload;
}

/// What the machine is made of must make sense before it is made.
void check_layout(const BootParamsFile& file, const std::string& image) {
    const auto wrong = [](std::string text) { throw std::invalid_argument(std::move(text)); };
    PhysAddr end{};
    if (file.memory_map.size() > memory_map_entries_max)
        wrong(
            fmt::format("'memory_map' has {} entries, more than {}", file.memory_map.size(), memory_map_entries_max));
    for (const MemoryMapEntry& entry : file.memory_map) {
        if (entry.range.begin >= entry.range.end || entry.range.begin < end)
            wrong(fmt::format("'memory_map' is not ascending at {:#x}", entry.range.begin.raw));
        end = entry.range.end;
        if (entry.type == MemoryType::ram && end.raw > file.image_bytes)
            wrong(fmt::format("its memory map reaches {:#x}, but {} holds {:#x} bytes only", end.raw, image,
                              file.image_bytes));
        if (end.raw > ram_bytes_max + GiB)
            wrong(fmt::format("'memory_map' reaches {:#x}, beyond any machine", end.raw));
    }
    if (file.node_count == 0) wrong("'node_count' is 0");
    for (const NodeRange& node : file.nodes)
        if (node.nid.raw < 0 || static_cast<unsigned>(node.nid.raw) >= file.node_count ||
            node.range.begin >= node.range.end)
            wrong(fmt::format("'nodes' has an entry of node {}, which is none of {} nodes, or is empty", node.nid.raw,
                              file.node_count));
}

void read_ranges(const json& root, BootParamsFile& file) {
    if (root.contains("memory_map"))
        for (const json& entry : root.at("memory_map"))
            file.memory_map.push_back(
                {{PhysAddr{number(entry.at("begin"))}, PhysAddr{number(entry.at("end"))}},
                 entry.at("type").get<std::string>() == "ram" ? MemoryType::ram : MemoryType::reserved});
    if (root.contains("nodes"))
        for (const json& entry : root.at("nodes"))
            file.nodes.push_back({Nid{static_cast<i32>(number(entry.at("node"), nodes_max))},
                                  {PhysAddr{number(entry.at("begin"))}, PhysAddr{number(entry.at("end"))}}});
    if (root.contains("scratch"))
        for (const json& entry : root.at("scratch"))
            file.scratch.push_back(phys_range(PhysAddr{number(entry.at("addr"))}, number(entry.at("size"))));
    if (root.contains("boot_page"))
        file.boot_page =
            phys_range(PhysAddr{number(root.at("boot_page").at("addr"))}, number(root.at("boot_page").at("size")));
}

void read_instruments(const json& root, BootParamsFile& file) {
    if (root.contains("node_count"))
        file.node_count = static_cast<unsigned>(number(root.at("node_count"), nodes_max));
    if (root.contains("generation"))
        file.generation = static_cast<Generation>(number(root.at("generation"), generations_max));
    if (root.contains("clock")) file.clock_ns = number(root.at("clock"), VirtualClock::time_max_ns);
    if (root.contains("blackout_start") && !root.at("blackout_start").is_null())
        file.blackout_start_ns = number(root.at("blackout_start"));
    if (root.contains("bench"))
        for (const auto& [name, object] : root.at("bench").items()) file.bench[name] = bench_object(object);
    if (root.contains("marks"))
        for (const auto& [name, frames] : root.at("marks").items()) file.marks[name] = number(frames);
    if (root.contains("counters"))
        for (std::size_t i = 0; i < file.counters.size(); ++i)
            file.counters[i] = number(root.at("counters").at(counter_names[i]));
    if (root.contains("referee")) file.referee = root.at("referee").get<std::string>();
    if (file.generation == 0) throw std::invalid_argument("generation is 0");
}

json setup_data_json(const RunState& state, const BootParams& params) {
    if (!state.handover_passed) return nullptr;
    for (const SetupData& entry : params.setup_data) {
        if (entry.type != SETUP_KEXEC_KHO || entry.payload.size() != 32) continue;
        u64 words[4];
        std::memcpy(words, entry.payload.data(), sizeof words);
        return {{"type", SETUP_KEXEC_KHO},
                {"fdt_addr", hex(words[0])},
                {"fdt_size", hex(words[1])},
                {"scratch_addr", hex(words[2])},
                {"scratch_size", hex(words[3])}};
    }
    return nullptr;
}

}  // namespace

BootParamsFile read_boot_params_file(const std::filesystem::path& path, const std::filesystem::path& image) {
    BootParamsFile file;
    require_regular_file(image, "the memory image");
    file.image_bytes = image_file_bytes(image.string());
    const json root = load_json(path);
    try {
        if (!root.is_object() || !root.contains("setup_data"))
            throw std::invalid_argument("an object with 'setup_data' is needed");
        if (root.contains("format") && root.at("format") != format_name)
            throw std::invalid_argument(fmt::format("format {} is not known; this program reads \"{}\"",
                                                    root.at("format").dump(), format_name));
        if (root.contains("setup_data") && !root.at("setup_data").is_null())
            file.kho_payload = payload_of(root.at("setup_data"));
        read_ranges(root, file);
        read_instruments(root, file);
        check_layout(file, image.string());
    } catch (const json::exception& problem) {
        // Behind the library's own number: "key 'addr' not found".
        const std::string_view what = problem.what();
        throw UserError(fmt::format("kexec-sim: error: {}: not a boot-params file: {}", path.string(),
                                    what.substr(what.find("] ") == what.npos ? 0 : what.find("] ") + 2)));
    } catch (const std::exception& problem) {
        throw UserError(fmt::format("kexec-sim: error: {}: {}", path.string(), problem.what()));
    }
    return file;
}

void write_boot_params_file(const std::string& path, const Machine& machine, const RunState& state) {
    const PhysRange page = phys_range(PhysAddr{state.boot_params_begin}, state.boot_params_bytes);
    const BootParams params = read_boot_params(machine.ram, page);
    json root;
    root["format"] = format_name;
    root["setup_data"] = setup_data_json(state, params);
    json scratch = json::array();
    if (const json& entry = root["setup_data"]; !entry.is_null()) {
        const u64 at = number(entry["scratch_addr"]), bytes = number(entry["scratch_size"]);
        for (u64 offset = 0; offset + 16 <= bytes && machine.ram.contains(PhysAddr{at + offset}, 16); offset += 16)
            scratch.push_back({{"addr", hex(machine.ram.read<u64>(PhysAddr{at + offset}))},
                               {"size", hex(machine.ram.read<u64>(PhysAddr{at + offset + 8}))}});
    }
    root["scratch"] = scratch;
    root["command_line"] = params.cmdline;
    root["memory_map"] = json::array();
    for (const MemoryMapEntry& entry : machine.memory_map)
        root["memory_map"].push_back({{"begin", hex(entry.range.begin.raw)},
                                      {"end", hex(entry.range.end.raw)},
                                      {"type", entry.type == MemoryType::ram ? "ram" : "reserved"}});
    root["nodes"] = json::array();
    for (const NodeRange& node : machine.nodes)
        root["nodes"].push_back({{"node", static_cast<u32>(node.nid.raw)},
                                 {"begin", hex(node.range.begin.raw)},
                                 {"end", hex(node.range.end.raw)}});
    root["node_count"] = machine.node_count;
    root["boot_page"] = {{"addr", hex(page.begin.raw)}, {"size", hex(page.bytes())}};
    root["kernel_image"] = {{"addr", hex(params.kernel_image.begin.raw)}, {"size", hex(params.kernel_image.bytes())}};
    root["initrd"] = {{"addr", hex(params.initrd.begin.raw)}, {"size", hex(params.initrd.bytes())}};
    root["generation"] = machine.generation + 1;
    root["kernel_index"] = state.next_kernel_index;
    root["clock"] = machine.clock.now_ns();
    root["blackout_start"] = state.blackout_running ? json(state.blackout_start_ns) : json(nullptr);
    root["bench"] = json::object();
    for (const auto& [name, object] : state.bench) root["bench"][std::string(name)] = bench_json(object);
    root["marks"] = json::object();
    for (const auto& [name, frames] : state.marks) root["marks"][std::string(name)] = frames;
    const u64 counters[] = {state.map_pages, state.preserved_folios, state.preserved_bytes, state.overhead_pages,
                            state.luo_files};
    for (std::size_t i = 0; i < counter_names.size(); ++i) root["counters"][counter_names[i]] = counters[i];
    root["referee"] = machine.referee.save_promises();
    std::ofstream out(path);
    out << root.dump(2) << '\n';
    out.close();
    if (!out) throw UserError(fmt::format("kexec-sim: error: {}: cannot be written", path));
}

BootParams boot_params_of(const BootParamsFile& file, Machine& machine, const KexecRequest& request) {
    if (!file.boot_page.empty()) {
        BootParams params = read_boot_params(machine.ram, file.boot_page);
        if (params.memory_map.empty())
            throw UserError(fmt::format(
                "kexec-sim: error: the memory image holds no boot parameters at {:#x}, where 'boot_page' has them",
                file.boot_page.begin.raw));
        return params;
    }
    // A handover that some other loader prepared: the image goes where that loader had to put it, into scratch.
    BootParams params = firmware_boot(machine, request);
    if (file.kho_payload) params.setup_data.push_back({SETUP_KEXEC_KHO, *file.kho_payload});
    return params;
}

std::set<std::string> bench_names_of(const std::filesystem::path& path, const std::filesystem::path& image) {
    std::set<std::string> names;
    const BootParamsFile file = read_boot_params_file(path, image);
    for (const auto& [name, object] : file.bench) names.insert(name);
    for (const auto& [name, frames] : file.marks) names.insert(name);
    return names;
}

}  // namespace kexec_sim::sim
