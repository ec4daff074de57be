// C functions for modules: KHO and the orchestrator (kernel-model/include/linux/{kexec_handover,liveupdate}.h).
#include "luo/c_api.hpp"

#include <fmt/format.h>
#include <map>
#include <memory>

#include "kernel-model/current.hpp"
#include "kernel-model/include/linux/kexec_handover.h"
#include "luo/edition.hpp"
#include "luo/orchestrator.hpp"

// The two forms of the structures, under names of their own.
#define LIVEUPDATE_V2
#define liveupdate_subsystem liveupdate_subsystem_v2
#define liveupdate_subsystem_ops liveupdate_subsystem_ops_v2
#include "kernel-model/include/linux/liveupdate.h"
#undef KEXEC_SIM_LINUX_LIVEUPDATE_H
#undef LIVEUPDATE_V2
#undef liveupdate_subsystem
#undef liveupdate_subsystem_ops
#undef kexec_sim_liveupdate_abi
#define liveupdate_register_subsystem liveupdate_register_subsystem_v3
#define liveupdate_unregister_subsystem liveupdate_unregister_subsystem_v3
#define liveupdate_get_subsystem_data liveupdate_get_subsystem_data_v3
#include "kernel-model/include/linux/liveupdate.h"
#include "machine/reached.hpp"
#undef liveupdate_register_subsystem
#undef liveupdate_unregister_subsystem
#undef liveupdate_get_subsystem_data

namespace kexec_sim::luo {
namespace {

struct Entered {
    kho::Kho* kho = nullptr;
    Orchestrator* orchestrator = nullptr;
    std::map<void*, std::unique_ptr<Subsystem>> subsystems;  // by the module's own structure
};
Entered entered;

/// Who calls KHO: the subsystem whose callback runs, else "module".
std::string_view caller = "module";

class Running {
public:
    explicit Running(std::string_view name) : before_(std::exchange(caller, name)) {}
    ~Running() { caller = before_; }
    Running(const Running&) = delete;
    Running& operator=(const Running&) = delete;

private:
    std::string_view before_;
};

/// What a callback of the module gets first: the subsystem itself, or `arg` in the second posting.
::liveupdate_subsystem* first_argument(::liveupdate_subsystem* own) { return own; }
void* first_argument(const ::liveupdate_subsystem_v2* own) { return own->arg; }

/// Binds the callbacks of a module's own structure, of either form.
template <typename Own> std::unique_ptr<Subsystem> bind(Own* own) {
    auto subsystem = std::make_unique<Subsystem>();
    const auto* ops = own->ops;
    subsystem->name = own->name;
    subsystem->in_module = true;
    subsystem->c_handle = own;
    subsystem->module_field = reinterpret_cast<u64*>(&own->private_data);
    const std::string* name = &subsystem->name;
    const auto fallible = [own, name](auto* callback) -> std::function<int(u64*)> {
        if (!callback) return {};
        return [own, name, callback](u64* data) {
            const Running running(*name);
            return callback(first_argument(own), reinterpret_cast<decltype(&own->private_data)>(data));
        };
    };
    const auto last = [own, name](auto* callback) -> std::function<void(u64)> {
        if (!callback) return {};
        return [own, name, callback](u64 data) {
            const Running running(*name);
            callback(first_argument(own), data);
        };
    };
    subsystem->prepare = fallible(ops->prepare);
    subsystem->freeze = fallible(ops->freeze);
    subsystem->cancel = last(ops->cancel);
    subsystem->finish = last(ops->finish);
    if constexpr (std::is_same_v<Own, ::liveupdate_subsystem>) subsystem->boot = last(ops->boot);
    return subsystem;
}

/// A module built for the other posting would not load: the version of the symbol differs.
Result<> check_abi(int abi) {
    if (!entered.orchestrator) return {};
    const int kernels_own = entered.orchestrator->edition().callback_takes_arg ? 2 : 3;
    if (abi == kernels_own) return {};
    REACHED("luo.module.other_abi");
    current_kernel().log.err("module: disagrees about version of symbol liveupdate_register_subsystem");
    return fail(Errno::einval);
}

/// The block of a handle; a handle that is none is a wild pointer in the module.
Folio folio_of(const ::folio* handle) {
    const auto pfn = pfn_of_handle(reinterpret_cast<u64>(handle));
    if (!pfn) throw BadPhysAccess(reinterpret_cast<u64>(handle), 8, current_kernel().machine.generation);
    return {*pfn, current_kernel().pages.block(*pfn).meta.order};
}

}  // namespace

void enter_kernel(Kernel* kernel, kho::Kho* kho, Orchestrator* orchestrator) {
    set_current_kernel(kernel);
    caller = "module";  // a callback may have died
    entered.kho = kho;
    entered.orchestrator = orchestrator;
}

void leave_kernel() {
    set_current_kernel(nullptr);
    entered = {};
}

}  // namespace kexec_sim::luo

