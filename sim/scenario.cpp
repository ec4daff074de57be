#include "sim/scenario.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "kernel-model/kexec.hpp"
#include "machine/result.hpp"
#include "sim/host_file.hpp"
#include "sim/scenario_parts.hpp"
#include "sim/step_parser.hpp"
#include "sim/yaml_reader.hpp"

namespace kexec_sim::sim {
namespace {

constexpr std::string_view scenario_keys[] = {"format",  "scenario",     "summary",   "seed",   "machine",
                                              "kernels", "parameters",   "modules",   "faults", "steps",
                                              "expect",  "under-faults", "reproduces"};

constexpr std::size_t parameters_max = 1000;

/// The names in `reserve_mem=SIZE:ALIGN:NAME` of a command line: areas that exist without a step.
void bind_reserve_mem(std::string_view cmdline, NameBook& names) {
    constexpr std::string_view key = "reserve_mem=";
    for (std::size_t at = 0; at < cmdline.size();) {
        const std::size_t end = std::min(cmdline.find(' ', at), cmdline.size());
        const std::string_view word = cmdline.substr(at, end - at);
        const std::size_t colon = word.rfind(':');
        if (word.starts_with(key) && colon != std::string_view::npos)
            names.bind(NameKind::bench, std::string(word.substr(colon + 1)));
        at = end + 1;
    }
}

/// Reads one file: the sections in the order of the page that describes them, then the names.
class ScenarioParser {
public:
    ScenarioParser(const SourceFile& file, const Node& root, const std::filesystem::path& path,
                   const LoadOptions& options)
        : file_(file),
          root_(root),
          path_(path),
          folder_(path.parent_path()),
          options_(options) {}

    Scenario parse() {
        const Scalars plain(file_, {}, read_bytes_);
        check_format(plain);
        plain.check_map(root_, "scenario file", scenario_keys);
        scenario_.path = path_;
        parse_parameters(plain);
        std::vector<Substitution> values;
        for (const auto& [name, value] : scenario_.parameters) values.push_back({name, value});
        const Scalars scalars(file_, std::move(values), read_bytes_);
        parse_head(scalars);
        scenario_.machine = parse_machine(require("machine"), scalars, folder_);
        scenario_.kernels = parse_kernels(require("kernels"), scalars);
        for (KernelSpec& kernel : scenario_.kernels) kernel.strict_defects |= options_.strict;
        check_first_image();
        if (const Node* node = root_.find("modules"))
            for (const TextAt& module : scalars.list(*node, "modules")) add_module(module);
        if (const Node* node = root_.find("faults")) scenario_.faults = parse_faults(*node, scalars);
        parse_scripts(scalars);
        if (const Node* node = root_.find("expect")) scenario_.expect = parse_expect(*node, scalars);
        if (const Node* node = root_.find("reproduces")) scenario_.reproduces = parse_reproduces(*node, scalars);
        bind_given_names();
        names_.check(file_);
        check_models();
        return std::move(scenario_);
    }

private:
    /// Before anything else: of another version nothing can be said.
    void check_format(const Scalars& scalars) const {
        if (!root_.is_map())
            file_.error(root_.pos, fmt::format("a scenario file is a map that begins with 'format: 1', not {}",
                                               root_.kind_name()));
        const Node* format = root_.find("format");
        if (!format) file_.error(root_.pos, "'format' is missing; a scenario file begins with 'format: 1'");
        if (format->quoted) file_.error(format->pos, "'format' needs a number, not a text in quotes");
        const u64 version = scalars.number(*format, "format");
        if (version != 1)
            file_.error(format->pos, fmt::format("format {} is not known; this program reads format 1", version));
    }

    const Node& require(std::string_view key) const {
        const Node* node = root_.find(key);
        if (!node) file_.error(root_.pos, fmt::format("'{}' is missing", key));
        return *node;
    }

