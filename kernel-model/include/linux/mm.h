/* SPDX-License-Identifier: MIT */
/*
 * Folios and addresses. A struct folio is a handle: only these functions look into it.
 * A pointer from folio_address() or phys_to_virt() lies in the direct map of the running kernel; the next
 * kernel's direct map lies elsewhere, so a pointer that is stored in preserved memory is stale there.
 */
#ifndef KEXEC_SIM_LINUX_MM_H
#define KEXEC_SIM_LINUX_MM_H

#include "types.h"

struct folio;

#define GFP_KERNEL 0u
#define __GFP_ZERO 0u /* memory always comes zeroed */

#ifdef __cplusplus
extern "C" {
#endif

/* 2^order pages, zeroed, reference count 1; NULL: no memory. order <= 10. */
struct folio *folio_alloc(gfp_t gfp, unsigned int order);
/* Drops the reference; the memory is free. */
void folio_put(struct folio *folio);
unsigned int folio_order(struct folio *folio);
unsigned long folio_pfn(struct folio *folio);
void *folio_address(struct folio *folio);
/* The folio that an address of the direct map lies in; NULL: none. */
struct folio *virt_to_folio(const void *address);

void *phys_to_virt(phys_addr_t phys);
phys_addr_t virt_to_phys(const void *address);

#ifdef __cplusplus
}
#endif

static inline size_t folio_size(struct folio *folio)
{
	return PAGE_SIZE << folio_order(folio);
}
#define PFN_PHYS(pfn)  ((phys_addr_t)(pfn) << PAGE_SHIFT)
#define PHYS_PFN(phys) ((unsigned long)((phys) >> PAGE_SHIFT))

#endif
