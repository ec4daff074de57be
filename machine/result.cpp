#include "machine/result.hpp"

#include <array>
#include <fmt/format.h>
#include <utility>

namespace kexec_sim {
namespace {

struct Name {
    Errno error;
    std::string name;
};

const auto& table() {
    static const std::array<Name, 38> names = {{
        {Errno::eperm, "EPERM"},
        {Errno::enoent, "ENOENT"},
        {Errno::esrch, "ESRCH"},
        {Errno::eintr, "EINTR"},
        {Errno::eio, "EIO"},
        {Errno::enxio, "ENXIO"},
        {Errno::e2big, "E2BIG"},
        {Errno::enoexec, "ENOEXEC"},
        {Errno::ebadf, "EBADF"},
        {Errno::eagain, "EAGAIN"},
        {Errno::enomem, "ENOMEM"},
        {Errno::eacces, "EACCES"},
        {Errno::efault, "EFAULT"},
        {Errno::ebusy, "EBUSY"},
        {Errno::eexist, "EEXIST"},
        {Errno::enodev, "ENODEV"},
        {Errno::enotdir, "ENOTDIR"},
        {Errno::eisdir, "EISDIR"},
        {Errno::einval, "EINVAL"},
        {Errno::enfile, "ENFILE"},
        {Errno::emfile, "EMFILE"},
        {Errno::enotty, "ENOTTY"},
        {Errno::efbig, "EFBIG"},
        {Errno::enospc, "ENOSPC"},
        {Errno::espipe, "ESPIPE"},
        {Errno::erofs, "EROFS"},
        {Errno::erange, "ERANGE"},
        {Errno::edeadlk, "EDEADLK"},
        {Errno::enametoolong, "ENAMETOOLONG"},
        {Errno::enosys, "ENOSYS"},
        {Errno::enodata, "ENODATA"},
        {Errno::eproto, "EPROTO"},
        {Errno::eoverflow, "EOVERFLOW"},
        {Errno::ebadmsg, "EBADMSG"},
        {Errno::eopnotsupp, "EOPNOTSUPP"},
        {Errno::eaddrnotavail, "EADDRNOTAVAIL"},
        {Errno::etimedout, "ETIMEDOUT"},
        {Errno::ecanceled, "ECANCELED"},
    }};
    return names;
}

}  // namespace

std::string errno_name(Errno error) {
    for (const Name& entry : table())
        if (entry.error == error) return entry.name;
    return fmt::format("E{}", static_cast<int>(error));
}

Errno errno_by_name(std::string_view name) {
    for (const Name& entry : table())
        if (entry.name == name) return entry.error;
    return Errno::ok;
}

const std::string* errno_names(std::size_t* count) {
    static const auto names = [] {
        std::array<std::string, 38> result;
        for (std::size_t i = 0; i < result.size(); ++i) result[i] = table()[i].name;
        return result;
    }();
    *count = names.size();
    return names.data();
}

BadPhysAccess::BadPhysAccess(std::uint64_t phys_, std::uint64_t bytes, std::uint32_t generation_)
    : KernelPanic(fmt::format("BUG: unable to handle page fault: physical address {:#x} ({} bytes) is not RAM "
                              "(generation {})",
                              phys_, bytes, generation_)),
      phys(phys_),
      generation(generation_) {}

void invariant_failed(const char* expression, const char* file, int line) {
    throw SimulatorBug(fmt::format("{}:{}: invariant does not hold: {}", file, line, expression));
}

}  // namespace kexec_sim
