/* SPDX-License-Identifier: MIT */
/*
 * Live Update Orchestrator for modules: subsystems.
 *
 * The third posting of the series is the default: callbacks get the subsystem itself. With LIVEUPDATE_V2 defined
 * before this file is included, callbacks get `arg`, as in the second posting. A module built for one is refused by a
 * kernel of the other, as modversions would.
 *
 *	prepare   normal -> prepared; *data becomes the handle that the next kernel gets; < 0 aborts
 *	freeze    prepared -> frozen; *data may be replaced; must be fast
 *	cancel    undo prepare and freeze; must not fail
 *	boot      V3, in the next kernel: called inside registration while the state is updated
 *	finish    in the next kernel: clean up, back to normal; must not fail
 */
#ifndef KEXEC_SIM_LINUX_LIVEUPDATE_H
#define KEXEC_SIM_LINUX_LIVEUPDATE_H

#include "types.h"

struct liveupdate_subsystem;
struct module;

#ifdef LIVEUPDATE_V2
#define kexec_sim_liveupdate_abi 2
struct liveupdate_subsystem_ops {
	int (*prepare)(void *arg, u64 *data);
	int (*freeze)(void *arg, u64 *data);
	void (*cancel)(void *arg, u64 data);
	void (*finish)(void *arg, u64 data);
};

struct liveupdate_subsystem {
	const struct liveupdate_subsystem_ops *ops;
	const char *name;
	void *arg;
	struct list_head list;
	u64 private_data;
};
#else
#define kexec_sim_liveupdate_abi 3
struct liveupdate_subsystem_ops {
	int (*prepare)(struct liveupdate_subsystem *handle, u64 *data);
	int (*freeze)(struct liveupdate_subsystem *handle, u64 *data);
	void (*cancel)(struct liveupdate_subsystem *handle, u64 data);
	void (*boot)(struct liveupdate_subsystem *handle, u64 data);
	void (*finish)(struct liveupdate_subsystem *handle, u64 data);
	struct module *owner;
};

struct liveupdate_subsystem {
	const struct liveupdate_subsystem_ops *ops;
	const char *name;
	struct list_head list;
	u64 private_data;
};
#endif

#ifdef __cplusplus
extern "C" {
#endif

int kexec_sim_register_subsystem(int abi, void *subsystem);
int kexec_sim_unregister_subsystem(int abi, void *subsystem);
int kexec_sim_get_subsystem_data(int abi, void *subsystem, u64 *data);
bool liveupdate_state_normal(void);
bool liveupdate_state_updated(void);
bool liveupdate_enabled(void);

#ifdef __cplusplus
}
#endif

/* -EBUSY: neither normal nor updated; -EEXIST: already there, or the name is; -ENOENT: see boot. */
static inline int liveupdate_register_subsystem(struct liveupdate_subsystem *subsystem)
{
	return kexec_sim_register_subsystem(kexec_sim_liveupdate_abi, subsystem);
}

/* -EBUSY; -ENOENT: not registered. */
static inline int liveupdate_unregister_subsystem(struct liveupdate_subsystem *subsystem)
{
	return kexec_sim_unregister_subsystem(kexec_sim_liveupdate_abi, subsystem);
}

/* Only in the updated state: the handle that the previous kernel stored. -ENOENT. */
static inline int liveupdate_get_subsystem_data(struct liveupdate_subsystem *subsystem, u64 *data)
{
	return kexec_sim_get_subsystem_data(kexec_sim_liveupdate_abi, subsystem, data);
}

#endif
