#include "sim/field_reader.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "machine/result.hpp"
#include "sim/yaml_text.hpp"

namespace kexec_sim::sim {
namespace {

/// Text in flow style: quoted where YAML would read it as something else.
std::string flow_text(std::string_view text) {
    const auto plain = [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' ||
               c == '-' || c == '(' || c == ')' || c == '/';
    };
    if (!text.empty() && text.front() != '-' && std::all_of(text.begin(), text.end(), plain))
        return std::string(text);
    return yaml_quoted(text);
}

std::vector<std::string_view> callback_results() {
    std::vector<std::string_view> names{"ok", "panic"};
    std::size_t count = 0;
    const std::string* errnos = errno_names(&count);
    names.insert(names.end(), errnos, errnos + count);
    return names;
}

}  // namespace

FieldValue FieldReader::read(const FieldSpec& field, const Node& node) const {
    FieldValue value;
    value.field = &field;
    value.pos = node.pos;
    value.given = true;
    switch (field.type) {
    case FieldType::size: value.number = scalars_.size(node, field.name, field.max); break;
    case FieldType::duration: value.number = scalars_.duration(node, field.name, field.max); break;
    case FieldType::number:
    case FieldType::pfn: value.number = scalars_.number(node, field.name, field.max); break;
    case FieldType::boolean: value.number = scalars_.boolean(node, field.name) ? 1 : 0; break;
    case FieldType::string: value.text = scalars_.line(node, field.name); break;
    case FieldType::text: value.text = scalars_.text(node, field.name); break;
    case FieldType::bytes: read_bytes(node, value); break;
    case FieldType::fill: read_fill(node, value); break;
    case FieldType::bind:
    case FieldType::ref: value.text = scalars_.line(node, field.name, "a name"); break;
    case FieldType::choice:
        value.text = scalars_.choice(node, field.name, field.values);
        value.number = parse_u64(value.text).value_or(0);
        break;
    case FieldType::choice_list: read_list(node, value); break;
    case FieldType::order_map: read_orders(node, value); break;
    case FieldType::callback: read_callback(node, value); break;
    case FieldType::event: read_event(node, value); break;
    case FieldType::file:
        value.text = (folder_ / scalars_.line(node, field.name, "a file name")).lexically_normal().string();
        break;
    case FieldType::pci_address: read_pci_address(node, value); break;
    case FieldType::buffer: read_buffer(node, value); break;
    }
    if (value.number < field.min)
        scalars_.error(node.pos, fmt::format("'{}' is at least {}{}", field.name, field.min,
                                             field.type == FieldType::duration ? "ns" : ""));
    return value;
}

FieldValue FieldReader::read_default(const FieldSpec& field) const {
    Node node;
    node.kind = NodeKind::scalar;
    node.text = std::string(field.default_text);
    FieldValue value = read(field, node);
    value.given = false;
    return value;
}

std::string FieldReader::flow(const FieldSpec& field, const Node& node) const {
    if (node.is_scalar()) return flow_text(scalars_.text(node, field.name));
    std::string out;
    const auto add = [&](const std::string& part) { out += (out.empty() ? "" : ", ") + part; };
    if (node.is_map()) {
        for (const NodeEntry& entry : node.entries) add(entry.key + ": " + flow(field, entry.value));
        return "{" + out + "}";
    }
    for (const Node& item : node.items) add(flow(field, item));
    return "[" + out + "]";
}

void FieldReader::wrong(const FieldSpec& field, const Node& node, const std::string& text) const {
    scalars_.error(node.pos, fmt::format("'{}' needs {}, not '{}'", field.name, field_type_text(field), text));
}

void FieldReader::read_bytes(const Node& node, FieldValue& value) const {
    const std::string text = scalars_.text(node, value.field->name, field_type_text(*value.field));
    const auto bytes = parse_hex_bytes(text);
    if (!bytes) wrong(*value.field, node, text);
    value.text = *bytes;
}

void FieldReader::read_fill(const Node& node, FieldValue& value) const {
    value.text = scalars_.text(node, value.field->name, field_type_text(*value.field));
    const auto fill = parse_fill(value.text);
    if (!fill) wrong(*value.field, node, value.text);
    value.fill = *fill;
}

void FieldReader::read_list(const Node& node, FieldValue& value) const {
    const FieldSpec& field = *value.field;
    scalars_.check_sequence(node, field.name);
    for (const Node& item : node.items) {
        std::string text = scalars_.choice(item, field.name, field.values);
        if (!field.repeats && std::find(value.list.begin(), value.list.end(), text) != value.list.end())
            scalars_.error(item.pos, fmt::format("'{}' stands twice in '{}'", text, field.name));
        value.list.push_back(std::move(text));
    }
}

void FieldReader::read_orders(const Node& node, FieldValue& value) const {
    const FieldSpec& field = *value.field;
    if (!node.is_map())
        scalars_.error(node.pos,
                       fmt::format("'{}' needs {}, not {}", field.name, field_type_text(field), node.kind_name()));
    for (const NodeEntry& entry : node.entries) {
        const auto order = parse_u64(entry.key);
        if (!order || *order > 63)
            scalars_.error(entry.pos, fmt::format("'{}' is not an order, a number from 0 to 63", entry.key));
        if (!value.orders.emplace(*order, scalars_.number(entry.value, field.name)).second)
            scalars_.error(entry.pos, fmt::format("order {} is written twice", *order));
    }
}

void FieldReader::read_callback(const Node& node, FieldValue& value) const {
    const std::string wanted = field_type_text(*value.field);
    value.text = scalars_.text(node, value.field->name, wanted);
    if (value.text == "ok" || value.text == "panic" || errno_by_name(value.text) != Errno::ok) return;
    scalars_.error(node.pos, fmt::format("'{}' needs {}, not '{}'{}", value.field->name, wanted, value.text,
                                         did_you_mean(value.text, callback_results())));
}

void FieldReader::read_event(const Node& node, FieldValue& value) const {
    constexpr std::string_view events[] = {"prepare", "freeze", "finish", "cancel"};  // each at its number
    const std::string wanted = field_type_text(*value.field);
    value.text = scalars_.text(node, value.field->name, wanted);
    const auto* event = std::find(std::begin(events), std::end(events), value.text);
    if (event != std::end(events)) {
        value.number = static_cast<u64>(event - std::begin(events));
        return;
    }
    const auto number = parse_u64(value.text);
    if (!number || *number > value.field->max)
        scalars_.error(node.pos, fmt::format("'{}' needs {}, not '{}'{}", value.field->name, wanted, value.text,
                                             did_you_mean(value.text, events)));
    value.number = *number;
}

void FieldReader::read_pci_address(const Node& node, FieldValue& value) const {
    value.text = scalars_.text(node, value.field->name, field_type_text(*value.field));
    const auto address = parse_pci_address(value.text);
    if (!address) wrong(*value.field, node, value.text);
    value.number = u64{address->segment} << 16 | address->bdf.raw;
}

void FieldReader::read_buffer(const Node& node, FieldValue& value) const {
    const std::string_view what = value.field->name;
    scalars_.check_map(node, what, {"vm", "fd", "offset", "length"});
    const Node* vm = node.find("vm");
    const Node* fd = node.find("fd");
    if (vm && fd) scalars_.error(std::max(vm->pos, fd->pos), "'vm' and 'fd' exclude each other");
    if (!vm && !fd) scalars_.error(node.pos, fmt::format("'{}' needs one of vm, fd", what));
    const Node& owner = vm ? *vm : *fd;
    value.text = scalars_.line(owner, vm ? "vm" : "fd", "a name");
    value.buffer = {.pos = owner.pos,
                    .of_vm = vm != nullptr,
                    .offset = scalars_.size(scalars_.require(node, "offset", what), "offset"),
                    .length = scalars_.size(scalars_.require(node, "length", what), "length")};
    if (value.buffer.length == 0) scalars_.error(node.find("length")->pos, "'length' is at least 1");
}

}  // namespace kexec_sim::sim
