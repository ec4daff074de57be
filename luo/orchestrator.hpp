// The Live Update Orchestrator (LUO): takes a machine from one kernel to the next while its workload keeps its
// resources.
//
// The problem. KHO can carry memory over a kexec, but somebody must say when: devices, VMs and files have to be
// brought into a state in which they can be carried, in an order, and back if one of them cannot. LUO is that
// somebody. It has one state for the whole machine, and calls every subsystem that has something to carry at each
// change.
//
// Terms.
//   subsystem    a part of the kernel that carries something over: callbacks and a name
//   data handle  8 bytes (`private_data`) that LUO carries for each subsystem; usually the physical address of more
//   token        what user space calls a file that it wants to have carried (luo/files.hpp)
//   LUO tree     one page with the handles of all subsystems (luo/abi/trees.hpp, luo/tree.hpp)
//   agent        the user-space program that drives it through /dev/liveupdate (luo/device.hpp)
//
//   undefined ──boot, KHO off──► undefined for ever
//       │
//       └─boot─► normal ──PREPARE──► prepared ──FREEZE──► frozen ══ kexec ══► updated ──FINISH──► normal
//                  ▲                    │ │ (reboot)         │
//                  ├──────CANCEL────────┘ │                  │
//                  ├──────freeze failed───┘                  │
//                  └──────CANCEL─────────────────────────────┘
//
// Happy path. 1. Subsystems register; an agent preserves files under tokens. 2. PREPARE: LUO makes its tree, calls
// `prepare` of each subsystem in order of registration, writes the handles into the tree, finalizes KHO. The workload
// runs on, with restrictions. 3. reboot(2) with the KEXEC command: FREEZE calls `freeze` of each; handles may change;
// the blackout begins. 4. The new kernel finds the tree and is `updated`. Subsystems that register are given their
// handle (`boot`); agents restore files by token. 5. FINISH: `finish` of each subsystem, then normal.
//
// Unhappy paths.
//   1  an event that the state does not allow: EINVAL and "Can't switch to […]"; CANCEL asks KHO first (ENOENT)
//   2  no page, no room in the page, KHO refuses: PREPARE fails, the tree is taken apart
//   3  `prepare` of subsystem k fails: those before k are cancelled in order of registration; k undoes its own work
//   4  a handle cannot be written: all are cancelled, ENOENT
//   5  `freeze` of k fails: those before k are cancelled, k and later ones never are (LUO-D4), the state is normal again while KHO is
//      still finalized (LUO-D5). `defects: strict`: KHO is aborted, all are cancelled, the tree is taken apart
//   6  KHO does not finalize: PREPARE returns its errno in the state prepared (LUO-D6). strict: back to normal
//   7  a subsystem that the previous kernel did not have: registration says ENOENT but keeps it on the list (LUO-D9),
//      and FINISH panics
//   8  a handed-over tree that is no LUO tree: the new kernel panics at boot
//   9  a callback that calls back: the task hangs with the lock held (luo/lock.hpp)
//
// Invariants. O1: the state changes along the arrows above only. O2: no two subsystems on the list have the same name.
// O3: outside prepared and frozen there is no outgoing tree, but for LUO-D5. O4: private_data is 0 after cancel and
// after finish.
//
// Source: the LUO series, kernel/liveupdate/luo_core.c and luo_subsystems.c. Simplified: a module
// reference can fail to be taken, and has no other effect; one task at a time.
#pragma once

#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "kernel-model/kernel.hpp"
#include "kho/kho.hpp"
#include "luo/edition.hpp"
#include "luo/files.hpp"
#include "luo/lock.hpp"
#include "luo/subsystem.hpp"
#include "luo/tree.hpp"

namespace kexec_sim::luo {

class Orchestrator {
public:
    /// Attaches to the kernel's hooks; call before Kernel::boot(). Lives no longer than the kernel.
    Orchestrator(Kernel& kernel, kho::Kho& kho, const Edition& edition);
    ~Orchestrator();
    Orchestrator(const Orchestrator&) = delete;
    Orchestrator& operator=(const Orchestrator&) = delete;