using namespace kexec_sim;
using kexec_sim::luo::entered;

extern "C" {

bool kho_is_enabled(void) { return entered.kho->enabled(); }
int kho_preserve_folio(folio* handle) {
    return c_result(entered.kho->preserve_folio(luo::folio_of(handle), luo::caller));
}
int kho_unpreserve_folio(folio* handle) {
    return c_result(entered.kho->unpreserve_folio(luo::folio_of(handle), luo::caller));
}
int kho_preserve_phys(phys_addr_t phys, size_t size) {
    return c_result(entered.kho->preserve_phys(PhysAddr{phys}, size, luo::caller));
}
int kho_unpreserve_phys(phys_addr_t phys, size_t size) {
    return c_result(entered.kho->unpreserve_phys(PhysAddr{phys}, size, luo::caller));
}
folio* kho_restore_folio(phys_addr_t phys) {
    const auto block = entered.kho->restore_folio(PhysAddr{phys}, luo::caller, FrameClass::subsystem);
    return block ? reinterpret_cast<folio*>(folio_handle(block->pfn)) : nullptr;
}
int kho_add_subtree(const char* name, void* fdt) {
    return c_result(entered.kho->add_subtree(name, PhysAddr{virt_to_phys(fdt)}));
}
int kho_remove_subtree(void* fdt) { return c_result(entered.kho->remove_subtree(PhysAddr{virt_to_phys(fdt)})); }
int kho_retrieve_subtree(const char* name, phys_addr_t* phys) {
    if (!entered.kho->incoming()) return -static_cast<int>(Errno::enoent);
    if (!phys) return -static_cast<int>(Errno::einval);
    const auto found = entered.kho->retrieve_subtree(name);
    if (!found) return -static_cast<int>(found.error());
    *phys = found->raw;
    return 0;
}

namespace {

/// What the orchestrator knows a module's structure as; made anew for one that it does not know.
std::unique_ptr<luo::Subsystem> bind(int abi, void* own) {
    return abi == 2 ? luo::bind(static_cast<liveupdate_subsystem_v2*>(own))
                    : luo::bind(static_cast<liveupdate_subsystem*>(own));
}

}  // namespace

int kexec_sim_register_subsystem(int abi, void* own) {
    if (!entered.orchestrator) return 0;  // without LIVEUPDATE the header's function does nothing and returns 0
    if (const auto same = luo::check_abi(abi); !same) return c_result(same);
    auto& known = entered.subsystems[own];
    if (!known) known = bind(abi, own);
    const auto result = entered.orchestrator->register_subsystem(known.get());
    if (!result && !entered.orchestrator->on_list(known.get())) entered.subsystems.erase(own);
    return c_result(result);
}

int kexec_sim_unregister_subsystem(int abi, void* own) {
    if (!entered.orchestrator) return 0;
    const auto at = entered.subsystems.find(own);
    if (at == entered.subsystems.end())
        return c_result(entered.orchestrator->unregister_subsystem(bind(abi, own).get()));
    const auto result = entered.orchestrator->unregister_subsystem(at->second.get());
    if (result) entered.subsystems.erase(at);
    return c_result(result);
}

int kexec_sim_get_subsystem_data(int abi, void* own, u64* data) {
    if (!entered.orchestrator) return -static_cast<int>(Errno::enodata);
    const auto at = entered.subsystems.find(own);
    const auto stranger = at == entered.subsystems.end() ? bind(abi, own) : nullptr;
    const auto found = entered.orchestrator->get_subsystem_data(stranger ? stranger.get() : at->second.get());
    if (!found) return -static_cast<int>(found.error());
    *data = *found;
    return 0;
}

bool liveupdate_state_normal(void) {
    return !entered.orchestrator || entered.orchestrator->state() == LuoState::normal;
}
bool liveupdate_state_updated(void) {
    return entered.orchestrator && entered.orchestrator->state() == LuoState::updated;
}
bool liveupdate_enabled(void) { return entered.orchestrator && entered.orchestrator->enabled(); }

}  // extern "C"
