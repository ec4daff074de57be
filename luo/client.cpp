#include "luo/client.hpp"

#include "luo/abi/ioctl.hpp"
#include "luo/device.hpp"

namespace kexec_sim::luo {

const Edition& LuoClient::edition() const {
    const Edition* edition = edition_for_profile(kernel_.config.profile);
    INVARIANT(edition != nullptr);  // there is no device to open without
    return *edition;
}

Result<> LuoClient::open() {
    fd_ = TRY(kernel_.vfs.open(agent_, device_path, 0));
    file_ = TRY(agent_.get(fd_));
    return {};
}

Result<> LuoClient::close() {
    if (!is_open()) return fail(Errno::ebadf);
    return agent_.close(std::exchange(fd_, -1));
}

bool LuoClient::is_open() const {
    if (fd_ < 0 || !agent_.alive()) return false;
    const auto file = agent_.get(fd_);
    return file && *file == file_.lock();
}

Result<i64> LuoClient::raw(u32 request, std::span<std::byte> argument) {
    if (!is_open()) return fail(Errno::ebadf);
    UserBuffer buffer(argument);
    return kernel_.vfs.ioctl(agent_, fd_, request, buffer);
}

template <typename Argument> Result<> LuoClient::call(IoctlOp op, Argument& argument) {
    if (!is_open()) return fail(Errno::ebadf);
    const IoctlEntry* entry = edition().find_op(op);
    if (!entry) return fail(Errno::enotty);
    TRY(raw(entry->request, std::as_writable_bytes(std::span(&argument, 1))));
    return {};
}

Result<> LuoClient::fd_preserve(i32 fd, u64 token) {
    if (!is_open()) return fail(Errno::ebadf);
    if (edition().size_prefixed) {
        abi::v3::FdPreserve argument{sizeof argument, fd, token};
        return call(IoctlOp::fd_preserve, argument);
    }
    abi::v2::Fd argument{fd, 0, token};
    return call(IoctlOp::fd_preserve, argument);
}

Result<> LuoClient::fd_unpreserve(u64 token) {
    if (!is_open()) return fail(Errno::ebadf);
    if (edition().size_prefixed) {
        abi::v3::FdUnpreserve argument{sizeof argument, 0, token};
        return call(IoctlOp::fd_unpreserve, argument);
    }
    return call(IoctlOp::fd_unpreserve, token);
}

Result<i32> LuoClient::fd_restore(u64 token) {
    if (!is_open()) return fail(Errno::ebadf);
    if (edition().size_prefixed) {
        abi::v3::FdRestore argument{sizeof argument, -1, token};
        TRY(call(IoctlOp::fd_restore, argument));
        return argument.fd;
    }
    abi::v2::Fd argument{-1, 0, token};
    TRY(call(IoctlOp::fd_restore, argument));
    return argument.fd;
}

Result<LuoState> LuoClient::get_state() {
    if (!is_open()) return fail(Errno::ebadf);
    if (edition().size_prefixed) {
        abi::v3::GetState argument{sizeof argument, 0};
        TRY(call(IoctlOp::get_state, argument));
        return static_cast<LuoState>(argument.state);
    }
    u32 state = 0;
    TRY(call(IoctlOp::get_state, state));
    return static_cast<LuoState>(state);
}

Result<> LuoClient::set_event(u32 event) {
    if (!is_open()) return fail(Errno::ebadf);
    if (edition().size_prefixed) {
        abi::v3::SetEvent argument{sizeof argument, event};
        return call(IoctlOp::set_event, argument);
    }
    std::byte none{};
    if (event == static_cast<u32>(LuoEvent::prepare)) return call(IoctlOp::prepare, none);
    if (event == static_cast<u32>(LuoEvent::cancel)) return call(IoctlOp::cancel, none);
    if (event == static_cast<u32>(LuoEvent::finish)) return call(IoctlOp::finish, none);
    return fail(Errno::enotty);
}

Result<LuoState> LuoClient::get_fd_state(u64 token, bool incoming) {
    abi::v3::GetFdState argument{sizeof argument, incoming, {}, token, 0, 0};
    TRY(call(IoctlOp::get_fd_state, argument));
    return static_cast<LuoState>(argument.state);
}

Result<> LuoClient::set_fd_event(u64 token, u32 event) {
    abi::v3::SetFdEvent argument{sizeof argument, event, token};
    return call(IoctlOp::set_fd_event, argument);
}

}  // namespace kexec_sim::luo
