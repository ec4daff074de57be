/* SPDX-License-Identifier: MIT */
/* Integer and address types as kernel code spells them. */
#ifndef KEXEC_SIM_LINUX_TYPES_H
#define KEXEC_SIM_LINUX_TYPES_H

#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int32_t s32;
typedef int64_t s64;
typedef u64 phys_addr_t;
typedef unsigned int gfp_t;

#ifndef __cplusplus
#include <stdbool.h>
#endif

struct list_head {
	struct list_head *next, *prev;
};

#define PAGE_SHIFT 12
#define PAGE_SIZE  4096ul

#ifndef container_of
#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))
#endif

#endif
