// The binary interface of /dev/liveupdate.
//
// luo-v3: every number is _IO(0xBA, nr), the argument is a struct whose first word is its size. Kernel and program may
// know different lengths of one struct: what the program leaves out counts as zero, what the kernel does not know must
// be zero.
//
//          0        4        8               16       20      24
//   0xBA00 | size   | fd     | token          |                      FD_PRESERVE
//   0xBA01 | size   | --     | token          |                      FD_UNPRESERVE
//   0xBA02 | size   | fd out | token          |                      FD_RESTORE
//   0xBA03 | size   | state  |                                       GET_STATE      state is written
//   0xBA04 | size   | event  |                                       SET_EVENT
//   0xBA05 | size   |in| --  | token          | state  | --  |       GET_FD_STATE   in: 1 incoming; state is written
//   0xBA06 | size   | event  | token          |                      SET_FD_EVENT
//
// luo-v2: direction and length are part of the number, and there is one number for each event.
//
//          0        4        8               16
//   0x4010BA00 | fd | flags  | token          |                      FD_PRESERVE
//   0x4008BA01 | token       |                                       FD_UNPRESERVE
//   0xC010BA02 | fd | flags  | token          |                      FD_RESTORE     fd is written
//   0x8004BA03 | state |                                             GET_STATE      state is written
//   0xBA04, 0xBA06, 0xBA07                                           PREPARE, CANCEL, FINISH
#pragma once

#include <cstddef>

#include "machine/types.hpp"

namespace kexec_sim::luo::abi {

inline constexpr u32 LIVEUPDATE_IOCTL_TYPE = 0xBA;

constexpr u32 ioctl_number(u32 direction, u32 nr, u32 bytes) {
    return direction << 30 | bytes << 16 | LIVEUPDATE_IOCTL_TYPE << 8 | nr;
}
constexpr u32 ioctl_nr(u32 request) { return request & 0xff; }
constexpr u32 ioctl_type(u32 request) { return request >> 8 & 0xff; }
inline constexpr u32 IOC_NONE = 0, IOC_WRITE = 1, IOC_READ = 2;

namespace v3 {

struct FdPreserve {
    u32 size;
    i32 fd;
    u64 token;
};
struct FdUnpreserve {
    u32 size, reserved;
    u64 token;
};
struct FdRestore {
    u32 size;
    i32 fd;
    u64 token;
};
struct GetState {
    u32 size, state;
};
struct SetEvent {
    u32 size, event;
};
struct GetFdState {
    u32 size;
    u8 incoming, reserved[3];
    u64 token;
    u32 state, reserved2;
};
struct SetFdEvent {
    u32 size, event;
    u64 token;
};
static_assert(sizeof(FdPreserve) == 16 && offsetof(FdPreserve, token) == 8);
static_assert(sizeof(FdUnpreserve) == 16 && offsetof(FdUnpreserve, token) == 8);
static_assert(sizeof(FdRestore) == 16 && offsetof(FdRestore, token) == 8);
static_assert(sizeof(GetState) == 8 && sizeof(SetEvent) == 8);
static_assert(sizeof(GetFdState) == 24 && offsetof(GetFdState, token) == 8 && offsetof(GetFdState, state) == 16);
static_assert(sizeof(SetFdEvent) == 16 && offsetof(SetFdEvent, token) == 8);

inline constexpr u32 LIVEUPDATE_IOCTL_FD_PRESERVE = ioctl_number(IOC_NONE, 0, 0);
inline constexpr u32 LIVEUPDATE_IOCTL_FD_UNPRESERVE = ioctl_number(IOC_NONE, 1, 0);
inline constexpr u32 LIVEUPDATE_IOCTL_FD_RESTORE = ioctl_number(IOC_NONE, 2, 0);
inline constexpr u32 LIVEUPDATE_IOCTL_GET_STATE = ioctl_number(IOC_NONE, 3, 0);
inline constexpr u32 LIVEUPDATE_IOCTL_SET_EVENT = ioctl_number(IOC_NONE, 4, 0);
inline constexpr u32 LIVEUPDATE_IOCTL_GET_FD_STATE = ioctl_number(IOC_NONE, 5, 0);
inline constexpr u32 LIVEUPDATE_IOCTL_SET_FD_EVENT = ioctl_number(IOC_NONE, 6, 0);
static_assert(LIVEUPDATE_IOCTL_SET_FD_EVENT == 0xBA06);

}  // namespace v3

namespace v2 {

struct Fd {
    i32 fd;
    u32 flags;
    u64 token;
};
static_assert(sizeof(Fd) == 16 && offsetof(Fd, token) == 8);

inline constexpr u32 LIVEUPDATE_IOCTL_FD_PRESERVE = ioctl_number(IOC_WRITE, 0, sizeof(Fd));
inline constexpr u32 LIVEUPDATE_IOCTL_FD_UNPRESERVE = ioctl_number(IOC_WRITE, 1, sizeof(u64));
inline constexpr u32 LIVEUPDATE_IOCTL_FD_RESTORE = ioctl_number(IOC_READ | IOC_WRITE, 2, sizeof(Fd));
inline constexpr u32 LIVEUPDATE_IOCTL_GET_STATE = ioctl_number(IOC_READ, 3, sizeof(u32));
inline constexpr u32 LIVEUPDATE_IOCTL_PREPARE = ioctl_number(IOC_NONE, 4, 0);
inline constexpr u32 LIVEUPDATE_IOCTL_CANCEL = ioctl_number(IOC_NONE, 6, 0);
inline constexpr u32 LIVEUPDATE_IOCTL_FINISH = ioctl_number(IOC_NONE, 7, 0);
static_assert(LIVEUPDATE_IOCTL_FD_PRESERVE == 0x4010BA00);
static_assert(LIVEUPDATE_IOCTL_FD_UNPRESERVE == 0x4008BA01);
static_assert(LIVEUPDATE_IOCTL_FD_RESTORE == 0xC010BA02);
static_assert(LIVEUPDATE_IOCTL_GET_STATE == 0x8004BA03);
static_assert(LIVEUPDATE_IOCTL_PREPARE == 0xBA04);

}  // namespace v2

}  // namespace kexec_sim::luo::abi
