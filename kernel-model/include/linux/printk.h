/* SPDX-License-Identifier: MIT */
/* The kernel log. Define pr_fmt(fmt) before including this to prefix every line of a file. */
#ifndef KEXEC_SIM_LINUX_PRINTK_H
#define KEXEC_SIM_LINUX_PRINTK_H

#ifdef __cplusplus
extern "C" {
#endif

/* level: 3 error, 4 warning, 6 information. A line; a newline at its end is dropped. */
int _printk(int level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The running kernel dies. */
void panic(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));
/* A warning with a place: in the log, in the trace, and a finding unless the edition names it. */
void kexec_sim_warn(const char *condition, const char *file, int line);

#ifdef __cplusplus
}
#endif

#ifndef pr_fmt
#define pr_fmt(fmt) fmt
#endif
#define pr_err(fmt, ...)  _printk(3, pr_fmt(fmt), ##__VA_ARGS__)
#define pr_warn(fmt, ...) _printk(4, pr_fmt(fmt), ##__VA_ARGS__)
#define pr_info(fmt, ...) _printk(6, pr_fmt(fmt), ##__VA_ARGS__)

#define WARN_ON(condition)                                                                         \
	({                                                                                         \
		int warn_condition_ = !!(condition);                                               \
		if (warn_condition_)                                                               \
			kexec_sim_warn(#condition, __FILE_NAME__, __LINE__);                       \
		warn_condition_;                                                                   \
	})
#define BUG_ON(condition)                                                                          \
	do {                                                                                       \
		if (condition)                                                                     \
			panic("kernel BUG at %s:%d!", __FILE_NAME__, __LINE__);                    \
	} while (0)

#endif