    void parse_parameters(const Scalars& plain) {
        std::vector<std::string_view> names;
        if (const Node* node = root_.find("parameters")) {
            if (!node->is_map())
                file_.error(node->pos, fmt::format("'parameters' needs a map, not {}", node->kind_name()));
            if (node->entries.size() > parameters_max)
                file_.error(node->pos, fmt::format("more than {} parameters", parameters_max));
            for (const NodeEntry& entry : node->entries) {
                if (!is_parameter_name(entry.key))
                    file_.error(
                        entry.pos,
                        fmt::format("'{}' cannot be a parameter; use letters, digits, '-', '_' and '.'", entry.key));
                if (entry.value.is_scalar() && entry.value.text.find("${") != std::string::npos)
                    file_.error(entry.value.pos, "a parameter cannot refer to another");
                scenario_.parameters[entry.key] = plain.text(entry.value, entry.key, "a value");
                names.push_back(entry.key);
            }
        }
        for (const auto& [key, value] : options_.overrides) {
            if (!scenario_.parameters.contains(key))
                throw UserError(fmt::format("kexec-sim: error: --set {}={}: {} has no parameter '{}'{}", key, value,
                                            file_.name(), key, did_you_mean(key, names)));
            scenario_.parameters[key] = value;
        }
    }

    void parse_head(const Scalars& scalars) {
        scenario_.name = scalars.line(require("scenario"), "scenario", "a name");
        if (const Node* node = root_.find("summary")) {
            scenario_.summary = scalars.text(*node, "summary");
            const auto controls = [](char c) {
                return (static_cast<unsigned char>(c) < 0x20 && c != '\n') || c == 0x7f;
            };
            if (std::ranges::any_of(scenario_.summary, controls))
                file_.error(node->pos, "'summary' has a control character in it");
        }
        if (const Node* node = root_.find("seed")) scenario_.seed = scalars.number(*node, "seed");
        if (options_.seed) scenario_.seed = *options_.seed;
    }

    /// The firmware must be able to load the first kernel; later ones are kexec's to refuse.
    void check_first_image() const {
        if (scenario_.machine.from_handover()) return;
        std::vector<MemoryMapEntry> map;
        std::vector<NodeRange> nodes;
        firmware_layout(scenario_.machine.node_bytes, map, nodes);
        const KernelSpec& first = scenario_.kernels.front();
        const u64 bytes = first.image_bytes + first.initrd_bytes;
        if (firmware_room(map, bytes).empty())
            file_.error(
                first.pos,
                fmt::format("the firmware cannot load an image of {} MiB into this machine's memory", bytes / MiB));
    }

    void add_module(const TextAt& module) {
        if (module.text.empty()) file_.error(module.pos, "'modules' needs file names; this one is empty");
        scenario_.modules.push_back((folder_ / module.text).lexically_normal());
        if (options_.check_files)
            if (const std::string problem = module_problem(scenario_.modules.back()); !problem.empty())
                file_.error(module.pos, fmt::format("{}: {}", module.text, problem));
    }

    void parse_scripts(const Scalars& scalars) {
        const StepContext context{folder_, scenario_.kernels.size(), names_};
        StepScript script = parse_steps(require("steps"), "steps", scalars, context);
        scenario_.steps = std::move(script.steps);
        scenario_.program = std::move(script.program);
        const Node* node = root_.find("under-faults");
        if (!node) return;
        scalars.check_map(*node, "under-faults", {"steps", "accept"});
        UnderFaults under;
        StepScript epilogue = parse_steps(scalars.require(*node, "steps", "under-faults"), "steps", scalars, context);
        under.steps = std::move(epilogue.steps);
        under.program = std::move(epilogue.program);
        if (const Node* accept = node->find("accept")) under.accept = parse_invariants(*accept, "accept", scalars);
        scenario_.under_faults = std::move(under);
    }

