// The rows of the step registry, by group. Only step_spec.cpp reads them.
#pragma once

#include <vector>

#include "sim/step_spec.hpp"

namespace kexec_sim::sim {

/// Time, reboot, KHO and memblock: what every profile understands.
void add_kernel_steps(std::vector<StepSpec>& steps);
/// Files, agents, LUO, subsystems and modules.
void add_user_steps(std::vector<StepSpec>& steps);
/// PCI, VFIO, the IOMMU, DMA and virtual machines.
void add_device_steps(std::vector<StepSpec>& steps);
void add_check_steps(std::vector<StepSpec>& steps);

namespace fields {

/// A field as a required one, or as an optional one with its default ("" for none).
inline FieldSpec required(std::string_view name, FieldType type, std::string_view description) {
    FieldSpec field;
    field.name = name;
    field.type = type;
    field.description = description;
    field.required = true;
    return field;
}
inline FieldSpec optional(std::string_view name, FieldType type, std::string_view description,
                          std::string_view default_text = {}) {
    FieldSpec field = required(name, type, description);
    field.required = false;
    field.default_text = default_text;
    return field;
}
inline FieldSpec binds(std::string_view name, NameKind kind, std::string_view description) {
    FieldSpec field = required(name, FieldType::bind, description);
    field.kind = kind;
    return field;
}
inline FieldSpec refers(std::string_view name, NameKind kind, std::string_view description) {
    FieldSpec field = required(name, FieldType::ref, description);
    field.kind = kind;
    return field;
}
/// One of the fields that exclude each other.
inline FieldSpec either(FieldSpec field) {
    field.required = false;
    field.in_choice = true;
    return field;
}
inline FieldSpec one_of(FieldSpec field, std::span<const std::string_view> values) {
    field.values = values;
    return field;
}
inline FieldSpec at_most(FieldSpec field, u64 max) {
    field.max = max;
    return field;
}
inline FieldSpec at_least(FieldSpec field, u64 min) {
    field.min = min;
    return field;
}
inline FieldSpec not_with(FieldSpec field, std::string_view other) {
    field.not_with = other;
    return field;
}

}  // namespace fields
}  // namespace kexec_sim::sim
