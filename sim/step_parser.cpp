#include "sim/step_parser.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "machine/result.hpp"
#include "sim/field_reader.hpp"

namespace kexec_sim::sim {
namespace {

constexpr u64 repeat_times_max = 1'000'000'000;

/// All results that a step can be expected to have, but for `exit N`.
const std::vector<std::string_view>& result_names() {
    static const std::vector<std::string_view> names = [] {
        std::vector<std::string_view> all{"ok", "panic", "deadlock", "blocked", "dead"};
        std::size_t count = 0;
        const std::string* errnos = errno_names(&count);
        all.insert(all.end(), errnos, errnos + count);
        return all;
    }();
    return names;
}

const std::vector<std::string_view>& item_names() {
    static const std::vector<std::string_view> names = [] {
        std::vector<std::string_view> all(step_names().begin(), step_names().end());
        all.insert(all.end(), {"repeat", "each"});
        return all;
    }();
    return names;
}

bool is_remark(std::string_view key) { return key == "expect" || key == "note"; }

class StepParser {
public:
    explicit StepParser(StepContext context) : context_(std::move(context)) {}

    void parse_list(const Node& node, std::string_view what, const Scalars& scalars) {
        scalars.check_sequence(node, what);
        for (const Node& item : node.items) parse_item(item, scalars);
    }
    StepScript take() { return std::move(script_); }

private:
    void parse_item(const Node& item, const Scalars& scalars);
    const NodeEntry& find_head(const Node& item, const Scalars& scalars) const;
    void parse_body(const Node& block, std::string_view name, const Scalars& scalars);
    void parse_repeat(const Node& block, const Scalars& scalars);
    void parse_each(const Node& block, const Scalars& scalars);
    void parse_step(const Node& item, const NodeEntry& head, const Scalars& scalars);
    void parse_fields(Step& step, const NodeEntry& head, const FieldReader& reader, const Scalars& scalars) const;
    void check_fields(const Step& step, SourcePos pos, const Scalars& scalars) const;
    void parse_expect(Step& step, const Node& node, const Scalars& scalars) const;
    void note_names(const Step& step) const;

