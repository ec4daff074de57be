#include "sim/shell.hpp"

#include <algorithm>
#include <cctype>
#include <cstring>

namespace kexec_sim::sim {

std::string shell_quoted(const std::string& argument) {
    const auto safe = [](char c) {
        return std::isalnum(static_cast<unsigned char>(c)) || std::strchr("-_./:=,+@%", c);
    };
    if (!argument.empty() && std::all_of(argument.begin(), argument.end(), safe)) return argument;
    std::string text = "'";
    for (char c : argument) text += c == '\'' ? std::string("'\\''") : std::string(1, c);
    return text + "'";
}

}  // namespace kexec_sim::sim
