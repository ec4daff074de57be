// SPDX-License-Identifier: MIT
/*
 * A subsystem that is ill in the way that the environment names, and well without it:
 *
 *   ILL=report-exit    its cancel writes what AddressSanitizer writes, and leaves as that does
 *   ILL=report-abort   the same, with abort_on_error=1
 *   ILL=crash          its cancel follows a null pointer
 *   ILL=hang           its cancel never returns
 *   ILL=random         its cancel logs something else each time
 *
 * Whatever ILL says, its prepare writes a line to standard error.
 */
#include <linux/liveupdate.h>
#include <linux/module.h>

extern char *getenv(const char *name);
extern int strcmp(const char *one, const char *other);
extern unsigned long strlen(const char *text);
extern long write(int fd, const void *bytes, unsigned long count);
extern int pause(void);
extern long random(void);
extern void abort(void);
extern void _exit(int status);

static volatile char *volatile nowhere;

static int ill(const char *how)
{
	const char *wanted = getenv("ILL");

	return wanted && !strcmp(wanted, how);
}

static void say(const char *text)
{
	write(2, text, strlen(text));
}

static int ill_prepare(struct liveupdate_subsystem *handle, u64 *data)
{
	if (getenv("ILL"))
		say("ill: prepare\n");
	return 0;
}

static void ill_cancel(struct liveupdate_subsystem *handle, u64 data)
{
	if (ill("report-exit") || ill("report-abort")) {
		say("=================================================================\n"
		    "==1==ERROR: AddressSanitizer: heap-use-after-free on address 0x602000000010 "
		    "at pc 0x55a29f5a12cf\n"
		    "READ of size 4 at 0x602000000010 thread T0\n"
		    "    #0 0x7f547fe47680 in __interceptor_memset "
		    "../../libsanitizer/sanitizer_common.inc:799\n"
		    "    #1 0x55a29f5a12ce in ill_cancel ill.c:50\n"
		    "\n"
		    "SUMMARY: AddressSanitizer: heap-use-after-free ill.c:50 in ill_cancel\n"
		    "==1==ABORTING\n");
		if (ill("report-abort"))
			abort();
		_exit(1);
	}
	if (ill("random"))
		pr_info("ill: %ld\n", random());
	if (ill("crash"))
		*nowhere = 1;
	while (ill("hang"))
		pause();
}

static const struct liveupdate_subsystem_ops ill_ops = {.prepare = ill_prepare,
							.cancel = ill_cancel};
static struct liveupdate_subsystem subsystem = {.ops = &ill_ops, .name = "ill"};

static int __init ill_init(void)
{
	return liveupdate_register_subsystem(&subsystem);
}
module_init(ill_init);
