// A machine whose kernels have KHO: boot one, jump to the next, look at its log.
//
//   KhoWorld world("linux-6.16", "kho=on");       generation 0, in user space
//   world.kho().preserve_folio(folio, "bench");
//   world.kexec("linux-6.16", "kho=on");          generation 1, on nothing but RAM and boot parameters
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "kho/kho.hpp"
#include "kho/state.hpp"
#include "tests/support/findings.hpp"

namespace kexec_sim::kho {

struct KhoWorld {
    using Prepare = std::function<void(Kho&)>;

    explicit KhoWorld(std::string profile_ = "linux-6.16", std::string cmdline = "kho=on",
                      std::vector<u64> node_bytes = {256 * MiB}, const Prepare& before_boot = {},
                      const std::string& faults = {})
        : profile(std::move(profile_)) {
        MachineConfig config;
        config.node_bytes = std::move(node_bytes);
        machine = make_machine(config);
        if (!faults.empty()) plan(faults);
        boot(firmware_boot(*machine, request(cmdline)), before_boot);
    }
    ~KhoWorld() { stop(); }
    KhoWorld(const KhoWorld&) = delete;
    KhoWorld& operator=(const KhoWorld&) = delete;

    Kho& kho() { return *kho_; }
    Kernel& kernel() { return *kernel_; }
    PhysicalMemory& ram() { return machine->ram; }
    Kho::State& state() { return kho_->state(); }

    KexecRequest request(const std::string& cmdline) const {
        KexecRequest wanted;
        wanted.cmdline = cmdline;
        wanted.profile = profile;
        wanted.kernel_bytes = image_bytes;
        wanted.initrd_bytes = MiB;
        return wanted;
    }
    Result<> load(const std::string& cmdline = "kho=on") { return kernel_->kexec.load(request(cmdline)); }

    /// Loads if nothing is loaded, jumps, boots the next kernel.
    void kexec(const std::string& next_profile = {}, const std::string& cmdline = "kho=on",
               const Prepare& before_boot = {}) {
        if (!kernel_->kexec.image()) {
            const auto loaded = load(cmdline);
            INVARIANT(loaded.has_value());
        }
        const auto where = kernel_->kexec_reboot();
        INVARIANT(where.has_value());
        params = read_boot_params(machine->ram, *where);
        kho_->corrupt_handover(params);
        if (before_jump) before_jump(params);
        bool passed = false;
        for (const SetupData& entry : params.setup_data) passed |= entry.type == SETUP_KEXEC_KHO;
        machine->referee.jump(passed);
        stop();
        machine->referee.kernel_ended(KernelEnd::kexec);
        machine->set_generation(machine->generation + 1);
        if (!next_profile.empty()) profile = next_profile;
        boot(params, before_boot);
    }

    Folio alloc(unsigned order = 0, u64 fill = 0) {
        const auto folio =
            kernel_->pages.alloc_folio({.order = Order{order}, .site = "bench", .frame_class = FrameClass::bench});
        INVARIANT(folio.has_value());
        for (u64 at = 0; fill && at < folio->order.bytes(); at += 8)
            machine->ram.write(folio->phys().begin + at, fill + at);
        return *folio;
    }
    bool filled(Folio folio, u64 fill) const {
        for (u64 at = 0; at < folio.order.bytes(); at += 8)
            if (machine->ram.read<u64>(folio.phys().begin + at) != fill + at) return false;
        return true;
    }
    void plan(const std::string& text) {
        const PlannedFault fault = parse_fault(text).value();
        machine->faults.set_plan({&fault, 1});
    }
    bool logged(std::string_view text) const { return kernel_->log.contains(text); }
    std::vector<std::string> findings() const { return test_support::findings(*machine); }
    bool has_finding(std::string_view id) const { return test_support::has_finding(*machine, id); }
    PhysAddr handed_over_root() const {
        for (const SetupData& entry : params.setup_data)
            if (entry.type == SETUP_KEXEC_KHO) {
                u64 phys = 0;
                std::memcpy(&phys, entry.payload.data(), sizeof phys);
                return PhysAddr{phys};
            }
        return {};
    }

    std::string profile;
    u64 image_bytes = 4 * MiB;
    std::function<void(const BootParams&)> before_jump;  // may damage what is handed over
    MachineHandle machine;
    BootParams params;  // of the last jump

private:
    void boot(BootParams boot_params, const Prepare& before_boot) {
        const Edition& edition = edition_for_profile(profile);
        machine->referee.kernel_boots(machine->generation, {.edition = profile});
        KernelConfig config;
        config.profile = profile;
        config.debug = true;  // with 6.18's checks for overlap
        kernel_ = std::make_unique<Kernel>(*machine, config, std::move(boot_params));
        kho_ = std::make_unique<Kho>(*kernel_, edition);
        if (before_boot) before_boot(*kho_);
        kernel_->boot();
        machine->referee.user_space_reached();
    }
    void stop() {
        kho_.reset();
        kernel_.reset();
    }

    std::unique_ptr<Kernel> kernel_;
    std::unique_ptr<Kho> kho_;
};

}  // namespace kexec_sim::kho