    Kernel& kernel() { return kernel_; }
    kho::Kho& kho() { return kho_; }
    /// How this posting of LUO looks from outside: ioctls, prefixes, whether a subsystem has a boot callback.
    const Edition& edition() const { return edition_; }
    LuoState state() const { return state_; }
    /// liveupdate=on, and KHO is on.
    bool enabled() const { return enabled_; }

    // --- events (luo/orchestrator.cpp) -------------------------------------------------------------------------------
    /// PREPARE, FREEZE, CANCEL, FINISH with the result that the caller sees. Throws KernelPanic, TaskDeadlock,
    /// TaskBlocked.
    Result<> request(LuoEvent event);
    /// liveupdate_reboot(): FREEZE if prepared, else nothing. Its error is the error of reboot(2).
    Result<> reboot();

    // --- subsystems (luo/subsystems.cpp) -----------------------------------------------------------------------------
    /// EBUSY: neither normal nor updated. EEXIST. ENOENT: the incoming tree does not have it, yet it is on the list.
    Result<> register_subsystem(Subsystem* subsystem);
    Result<> unregister_subsystem(Subsystem* subsystem);   // EBUSY, ENOENT
    Result<u64> get_subsystem_data(Subsystem* subsystem);  // ENOENT
    bool on_list(const Subsystem* subsystem) const;
    const std::vector<Subsystem*>& subsystems() const { return subsystems_; }

    // --- files -------------------------------------------------------------------------------------------------------
    Result<> register_file_handler(FileHandler* handler) { return files_.register_handler(handler); }
    Result<> unregister_file_handler(FileHandler* handler) { return files_.unregister_handler(handler); }
    Files& files() { return files_; }

    // --- what participants need besides ------------------------------------------------------------------------------
    /// KHO takes nothing back while it is finalized: `work` runs when it has been aborted, or with the next abort.
    void after_abort(std::function<void()> work) { after_abort_.push_back(std::move(work)); }

    /// Planned faults on LUO's part of what is handed over (handover.luo), applied to RAM after relocation.
    void corrupt_handover();

    // --- for the parts of LUO ----------------------------------------------------------------------------------------
    TaskLock& state_lock() { return state_lock_; }
    bool normal_or_updated() const { return state_ == LuoState::normal || state_ == LuoState::updated; }
    bool strict() const { return kernel_.config.strict_defects; }
    const Tree& tree() const { return tree_; }
    /// The line that FREEZE, PREPARE, … leave behind, with the edition's prefix for the core.
    void log(LogLevel level, std::string_view text);

private:
    // luo/boot.cpp
    void attach();
    void startup();
    void make_sysfs_file();

    // luo/orchestrator.cpp
    Result<> prepare();
    Result<> freeze();
    Result<> cancel();
    Result<> finish();
    /// EAGAIN if an agent that is being killed would have to wait for it.
    Result<> wait_for_state_lock(std::string_view event);
    Result<> prepare_locked();
    void set_state(LuoState to, bool quiet = false);
    bool switch_allowed(bool allowed, LuoState target);
    Result<> abort_kho();
    void catch_up_after_abort();

    // luo/subsystems.cpp
    Result<> call_all(LuoCallback callback);
    Result<> commit();
    void cancel_first(std::size_t count);
    void cancel_all();
    void finish_all();
    int call_fallible(Subsystem& subsystem, LuoCallback callback);
    void call_infallible(Subsystem& subsystem, LuoCallback callback, u64 data);
    Result<> boot_new(Subsystem& subsystem);
    void report_absent(const Subsystem& subsystem);

    Kernel& kernel_;
    kho::Kho& kho_;
    const Edition& edition_;
    LuoState state_ = LuoState::undefined;
    bool enabled_ = false;
    bool warned_data_ = false;
    TaskLock state_lock_;
    TaskLock list_lock_;
    std::vector<Subsystem*> subsystems_;  // in order of registration
    Tree tree_;
    Files files_;
    std::vector<std::function<void()>> after_abort_;
};

}  // namespace kexec_sim::luo
