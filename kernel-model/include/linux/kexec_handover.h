/* SPDX-License-Identifier: MIT */
/*
 * Kexec HandOver for modules. Source of names and errnos: Linux 6.16 to 6.18,
 * include/linux/kexec_handover.h, and the LUO series.
 */
#ifndef KEXEC_SIM_LINUX_KEXEC_HANDOVER_H
#define KEXEC_SIM_LINUX_KEXEC_HANDOVER_H

#include "mm.h"

#ifdef __cplusplus
extern "C" {
#endif

bool kho_is_enabled(void);
/* 0; -EBUSY once finalized; -ENOMEM. */
int kho_preserve_folio(struct folio *folio);
/* 0; -EBUSY once finalized; -EOPNOTSUPP where the edition does not export it (6.16, 6.18). */
int kho_unpreserve_folio(struct folio *folio);
/* phys and size in whole pages, else -EINVAL. -EOPNOTSUPP in 6.18. */
int kho_preserve_phys(phys_addr_t phys, size_t size);
int kho_unpreserve_phys(phys_addr_t phys, size_t size);
/* The folio that was preserved at phys, with reference count 1; NULL. */
struct folio *kho_restore_folio(phys_addr_t phys);
/* LUO editions only: the physical address of a tree in preserved memory, under a name. */
int kho_add_subtree(const char *name, void *fdt);
int kho_remove_subtree(void *fdt);
int kho_retrieve_subtree(const char *name, phys_addr_t *phys);

#ifdef __cplusplus
}
#endif

#endif
