// What LUO does while the kernel boots, and the hooks by which it hears of the rest.
//
//   initcall 0   state: undefined without KHO, updated with an incoming tree, else normal
//   initcall 4   /sys/kernel/liveupdate/state
//   initcall 7   the files' subsystem, /dev/liveupdate
#include "luo/abi/trees.hpp"
#include "luo/device.hpp"
#include "luo/orchestrator.hpp"
#include "machine/reached.hpp"

namespace kexec_sim::luo {

void Orchestrator::attach() {
    Hooks& hooks = kernel_.hooks;
    hooks.early_param.push_back({"liveupdate", [this](std::string_view value) -> Result<> {
                                     enabled_ = TRY(parse_bool_param(value));
                                     return {};
                                 }});
    hooks.initcall[0].push_back([this] { startup(); });
    hooks.initcall[4].push_back([this] { make_sysfs_file(); });
    hooks.initcall[7].push_back([this] {
        files_.start();
        if (enabled_) register_device(*this);
    });
    hooks.reboot_prepare.push_back([this] { return reboot(); });
}

void Orchestrator::startup() {
    if (!kho_.enabled()) {
        if (enabled_) {
            REACHED("luo.boot.disabled");
            log(LogLevel::warn, "Disabling liveupdate because KHO is disabled");
            kernel_.machine.referee.luo_declined("Disabling liveupdate because KHO is disabled");
        }
        enabled_ = false;
    }
    kernel_.machine.referee.kernel_has_luo(enabled_);
    if (!kho_.enabled()) return;  // undefined for ever

    // Even with liveupdate=off: then the state is updated and there is no device to end that.
    const auto incoming = kho_.retrieve_subtree(abi::LUO_KHO_ENTRY_NAME);
    if (!incoming && incoming.error() == Errno::enoent) {
        set_state(LuoState::normal, true);
        return;
    }
    if (!incoming) {
        REACHED("luo.boot.tree_not_retrieved");
        throw KernelPanic(fmt::format("failed to retrieve FDT '{}' from KHO: {}", abi::LUO_KHO_ENTRY_NAME,
                                      -static_cast<int>(incoming.error())));
    }
    tree_.adopt(*incoming);
    set_state(LuoState::updated, true);
}

void Orchestrator::make_sysfs_file() {
    if (!kernel_.machine.faults.check(FaultPoint::luo_sysfs)) {
        REACHED("luo.boot.no_sysfs");
        kernel_.log.err("{}Failed to create group", edition_.prefix.sysfs);
        return;
    }
    kernel_.vfs.add_pseudo_file(
        "sys/kernel/liveupdate/state",
        {[this]() -> Result<std::string> { return std::string(luo_state_name(state_)) + "\n"; }, {}});
    kernel_.log.info("{}Initialized", edition_.prefix.sysfs);
}

}  // namespace kexec_sim::luo
