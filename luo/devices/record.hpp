// A page of its own for something that is handed over: allocated, filled, preserved; restored and freed by the heir.
#pragma once

#include <functional>
#include <set>
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
    /// Takes it back: unpreserved and freed.
    void release(PhysAddr page);
    /// Preserves, or gives up, a folio that somebody else owns.
    Result<> preserve(Pfn page) { return kho_.preserve_folio({page, Order{0}}, who_); }
    void unpreserve(Pfn page);
    /// A page of the previous kernel. ENOENT: KHO knows none there, it lies outside RAM, or it was restored before: where
    /// records form a circle, editions without page magic would not notice.
    Result<> restore(PhysAddr page) { return restore(page, class_); }
    Result<> restore(PhysAddr page, FrameClass as);
    void free(PhysAddr page) { kernel_.pages.free_folio({page.pfn(), Order{0}}); }
    bool in_ram(PhysAddr page) const {
        return page.page_aligned() && page.raw && kernel_.machine.ram.contains(page, page_bytes);
    }

private:
    /// Unpreserves, and does what is left. KHO takes nothing back while it is finalized: then, once it is aborted.
    void give_up(Folio folio, std::function<void()> then);

    Kernel& kernel_;
    kho::Kho& kho_;
    Orchestrator& orchestrator_;
    std::string_view who_;
    FrameClass class_;
    std::set<PhysAddr> restored_;
};

/// A subsystem whose data handle is the address of a page that is made with the first thing to hand over, and goes with
/// the last. It preserves nothing by itself: files do, one by one.
class HandleSubsystem {
public:
    /// `boot` is given the handle of the previous kernel, unless that is 0. `finish`: at FINISH, when no file can be asked
    /// for any more, and before those that nobody asked for are discarded.
    HandleSubsystem(Kernel& kernel, Orchestrator& orchestrator, std::string name, std::function<void(PhysAddr)> boot,
                    std::function<void()> finish = {});
    /// False: LUO is off, the kernel was built without this component, or LUO refuses. A subsystem that may be new to
    /// this update waits until it is wanted, in a kernel whose predecessor did not have it: LUO would panic at FINISH
    /// over it.
    bool ensure_registered();
    bool registered() const { return orchestrator_.on_list(&subsystem_); }
    void set_handle(PhysAddr page);  // 0: there is nothing to hand over any more
    /// What the previous kernel handed over is of no use to anybody any more.
    void finished();

private:
    void tell(DeviceReferee::SharedRecord event);

    Kernel& kernel_;
    Orchestrator& orchestrator_;
    Subsystem subsystem_;
    PhysAddr handle_;
};

}  // namespace kexec_sim::luo
