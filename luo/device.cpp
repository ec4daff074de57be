#include "luo/device.hpp"

#include <algorithm>
#include <cstring>

#include "luo/abi/ioctl.hpp"
#include "luo/orchestrator.hpp"
#include "machine/reached.hpp"

namespace kexec_sim::luo {
namespace {

/// One call on its way: what both editions need to read the argument and to answer.
struct Call {
    Orchestrator& luo;
    Agent& caller;
    const IoctlEntry& entry;
    UserBuffer& argument;
    u64 bytes;  // of the argument, as the program knows it

    Machine& machine() const { return luo.kernel().machine; }

    /// The argument; what the program left out is zero.
    template <typename T> Result<T> read() const {
        T value{};
        const u64 known = std::min<u64>(sizeof value, bytes);
        TRY(argument.copy_in(0, std::as_writable_bytes(std::span(&value, 1)).first(known)));
        return value;
    }
    template <typename T> Result<i64> reply(const T& value) const {
        TRY(machine().faults.check(FaultPoint::luo_copy_out, ioctl_name(entry.op)));
        TRY(argument.copy_out(0, std::as_bytes(std::span(&value, 1)).first(std::min<u64>(sizeof value, bytes))));
        return 0;
    }
};

Result<i64> done(const Result<>& result) {
    if (!result) return fail(result.error());
    return 0;
}

FileView view_of(const FileRef& file) {
    if (const auto shmem = std::dynamic_pointer_cast<ShmemFile>(file)) return shmem->view();
    FileView view;
    view.id = file->id();
    return view;
}

/// FD_RESTORE: `answer(fd)` copies the struct back.
template <typename Answer> Result<i64> restore(const Call& call, u64 token, Answer&& answer) {
    if (const auto number = call.caller.free_descriptor(); !number) {
        REACHED("luo.restore.no_descriptor");
        call.luo.kernel().log.err("{}Failed to allocate new fd: {}", call.luo.edition().prefix.ioctl,
                                  -static_cast<int>(number.error()));
        return fail(number.error());
    }
    FileRef file = TRY(call.luo.files().retrieve(token));
    const i32 fd = TRY(call.caller.install(file, true));
    if (const Result<i64> copied = answer(fd); !copied) {
        // The program never learns the number. As written the descriptor stays (LUO-D2); repaired it goes.
        call.machine().referee.file_restore_failed(token, copied.error());
        if (call.luo.strict()) static_cast<void>(call.caller.close(fd));
        return copied;
    }
    call.machine().referee.file_restored(token, view_of(file));
    return 0;
}

Result<i64> set_event(const Call& call, u32 event) {
    switch (event) {
    case static_cast<u32>(LuoEvent::prepare): return done(call.luo.request(LuoEvent::prepare));
    case static_cast<u32>(LuoEvent::finish): return done(call.luo.request(LuoEvent::finish));
    case static_cast<u32>(LuoEvent::cancel): return done(call.luo.request(LuoEvent::cancel));
    default: return fail(Errno::einval);  // FREEZE too: that one is the kernel's
    }
}

Result<i64> run_v3(const Call& call) {
    Files& files = call.luo.files();
    switch (call.entry.op) {
    case IoctlOp::fd_preserve: {
        const auto argument = TRY(call.read<abi::v3::FdPreserve>());
        return done(files.preserve(call.caller, argument.fd, argument.token));
    }
    case IoctlOp::fd_unpreserve: return done(files.unpreserve(TRY(call.read<abi::v3::FdUnpreserve>()).token));
    case IoctlOp::fd_restore: {
        auto argument = TRY(call.read<abi::v3::FdRestore>());
        return restore(call, argument.token, [&](i32 fd) {
            argument.fd = fd;
            return call.reply(argument);
        });
    }
    case IoctlOp::get_state: {
        auto argument = TRY(call.read<abi::v3::GetState>());
        argument.state = static_cast<u32>(call.luo.state());
        return call.reply(argument);
    }
    case IoctlOp::set_event: return set_event(call, TRY(call.read<abi::v3::SetEvent>()).event);
    case IoctlOp::get_fd_state: {
        auto argument = TRY(call.read<abi::v3::GetFdState>());
        argument.state = static_cast<u32>(TRY(files.file_state(argument.token, argument.incoming != 0)));
        return call.reply(argument);
    }
    case IoctlOp::set_fd_event: {
        const auto argument = TRY(call.read<abi::v3::SetFdEvent>());
        return done(files.file_event(argument.token, argument.event));
    }
    case IoctlOp::prepare:
    case IoctlOp::cancel:
    case IoctlOp::finish: break;  // numbers of their own in luo-v2 only
    }
    return fail(Errno::enotty);
}

Result<i64> run_v2(const Call& call) {
    Files& files = call.luo.files();
    switch (call.entry.op) {
    case IoctlOp::fd_preserve: {
        const auto argument = TRY(call.read<abi::v2::Fd>());
        return done(files.preserve(call.caller, argument.fd, argument.token));
    }
    case IoctlOp::fd_unpreserve: return done(files.unpreserve(TRY(call.read<u64>())));
    case IoctlOp::fd_restore: {
        auto argument = TRY(call.read<abi::v2::Fd>());
        return restore(call, argument.token, [&](i32 fd) {
            argument.fd = fd;
            return call.reply(argument);
        });
    }
    case IoctlOp::get_state: return call.reply(static_cast<u32>(call.luo.state()));
    case IoctlOp::prepare: return set_event(call, static_cast<u32>(LuoEvent::prepare));
    case IoctlOp::cancel: return set_event(call, static_cast<u32>(LuoEvent::cancel));
    case IoctlOp::finish: return set_event(call, static_cast<u32>(LuoEvent::finish));
    case IoctlOp::set_event:
    case IoctlOp::get_fd_state:
    case IoctlOp::set_fd_event: break;  // luo-v3 only
    }
    return fail(Errno::enotty);
}

/// What lies beyond the struct as the kernel knows it must be zero.
Result<> check_beyond(const UserBuffer& argument, u64 known, u64 bytes) {
    for (u64 at = known; at < bytes; ++at) {
        std::byte byte{};
        TRY(argument.copy_in(at, {&byte, 1}));
        if (byte != std::byte{0}) return fail(Errno::e2big);
    }
    return {};
}

}  // namespace

template <typename Body> Result<i64> DeviceFile::traced(std::string_view name, Body&& body) {
    TraceRecorder& trace = orchestrator_.kernel().machine.trace;
    trace.emit(Layer::luo, "luo.ioctl", {{"ioctl", name}}, Phase::begin);
    const Result<i64> result = body();
    const i32 returned = result ? static_cast<i32>(*result) : -static_cast<i32>(result.error());
    trace.emit(Layer::luo, "luo.ioctl", {{"ioctl", name}, {"result", returned}}, Phase::end);
    return result;
}

Result<i64> DeviceFile::ioctl(Agent& caller, u32 request, UserBuffer& argument) {
    return orchestrator_.edition().size_prefixed ? ioctl_v3(caller, request, argument)
                                                 : ioctl_v2(caller, request, argument);
}

Result<i64> DeviceFile::ioctl_v3(Agent& caller, u32 request, UserBuffer& argument) {
    const auto table = orchestrator_.edition().ioctls;
    const u32 nr = abi::ioctl_nr(request);
    if (nr >= table.size())
        return traced(fmt::format("{:#x}", request), []() -> Result<i64> { return fail(Errno::einval); });
    const IoctlEntry& entry = table[nr];
    return traced(ioctl_name(entry.op), [&]() -> Result<i64> {
        TRY(orchestrator_.kernel().machine.faults.check(FaultPoint::luo_copy_in, ioctl_name(entry.op)));
        u32 bytes = 0;
        TRY(argument.copy_in(0, std::as_writable_bytes(std::span(&bytes, 1))));
        if (request != entry.request) return fail(Errno::enotty);
        if (bytes < entry.bytes_min) return fail(Errno::einval);
        TRY(check_beyond(argument, entry.bytes, bytes));
        return run_v3({orchestrator_, caller, entry, argument, bytes});
    });
}

Result<i64> DeviceFile::ioctl_v2(Agent& caller, u32 request, UserBuffer& argument) {
    const auto table = orchestrator_.edition().ioctls;
    const auto entry =
        std::find_if(table.begin(), table.end(), [&](const IoctlEntry& known) { return known.request == request; });
    if (entry == table.end())
        return traced(fmt::format("{:#x}", request), [&]() -> Result<i64> {
            if (abi::ioctl_type(request) == abi::LIVEUPDATE_IOCTL_TYPE) {
                REACHED("luo.ioctl.unknown");
                orchestrator_.kernel().log.warn("{}ioctl: unknown command nr: {:#x}",
                                                orchestrator_.edition().prefix.ioctl, abi::ioctl_nr(request));
            }
            return fail(Errno::enotty);
        });
    return traced(ioctl_name(entry->op), [&]() -> Result<i64> {
        if (request >> 30 & abi::IOC_WRITE)
            TRY(orchestrator_.kernel().machine.faults.check(FaultPoint::luo_copy_in, ioctl_name(entry->op)));
        return run_v2({orchestrator_, caller, *entry, argument, entry->bytes});
    });
}

void DeviceFile::release() {
    if (!orchestrator_.edition().exclusive_open) return;
    orchestrator_.files().drop_outgoing();
    *in_use_ = false;
}

void register_device(Orchestrator& orchestrator) {
    const auto in_use = std::make_shared<bool>(false);
    orchestrator.kernel().vfs.register_device(
        device_path, [&orchestrator, in_use](Agent&, u32 flags) -> Result<FileRef> {
            Vfs& vfs = orchestrator.kernel().vfs;
            if (orchestrator.edition().exclusive_open) {
                if (std::exchange(*in_use, true)) return fail(Errno::ebusy);
            } else if (flags & O_EXCL_BIT) {
                // CAP_SYS_ADMIN, the other condition, every agent has.
                return fail(Errno::einval);
            }
            return vfs.make_file<DeviceFile>(vfs.next_file_id(), orchestrator, in_use);
        });
}

}  // namespace kexec_sim::luo
