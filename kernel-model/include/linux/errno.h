/* SPDX-License-Identifier: MIT */
#ifndef KEXEC_SIM_LINUX_ERRNO_H
#define KEXEC_SIM_LINUX_ERRNO_H

#define EPERM	   1
#define ENOENT	   2
#define EIO	   5
#define E2BIG	   7
#define EBADF	   9
#define EAGAIN	   11
#define ENOMEM	   12
#define EFAULT	   14
#define EBUSY	   16
#define EEXIST	   17
#define ENODEV	   19
#define EINVAL	   22
#define ENOSPC	   28
#define ENODATA	   61
#define EOPNOTSUPP 95

#endif