    /// What exists without a step that binds it.
    void bind_given_names() {
        names_.bind(NameKind::agent, "main");
        for (const PciDeviceConfig& device : scenario_.machine.devices) {
            names_.bind(NameKind::device, device.name);
            for (unsigned port = 0; device.model == "switch" && port < device.ports; ++port)
                names_.bind(NameKind::device, fmt::format("{}.{}", device.name, port));
        }
        for (const KernelSpec& kernel : scenario_.kernels) bind_reserve_mem(kernel.cmdline, names_);
        for (const Step& step : scenario_.steps)
            if (step.id == StepId::kexec_load && step.has("cmdline"))
                bind_reserve_mem(step.get_text("cmdline"), names_);
        std::set<std::string> given = options_.extra_names;
        if (scenario_.machine.from_handover() && options_.bench_names) {
            try {
                given.merge(options_.bench_names(scenario_.machine.boot_params, scenario_.machine.image));
            } catch (const UserError& error) {
                const std::string_view text = error.what(), prefix = "kexec-sim: error: ";
                file_.error(scenario_.machine.pos, text.substr(text.starts_with(prefix) ? prefix.size() : 0));
            }
        }
        for (const std::string& name : given) {
            names_.bind(NameKind::bench, name);
            names_.bind(NameKind::mark, name);
        }
    }

    /// Steps for devices of one model.
    void check_models() const {
        const auto check = [&](const Step& step) {
            for (const FieldValue& value : step.values) {
                const std::string_view wanted = value.field->model;
                if (wanted.empty()) continue;
                const auto device = std::ranges::find(scenario_.machine.devices, value.text, &PciDeviceConfig::name);
                const std::string_view model =
                    device == scenario_.machine.devices.end() ? std::string_view("switch") : device->model;
                if (model != wanted)
                    file_.error(value.pos, fmt::format("'{}' of '{}' needs a {}, and '{}' is a {}", value.field->name,
                                                       step.name(), wanted, value.text, model));
            }
        };
        std::ranges::for_each(scenario_.steps, check);
        if (scenario_.under_faults) std::ranges::for_each(scenario_.under_faults->steps, check);
    }

    const SourceFile& file_;
    const Node& root_;
    const std::filesystem::path& path_;
    std::filesystem::path folder_;
    const LoadOptions& options_;
    u64 read_bytes_ = 0;
    NameBook names_;
    Scenario scenario_;
};

}  // namespace

const FieldValue* Step::find(std::string_view field) const {
    for (const FieldValue& value : values)
        if (value.field->name == field) return &value;
    return nullptr;
}

bool Step::has(std::string_view field) const {
    const FieldValue* value = find(field);
    return value && value->given;
}

namespace {

/// To ask for a field that is absent and has no default is a bug of whoever asks.
const FieldValue& present(const Step& step, std::string_view field) {
    const FieldValue* value = step.find(field);
    INVARIANT(value != nullptr);
    return *value;
}

}  // namespace

u64 Step::get_u64(std::string_view field) const { return present(*this, field).number; }
bool Step::get_bool(std::string_view field) const { return present(*this, field).number != 0; }
const std::string& Step::get_text(std::string_view field) const { return present(*this, field).text; }
const Fill& Step::get_fill(std::string_view field) const { return present(*this, field).fill; }
const std::vector<std::string>& Step::get_list(std::string_view field) const { return present(*this, field).list; }
const BufferField& Step::get_buffer(std::string_view field) const { return present(*this, field).buffer; }
const std::map<u64, u64>& Step::get_orders(std::string_view field) const { return present(*this, field).orders; }

std::optional<u64> Step::find_u64(std::string_view field) const {
    const FieldValue* value = find(field);
    return value ? std::optional(value->number) : std::nullopt;
}

Scenario parse_scenario(std::string_view text, const std::filesystem::path& path, const LoadOptions& options) {
    // A byte order mark is no part of the first line.
    if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);
    const SourceFile file(path.string(), text);
    const Node root = read_yaml(file, text);
    return ScenarioParser(file, root, path, options).parse();
}

Scenario load_scenario(const std::filesystem::path& path, const LoadOptions& options) {
    return parse_scenario(read_text_file(path), path, options);
}

std::span<const std::string_view> invariant_names() {
    static constexpr std::string_view names[] = {
#define INVARIANT_ID(identifier, id, severity, text) id,
#include "machine/invariants.def"
#undef INVARIANT_ID
    };
    return names;
}

}  // namespace kexec_sim::sim