    StepContext context_;
    StepScript script_;
};

void StepParser::parse_item(const Node& item, const Scalars& scalars) {
    if (item.is_scalar() && step_by_name(item.text))
        scalars.error(item.pos, fmt::format("a step needs a colon: '{}:'", item.text));
    if (!item.is_map())
        scalars.error(item.pos,
                      fmt::format("a step is a map with the step's name as its key, not {}", item.kind_name()));
    const NodeEntry& head = find_head(item, scalars);
    if (head.key != "repeat" && head.key != "each") return parse_step(item, head, scalars);
    for (const NodeEntry& entry : item.entries)
        if (&entry != &head)
            scalars.error(entry.pos, fmt::format("'{}' belongs to a step; '{}' takes none", entry.key, head.key));
    if (head.key == "repeat") return parse_repeat(head.value, scalars);
    return parse_each(head.value, scalars);
}

/// The entry that names the step. `note` is a step where it stands alone, else a remark on one.
const NodeEntry& StepParser::find_head(const Node& item, const Scalars& scalars) const {
    constexpr std::string_view remarks[] = {"expect", "note"};
    const NodeEntry* head = nullptr;
    for (const NodeEntry& entry : item.entries) {
        if (is_remark(entry.key)) continue;
        if (!head) {
            head = &entry;
            continue;
        }
        if (step_by_name(entry.key))
            scalars.error(
                entry.pos,
                fmt::format("'{}' is a second step in one item; each step begins with its own '-'", entry.key));
        scalars.error(entry.pos,
                      fmt::format("unknown key '{}' beside step '{}', where only 'expect' and 'note' may stand{}",
                                  entry.key, head->key, did_you_mean(entry.key, remarks)));
    }
    for (const NodeEntry& entry : item.entries)
        if (!head && entry.key == "note") head = &entry;
    if (!head) scalars.error(item.pos, item.entries.empty() ? "an empty step" : "'expect' without a step");
    return *head;
}

void StepParser::parse_body(const Node& block, std::string_view name, const Scalars& scalars) {
    const Node& steps = scalars.require(block, "steps", name);
    if (steps.is_sequence() && steps.items.empty()) scalars.error(steps.pos, fmt::format("'{}' without steps", name));
    parse_list(steps, "steps", scalars);
}

void StepParser::parse_repeat(const Node& block, const Scalars& scalars) {
    scalars.check_map(block, "repeat", {"times", "steps"});
    const u64 times = scalars.number(scalars.require(block, "times", "repeat"), "times", repeat_times_max);
    const auto begin = static_cast<u32>(script_.program.size());
    script_.program.push_back({ProgramOp::Kind::repeat_begin, 0, 0, times});
    parse_body(block, "repeat", scalars);
    script_.program[begin].partner = static_cast<u32>(script_.program.size());
    script_.program.push_back({ProgramOp::Kind::repeat_end, 0, begin, 0});
}

void StepParser::parse_each(const Node& block, const Scalars& scalars) {
    scalars.check_map(block, "each", {"of", "as", "steps"});
    const Node& of = scalars.require(block, "of", "each");
    const Node& as = scalars.require(block, "as", "each");
    const std::string name = scalars.line(as, "as", "a name");
    if (!is_parameter_name(name))
        scalars.error(as.pos,
                      fmt::format("'{}' cannot stand in '${{…}}'; use letters, digits, '-', '_' and '.'", name));
    if (scalars.knows(name)) scalars.error(as.pos, fmt::format("'{}' is a parameter already", name));
    const std::vector<TextAt> values = scalars.list(of, "of");
    if (values.empty()) scalars.error(of.pos, "'of' is empty: the steps would never run");
    for (const TextAt& value : values) parse_body(block, "each", scalars.with({name, value.text}));
}

void StepParser::parse_step(const Node& item, const NodeEntry& head, const Scalars& scalars) {
    const StepSpec* spec = step_by_name(head.key);
    if (!spec)
        scalars.error(head.pos, fmt::format("unknown step '{}'{}", head.key, did_you_mean(head.key, item_names())));
    if (script_.steps.size() == steps_max)
        scalars.error(head.pos, fmt::format("more than {} steps, with 'each' unrolled", steps_max));
    Step step;
    step.spec = spec;
    step.id = spec->id;
    step.pos = head.pos;
    step.index = static_cast<u32>(script_.steps.size());
    parse_fields(step, head, FieldReader(scalars, context_.folder), scalars);
    for (const NodeEntry& entry : item.entries) {
        if (&entry == &head) continue;
        if (entry.key == "expect") parse_expect(step, entry.value, scalars);
        if (entry.key == "note") step.note = scalars.text(entry.value, "note");
    }
    note_names(step);
    script_.program.push_back({ProgramOp::Kind::step, step.index, 0, 0});
    script_.steps.push_back(std::move(step));
}

void StepParser::parse_fields(Step& step, const NodeEntry& head, const FieldReader& reader,
                              const Scalars& scalars) const {
    const StepSpec& spec = *step.spec;
    const Node& value = head.value;
    step.text = head.key;
    const auto read_alone = [&](const FieldSpec& field) {
        // In a message the step's own name says more than that of the field.
        FieldSpec named = field;
        named.name = spec.name;
        step.values.push_back(reader.read(named, value));
        step.values.back().field = &field;
        step.text += ": " + reader.flow(named, value);
    };
    switch (spec.form) {
    case StepForm::bare:
        if (!value.is_null() && !(value.is_map() && value.entries.empty()))
            scalars.error(value.pos, fmt::format("step '{}' takes no value", spec.name));
        return;
    case StepForm::scalar: read_alone(spec.fields.front()); return;
    case StepForm::map: break;
    }
    std::string text;
    if (value.is_scalar() && !spec.short_field.empty()) {
        read_alone(*spec.field(spec.short_field));
    } else if (!value.is_null()) {
        std::vector<std::string_view> keys;
        for (const FieldSpec& field : spec.fields) keys.push_back(field.name);
        scalars.check_map(value, spec.name, keys);
        for (const NodeEntry& entry : value.entries) {
            const FieldSpec& field = *spec.field(entry.key);
            step.values.push_back(reader.read(field, entry.value));
            text += (text.empty() ? "" : ", ") + entry.key + ": " + reader.flow(field, entry.value);
        }
    }
    if (!text.empty()) step.text += ": {" + text + "}";
    check_fields(step, value.is_map() ? value.pos : head.pos, scalars);
    for (const FieldSpec& field : spec.fields)
        if (!step.find(field.name) && !field.default_text.empty()) step.values.push_back(reader.read_default(field));
}

/// What is missing and what excludes each other.
void StepParser::check_fields(const Step& step, SourcePos pos, const Scalars& scalars) const {
    const StepSpec& spec = *step.spec;
    const FieldValue* chosen = nullptr;
    for (const FieldValue& value : step.values) {
        if (!value.field->not_with.empty() && step.find(value.field->not_with))
            scalars.error(value.pos,
                          fmt::format("'{}' makes no sense beside '{}'", value.field->name, value.field->not_with));
        if (!value.field->in_choice) continue;
        if (chosen)
            scalars.error(value.pos,
                          fmt::format("'{}' and '{}' exclude each other", chosen->field->name, value.field->name));
        chosen = &value;
    }
    std::vector<std::string_view> choices;
    for (const FieldSpec& field : spec.fields) {
        if (field.in_choice) choices.push_back(field.name);
        if (field.required && !step.find(field.name))
            scalars.error(pos, fmt::format("step '{}' needs '{}'", spec.name, field.name));
    }
    if (spec.choice_required && !chosen)
        scalars.error(pos, fmt::format("step '{}' needs one of {}", spec.name, fmt::join(choices, ", ")));
    if (step.id == StepId::kexec_load && step.has("kernel") && step.get_u64("kernel") >= context_.kernel_count)
        scalars.error(step.find("kernel")->pos,
                      fmt::format("'kernel' is an index into 'kernels', at most {}", context_.kernel_count - 1));
}

void StepParser::parse_expect(Step& step, const Node& node, const Scalars& scalars) const {
    constexpr std::string_view wanted = "a result: ok, an errno, panic, deadlock, blocked, dead or exit N";
    step.expected_pos = node.pos;
    step.expected = scalars.line(node, "expect", wanted);
    const auto& names = result_names();
    if (std::find(names.begin(), names.end(), step.expected) != names.end()) return;
    if (step.expected.starts_with("exit ")) {
        const auto status = parse_u64(std::string_view(step.expected).substr(5));
        if (!status || *status > 255) scalars.error(node.pos, "'exit' needs a status from 0 to 255");
        if (step.id != StepId::luoctl) scalars.error(node.pos, "only 'luoctl' ends with an exit status");
        step.expected = *status == 0 ? "ok" : fmt::format("exit {}", *status);
        return;
    }
    scalars.error(node.pos, fmt::format("'expect' needs {}, not '{}'{}", wanted, step.expected,
                                        did_you_mean(step.expected, names)));
}

void StepParser::note_names(const Step& step) const {
    for (const FieldValue& value : step.values) {
        if (value.field->type == FieldType::bind) context_.names.bind(value.field->kind, value.text);
        if (value.field->type == FieldType::ref) context_.names.use(value.field->kind, value.text, value.pos);
        if (value.field->type == FieldType::buffer)
            context_.names.use(value.buffer.of_vm ? NameKind::vm : NameKind::descriptor, value.text,
                               value.buffer.pos);
    }
}

}  // namespace

void NameBook::check(const SourceFile& file) const {
    for (const Use& use : uses_) {
        const std::set<std::string>& bound = bound_[static_cast<std::size_t>(use.kind)];
        if (bound.contains(use.name)) continue;
        const bool is_device = use.kind == NameKind::device;
        const std::vector<std::string_view> names(bound.begin(), bound.end());
        std::string hint = did_you_mean(use.name, names);
        for (std::size_t kind = 0; hint.empty() && kind < bound_.size(); ++kind)
            if (bound_[kind].contains(use.name))
                hint =
                    fmt::format("{} (it is a {})", is_device ? "" : fmt::format(" as a {}", name_kind_text(use.kind)),
                                name_kind_text(static_cast<NameKind>(kind)));
        file.error(use.pos,
                   fmt::format("{} '{}'{}", is_device ? "this machine has no device" : "no step of this file binds",
                               use.name, hint));
    }
}

StepScript parse_steps(const Node& node, std::string_view what, const Scalars& scalars, StepContext context) {
    StepParser parser(std::move(context));
    parser.parse_list(node, what, scalars);
    return parser.take();
}

}  // namespace kexec_sim::sim
