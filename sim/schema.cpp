// The JSON Schema of scenario files, made from the same tables that the parser reads by. An editor
// that knows it completes step names and fields and underlines what the parser would refuse.
//
// What a schema cannot say stays with the parser: that a name is bound, sums of sizes, `${…}`.
// Wherever a scalar stands, `${NAME}` may stand in a text, so each type is "its own form, or a text with ${".
#include <initializer_list>

#include <nlohmann/json.hpp>

#include "machine/fault.hpp"
#include "machine/result.hpp"
#include "sim/profiles.hpp"
#include "sim/scenario.hpp"
#include "sim/step_spec.hpp"

namespace kexec_sim::sim {
namespace {

using Json = nlohmann::ordered_json;

Json reference(std::string_view name) { return Json{{"$ref", "#/$defs/" + std::string(name)}}; }

Json strings(std::initializer_list<std::string_view> values) {
    Json list = Json::array();
    for (std::string_view value : values) list.push_back(std::string(value));
    return list;
}

template <typename Range> Json string_list(const Range& values) {
    Json list = Json::array();
    for (const auto& value : values) list.push_back(std::string(value));
    return list;
}

Json array_of(Json item, std::string_view description = {}) {
    Json schema{{"type", "array"}, {"items", std::move(item)}};
    if (!description.empty()) schema["description"] = std::string(description);
    return schema;
}

/// An object with these members and no others.
Json object(Json properties, std::initializer_list<std::string_view> required = {}) {
    Json schema{{"type", "object"}, {"additionalProperties", false}, {"properties", std::move(properties)}};
    if (required.size() > 0) schema["required"] = strings(required);
    return schema;
}

Json choice(Json values) {
    return Json{{"anyOf", Json::array({Json{{"enum", std::move(values)}}, reference("substituted")})}};
}

Json pattern(std::string_view expression, std::string_view description) {
    return Json{{"description", std::string(description)},
                {"anyOf", Json::array({Json{{"type", "string"}, {"pattern", std::string(expression)}},
                                       reference("substituted")})}};
}

Json number_or(std::string_view expression, std::string_view description) {
    Json schema = pattern(expression, description);
    schema["anyOf"].insert(schema["anyOf"].begin(), Json{{"type", "integer"}, {"minimum", 0}});
    return schema;
}

Json errno_list() {
    std::size_t count = 0;
    const std::string* names = errno_names(&count);
    return string_list(std::span(names, count));
}

/// The scalar types, once; fields refer to them.
Json definitions() {
    Json callback = strings({"ok", "panic"});
    Json result = strings({"ok", "panic", "deadlock", "blocked", "dead"});
    for (const Json& name : errno_list()) {
        callback.push_back(name);
        result.push_back(name);
    }
    Json invariants = string_list(invariant_names());
    Json defs;
    defs["substituted"] = {{"type", "string"},
                           {"pattern", "\\$\\{[A-Za-z0-9._-]+\\}"},
                           {"description", "a text with ${PARAMETER} in it"}};
    defs["size"] =
        number_or("^(0[xX][0-9A-Fa-f_]+|[0-9][0-9_]*)([KMGT](iB)?)?$", "a size: 4096, 4K, 4KiB, 2MiB, 1G, 1TiB");
    defs["duration"] = pattern("^(0[xX][0-9A-Fa-f_]+|[0-9][0-9_]*)(ns|us|ms|s)$", "a duration: 500ns, 10us, 3ms, 2s");
    defs["number"] = number_or("^(0[xX][0-9A-Fa-f_]+|[0-9][0-9_]*)$", "a number, decimal or hex");
    defs["boolean"] = {{"anyOf", Json::array({Json{{"type", "boolean"}}, reference("substituted")})}};
    defs["text"] = {{"type", Json::array({"string", "number", "boolean"})}};
    defs["bytes"] = {{"description", "hex digits; blanks between bytes are allowed"},
                     {"anyOf", Json::array({Json{{"type", "string"}, {"pattern", "^( *[0-9A-Fa-f]{2})* *$"}},
                                            Json{{"type", "integer"}, {"minimum", 0}}, reference("substituted")})}};
    defs["fill"] =
        pattern("^(zero|byte\\([0-9A-Fa-fxX_]+\\)|pattern\\([0-9A-Fa-fxX_]+\\))$", "zero, byte(0xa5) or pattern(7)");
    defs["pci_address"] = pattern("^(([0-9A-Fa-f]{1,8}):)?[0-9A-Fa-f]{1,2}:[01]?[0-9A-Fa-f]\\.[0-7]$",
                                  "a PCI address: 00:02.0, 0000:00:02.0");
    Json buffer = object({{"vm", reference("text")},
                          {"fd", reference("text")},
                          {"offset", reference("size")},
                          {"length", reference("size")}},
                         {"offset", "length"});
    buffer["oneOf"] = Json::array({Json{{"required", strings({"vm"})}}, Json{{"required", strings({"fd"})}}});
    defs["buffer"] = std::move(buffer);
    defs["errno"] = choice(errno_list());
    defs["callback"] = choice(std::move(callback));
    defs["event"] = {{"anyOf", Json::array({Json{{"enum", strings({"prepare", "freeze", "finish", "cancel"})}},
                                            reference("number")})}};
    defs["result"] = {
        {"anyOf", Json::array({Json{{"enum", std::move(result)}},
                               Json{{"type", "string"}, {"pattern", "^exit [0-9]+$"}}, reference("substituted")})}};
    defs["invariant"] = choice(std::move(invariants));
    return defs;
}

Json field_schema(const FieldSpec& field) {
    switch (field.type) {
    case FieldType::size: return reference("size");
    case FieldType::duration: return reference("duration");
    case FieldType::number:
    case FieldType::pfn: return reference("number");
    case FieldType::boolean: return reference("boolean");
    case FieldType::string:
    case FieldType::text:
    case FieldType::bind:
    case FieldType::ref:
    case FieldType::file: return reference("text");
    case FieldType::bytes: return reference("bytes");
    case FieldType::fill: return reference("fill");
    case FieldType::choice: return choice(string_list(field.values));
    case FieldType::choice_list: {
        Json schema = array_of(choice(string_list(field.values)));
        if (!field.repeats) schema["uniqueItems"] = true;
        return schema;
    }
    case FieldType::order_map:
        return Json{{"type", "object"},
                    {"additionalProperties", false},
                    {"patternProperties", {{"^[0-9]+$", reference("number")}}}};
    case FieldType::callback: return reference("callback");
    case FieldType::event: return reference("event");
    case FieldType::pci_address: return reference("pci_address");
    case FieldType::buffer: return reference("buffer");
    }
    return {};
}

/// The description of a field stands beside its type, which draft 2020-12 allows beside `$ref`.
Json described(const FieldSpec& field) {
    Json schema = field_schema(field);
    schema["description"] = std::string(field.description);
    if (!field.default_text.empty()) schema["default"] = std::string(field.default_text);
    return schema;
}

/// Of the fields in choice exactly one, or at most one.
void add_choice(Json& schema, const StepSpec& step) {
    std::vector<std::string_view> names;
    for (const FieldSpec& field : step.fields)
        if (field.in_choice) names.push_back(field.name);
    if (names.empty()) return;
    Json options = Json::array();
    for (std::string_view name : names) options.push_back(Json{{"required", strings({name})}});
    if (!step.choice_required) {
        Json none = Json::array();
        for (std::string_view name : names) none.push_back(Json{{"required", strings({name})}});
        options.push_back(Json{{"not", {{"anyOf", std::move(none)}}}});
    }
    schema["oneOf"] = std::move(options);
}

Json step_value(const StepSpec& step) {
    Json empty{{"type", "null"}};
    if (step.form == StepForm::bare)
        return Json{{"anyOf", Json::array({empty, Json{{"type", "object"}, {"maxProperties", 0}}})}};
    if (step.form == StepForm::scalar) return described(step.fields.front());
    Json schema{{"type", "object"}, {"additionalProperties", false}};
    Json required = Json::array();
    for (const FieldSpec& field : step.fields) {
        schema["properties"][std::string(field.name)] = described(field);
        if (field.required) required.push_back(std::string(field.name));
        if (!field.not_with.empty())
            schema["dependentSchemas"][std::string(field.name)] = {
                {"not", {{"required", strings({field.not_with})}}}};
    }
    const bool may_be_empty = required.empty() && !step.choice_required;
    if (!required.empty()) schema["required"] = std::move(required);
    add_choice(schema, step);
    if (may_be_empty) return Json{{"anyOf", Json::array({empty, std::move(schema)})}};
    if (!step.short_field.empty())
        return Json{{"anyOf", Json::array({described(*step.field(step.short_field)), std::move(schema)})}};
    return schema;
}

/// One item of `steps`: one step with its remarks, or a block.
Json step_item() {
    Json options = Json::array();
    for (const StepSpec& step : step_specs()) {
        const std::string name(step.name);
        Json properties;
        properties["expect"] = reference("result");
        properties["note"] = reference("text");
        properties[name] = step_value(step);
        Json option = object(std::move(properties), {step.name});
        option["description"] = std::string(step.description);
        options.push_back(std::move(option));
    }
    const Json steps{{"type", "array"}, {"minItems", 1}, {"items", reference("step")}};
    options.push_back(object(
        {{"repeat", object({{"times", reference("number")}, {"steps", steps}}, {"times", "steps"})}}, {"repeat"}));
    Json values = array_of(reference("text"));
    values["minItems"] = 1;
    options.push_back(object(
        {{"each",
          object({{"of", std::move(values)}, {"as", reference("text")}, {"steps", steps}}, {"of", "as", "steps"})}},
        {"each"}));
    return Json{{"oneOf", std::move(options)}};
}

Json machine_schema() {
    Json node = object({{"memory", reference("size")}}, {"memory"});
    Json nodes{{"anyOf", Json::array({reference("number"),
                                      Json{{"type", "array"}, {"minItems", 1}, {"items", std::move(node)}}})}};
    nodes["description"] = "a number of equal parts, or a list of nodes; 0: memoryless";
    Json memory = reference("size");
    memory["description"] = "64 MiB to 4 TiB";
    const Json iommu{{"anyOf", Json::array({reference("boolean"), object({{"never_evict", reference("boolean")}})})}};
    Json device = object({{"name", reference("text")},
                          {"model", choice(strings({"root-port", "switch", "dma-nic", "p2p-gpu"}))},
                          {"at", reference("pci_address")},
                          {"behind", reference("text")},
                          {"ports", reference("number")}},
                         {"name", "model"});
    device["oneOf"] = Json::array({Json{{"required", strings({"at"})}}, Json{{"required", strings({"behind"})}}});
    const Json devices = array_of(std::move(device), "PCI functions, by name and place");
    return Json{
        {"oneOf", Json::array({object({{"memory", memory}, {"nodes", nodes}, {"iommu", iommu}, {"devices", devices}}),
                               object({{"image", reference("text")}, {"boot-params", reference("text")}},
                                      {"image", "boot-params"})})}};
}

Json kernel_schema() {
    Json names = Json::array(), costs;
    for (const ProfileInfo& info : profiles()) names.push_back(std::string(info.name));
    for (const char* key :
         {"freeze", "shutdown", "relocation", "checksum", "early_boot", "pci", "user_space", "restore"})
        costs[key] = reference("duration");
    Json properties;
    properties["profile"] = choice(std::move(names));
    properties["release"] = reference("text");
    properties["cmdline"] = reference("text");
    properties["image"] = object({{"kernel", reference("size")}, {"initrd", reference("size")}});
    properties["devices"] = choice(strings({"preserve", "teardown"}));
    properties["defects"] = choice(strings({"literal", "strict"}));
    Json defects = Json::array();
    for (const MutantInfo& info : mutants())
        if (info.modelled()) defects.push_back(std::string(info.name));
    properties["mutants"] = array_of(choice(std::move(defects)), "historical defects that this kernel has");
    properties["without"] =
        array_of(choice(strings({"iommu", "pci", "memfd", "vfio-pci", "iommufd", "kvm", "luo", "kho"})),
                 "components that this kernel was built without");
    properties["debug"] = reference("boolean");
    properties["numa"] = reference("boolean");
    properties["cost"] = {{"anyOf", Json::array({choice(strings({"fast", "typical"})), object(std::move(costs))})}};
    return object(std::move(properties));
}

Json action_schema() {
    Json bit{
        {"anyOf", Json::array({Json{{"type", "integer"}, {"minimum", 0}, {"maximum", 7}}, reference("number")})}};
    Json words = Json::array();
    for (const FaultKindInfo& info : fault_kinds())
        if (!info.takes_argument) words.push_back(std::string(info.name));
    Json options = Json::array({choice(std::move(words))});
    const auto action = [&](std::string_view name, Json argument) {
        options.push_back(object({{std::string(name), std::move(argument)}}, {name}));
    };
    action("fail", reference("errno"));
    action("lie", reference("errno"));
    action("delay", reference("duration"));
    action("flip", object({{"offset", reference("size")}, {"bit", std::move(bit)}}, {"offset", "bit"}));
    action("zero", object({{"offset", reference("size")}, {"length", reference("size")}}, {"offset", "length"}));
    action("truncate", reference("size"));
    action("misdirect", reference("number"));
    action("replace", Json{{"type", "array"}, {"minItems", 2}, {"maxItems", 2}, {"items", reference("text")}});
    return Json{{"anyOf", std::move(options)}};
}

Json fault_schema() {
    Json points = Json::array();
    for (const FaultPointInfo& info : fault_points()) points.push_back(std::string(info.name));
    Json properties;
    properties["at"] = choice(std::move(points));
    properties["match"] = reference("text");
    properties["visit"] = {{"anyOf", Json::array({Json{{"const", "every"}}, reference("number")})}};
    properties["do"] = action_schema();
    properties["in"] = reference("number");
    return object(std::move(properties), {"at", "do"});
}

Json expect_schema() {
    const Json ids = array_of(reference("invariant"));
    Json any_of = object({{"any-of", ids}, {"may", {{"anyOf", Json::array({Json{{"const", "any"}}, ids})}}}});
    any_of["minProperties"] = 1;
    Json properties;
    properties["findings"] = {{"anyOf", Json::array({Json{{"const", "none"}}, ids, std::move(any_of)})}};
    properties["log"] = array_of(reference("text"), "each a substring of some line of some generation's log");
    properties["no-log"] = array_of(reference("text"));
    return object(std::move(properties));
}

Json reproduces_schema() {
    Json hash{{"type", "string"}, {"pattern", "^[0-9a-f]{32}$"}};
    Json plan{{"anyOf", Json::array({reference("text"), array_of(reference("text"))})}};
    return object({{"scenario", reference("text")},
                   {"seed", reference("number")},
                   {"plan", std::move(plan)},
                   {"trace_hash", std::move(hash)}},
                  {"scenario", "seed", "plan", "trace_hash"});
}

}  // namespace

std::string json_schema() {
    const Json steps = array_of(reference("step"));
    Json properties;
    properties["format"] = {{"const", 1}};
    properties["scenario"] = reference("text");
    properties["summary"] = reference("text");
    properties["seed"] = reference("number");
    properties["machine"] = machine_schema();
    properties["kernels"] = {{"type", "array"},
                             {"minItems", 1},
                             {"items", kernel_schema()},
                             {"description", "generation 0, 1, 2, …; the last one repeats"}};
    properties["parameters"] = {{"type", "object"},
                                {"propertyNames", {{"pattern", "^[A-Za-z0-9._-]+$"}}},
                                {"additionalProperties", reference("text")}};
    properties["modules"] = array_of(reference("text"));
    properties["faults"] = array_of(fault_schema());
    properties["steps"] = steps;
    properties["expect"] = expect_schema();
    properties["under-faults"] = object({{"steps", steps}, {"accept", array_of(reference("invariant"))}}, {"steps"});
    properties["reproduces"] = reproduces_schema();

    Json schema{{"$schema", "https://json-schema.org/draft/2020-12/schema"},
                {"title", "kexec-sim scenario, format 1"}};
    schema.update(object(std::move(properties), {"format", "scenario", "machine", "kernels", "steps"}));
    schema["$defs"] = definitions();
    schema["$defs"]["step"] = step_item();
    return schema.dump(2) + "\n";
}

}  // namespace kexec_sim::sim
