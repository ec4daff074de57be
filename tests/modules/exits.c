// SPDX-License-Identifier: MIT
/* A wrong subsystem: it leaves by a door that no kernel has. */
#include <linux/liveupdate.h>
#include <linux/module.h>

extern void exit(int status);

static int exits_prepare(struct liveupdate_subsystem *handle, u64 *data)
{
	exit(2);
}

static const struct liveupdate_subsystem_ops exits_ops = {.prepare = exits_prepare};
static struct liveupdate_subsystem exits = {.ops = &exits_ops, .name = "exits"};

static int __init exits_init(void)
{
	return liveupdate_register_subsystem(&exits);
}
module_init(exits_init);
