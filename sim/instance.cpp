#include "sim/instance.hpp"

#include <algorithm>
#include <fmt/format.h>

#include "kho/edition.hpp"
#include "luo/c_api.hpp"
#include "luo/edition.hpp"

namespace kexec_sim::sim {

KexecRequest kexec_request(const Scenario& scenario, u32 kernel_index) {
    const KernelSpec& spec = scenario.kernel(kernel_index);
    KexecRequest request;
    request.kernel_index = kernel_index;
    request.cmdline = spec.cmdline;
    request.release = spec.release;
    request.profile = profile_name(spec.profile);
    request.kernel_bytes = spec.image_bytes;
    request.initrd_bytes = spec.initrd_bytes;
    return request;
}

KernelConfig kernel_config(const Scenario& scenario, u32 kernel_index, bool crash_kernel) {
    const KernelSpec& spec = scenario.kernel(kernel_index);
    KernelConfig config;
    config.profile = profile_name(spec.profile);
    config.release = spec.release;
    config.strict_defects = spec.strict_defects;
    config.mutants = spec.mutants;
    config.debug = spec.debug;
    config.numa = spec.numa;
    config.preserve_devices = spec.preserve_devices;
    config.cost = spec.cost;
    config.without.assign(spec.without.begin(), spec.without.end());
    for (const auto& module : scenario.modules) config.modules.push_back(module.string());
    config.kernel_bytes = spec.image_bytes;
    config.initrd_bytes = spec.initrd_bytes;
    config.crash_kernel = crash_kernel;
    return config;
}

KernelInstance::KernelInstance(Machine& machine_, RunState& state_, const Scenario& scenario_, u32 kernel_index_,
                               bool crash_kernel, BootParams params)
    : kernel(machine_, kernel_config(scenario_, kernel_index_, crash_kernel), std::move(params)),
      kho(kernel, kho::edition_for_profile(kernel.config.profile)),
      modules(kernel, state_.own_process),
      machine(machine_),
      state(state_),
      scenario(scenario_),
      kernel_index(kernel_index_) {
    const luo::Edition* edition = luo::edition_for_profile(kernel.config.profile);
    if (edition && kernel.config.built_with("luo") && kernel.config.built_with("kho")) {
        luo = std::make_unique<luo::Orchestrator>(kernel, kho, *edition);
        memfd_handler = std::make_unique<luo::MemfdHandler>(kernel, kho, *luo);
        devices = std::make_unique<luo::DeviceParticipants>(kernel, kho, *luo);
    }
    // The last hook of all: what a handover costs to take over, before user space.
    kernel.hooks.late_init.push_back([this] {
        if (kho.incoming()) machine.clock.advance(kernel.config.cost.restore);
    });
}

KernelInstance::~KernelInstance() { luo::leave_kernel(); }

void KernelInstance::boot() {
    luo::enter_kernel(&kernel, &kho, luo.get());
    const kho::Edition& kho_edition = kho::edition_for_profile(kernel.config.profile);
    KernelTraits traits;
    traits.edition = kernel.config.profile;
    traits.has_luo = luo != nullptr;
    traits.promise_at = luo ? KernelTraits::PromiseAt::prepare : KernelTraits::PromiseAt::finalize;
    traits.strict = kernel.config.strict_defects;
    traits.map_bitmap_bytes = kho_edition.bitmap_bytes;
    machine.referee.kernel_boots(machine.generation, traits);
    kernel.boot();
    if (kho_edition.notifier_chain)
        static_cast<void>(
            kho.register_notifier(0, [this](kho::NotifierAction action) { return bench_notified(action); }));
    for (const std::string& module : kernel.config.modules)
        if (const auto loaded = modules.load(module); !loaded)
            kernel.log.err("module {}: failed to load: {}", module.substr(module.rfind('/') + 1),
                           errno_name(loaded.error()));
    machine.referee.user_space_reached();
    {
        const MachineEntry entry;
        state.crash_begin = kernel.crash_range().begin.raw;
        state.crash_end = kernel.crash_range().end.raw;
        state.agent.assign("main");
        if (state.blackout_running) state.blackouts_ns.push_back(machine.clock.now_ns() - state.blackout_start_ns);
        state.blackout_running = false;
    }
}

/// As lib/test_kho.c does it: whatever goes wrong is NOTIFY_BAD.
kho::NotifyResult KernelInstance::bench_notified(kho::NotifierAction action) {
    if (action == kho::NotifierAction::abort) return kho::NotifyResult::done();
    for (const BenchTree& tree : bench_subtrees) {
        if (!kho.preserve_folio(tree.folio, "bench")) return kho::NotifyResult::bad();
        if (!kho.add_subtree(tree.name, tree.folio.pfn.phys())) return kho::NotifyResult::bad();
    }
    return kho::NotifyResult::done();
}

Agent* KernelInstance::agent() {
    Agent* found = kernel.vfs.find_agent(std::string(state.agent));
    return found && found->alive() ? found : nullptr;
}

i32 KernelInstance::fd(std::string_view name) {
    const auto& names = descriptors[std::string(state.agent)];
    const auto at = names.find(std::string(name));
    return at == names.end() ? -1 : at->second;
}

void KernelInstance::bind_fd(std::string_view name, i32 fd) {
    auto& names = descriptors[std::string(state.agent)];
    const auto at = names.find(std::string(name));
    if (at != names.end()) {
        const i32 old = at->second;
        at->second = fd;
        static_cast<void>(agent()->close(old));
        return;
    }
    names[std::string(name)] = fd;
}

void KernelInstance::forget_fd(std::string_view name) {
    descriptors[std::string(state.agent)].erase(std::string(name));
}

luo::LuoClient* KernelInstance::client() {
    const auto at = clients.find(std::string(state.agent));
    return at == clients.end() ? nullptr : at->second.get();
}

bool KernelInstance::luo_closed_by_hand(std::string_view agent) const {
    return closed_by_hand.contains(std::string(agent));
}

}  // namespace kexec_sim::sim
