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
    give_up(folio, [this, folio] { kernel_.pages.free_folio(folio); });
}

void RecordPages::unpreserve(Pfn page) {
    give_up({page, Order{0}}, [] {});
}

void RecordPages::give_up(Folio folio, std::function<void()> then) {
    auto work = [this, folio, then = std::move(then)] {
        static_cast<void>(kho_.unpreserve_folio(folio, who_));
        then();
    };
    if (kho_.finalized()) return orchestrator_.after_abort(std::move(work));
    work();
}

Result<> RecordPages::restore(PhysAddr page, FrameClass as) {
    if (!in_ram(page) || restored_.contains(page)) return fail(Errno::enoent);
    TRY(kho_.restore_folio(page, who_, as));
    restored_.insert(page);
    return {};
}

// --- subsystems --------------------------------------------------------------------------------------------------

HandleSubsystem::HandleSubsystem(Kernel& kernel, Orchestrator& orchestrator, std::string name,
                                 std::function<void(PhysAddr)> boot, std::function<void()> finish)
    : kernel_(kernel),
      orchestrator_(orchestrator) {
    subsystem_.name = std::move(name);
    subsystem_.prepare = [this](u64* data) {
        *data = handle_.raw;  // 0 so far, where no file has been prepared yet
        return 0;
    };
    subsystem_.cancel = [](u64) {};
    subsystem_.finish = [finish = std::move(finish)](u64) {
        if (finish) finish();
    };
    subsystem_.boot = [this, boot = std::move(boot)](u64 data) {
        if (data == 0 || !kernel_.config.preserve_devices) return;
        boot(PhysAddr{data});
        tell(DeviceReferee::SharedRecord::read);
    };
}

void HandleSubsystem::tell(DeviceReferee::SharedRecord event) {
    kernel_.machine.device_referee.shared_record(subsystem_.name, event);
}

void HandleSubsystem::set_handle(PhysAddr page) {
    subsystem_.private_data() = (handle_ = page).raw;
    tell(page.raw ? DeviceReferee::SharedRecord::made : DeviceReferee::SharedRecord::gone);
}

void HandleSubsystem::finished() { tell(DeviceReferee::SharedRecord::finished); }

bool HandleSubsystem::ensure_registered() {
    if (!orchestrator_.enabled() || !kernel_.config.built_with(subsystem_.name)) return false;
    if (registered()) return true;
    if (!orchestrator_.register_subsystem(&subsystem_)) {
        if (registered()) static_cast<void>(orchestrator_.unregister_subsystem(&subsystem_));
        return false;
    }
    if (orchestrator_.edition().boot_callback || orchestrator_.state() != LuoState::updated) return true;
    // Editions without a boot callback: the subsystem asks for its handle.
    const auto data = orchestrator_.get_subsystem_data(&subsystem_);
    if (data) {
        subsystem_.boot(*data);
        return true;
    }
    static_cast<void>(orchestrator_.unregister_subsystem(&subsystem_));
    return false;
}

}  // namespace kexec_sim::luo
