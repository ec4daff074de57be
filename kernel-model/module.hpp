// Modules: C subsystems in shared objects, loaded into a kernel.
//
// Every kernel gets its own copy: the file is copied into a memfd and opened from there, so that the statics of a module start
// afresh in each generation also where all kernels live in one process. The functions that a module calls are exported by the
// program (luo/c_api.cpp). When a kernel dies its modules are unmapped without being asked.
#pragma once

#include <map>
#include <string>

#include "machine/result.hpp"

namespace kexec_sim {

class Kernel;

class ModuleLoader {
public:
    explicit ModuleLoader(Kernel& kernel) : kernel_(kernel) {}
    ~ModuleLoader();
    /// ENOENT: no such file; ENOEXEC: no module (the log says why); EEXIST: loaded already; else what its init function returned.
    Result<> load(const std::string& path);
    /// ENOENT: not loaded.
    Result<> unload(const std::string& path);

private:
    Kernel& kernel_;
    std::map<std::string, void*> handles_;  // by file name without folders
};

}  // namespace kexec_sim
