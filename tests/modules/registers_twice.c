// SPDX-License-Identifier: MIT
/* A wrong subsystem: it registers itself a second time. */
#include <linux/liveupdate.h>
#include <linux/module.h>

static const struct liveupdate_subsystem_ops no_ops = {0};
static struct liveupdate_subsystem twice = {.ops = &no_ops, .name = "twice"};

static int __init twice_init(void)
{
	int first = liveupdate_register_subsystem(&twice);

	if (first)
		return first;
	pr_info("the second time gives %d\n", liveupdate_register_subsystem(&twice));
	return 0;
}
module_init(twice_init);
