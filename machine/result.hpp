// The four ways in which something can go wrong, kept apart.
//
//   the modelled kernel refuses    Result<T>, passed up with TRY: the errno a real caller would see
//   the modelled kernel is wrong   KernelPanic (below), thrown to the boundary of the kernel
//   the user's input is wrong      UserError: one line on standard error, exit 2
//   the simulator is wrong         INVARIANT: SimulatorBug, exit 3
#pragma once

#include <cstdint>
#include <expected>
#include <stdexcept>
#include <string>
#include <string_view>

namespace kexec_sim {

/// Linux errnos by value, spelled as in errno.h but in lower case. Values are those of x86-64.
enum class Errno : int {
    ok = 0,
    eperm = 1,
    enoent = 2,
    esrch = 3,
    eintr = 4,
    eio = 5,
    enxio = 6,
    e2big = 7,
    enoexec = 8,
    ebadf = 9,
    eagain = 11,
    enomem = 12,
    eacces = 13,
    efault = 14,
    ebusy = 16,
    eexist = 17,
    enodev = 19,
    enotdir = 20,
    eisdir = 21,
    einval = 22,
    enfile = 23,
    emfile = 24,
    enotty = 25,
    efbig = 27,
    enospc = 28,
    espipe = 29,
    erofs = 30,
    erange = 34,
    edeadlk = 35,
    enametoolong = 36,
    enosys = 38,
    enodata = 61,
    eproto = 71,
    eoverflow = 75,
    ebadmsg = 74,
    eopnotsupp = 95,
    eaddrnotavail = 99,
    etimedout = 110,
    ecanceled = 125,
};

/// "ENOMEM" for `enomem`; "E<number>" for a value that has no name here.
std::string errno_name(Errno error);
/// The reverse of errno_name; nullopt-like `Errno::ok` never comes out: `ok` means "no such name".
Errno errno_by_name(std::string_view name);
/// All names, for messages and for the schema.
const std::string* errno_names(std::size_t* count);

template <typename T = void> using Result = std::expected<T, Errno>;

/// `return fail(Errno::einval);`
inline std::unexpected<Errno> fail(Errno error) { return std::unexpected<Errno>(error); }

/// Passes a failure up, or yields the value: `Folio folio = TRY(alloc(order));`
#define TRY(expression)                                                            \
    ({                                                                             \
        auto&& try_result = (expression);                                          \
        if (!try_result) return ::kexec_sim::fail(try_result.error());             \
        ::kexec_sim::detail::take(std::forward<decltype(try_result)>(try_result)); \
    })

namespace detail {
template <typename T> T take(std::expected<T, Errno>&& result) { return *std::move(result); }
inline void take(std::expected<void, Errno>&&) {}
template <typename T> T take(std::expected<T, Errno>& result) { return *result; }
inline void take(std::expected<void, Errno>&) {}
}  // namespace detail

/// The kernel that runs has died. Thrown by the kernel model, caught where the host enters it.
class KernelPanic : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};
/// The machine has lost power (a fault of that name): no kernel runs and RAM is gone.
class PowerLoss : public std::runtime_error {
public:
    PowerLoss() : std::runtime_error("power loss") {}
};
/// A task waits for a lock that it holds itself. The task never returns; what it holds stays held.
class TaskDeadlock : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};
/// A task waits for something that nobody will ever give (a lock of a hung task).
class TaskBlocked : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

/// A physical access outside RAM. Inside a kernel this is a page fault that nobody handles.
class BadPhysAccess : public KernelPanic {
public:
    BadPhysAccess(std::uint64_t phys, std::uint64_t bytes, std::uint32_t generation);
    std::uint64_t phys;
    std::uint32_t generation;
};

/// Bad usage or input, or the host ran out of something: exit 2. `what()` is the whole line.
class UserError : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

/// The simulator contradicts itself: exit 3.
class SimulatorBug : public std::logic_error {
public:
    using std::logic_error::logic_error;
};

[[noreturn]] void invariant_failed(const char* expression, const char* file, int line);
#define INVARIANT(expression) \
    ((expression) ? void(0) : ::kexec_sim::invariant_failed(#expression, __FILE__, __LINE__))

}  // namespace kexec_sim
