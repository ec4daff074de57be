// A live update of a VM with devices, whose records are changed by a fuzz target before the next kernel reads them.
//
//   generation 0   VM of 1 MiB with nic0 (behind a switch), nic1 and a mapping of gpu0's BAR; its engines run
//   the jump       edits of pages that the kernel or the VMM had preserved
//   generation 1   boots, restores, runs the guest, finishes, and is updated once more
#pragma once

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "machine/device/dma_nic.hpp"
#include "sim/vmm.hpp"
#include "tests/support/luo_kernel.hpp"
#include "tests/support/pci_wiring.hpp"

namespace kexec_sim::luo {

class HostileUpdate {
public:
    struct Options {
        bool confidential = false, luo_v2 = false, restores = true, late_binding = false;
    };
    explicit HostileUpdate(Options options)
        : options_(options),
          profile_(options.luo_v2 ? "luo-v2" : "luo-v3"),
          cmdline_("kho=on kho_scratch=16M,8M,8M liveupdate=on") {
        if (options.late_binding) cmdline_ += " vfio_pci.late_binding=1";
        MachineConfig config;
        config.node_bytes = {ram_bytes};
        config.devices = {test::on_root("rp0", "root-port", 2), test::behind("rp0", "sw0", "switch"),
                          test::behind("sw0.0", "nic0", "dma-nic"), test::behind("sw0.1", "gpu0", "p2p-gpu"),
                          test::on_root("nic1", "dma-nic", 3)};
        config.iommu = true;
        machine_ = make_machine(config);
        machine_->trace.attached = false;
        machine_->reset_devices();
    }

    /// `edit(pages)` is given the pages of records and tables, in an order that depends on nothing but the options.
    /// False: the VM did not come back.
    template <typename Edit> bool run(Edit&& edit) {
        bool came_back = false;
        try {
            boot(firmware_boot(*machine_, request()));
            make_vm();
            BootParams params = jump(edit);
            boot(std::move(params));
            if (options_.restores) came_back = restore();
            kernel().kvm.run(50'000);
            static_cast<void>(luo().request(LuoEvent::finish));
            kernel().kvm.run(50'000);
            static_cast<void>(luo().request(LuoEvent::prepare));
            static_cast<void>(luo().request(LuoEvent::cancel));
            vm_.reset();
            kernel().vfs.find_agent("main")->kill();
            kernel().pages.check_sane(true);
        } catch (const BadPhysAccess& access) {
            std::fprintf(stderr, "wild access: %s\n", access.what());
            std::abort();
        } catch (const KernelPanic&) {}
        vm_.reset();
        client_.reset();
        running_.reset();
        return came_back;
    }
    PhysicalMemory& ram() { return machine_->ram; }

private:
    static constexpr u64 tokens = 0x10, ram_bytes = 128 * MiB;
    Kernel& kernel() { return running_->kernel; }
    Orchestrator& luo() { return running_->luo; }
    LuoClient& client() {
        if (!client_) {
            client_ = std::make_unique<LuoClient>(kernel(), *kernel().vfs.find_agent("main"));
            static_cast<void>(client_->open());
        }
        return *client_;
    }
    KexecRequest request() const {
        KexecRequest wanted;
        wanted.cmdline = cmdline_;
        wanted.profile = profile_;
        wanted.kernel_bytes = 4 * MiB;
        wanted.initrd_bytes = MiB;
        return wanted;
    }
    void boot(BootParams params) {
        KernelTraits traits;
        traits.edition = profile_;
        traits.promise_at = KernelTraits::PromiseAt::prepare;
        traits.has_luo = true;
        machine_->referee.kernel_boots(machine_->generation, traits);
        KernelConfig config;
        config.profile = profile_;
        config.preserve_devices = true;
        running_ = std::make_unique<LuoKernel>(*machine_, config, std::move(params));
        kernel().boot();
        machine_->referee.user_space_reached();
        vm_ = std::make_unique<sim::VirtualMachine>(kernel(), *kernel().vfs.find_agent("main"), "vm");
    }
    static void must(const Result<>& result) { INVARIANT(result.has_value()); }

    void make_vm() {
        must(vm_->create({.memory_bytes = MiB, .vcpus = 1, .confidential = options_.confidential}));
        for (const char* name : {"nic0", "nic1"}) {
            const auto file = kernel().vfio.open(*kernel().pci.find_by_name(name));
            INVARIANT(file.has_value());
            must(vm_->attach(*file));
            start_engine(**file);
        }
        const auto gpu = kernel().vfio.open(*kernel().pci.find_by_name("gpu0"));
        INVARIANT(gpu.has_value());
        must(vm_->attach(*gpu));
        must(vm_->map_peer((*gpu)->device(), 2));
        kernel().kvm.run(20'000);
        must(vm_->preserve(client(), tokens, {}));
        must(luo().request(LuoEvent::prepare));
        must(vm_->do_duties(sim::VmmDuties::mask));
    }
    /// Its descriptors hold nothing that could be done: the device looks at one of them every 10 µs all the same.
    static void start_engine(VfioFile& nic) {
        must(nic.write(nic::registers_bar, nic::RING_BASE, 8, MiB / 2));
        must(nic.write(nic::registers_bar, nic::RING_ENTRIES, 4, 4));
        must(nic.write(nic::registers_bar, nic::INTERVAL, 4, 10'000));
        must(nic.write(nic::registers_bar, nic::CONTROL, 4, nic::CONTROL_ENABLE | nic::CONTROL_CIRCULAR));
    }

    template <typename Edit> BootParams jump(Edit& edit) {
        must(kernel().kexec.load(request()));
        const auto where = kernel().kexec_reboot();
        INVARIANT(where.has_value());
        BootParams params = read_boot_params(machine_->ram, *where);
        {
            const MachineEntry past_the_checks;  // the firmware's context page is one of them
            edit(pages());
        }
        machine_->referee.jump(true);
        vm_.reset();
        client_.reset();
        running_.reset();
        machine_->referee.kernel_ended(KernelEnd::kexec);
        machine_->set_generation(machine_->generation + 1);
        return params;
    }
    std::vector<PhysAddr> pages() {
        static constexpr std::string_view sites[] = {"pci.ser",     "pci.block",     "iommu.ser",      "iommu.array",
                                                     "iommufd.ser", "vfio.ser",      "kvm.ser",        "iommu.table",
                                                     "iommu.root",  "iommu.context", "kvm.snp_context"};
        std::vector<PhysAddr> found;
        for (const std::string_view site : sites)
            for (Pfn pfn{0}; pfn.phys().raw < ram_bytes;) {
                const auto block = kernel().pages.block(pfn);
                if (block.meta.state == PageState::folio && kernel().pages.site_name(block.meta.site) == site)
                    found.push_back(pfn.phys());
                pfn = block.head + block.meta.order.pages();
            }
        for (const i32 fd : kernel().vfs.find_agent("main")->open_fds())
            if (const auto file = std::dynamic_pointer_cast<ShmemFile>(*kernel().vfs.find_agent("main")->get(fd));
                file && file->name() == "vm.state")
                found.push_back(file->extents()[0].pfn.phys());
        return found;
    }
    bool restore() {
        if (vm_->restore(client(), tokens, {})) return true;
        vm_->give_up();
        return false;
    }

    Options options_;
    std::string profile_, cmdline_;
    MachineHandle machine_;
    std::unique_ptr<LuoKernel> running_;
    std::unique_ptr<LuoClient> client_;
    std::unique_ptr<sim::VirtualMachine> vm_;
};

}  // namespace kexec_sim::luo
