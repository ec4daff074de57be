// The kernel that C code runs in.
//
// A C function has no `this`. The host says before it enters a kernel which one it is; the exported C functions look
// here. One kernel runs at a time, so one pointer is enough; it is null between kernels, and a C function called then
// is a bug of the host.
#pragma once

#include "kernel-model/kernel.hpp"

namespace kexec_sim {

void set_current_kernel(Kernel* kernel);
Kernel& current_kernel();

/// How C code sees a folio: an address in the memory map of page structures, never dereferenced.
inline constexpr u64 vmemmap_base = 0x6000'0000'0000;
inline constexpr u64 page_struct_bytes = 64;
inline u64 folio_handle(Pfn pfn) { return vmemmap_base + pfn.raw * page_struct_bytes; }
/// The frame of a handle; nullopt for anything else.
std::optional<Pfn> pfn_of_handle(u64 handle);
/// What a C caller gets: 0 or a negative errno.
inline int c_result(const Result<>& result) { return result ? 0 : -static_cast<int>(result.error()); }

}  // namespace kexec_sim
