#include "sim/epilogue.hpp"

#include <algorithm>
#include <fmt/format.h>

#include "luo/c_api.hpp"
#include "sim/host_outcome.hpp"
#include "sim/steps.hpp"
#include "sim/supervisor.hpp"

namespace kexec_sim::sim {
namespace {

/// An agent that can make calls: the current one, or a new one in place of a dead one.
Agent& living_agent(KernelInstance& instance) {
    if (!instance.agent()) {
        const MachineEntry entry;
        instance.state.agent.assign("epilogue");
    }
    if (!instance.agent()) instance.kernel.vfs.start_agent("epilogue");
    return *instance.agent();
}

/// The descriptor of whoever has the device open; else one of the agent that makes the calls.
Result<luo::LuoClient*> client_of(KernelInstance& instance) {
    for (const auto& [name, agent] : instance.kernel.vfs.agents())
        if (const auto at = instance.clients.find(name);
            agent->alive() && at != instance.clients.end() && at->second->is_open())
            return at->second.get();
    Agent& agent = living_agent(instance);
    luo::LuoClient* client = instance.client();
    if (client && client->is_open()) return client;
    auto fresh = std::make_unique<luo::LuoClient>(instance.kernel, agent);
    TRY(fresh->open());
    client = fresh.get();
    instance.clients[std::string(instance.state.agent)] = std::move(fresh);
    return client;
}

/// The first byte in which the file differs from what agents made of it.
std::optional<u64> first_difference(const ShmemFile& file, const FileCopy& copy) {
    if (file.size() != copy.size()) return std::min(file.size(), copy.size());
    std::vector<std::byte> found(std::min(MiB, file.size())), wanted(found.size());
    for (u64 at = 0; at < file.size(); at += found.size()) {
        const u64 count = std::min<u64>(found.size(), file.size() - at);
        if (!file.read(at, std::span(found).first(count))) return at;
        copy.bytes(at, std::span(wanted).first(count));
        const auto [left, right] =
            std::mismatch(found.begin(), found.begin() + static_cast<i64>(count), wanted.begin());
        if (left != found.begin() + static_cast<i64>(count)) return at + static_cast<u64>(left - found.begin());
    }
    return std::nullopt;
}

/// Memory of a confidential guest, which only the guest may touch.
bool holds_private_memory(const KernelInstance& instance, const ShmemFile& file) {
    return std::ranges::any_of(instance.vms, [&](const auto& one) {
        return one.second->memory().get() == &file && one.second->has_vm() && one.second->vm().asid() != 0;
    });
}

/// Memory that devices write, which agents know no copy of.
bool is_mapped_for_devices(KernelInstance& instance, i32 fd) {
    return std::ranges::any_of(instance.scenario.steps, [&](const Step& step) {
        return step.id == StepId::iommufd_map && step.has("fd") && instance.fd(step.get_name("fd")) == fd;
    });
}

/// Every living agent's memfds are what they were made, and can be written and truncated where their seals allow it.
StepResult files_usable(KernelInstance& instance) {
    for (const auto& [name, agent] : instance.kernel.vfs.agents()) {
        if (!agent->alive()) continue;
        for (const i32 fd : agent->open_fds()) {
            const auto file = agent->get(fd);
            const auto memfd = file ? std::dynamic_pointer_cast<ShmemFile>(*file) : nullptr;
            if (!memfd || memfd->hugetlb || memfd->size() == 0 || holds_private_memory(instance, *memfd)) continue;
            if (const auto copy = instance.file_copies.find(memfd->id());
                copy != instance.file_copies.end() && !is_mapped_for_devices(instance, fd))
                if (const auto differs = first_difference(*memfd, copy->second))
                    return StepResult::mismatch(fmt::format(
                        "a file of agent '{}' is not what its agents made of it, from {:#x} on", name, *differs));
            std::byte first{};
            if (const auto got = memfd->read(0, std::span(&first, 1)); !got)
                return StepResult::word(errno_name(got.error()),
                                        fmt::format("a file of agent '{}' cannot be read", name));
            if (!(memfd->seals & (F_SEAL_WRITE_BIT | F_SEAL_FUTURE_WRITE_BIT)))
                if (const auto put = memfd->write(0, std::span(&first, 1)); !put)
                    return StepResult::word(errno_name(put.error()),
                                            fmt::format("a file of agent '{}' cannot be written", name));
            if (const auto cut = memfd->truncate(memfd->size()); !cut)
                return StepResult::word(errno_name(cut.error()),
                                        fmt::format("a file of agent '{}' cannot be truncated", name));
        }
    }
    return {};
}

/// Files that an event of their own has prepared or frozen, which the machine's cancel is not about.
StepResult cancel_single_files(KernelInstance& instance) {
    const auto has_events = [](const Step& step) { return step.id == StepId::luo_fd_event; };
    if (std::ranges::none_of(instance.scenario.steps, has_events)) return {};
    const auto client = client_of(instance);
    if (!client) return client.error();
    for (const Step& step : instance.scenario.steps) {
        if (step.id != StepId::luo_preserve) continue;
        const u64 token = step.get_u64("token");
        const auto state = (*client)->get_fd_state(token, false);
        if (!state || (*state != LuoState::prepared && *state != LuoState::frozen)) continue;
        if (const auto cancelled = (*client)->set_fd_event(token, static_cast<u32>(LuoEvent::cancel)); !cancelled)
            return StepResult::word(errno_name(cancelled.error()), fmt::format("file {:#x} is not cancelled", token));
    }
    return {};
}

StepResult roll_back(KernelInstance& instance) {
    living_agent(instance);
    if (instance.luo && instance.luo->enabled()) {
        const LuoState state = instance.luo->state();
        if (state == LuoState::prepared || state == LuoState::frozen) {
            const auto client = client_of(instance);
            if (!client) return client.error();
            if (const auto cancelled = (*client)->set_event(static_cast<u32>(LuoEvent::cancel)); !cancelled)
                return StepResult::word(errno_name(cancelled.error()), "the cancel failed");
        }
        if (const LuoState after = instance.luo->state(); after != LuoState::normal && after != LuoState::updated)
            return StepResult::mismatch(fmt::format("the state is {}, expected normal", luo_state_name(after)));
        if (const StepResult cancelled = cancel_single_files(instance); cancelled.text != "ok") return cancelled;
        // Finalized by the script itself, past LUO.
        const auto finalizes = [](const Step& step) { return step.id == StepId::kho_finalize; };
        if (instance.kho.finalized() && std::ranges::any_of(instance.scenario.steps, finalizes))
            if (const auto aborted = instance.kho.abort(); !aborted)
                return StepResult::word(errno_name(aborted.error()), "the abort failed");
    } else if (instance.kho.finalized()) {
        if (const auto aborted = instance.kho.abort(); !aborted)
            return StepResult::word(errno_name(aborted.error()), "the abort failed");
    }
    return files_usable(instance);
}

/// What the script wanted to preserve and has not: its agents try again, now that nothing fails. With the half of a
/// guest there can be no update.
void preserve_the_rest(KernelInstance& instance, luo::LuoClient& client) {
    if (!instance.scenario.machine.has_devices()) return;
    for (const Step& step : instance.scenario.steps) {
        if (step.index > instance.state.last_step) break;
        if (step.id == StepId::luo_preserve)
            if (const i32 fd = instance.fd(step.get_name("fd")); fd >= 0)
                static_cast<void>(client.fd_preserve(fd, step.get_u64("token")));
        if (step.id == StepId::vm_preserve && instance.vms.contains(step.get_name("vm")))
            static_cast<void>(run_vm_step(instance, step));
    }
}

StepResult prepare_again(KernelInstance& instance) {
    if (!instance.kho.enabled()) return {};  // off for good in this kernel: there is nothing to hand over with
    if (!instance.luo || !instance.luo->enabled()) return instance.kho.finalize();
    if (instance.luo->state() == LuoState::updated) return {};
    const auto client = client_of(instance);
    if (!client) return client.error();
    preserve_the_rest(instance, **client);
    return (*client)->set_event(static_cast<u32>(LuoEvent::prepare));
}

StepResult kexec_again(KernelInstance& instance) {
    const u32 last = static_cast<u32>(instance.scenario.kernels.size() - 1);
    const u32 next = std::min(instance.kernel_index + 1, last);
    if (!instance.kernel.kexec.image())
        if (const auto loaded = instance.kernel.kexec.load(kexec_request(instance.scenario, next)); !loaded)
            return loaded;
    return kexec_with_vmms(instance, VmmDuties::mask);
}

/// The scripted subsystems of the previous kernel that nobody has registered yet come back, as their drivers would.
void register_again(KernelInstance& instance) {
    const std::vector<std::string> names(instance.state.subsystems.begin(), instance.state.subsystems.end());
    for (const std::string& name : names) {
        if (instance.subsystems.contains(name)) continue;
        const auto at = std::ranges::find_if(instance.scenario.steps, [&](const Step& step) {
            return step.id == StepId::subsystem_register && step.get_name("name") == name;
        });
        if (at != instance.scenario.steps.end()) static_cast<void>(run_subsystem_step(instance, *at));
    }
}

StepResult claim_all(KernelInstance& instance) {
    if (!instance.luo || !instance.luo->enabled() || instance.luo->state() != LuoState::updated) return {};
    register_again(instance);
    const auto client = client_of(instance);
    if (!client) return client.error();
    for (const Step& step : instance.scenario.steps)
        if (step.id == StepId::luo_preserve) static_cast<void>((*client)->fd_restore(step.get_u64("token")));
    for (const Step& step : instance.scenario.steps)
        if (step.id == StepId::vm_restore && !instance.vms.contains(step.get_name("vm")))
            static_cast<void>(run_vm_step(instance, step));
    return (*client)->set_event(static_cast<u32>(LuoEvent::finish));
}

}  // namespace

std::string_view epilogue_op_name(EpilogueOp op) {
    switch (op) {
    case EpilogueOp::roll_back: return "roll back";
    case EpilogueOp::prepare_again: return "prepare again";
    case EpilogueOp::kexec_again: return "kexec again";
    case EpilogueOp::claim_all: return "retrieve and finish";
    }
    return "?";
}

void execute_epilogue_op(KernelInstance& instance, EpilogueOp op) {
    luo::enter_kernel(&instance.kernel, &instance.kho, instance.luo.get());
    instance.in_epilogue = true;
    for (const auto& [name, subsystem] : instance.subsystems) subsystem->behave();
    StepResult result;
    switch (op) {
    case EpilogueOp::roll_back: result = roll_back(instance); break;
    case EpilogueOp::prepare_again: result = prepare_again(instance); break;
    case EpilogueOp::kexec_again: result = kexec_again(instance); break;
    case EpilogueOp::claim_all: result = claim_all(instance); break;
    }
    const bool jumped = op == EpilogueOp::kexec_again && result.text == "ok";
    answer(instance.state, jumped ? OutcomeKind::jump : OutcomeKind::result, result.text, result.detail);
}

Supervisor::Outcome Supervisor::run_epilogue_op(EpilogueOp op) {
    machine_.clock.advance(step_cost_ns);
    machine_.trace.emit(Layer::sim, "epilogue", {{"part", epilogue_op_name(op)}}, Phase::begin);
    host_->run_epilogue_op(static_cast<u32>(op));
    const Outcome outcome = take_outcome();
    machine_.trace.emit(Layer::sim, "epilogue",
                        {{"part", epilogue_op_name(op)}, {"result", outcome.text}, {"detail", outcome.detail}},
                        Phase::end);
    drain();
    return outcome;
}

/// The steps of a script that ask for the same as that part.
static std::span<const std::string_view> steps_like(EpilogueOp op) {
    static constexpr std::string_view prepare[] = {"luo.prepare", "kho.finalize"}, kexec[] = {"kexec", "kexec.exec"},
                                      finish[] = {"luo.finish", "luo.restore"};
    switch (op) {
    case EpilogueOp::roll_back: return {};
    case EpilogueOp::prepare_again: return prepare;
    case EpilogueOp::kexec_again: return kexec;
    case EpilogueOp::claim_all: return finish;
    }
    return {};
}

void Supervisor::run_epilogue(const Baseline& baseline) {
    in_epilogue_ = true;
    const Generation first = machine_.generation;
    const auto part = [&](EpilogueOp op) {
        if (ended_ || !alive_) return false;
        const Outcome outcome = run_epilogue_op(op);
        if (outcome.text == "ok") return true;
        // After a corruption nothing need succeed; that decoding stays bounded is the referee's to say.
        if (machine_.faults.corrupting_fired()) return false;
        for (const std::string_view step : steps_like(op))
            if (baseline.refusals.contains({std::string(step), outcome.text})) return false;
        result_.epilogue_failure = {std::string(epilogue_op_name(op)), outcome.text, outcome.detail};
        fail(fmt::format("epilogue, {}: {}{}{}", epilogue_op_name(op), outcome.text,
                         outcome.detail.empty() ? "" : ": ", outcome.detail));
        return false;
    };
    if (first == 0) {
        if (part(EpilogueOp::roll_back) && part(EpilogueOp::prepare_again) && part(EpilogueOp::kexec_again))
            part(EpilogueOp::claim_all);
    } else {
        part(EpilogueOp::claim_all);
    }
}

}  // namespace kexec_sim::sim
