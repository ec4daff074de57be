// SPDX-License-Identifier: MIT
/* A wrong subsystem: it stores a pointer in preserved memory and follows it in the next kernel. */
#define pr_fmt(fmt) "stale: " fmt
#include <linux/kexec_handover.h>
#include <linux/liveupdate.h>
#include <linux/module.h>

static struct folio *page_folio;

static int stale_prepare(struct liveupdate_subsystem *handle, u64 *data)
{
	u64 **page = folio_address(page_folio);

	page[0] = (u64 *)page; /* a direct-map address of this kernel */
	*data = PFN_PHYS(folio_pfn(page_folio));
	return kho_preserve_folio(page_folio);
}

static void stale_boot(struct liveupdate_subsystem *handle, u64 data)
{
	u64 **page = phys_to_virt(data);

	pr_info("reads %llx\n", (unsigned long long)*page[0]);
}

static const struct liveupdate_subsystem_ops stale_ops = {
	.prepare = stale_prepare,
	.boot = stale_boot,
};
static struct liveupdate_subsystem stale = {.ops = &stale_ops, .name = "stale"};

static int __init stale_init(void)
{
	page_folio = folio_alloc(GFP_KERNEL, 0);
	if (!page_folio)
		return -ENOMEM;
	return liveupdate_register_subsystem(&stale);
}
module_init(stale_init);
