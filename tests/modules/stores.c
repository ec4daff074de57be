// SPDX-License-Identifier: MIT
/* Writes through a pointer into a range that it preserved, far behind the address that it asked the pointer for. */
#include <linux/kexec_handover.h>
#include <linux/liveupdate.h>
#include <linux/mm.h>
#include <linux/module.h>

static phys_addr_t where;

static int stores_prepare(struct liveupdate_subsystem *handle, u64 *data)
{
	struct folio *block = folio_alloc(GFP_KERNEL, 3);
	volatile u64 *first;
	int error;

	if (!block)
		return -ENOMEM;
	where = PFN_PHYS(folio_pfn(block));
	/* Seven pages from the second on: several blocks in the map. */
	error = kho_preserve_phys(where + PAGE_SIZE, 7 * PAGE_SIZE);
	if (error)
		return error;
	first = phys_to_virt(where + PAGE_SIZE);
	first[6 * PAGE_SIZE / sizeof(u64)] = 0x1234;
	*data = where;
	return 0;
}

static void stores_boot(struct liveupdate_subsystem *handle, u64 data)
{
	const u64 *last = phys_to_virt(data + 7 * PAGE_SIZE);

	pr_info("the last page holds %llx\n", (unsigned long long)*last);
}

static const struct liveupdate_subsystem_ops stores_ops = {.prepare = stores_prepare,
							   .boot = stores_boot};
static struct liveupdate_subsystem stores = {.ops = &stores_ops, .name = "stores"};

static int __init stores_init(void)
{
	return liveupdate_register_subsystem(&stores);
}
module_init(stores_init);
