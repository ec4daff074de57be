// Text for a YAML file.
#pragma once

#include <string>
#include <string_view>

namespace kexec_sim::sim {

/// `text` in double quotes, on one line, as a reader of YAML reads it back; what the strict reader refuses is escaped.
std::string yaml_quoted(std::string_view text);

}  // namespace kexec_sim::sim
