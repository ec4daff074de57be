// SPDX-License-Identifier: MIT
/* A wrong subsystem: its prepare callback calls the orchestrator, which holds its state lock for it. */
#include <linux/liveupdate.h>
#include <linux/module.h>

static const struct liveupdate_subsystem_ops no_ops = {0};
static struct liveupdate_subsystem second = {.ops = &no_ops, .name = "second"};

static int reentrant_prepare(struct liveupdate_subsystem *handle, u64 *data)
{
	return liveupdate_register_subsystem(&second);
}

static const struct liveupdate_subsystem_ops reentrant_ops = {.prepare = reentrant_prepare};
static struct liveupdate_subsystem reentrant = {.ops = &reentrant_ops, .name = "reentrant"};

static int __init reentrant_init(void)
{
	return liveupdate_register_subsystem(&reentrant);
}
module_init(reentrant_init);
