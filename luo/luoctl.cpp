#include "luo/luoctl.hpp"

#include <sstream>

#include "luo/client.hpp"

namespace kexec_sim::luo {
namespace {

constexpr std::string_view usage =
    "Usage: luoctl [-h|--help] <command>\n"
    "Commands: state, prepare, cancel, finish\n";

LuoctlResult failed(std::string_view text) { return {1, "", fmt::format("Error: {}\n", text)}; }

struct Command {
    std::string_view name;
    LuoEvent event;
    LuoState needs;
    std::string_view refusal;
};
constexpr Command commands[] = {
    {"prepare", LuoEvent::prepare, LuoState::normal, "can only switch to prepared state from normal state"},
    {"cancel", LuoEvent::cancel, LuoState::prepared, "can only cancel from normal state"},
    {"finish", LuoEvent::finish, LuoState::updated, "can only finish from updated state"},
};

LuoctlResult run_command(LuoClient& client, std::string_view name) {
    const auto state = client.get_state();
    if (!state) return failed(fmt::format("failed to get the state: {}", errno_name(state.error())));
    if (name == "state") return {0, fmt::format("{}\n", luo_state_name(*state)), ""};
    for (const Command& command : commands) {
        if (command.name != name) continue;
        if (*state != command.needs) return failed(command.refusal);
        const auto result = client.set_event(static_cast<u32>(command.event));
        if (!result) return failed(fmt::format("{} failed: {}", name, errno_name(result.error())));
        return {};
    }
    return {1, "", fmt::format("Error: unknown command: {}\n{}", name, usage)};
}

}  // namespace

LuoctlResult run_luoctl(Kernel& kernel, const std::string& arguments) {
    std::istringstream stream(arguments);
    std::vector<std::string> words;
    for (std::string word; stream >> word;) words.push_back(word);
    if (words.size() == 1 && (words[0] == "-h" || words[0] == "--help")) return {0, std::string(usage), ""};
    if (words.size() != 1) return {1, "", std::string(usage)};

    Agent process(kernel, "luoctl");
    LuoClient client(kernel, process);
    if (const auto opened = client.open(); !opened) {
        if (opened.error() == Errno::enoent) return failed("LUO is not available on this system");
        return failed(fmt::format("failed to open the device: {}", errno_name(opened.error())));
    }
    const LuoctlResult result = run_command(client, words[0]);
    static_cast<void>(client.close());
    return result;
}

}  // namespace kexec_sim::luo
