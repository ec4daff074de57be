// Bad scenario files: each case is one mistake, and the whole first line of the message, place included.
#pragma once

#include <catch2/catch.hpp>

#include <span>
#include <string>
#include <string_view>

#include "machine/result.hpp"
#include "sim/scenario.hpp"

namespace kexec_sim::sim {

struct BadCase {
    std::string_view text, message;  // without "s.yaml:"
};

inline std::string first_line(std::string_view text) {
    try {
        parse_scenario(text, "s.yaml");
    } catch (const UserError& error) {
        const std::string message = error.what();
        return message.substr(0, message.find('\n'));
    }
    return "(no error)";
}

inline void check_cases(std::string_view before, std::span<const BadCase> cases, std::string_view after = {}) {
    for (const BadCase& bad : cases) {
        INFO(bad.text);
        CHECK(first_line(std::string(before) + std::string(bad.text) + std::string(after)) ==
              "s.yaml:" + std::string(bad.message));
    }
}

}  // namespace kexec_sim::sim
