// SPDX-License-Identifier: MIT
/* A wrong subsystem: it preserves a page and never asks for it again. */
#include <linux/kexec_handover.h>
#include <linux/liveupdate.h>
#include <linux/mm.h>
#include <linux/module.h>

static struct folio *page;

static int leaky_prepare(struct liveupdate_subsystem *handle, u64 *data)
{
	*data = PFN_PHYS(folio_pfn(page));
	return kho_preserve_folio(page);
}

static void leaky_finish(struct liveupdate_subsystem *handle, u64 data)
{
	/* kho_restore_folio(data) is missing. */
}

static const struct liveupdate_subsystem_ops leaky_ops = {.prepare = leaky_prepare,
							  .finish = leaky_finish};
static struct liveupdate_subsystem leaky = {.ops = &leaky_ops, .name = "leaky"};

static int __init leaky_init(void)
{
	page = folio_alloc(GFP_KERNEL, 0);
	if (!page)
		return -ENOMEM;
	return liveupdate_register_subsystem(&leaky);
}
module_init(leaky_init);
