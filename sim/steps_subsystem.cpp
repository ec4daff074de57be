// subsystem.*, module.* and agent.*.
#include <algorithm>
#include <fmt/format.h>

#include "sim/steps.hpp"

namespace kexec_sim::sim {
namespace {

using luo::ScriptedSubsystem;

ScriptedSubsystem::Answer answer_of(const Step& step, std::string_view field) {
    const std::string& word = step.has(field) ? step.get_text(field) : std::string("ok");
    ScriptedSubsystem::Answer answer;
    if (word == "panic")
        answer.panic = true;
    else if (word != "ok")
        answer.error = errno_by_name(word);
    return answer;
}

StepResult register_subsystem(KernelInstance& instance, const Step& step) {
    if (!instance.luo) return Errno::enoent;
    const std::string& name = step.get_name("name");
    ScriptedSubsystem::Script script;
    script.pages = step.get_u64("pages");
    if (!instance.in_epilogue) {
        script.prepare = answer_of(step, "prepare");
        script.freeze = answer_of(step, "freeze");
        script.boot = answer_of(step, "boot");
        script.cancel = answer_of(step, "cancel");
        script.finish = answer_of(step, "finish");
    }
    auto subsystem = std::make_unique<ScriptedSubsystem>(instance.kernel, instance.kho, *instance.luo, name, script);
    const auto registered = subsystem->register_with_luo();
    // An entry that stays on the list in spite of the errno (LUO-D9) must stay alive as well.
    if (registered || subsystem->on_list()) {
        instance.gone_subsystems.erase(name);
        instance.subsystems[name] = std::move(subsystem);
    }
    return registered;
}

StepResult unregister_subsystem(KernelInstance& instance, const Step& step) {
    if (!instance.luo) return Errno::enoent;
    const auto at = instance.subsystems.find(step.get_name("name"));
    if (at == instance.subsystems.end()) {
        // Unregistered before: the call goes to the kernel all the same, which says so.
        const auto gone = instance.gone_subsystems.find(step.get_name("name"));
        return gone == instance.gone_subsystems.end() ? StepResult{Errno::enoent}
                                                      : gone->second->unregister_from_luo();
    }
    const auto result = at->second->unregister_from_luo();
    if (result) {
        instance.gone_subsystems[at->first] = std::move(at->second);
        instance.subsystems.erase(at);
    }
    return result;
}

std::string joined(const std::vector<std::string>& words) {
    std::string text;
    for (const std::string& word : words) text += (text.empty() ? "" : ", ") + word;
    return "[" + text + "]";
}

StepResult expect_calls(KernelInstance& instance, const Step& step) {
    const std::string& name = step.get_name("name");
    const ScriptedSubsystem* subsystem = nullptr;
    if (const auto at = instance.subsystems.find(name); at != instance.subsystems.end())
        subsystem = at->second.get();
    else if (const auto gone = instance.gone_subsystems.find(name); gone != instance.gone_subsystems.end())
        subsystem = gone->second.get();
    if (!subsystem)
        return StepResult::mismatch(fmt::format("subsystem '{}' was not registered in this generation", name));
    const std::vector<std::string>& wanted = step.get_list("calls");
    if (subsystem->calls() == wanted) return {};
    return StepResult::mismatch(
        fmt::format("calls were {}, expected {}", joined(subsystem->calls()), joined(wanted)));
}

/// A handler that is only there.
class SilentHandler : public luo::FileHandler {
public:
    using FileHandler::FileHandler;
    bool can_preserve(File&) override { return false; }
    Result<FileRef> retrieve(u64) override { return fail(Errno::enoent); }
    bool provides(LuoCallback) const override { return false; }
};

StepResult file_handler_step(KernelInstance& instance, const Step& step) {
    if (!instance.luo) return Errno::enoent;
    const std::string& compatible = step.get_text("compatible");
    const auto at = instance.file_handlers.find(compatible);
    if (step.id == StepId::file_handler_register) {
        auto handler = std::make_unique<SilentHandler>(compatible, true);
        const auto registered = instance.luo->register_file_handler(handler.get());
        if (registered) instance.file_handlers[compatible] = std::move(handler);
        return registered;
    }
    luo::FileHandler* handler = at != instance.file_handlers.end() ? at->second.get() : nullptr;
    if (!handler && compatible == instance.memfd_handler->compatible) handler = instance.memfd_handler.get();
    if (!handler) return Errno::enoent;
    const auto result = instance.luo->unregister_file_handler(handler);
    if (result) instance.file_handlers.erase(compatible);
    return result;
}

StepResult agent_step(KernelInstance& instance, const Step& step) {
    const std::string& name = step.get_text("name");
    if (step.id == StepId::agent_start) {
        Agent* running = instance.kernel.vfs.find_agent(name);
        if (running && running->alive()) return Errno::eexist;
        instance.descriptors.erase(name);
        instance.clients.erase(name);
        instance.closed_by_hand.erase(name);
        instance.kernel.vfs.start_agent(name);
        return {};
    }
    Agent* agent = instance.kernel.vfs.find_agent(name);
    if (step.id == StepId::agent_switch) {
        if (!agent) return Errno::esrch;
        const MachineEntry entry;
        instance.state.agent.assign(name);
        return {};
    }
    INVARIANT(step.id == StepId::agent_kill);
    if (!agent || !agent->alive()) return Errno::esrch;
    agent->kill();
    return {};
}

}  // namespace

StepResult run_subsystem_step(KernelInstance& instance, const Step& step) {
    switch (step.id) {
    case StepId::subsystem_register: return register_subsystem(instance, step);
    case StepId::subsystem_unregister: return unregister_subsystem(instance, step);
    case StepId::file_handler_register:
    case StepId::file_handler_unregister: return file_handler_step(instance, step);
    case StepId::subsystem_expect: return expect_calls(instance, step);
    case StepId::module_load: return instance.modules.load(step.get_text("file"));
    case StepId::module_unload: return instance.modules.unload(step.get_text("file"));
    default: return agent_step(instance, step);
    }
}

}  // namespace kexec_sim::sim
