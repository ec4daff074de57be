// luo.* and luoctl: what an agent does with /dev/liveupdate.
#include <algorithm>
#include <fmt/format.h>

#include "luo/luoctl.hpp"
#include "sim/steps.hpp"

namespace kexec_sim::sim {
namespace {

constexpr std::string_view state_path = "sys/kernel/liveupdate/state";

StepResult expect_state(KernelInstance& instance, const Step& step) {
    const auto text = instance.kernel.vfs.read(std::string(state_path));
    if (!text) return text.error();
    const std::string& wanted = step.get_text(step.spec->fields.front().name);
    const std::string found = text->substr(0, text->find('\n'));
    if (found == wanted) return {};
    return StepResult::mismatch(fmt::format("the state is {}, expected {}", found, wanted));
}

StepResult open_device(KernelInstance& instance) {
    const std::string agent(instance.state.agent);
    auto client = std::make_unique<luo::LuoClient>(instance.kernel, *instance.agent());
    const auto opened = client->open();
    if (!opened) return opened;
    instance.clients[agent] = std::move(client);
    instance.closed_by_hand.erase(agent);
    return {};
}

StepResult close_device(KernelInstance& instance) {
    luo::LuoClient* client = instance.client();
    if (!client || !client->is_open()) return Errno::ebadf;
    instance.closed_by_hand[std::string(instance.state.agent)] = true;
    return client->close();
}

}  // namespace

Result<luo::LuoClient*> ensure_luo_open(KernelInstance& instance) {
    luo::LuoClient* client = instance.client();
    if (client && client->is_open()) return client;
    if (instance.luo_closed_by_hand(std::string_view(instance.state.agent))) return fail(Errno::ebadf);
    const std::string agent(instance.state.agent);
    auto fresh = std::make_unique<luo::LuoClient>(instance.kernel, *instance.agent());
    TRY(fresh->open());
    client = fresh.get();
    instance.clients[agent] = std::move(fresh);
    return client;
}

namespace {

StepResult restore(KernelInstance& instance, luo::LuoClient& client, const Step& step) {
    const auto fd = client.fd_restore(step.get_u64("token"));
    if (!fd) return fd.error();
    instance.bind_fd(step.get_name("as"), *fd);
    return {};
}

StepResult fd_state(luo::LuoClient& client, const Step& step) {
    const bool incoming = step.has("incoming") && step.get_bool("incoming");
    const auto state = client.get_fd_state(step.get_u64("token"), incoming);
    if (!state) return state.error();
    if (luo_state_name(*state) == step.get_text("state")) return {};
    return StepResult::mismatch(
        fmt::format("the file's state is {}, expected {}", luo_state_name(*state), step.get_text("state")));
}

std::string hex_of(std::span<const std::byte> bytes) {
    std::string text;
    for (const std::byte byte : bytes) text += fmt::format("{:02x}", static_cast<unsigned>(byte));
    return text;
}

StepResult raw(luo::LuoClient& client, const Step& step) {
    const std::string& given = step.get_text("bytes");
    std::vector<std::byte> bytes(step.find_u64("size").value_or(given.size()));
    for (std::size_t i = 0; i < std::min(bytes.size(), given.size()); ++i)
        bytes[i] = static_cast<std::byte>(given[i]);
    const auto result = client.raw(static_cast<u32>(step.get_u64("request")), bytes);
    if (!result) return result.error();
    if (!step.has("reply")) return {};
    const std::string& reply = step.get_text("reply");
    const std::string wanted = hex_of(std::as_bytes(std::span(reply)));
    const std::string found = hex_of(std::span(bytes).first(std::min(bytes.size(), reply.size())));
    if (found == wanted) return {};
    return StepResult::mismatch(fmt::format("the reply is {}, expected {}", found, wanted));
}

StepResult luoctl(KernelInstance& instance, const Step& step) {
    const luo::LuoctlResult result = luo::run_luoctl(instance.kernel, step.get_text(step.spec->fields.front().name));
    const std::string text = result.out + result.err;
    if (!text.empty())
        instance.machine.trace.emit(Layer::sim, "luoctl.output",
                                    {{"text", text}, {"exit", static_cast<u64>(result.exit_code)}});
    return result.exit_code == 0 ? StepResult{}
                                 : StepResult::word(fmt::format("exit {}", result.exit_code),
                                                    text.substr(0, text.find_last_not_of('\n') + 1));
}

}  // namespace

StepResult run_luo_step(KernelInstance& instance, const Step& step) {
    if (step.id == StepId::luo_state) return expect_state(instance, step);
    if (step.id == StepId::luoctl) return luoctl(instance, step);
    if (step.id == StepId::luo_open) return open_device(instance);
    if (step.id == StepId::luo_close) return close_device(instance);

    const auto opened = ensure_luo_open(instance);
    if (!opened) return opened.error();
    luo::LuoClient& client = **opened;
    switch (step.id) {
    case StepId::luo_preserve: return client.fd_preserve(instance.fd(step.get_name("fd")), step.get_u64("token"));
    case StepId::luo_unpreserve: return client.fd_unpreserve(step.get_u64("token"));
    case StepId::luo_prepare: return client.set_event(static_cast<u32>(LuoEvent::prepare));
    case StepId::luo_cancel: return client.set_event(static_cast<u32>(LuoEvent::cancel));
    case StepId::luo_finish: return client.set_event(static_cast<u32>(LuoEvent::finish));
    case StepId::luo_event: return client.set_event(static_cast<u32>(step.get_u64(step.spec->fields.front().name)));
    case StepId::luo_freeze: return instance.luo->request(LuoEvent::freeze);
    case StepId::luo_restore: return restore(instance, client, step);
    case StepId::luo_fd_event:
        return client.set_fd_event(step.get_u64("token"), static_cast<u32>(step.get_u64("event")));
    case StepId::luo_fd_state: return fd_state(client, step);
    default: INVARIANT(step.id == StepId::luo_raw); return raw(client, step);
    }
}

}  // namespace kexec_sim::sim
