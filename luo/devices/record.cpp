#include "luo/devices/record.hpp"

namespace kexec_sim::luo {

Result<PhysAddr> RecordPages::allocate(std::string_view site) {
    const Folio folio = TRY(kernel_.pages.alloc_folio({.order = Order{0}, .site = site, .frame_class = class_}));
    if (const auto preserved = kho_.preserve_folio(folio, who_); !preserved) {
        kernel_.pages.free_folio(folio);
        return fail(preserved.error());
    }
    return folio.pfn.phys();
}

void RecordPages::release(PhysAddr page) {
    const Folio folio{page.pfn(), Order{0}};
    if (kho_.finalized()) {
        orchestrator_.after_abort([this, folio] {
            static_cast<void>(kho_.unpreserve_folio(folio, who_));
            kernel_.pages.free_folio(folio);
        });
        return;
    }
    static_cast<void>(kho_.unpreserve_folio(folio, who_));
    kernel_.pages.free_folio(folio);
}

void RecordPages::unpreserve(Pfn page) {
    const Folio folio{page, Order{0}};
    if (kho_.finalized()) {
        orchestrator_.after_abort([this, folio] { static_cast<void>(kho_.unpreserve_folio(folio, who_)); });
        return;
    }
    static_cast<void>(kho_.unpreserve_folio(folio, who_));
}

Result<> RecordPages::restore(PhysAddr page, FrameClass as) {
    if (!in_ram(page)) return fail(Errno::enoent);
    TRY(kho_.restore_folio(page, who_, as));
    return {};
}

bool register_participant(Orchestrator& orchestrator, Subsystem& subsystem) {
    if (orchestrator.on_list(&subsystem)) return true;
    const auto registered = orchestrator.register_subsystem(&subsystem);
    if (!registered) {
        if (orchestrator.on_list(&subsystem)) static_cast<void>(orchestrator.unregister_subsystem(&subsystem));
        return false;
    }
    if (orchestrator.edition().boot_callback || orchestrator.state() != LuoState::updated) return true;
    // Editions without a boot callback: the subsystem asks for its handle.
    const auto data = orchestrator.get_subsystem_data(&subsystem);
    if (!data) {
        static_cast<void>(orchestrator.unregister_subsystem(&subsystem));
        return false;
    }
    if (subsystem.boot) subsystem.boot(*data);
    return true;
}

}  // namespace kexec_sim::luo
