// A subsystem as the orchestrator sees it: `struct liveupdate_subsystem` with its operations.
#pragma once

#include <functional>
#include <string>

#include "machine/types.hpp"

namespace kexec_sim::luo {

/// Owned by whoever registers it, who keeps it alive while it is on the list. Callbacks return 0, a negative errno, or
/// a positive number, which is no error. They may throw KernelPanic. An empty one is skipped.
struct Subsystem {
    std::string name;
    bool in_module = false;  // its code is a module's, on which registering takes a reference
    std::function<int(u64*data)> prepare = {}, freeze = {};  // `data` points at private_data() itself
    std::function<void(u64 data)> boot = {}, cancel = {}, finish = {};
    /// The data handle, which registering does not clear. A module's is a field of its own structure.
    u64& private_data() { return module_field ? *module_field : own_data; }
    u64* module_field = nullptr;
    u64 own_data = 0;
    void* c_handle = nullptr;  // `struct liveupdate_subsystem *` of a module; nobody here looks at it
};

}  // namespace kexec_sim::luo
