// SPDX-License-Identifier: MIT
/* A wrong subsystem: it takes what it finds in handed-over memory for a physical address and reads there. */
#define pr_fmt(fmt) "wild: " fmt
#include <linux/kexec_handover.h>
#include <linux/liveupdate.h>
#include <linux/module.h>

static struct folio *page_folio;

static int wild_prepare(struct liveupdate_subsystem *handle, u64 *data)
{
	u64 *page = folio_address(page_folio);

	page[0] = 0x300000000000ull; /* no RAM anywhere near */
	*data = PFN_PHYS(folio_pfn(page_folio));
	return kho_preserve_folio(page_folio);
}

static void wild_boot(struct liveupdate_subsystem *handle, u64 data)
{
	u64 *page = phys_to_virt(data);

	pr_info("reads %llx\n", (unsigned long long)*(u64 *)phys_to_virt(page[0]));
}

static const struct liveupdate_subsystem_ops wild_ops = {
	.prepare = wild_prepare,
	.boot = wild_boot,
};
static struct liveupdate_subsystem wild = {.ops = &wild_ops, .name = "wild"};

static int __init wild_init(void)
{
	page_folio = folio_alloc(GFP_KERNEL, 0);
	if (!page_folio)
		return -ENOMEM;
	return liveupdate_register_subsystem(&wild);
}
module_init(wild_init);
