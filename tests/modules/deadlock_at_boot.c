// SPDX-License-Identifier: MIT
/* A wrong subsystem: its boot callback registers another one, under the lock of its own registration. */
#include <linux/liveupdate.h>
#include <linux/module.h>

static const struct liveupdate_subsystem_ops no_ops = {0};
static struct liveupdate_subsystem second = {.ops = &no_ops, .name = "second"};

static void first_boot(struct liveupdate_subsystem *handle, u64 data)
{
	liveupdate_register_subsystem(&second);
}

static const struct liveupdate_subsystem_ops first_ops = {.boot = first_boot};
static struct liveupdate_subsystem first = {.ops = &first_ops, .name = "first"};

static int __init deadlock_init(void)
{
	return liveupdate_register_subsystem(&first);
}
module_init(deadlock_init);
