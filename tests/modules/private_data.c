// SPDX-License-Identifier: MIT
/* What the field `private_data` of a subsystem's own structure holds, and when. */
#include <linux/kexec_handover.h>
#include <linux/liveupdate.h>
#include <linux/module.h>

static struct liveupdate_subsystem full, plain, quiet;
static bool successor;

static int full_prepare(struct liveupdate_subsystem *handle, u64 *data)
{
	pr_info("full prepare: data %llx, ours %d\n", (unsigned long long)*data,
		data == &handle->private_data);
	*data = 0x222;
	return 0;
}

static void full_finish(struct liveupdate_subsystem *handle, u64 data)
{
	pr_info("full finish: data %llx, field %llx\n", (unsigned long long)data,
		(unsigned long long)handle->private_data);
}

static void plain_boot(struct liveupdate_subsystem *handle, u64 data)
{
	pr_info("plain boot: data %llx\n", (unsigned long long)data);
}

static int quiet_prepare(struct liveupdate_subsystem *handle, u64 *data)
{
	*data = 0xcc;
	return 0;
}

static const struct liveupdate_subsystem_ops full_ops = {.prepare = full_prepare,
							 .finish = full_finish};
static const struct liveupdate_subsystem_ops plain_ops = {.boot = plain_boot};
static const struct liveupdate_subsystem_ops quiet_ops = {.prepare = quiet_prepare};

static struct liveupdate_subsystem full = {.ops = &full_ops, .name = "full", .private_data = 0x5};
static struct liveupdate_subsystem plain = {
	.ops = &plain_ops, .name = "plain", .private_data = 0xbb};
static struct liveupdate_subsystem quiet = {.ops = &quiet_ops, .name = "quiet"};

static int __init private_data_init(void)
{
	u64 data = 0;
	phys_addr_t phys = 0;

	successor = liveupdate_state_updated();
	pr_info("without a tree: %d\n", kho_retrieve_subtree("none", successor ? &phys : NULL));
	/* The orchestrator need not know a structure to look its data up. */
	if (liveupdate_get_subsystem_data(&plain, &data))
		pr_info("no data yet\n");
	else
		pr_info("data before registration: %llx\n", (unsigned long long)data);
	liveupdate_unregister_subsystem(&plain);
	if (!successor)
		quiet.private_data = 0;
	liveupdate_register_subsystem(&full);
	liveupdate_register_subsystem(&plain);
	return liveupdate_register_subsystem(&quiet);
}
module_init(private_data_init);

static void __exit private_data_exit(void)
{
	pr_info("quiet holds %llx\n", (unsigned long long)quiet.private_data);
}
module_exit(private_data_exit);
