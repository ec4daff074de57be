/* SPDX-License-Identifier: MIT */
/*
 * A module is a shared object that is loaded into every kernel anew, with statics of its own.
 * module_init's function runs at load: 0, or a negative errno that refuses the load.
 */
#ifndef KEXEC_SIM_LINUX_MODULE_H
#define KEXEC_SIM_LINUX_MODULE_H

#include "errno.h"
#include "printk.h"
#include "types.h"

struct module;
#define THIS_MODULE ((struct module *)0)

#define module_init(function)                                                                      \
	int init_module(void);                                                                     \
	int init_module(void)                                                                      \
	{                                                                                          \
		return function();                                                                 \
	}
#define module_exit(function)                                                                      \
	void cleanup_module(void);                                                                 \
	void cleanup_module(void)                                                                  \
	{                                                                                          \
		function();                                                                        \
	}

#define MODULE_LICENSE(text)
#define MODULE_DESCRIPTION(text)
#define MODULE_AUTHOR(text)
#define __init
#define __exit

#endif
