#include "kernel-model/module.hpp"

#include <dlfcn.h>
#include <fcntl.h>
#include <filesystem>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernel-model/kernel.hpp"
#include "machine/reached.hpp"

namespace kexec_sim {
namespace {

std::string base_name(const std::string& path) { return path.substr(path.rfind('/') + 1); }

/// A copy of the file that no other kernel has open; -1: it cannot be read.
int private_copy(const std::string& path) {
    const int from = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (from < 0) return -1;
    struct stat info {};
    const int copy = memfd_create("module", MFD_CLOEXEC);
    bool ok = copy >= 0 && fstat(from, &info) == 0 && S_ISREG(info.st_mode);
    for (off_t rest = ok ? info.st_size : 0; ok && rest > 0;) {
        const ssize_t count = sendfile(copy, from, nullptr, static_cast<std::size_t>(rest));
        ok = count > 0;
        rest -= count;
    }
    close(from);
    if (!ok && copy >= 0) close(copy);
    return ok ? copy : -1;
}

}  // namespace

void ModuleLoader::Object::close() const {
    dlclose(handle);
    if (copy >= 0) ::close(copy);
}

ModuleLoader::~ModuleLoader() {
    for (const auto& [name, object] : objects_) object.close();
}

Result<std::optional<ModuleLoader::Object>> ModuleLoader::open_object(const std::string& path) const {
    std::string name;
    int copy = -1;
    if (own_process_) {
        std::error_code error;
        const std::filesystem::path whole = std::filesystem::absolute(path, error);
        if (!std::filesystem::is_regular_file(whole, error) || access(whole.c_str(), R_OK) != 0)
            return fail(Errno::enoent);
        name = whole.string();
    } else {
        copy = private_copy(path);
        if (copy < 0) return fail(Errno::enoent);
        name = fmt::format("/proc/self/fd/{}", copy);
    }
    void* handle = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle) return Object{handle, copy};
    if (copy >= 0) close(copy);
    return std::nullopt;
}

Result<> ModuleLoader::load(const std::string& path) {
    const std::string name = base_name(path);
    if (objects_.contains(name)) return fail(Errno::eexist);
    const auto object = TRY(open_object(path));
    if (!object) {
        REACHED("module.not_loadable");
        const std::string why = dlerror();
        kernel_.log.err("{}: {}", name, why.substr(why.rfind(": ") == std::string::npos ? 0 : why.rfind(": ") + 2));
        return fail(Errno::enoexec);
    }
    const auto init = reinterpret_cast<int (*)()>(dlsym(object->handle, "init_module"));
    kernel_.machine.trace.emit(Layer::kernel, "module.load", {{"module", name}});
    objects_.emplace(name, *object);
    const int result = init ? init() : 0;
    if (result < 0) {
        objects_.erase(name);
        object->close();
        constexpr int errno_max = 4095;
        if (result < -errno_max) {
            kernel_.log.err("{}: init function returned {}, which is no errno", name, result);
            return fail(Errno::einval);
        }
        return fail(static_cast<Errno>(-result));
    }
    return {};
}

Result<> ModuleLoader::unload(const std::string& path) {
    const auto at = objects_.find(base_name(path));
    if (at == objects_.end()) return fail(Errno::enoent);
    const Object object = at->second;
    if (const auto cleanup = reinterpret_cast<void (*)()>(dlsym(object.handle, "cleanup_module"))) cleanup();
    kernel_.machine.trace.emit(Layer::kernel, "module.unload", {{"module", at->first}});
    objects_.erase(at);
    object.close();
    return {};
}

}  // namespace kexec_sim
