// One field of a step: from its node and its row in the registry to its value.
#pragma once

#include <filesystem>
#include <string>

#include "sim/scalars.hpp"
#include "sim/scenario.hpp"

namespace kexec_sim::sim {

class FieldReader {
public:
    /// File names are relative to `folder`.
    FieldReader(const Scalars& scalars, const std::filesystem::path& folder) : scalars_(scalars), folder_(folder) {}

    FieldValue read(const FieldSpec& field, const Node& node) const;
    /// What the field holds when it is not written.
    FieldValue read_default(const FieldSpec& field) const;
    /// The value in flow style, `${…}` replaced: for narration.
    std::string flow(const FieldSpec& field, const Node& node) const;

private:
    [[noreturn]] void wrong(const FieldSpec& field, const Node& node, const std::string& text) const;
    void read_bytes(const Node& node, FieldValue& value) const;
    void read_fill(const Node& node, FieldValue& value) const;
    void read_list(const Node& node, FieldValue& value) const;
    void read_orders(const Node& node, FieldValue& value) const;
    void read_callback(const Node& node, FieldValue& value) const;
    void read_event(const Node& node, FieldValue& value) const;
    void read_pci_address(const Node& node, FieldValue& value) const;
    void read_buffer(const Node& node, FieldValue& value) const;

    const Scalars& scalars_;
    const std::filesystem::path& folder_;
};

}  // namespace kexec_sim::sim
