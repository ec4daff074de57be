// What differs between the two generations of the state machine that are simulated, as data.
//
//                          luo-v2                        luo-v3
//   callbacks              (void *arg, …)                (struct liveupdate_subsystem *h, …), and `boot`
//   incoming file tree     found in an initcall          given to the boot callback
//   user interface         one ioctl an event            size-prefixed structs, SET_EVENT, per-file events
//   device                 any number of openers         one opener; its last close drops all files
//   log prefix             one a module (luo_core:, …)   luo:
//
// States, rules, trees and messages are the same. Source: the LUO series of July (PATCH v2) and August 2025 (PATCH v3).
#pragma once

#include <span>
#include <string_view>

#include "machine/types.hpp"

namespace kexec_sim::luo {

enum class IoctlOp : u8 {
    fd_preserve,
    fd_unpreserve,
    fd_restore,
    get_state,
    set_event,
    get_fd_state,
    set_fd_event,
    prepare,
    cancel,
    finish,
};
/// "FD_PRESERVE", …: what fault points and the trace call it.
std::string_view ioctl_name(IoctlOp op);

struct IoctlEntry {
    u32 request;
    IoctlOp op;
    u32 bytes, bytes_min;  // of the argument
};

struct Edition {
    std::string_view name;
    struct Prefix {
        std::string_view core, subsystems, files, ioctl, sysfs;
    } prefix;  // "luo_core: ", …

    bool boot_callback = false;       // subsystems have one; it runs inside a registration in the updated state
    bool callback_takes_arg = false;  // first argument of callbacks: `void *arg` instead of the subsystem
    bool size_prefixed = false;       // form of ioctl arguments
    bool module_references = false;   // registering takes a reference on the module, which may fail (EAGAIN)
    bool exclusive_open = false;      // EBUSY for a second opener; the last close drops all files

    std::span<const IoctlEntry> ioctls;  // size_prefixed: by nr
    const IoctlEntry* find_op(IoctlOp op) const;
};

/// The edition of a kernel profile; nullptr: a kernel without this orchestrator.
const Edition* edition_for_profile(std::string_view profile);

}  // namespace kexec_sim::luo
