// Modules: C subsystems in shared objects, loaded into a kernel.
//
// Every kernel gets its own copy, so that the statics of a module start afresh in each generation. A kernel with a
// process of its own opens the file as it is, which debuggers know by its path; where all kernels live in one process,
// the file is copied into a memfd and opened from there; the memfd stays, so that who names a module's functions (a
// sanitizer, a debugger) finds them. The functions that a module calls are exported by the program
// (luo/c_api.cpp). When a kernel dies its modules are unmapped without being asked.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "machine/result.hpp"

namespace kexec_sim {

class Kernel;

class ModuleLoader {
public:
    /// `own_process`: nobody else in this process opens modules.
    ModuleLoader(Kernel& kernel, bool own_process) : kernel_(kernel), own_process_(own_process) {}
    ~ModuleLoader();
    /// ENOENT: no such file; ENOEXEC: no module (the log says why); EEXIST: loaded already; else what its init
    /// function returned.
    Result<> load(const std::string& path);
    /// ENOENT: not loaded.
    Result<> unload(const std::string& path);
    bool any() const { return !objects_.empty(); }

private:
    struct Object {
        void* handle;
        int copy;  // the memfd; -1: opened as it is
        void close() const;
    };
    /// nullopt with dlerror() set; ENOENT: no file that can be read.
    Result<std::optional<Object>> open_object(const std::string& path) const;

    Kernel& kernel_;
    bool own_process_;
    std::map<std::string, Object> objects_;  // by file name without folders
};

}  // namespace kexec_sim
