#include "luo/edition.hpp"

#include <array>

#include "luo/abi/ioctl.hpp"

namespace kexec_sim::luo {
namespace {

constexpr std::array<IoctlEntry, 7> ioctls_v3{{
    {abi::v3::LIVEUPDATE_IOCTL_FD_PRESERVE, IoctlOp::fd_preserve, sizeof(abi::v3::FdPreserve), 16},
    {abi::v3::LIVEUPDATE_IOCTL_FD_UNPRESERVE, IoctlOp::fd_unpreserve, sizeof(abi::v3::FdUnpreserve), 16},
    {abi::v3::LIVEUPDATE_IOCTL_FD_RESTORE, IoctlOp::fd_restore, sizeof(abi::v3::FdRestore), 16},
    {abi::v3::LIVEUPDATE_IOCTL_GET_STATE, IoctlOp::get_state, sizeof(abi::v3::GetState), 8},
    {abi::v3::LIVEUPDATE_IOCTL_SET_EVENT, IoctlOp::set_event, sizeof(abi::v3::SetEvent), 8},
    {abi::v3::LIVEUPDATE_IOCTL_GET_FD_STATE, IoctlOp::get_fd_state, sizeof(abi::v3::GetFdState), 16},
    {abi::v3::LIVEUPDATE_IOCTL_SET_FD_EVENT, IoctlOp::set_fd_event, sizeof(abi::v3::SetFdEvent), 16},
}};

constexpr std::array<IoctlEntry, 7> ioctls_v2{{
    {abi::v2::LIVEUPDATE_IOCTL_FD_PRESERVE, IoctlOp::fd_preserve, sizeof(abi::v2::Fd), 16},
    {abi::v2::LIVEUPDATE_IOCTL_FD_UNPRESERVE, IoctlOp::fd_unpreserve, sizeof(u64), 8},
    {abi::v2::LIVEUPDATE_IOCTL_FD_RESTORE, IoctlOp::fd_restore, sizeof(abi::v2::Fd), 16},
    {abi::v2::LIVEUPDATE_IOCTL_GET_STATE, IoctlOp::get_state, sizeof(u32), 4},
    {abi::v2::LIVEUPDATE_IOCTL_PREPARE, IoctlOp::prepare, 0, 0},
    {abi::v2::LIVEUPDATE_IOCTL_CANCEL, IoctlOp::cancel, 0, 0},
    {abi::v2::LIVEUPDATE_IOCTL_FINISH, IoctlOp::finish, 0, 0},
}};

constexpr Edition luo_v2{
    .name = "luo-v2",
    .prefix = {"luo_core: ", "luo_subsystems: ", "luo_files: ", "luo_ioctl: ", "luo_sysfs: "},
    .callback_takes_arg = true,
    .ioctls = ioctls_v2,
};

constexpr Edition luo_v3{
    .name = "luo-v3",
    .prefix = {"luo: ", "luo: ", "luo: ", "luo: ", "luo: "},
    .boot_callback = true,
    .size_prefixed = true,
    .module_references = true,
    .exclusive_open = true,
    .ioctls = ioctls_v3,
};

}  // namespace

std::string_view ioctl_name(IoctlOp op) {
    switch (op) {
    case IoctlOp::fd_preserve: return "FD_PRESERVE";
    case IoctlOp::fd_unpreserve: return "FD_UNPRESERVE";
    case IoctlOp::fd_restore: return "FD_RESTORE";
    case IoctlOp::get_state: return "GET_STATE";
    case IoctlOp::set_event: return "SET_EVENT";
    case IoctlOp::get_fd_state: return "GET_FD_STATE";
    case IoctlOp::set_fd_event: return "SET_FD_EVENT";
    case IoctlOp::prepare: return "PREPARE";
    case IoctlOp::cancel: return "CANCEL";
    case IoctlOp::finish: return "FINISH";
    }
    return "?";
}

const IoctlEntry* Edition::find_op(IoctlOp op) const {
    for (const IoctlEntry& entry : ioctls)
        if (entry.op == op) return &entry;
    return nullptr;
}

const Edition* edition_for_profile(std::string_view profile) {
    for (const Edition* edition : {&luo_v2, &luo_v3})
        if (edition->name == profile) return edition;
    return nullptr;
}

}  // namespace kexec_sim::luo
