// C functions for modules: log, memory, addresses (kernel-model/include/linux/{printk,mm}.h).
//
// What a C function may write through a pointer counts as written from the moment the pointer is given out, because a
// store through the direct map passes nobody.
#include <cstdarg>
#include <cstdio>
#include <fmt/format.h>

#include "kernel-model/current.hpp"
#include "kernel-model/include/linux/mm.h"
#include "kernel-model/include/linux/printk.h"

namespace kexec_sim {
namespace {

Kernel* running = nullptr;

std::string formatted(const char* format, va_list arguments) {
    char line[1024];
    std::vsnprintf(line, sizeof line, format, arguments);
    std::string text(line);
    while (text.ends_with('\n')) text.pop_back();
    return text;
}

/// The block of allocated memory that a frame lies in, or just the frame.
PhysRange writable_around(Kernel& kernel, Pfn pfn) {
    const PageMap::Block block = kernel.pages.block(pfn);
    if (block.meta.state == PageState::folio || block.meta.state == PageState::preserved)
        return Folio{block.head, block.meta.order}.phys();
    return pfn_range(pfn, 1).phys();
}

}  // namespace

void set_current_kernel(Kernel* kernel) { running = kernel; }

Kernel& current_kernel() {
    INVARIANT(running != nullptr);
    return *running;
}

std::optional<Pfn> pfn_of_handle(u64 handle) {
    if (handle < vmemmap_base || (handle - vmemmap_base) % page_struct_bytes) return std::nullopt;
    return Pfn{(handle - vmemmap_base) / page_struct_bytes};
}

}  // namespace kexec_sim

using namespace kexec_sim;

extern "C" {

int _printk(int level, const char* fmt, ...) {
    va_list arguments;
    va_start(arguments, fmt);
    const std::string text = formatted(fmt, arguments);
    va_end(arguments);
    current_kernel().log.print(level <= 3 ? LogLevel::err : level == 4 ? LogLevel::warn : LogLevel::info, text);
    return static_cast<int>(text.size());
}

void panic(const char* fmt, ...) {
    va_list arguments;
    va_start(arguments, fmt);
    const std::string text = formatted(fmt, arguments);
    va_end(arguments);
    throw KernelPanic(text);
}

void kexec_sim_warn(const char* condition, const char* file, int line) {
    current_kernel().log.warn_on(::fmt::format("WARN_ON({}) at {}:{}", condition, file, line), false);
}

folio* folio_alloc(gfp_t, unsigned int order) {
    if (order > max_page_order) return nullptr;
    const auto block = current_kernel().pages.alloc_folio({Order{order}, "module.folio", FrameClass::subsystem});
    return block ? reinterpret_cast<folio*>(folio_handle(block->pfn)) : nullptr;
}

void folio_put(folio* handle) {
    const auto pfn = pfn_of_handle(reinterpret_cast<u64>(handle));
    if (!pfn) throw BadPhysAccess(reinterpret_cast<u64>(handle), 8, current_kernel().machine.generation);
    const PageMap::Block block = current_kernel().pages.block(*pfn);
    current_kernel().pages.free_folio({*pfn, block.meta.order});
}

unsigned int folio_order(folio* handle) {
    const auto pfn = pfn_of_handle(reinterpret_cast<u64>(handle));
    return pfn ? current_kernel().pages.block(*pfn).meta.order.raw : 0;
}

unsigned long folio_pfn(folio* handle) {
    const auto pfn = pfn_of_handle(reinterpret_cast<u64>(handle));
    return pfn ? pfn->raw : 0;
}

void* folio_address(folio* handle) {
    const auto pfn = pfn_of_handle(reinterpret_cast<u64>(handle));
    return pfn ? phys_to_virt(pfn->phys().raw) : nullptr;
}

folio* virt_to_folio(const void* address) {
    Kernel& kernel = current_kernel();
    const PhysAddr phys = kernel.virt_to_phys(reinterpret_cast<u64>(address));
    if (!kernel.machine.ram.contains(phys, 1)) return nullptr;
    return reinterpret_cast<folio*>(folio_handle(kernel.pages.block(phys.pfn()).head));
}

void* phys_to_virt(phys_addr_t phys) {
    Kernel& kernel = current_kernel();
    // As in a kernel, an address that is no RAM gives a pointer too; using it faults.
    if (kernel.machine.ram.contains(PhysAddr{phys}, 1)) {
        const PhysRange range = writable_around(kernel, PhysAddr{phys}.pfn());
        if (kernel.machine.ram.contains(range)) kernel.machine.ram.writable(range);
    }
    return reinterpret_cast<void*>(kernel.phys_to_virt(PhysAddr{phys}));
}

phys_addr_t virt_to_phys(const void* address) {
    return current_kernel().virt_to_phys(reinterpret_cast<u64>(address)).raw;
}

}  // extern "C"
