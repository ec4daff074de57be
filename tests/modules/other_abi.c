// SPDX-License-Identifier: MIT
/* Built for the second posting of the series, whose callbacks look different. */
#define LIVEUPDATE_V2
#include <linux/liveupdate.h>
#include <linux/module.h>

static const struct liveupdate_subsystem_ops no_ops = {0};
static struct liveupdate_subsystem other = {.ops = &no_ops, .name = "other"};

static int __init other_init(void)
{
	return liveupdate_register_subsystem(&other);
}
module_init(other_init);
