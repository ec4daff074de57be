// SPDX-License-Identifier: MIT
/*
 * A subsystem that keeps a counter over live updates.
 *
 * One page holds {magic, how often it was updated}. prepare preserves the page and hands its physical address on; freeze, the
 * last moment, counts; boot, in the next kernel, restores the page and checks it; finish takes it over. It is what
 * a driver would do with its own state: everything that crosses is a physical address in `data`, and bytes in a preserved page.
 *
 * Build it as the tests do: cc -shared -fPIC -fexceptions -I kernel-model/include counter_subsystem.c -o counter_subsystem.so
 * Run it:   kexec-sim run docs/examples/counter_subsystem.yaml --module counter_subsystem.so
 */
#define pr_fmt(fmt) "counter: " fmt
#include <linux/kexec_handover.h>
#include <linux/liveupdate.h>
#include <linux/module.h>

#define COUNTER_MAGIC 0x434f554e54455221ull

struct counter_page {
	u64 magic;
	u64 updates;
};

static struct folio *page_folio; /* this kernel's page */
static struct folio *incoming_folio;

static int counter_prepare(struct liveupdate_subsystem *handle, u64 *data)
{
	int err = kho_preserve_folio(page_folio);

	if (err)
		return err;
	*data = PFN_PHYS(folio_pfn(page_folio));
	return 0;
}

static int counter_freeze(struct liveupdate_subsystem *handle, u64 *data)
{
	struct counter_page *page = folio_address(page_folio);

	page->updates++;
	return 0;
}

static void counter_cancel(struct liveupdate_subsystem *handle, u64 data)
{
	struct counter_page *page = folio_address(page_folio);

	/* A frozen update that is called off does not count. */
	WARN_ON(kho_unpreserve_folio(page_folio));
	page->magic = COUNTER_MAGIC;
}

static void counter_boot(struct liveupdate_subsystem *handle, u64 data)
{
	struct counter_page *page;

	incoming_folio = kho_restore_folio(data);
	if (WARN_ON(!incoming_folio))
		return;
	page = folio_address(incoming_folio);
	if (page->magic != COUNTER_MAGIC) {
		pr_err("the page at %#llx is not mine\n", (unsigned long long)data);
		return;
	}
	pr_info("updated %llu times\n", (unsigned long long)page->updates);
	*(struct counter_page *)folio_address(page_folio) = *page;
}

static void counter_finish(struct liveupdate_subsystem *handle, u64 data)
{
	if (incoming_folio)
		folio_put(incoming_folio);
	incoming_folio = NULL;
}

static const struct liveupdate_subsystem_ops counter_ops = {
	.prepare = counter_prepare,
	.freeze = counter_freeze,
	.cancel = counter_cancel,
	.boot = counter_boot,
	.finish = counter_finish,
	.owner = THIS_MODULE,
};

static struct liveupdate_subsystem counter = {
	.ops = &counter_ops,
	.name = "counter",
};

static int __init counter_init(void)
{
	struct counter_page *page;
	int err;

	page_folio = folio_alloc(GFP_KERNEL, 0);
	if (!page_folio)
		return -ENOMEM;
	page = folio_address(page_folio);
	page->magic = COUNTER_MAGIC;
	err = liveupdate_register_subsystem(&counter);
	if (err)
		folio_put(page_folio);
	return err;
}

static void __exit counter_exit(void)
{
	liveupdate_unregister_subsystem(&counter);
	folio_put(page_folio);
}

module_init(counter_init);
module_exit(counter_exit);
MODULE_LICENSE("MIT");
