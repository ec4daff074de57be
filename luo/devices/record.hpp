// A page of its own for something that is handed over: allocated, filled, preserved; restored and freed by the heir.
#pragma once

#include <string_view>

#include "kernel-model/kernel.hpp"
#include "kho/kho.hpp"
#include "luo/orchestrator.hpp"

namespace kexec_sim::luo {

/// Pages of order 0 that one participant (`who`) preserves.
class RecordPages {
public:
    RecordPages(Kernel& kernel, kho::Kho& kho, Orchestrator& orchestrator, std::string_view who,
                FrameClass frame_class)
        : kernel_(kernel),
          kho_(kho),
          orchestrator_(orchestrator),
          who_(who),
          class_(frame_class) {}

    /// ENOMEM; KHO's errno. Zeroed and preserved.
    Result<PhysAddr> allocate(std::string_view site);
    /// Takes it back: unpreserved and freed. While KHO is finalized it takes nothing back: then, once KHO is aborted.
    void release(PhysAddr page);
    /// Preserves, or gives up, a folio that somebody else owns.
    Result<> preserve(Pfn page) { return kho_.preserve_folio({page, Order{0}}, who_); }
    void unpreserve(Pfn page);
    /// A page of the previous kernel. ENOENT: KHO knows none there, or it lies outside RAM.
    Result<> restore(PhysAddr page) { return restore(page, class_); }
    Result<> restore(PhysAddr page, FrameClass as);
    void free(PhysAddr page) { kernel_.pages.free_folio({page.pfn(), Order{0}}); }
    bool in_ram(PhysAddr page) const {
        return page.page_aligned() && page.raw && kernel_.machine.ram.contains(page, page_bytes);
    }

private:
    Kernel& kernel_;
    kho::Kho& kho_;
    Orchestrator& orchestrator_;
    std::string_view who_;
    FrameClass class_;
};

/// Registers a subsystem that may be new to this update: in a kernel whose predecessor did not have it, it waits until
/// it is wanted (LUO would panic at FINISH over it). True: it is on the list.
bool register_participant(Orchestrator& orchestrator, Subsystem& subsystem);

}  // namespace kexec_sim::luo
