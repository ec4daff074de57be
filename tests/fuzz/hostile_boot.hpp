// A kernel that boots from what a fuzz target wrote into RAM, as if a predecessor had handed it over.
//
//   1 MiB      root tree and what follows      2 MiB   scratch array      3 MiB   map
//   16 MiB     scratch areas: 32 MiB           the image at their start
//   64 MiB of RAM in all
#pragma once

#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "kho/abi/kho_v1.hpp"
#include "kho/abi/root_tree.hpp"
#include "kho/fdt.hpp"
#include "kho/kho.hpp"

namespace kexec_sim::kho {

inline constexpr PhysAddr hostile_root{MiB}, hostile_scratch{2 * MiB}, hostile_map{3 * MiB};
inline constexpr PhysRange hostile_area{PhysAddr{16 * MiB}, PhysAddr{48 * MiB}};

class HostileBoot {
public:
    explicit HostileBoot(std::string profile, const std::string& more_cmdline = "") : profile_(std::move(profile)) {
        MachineConfig config;
        config.node_bytes = {64 * MiB};
        machine_ = make_machine(config);
        machine_->trace.attached = false;
        cmdline_ = "kho=on kho_scratch=4M,4M,4M" + more_cmdline;
        const auto array = good_scratch();
        ram().write_bytes(hostile_scratch, std::as_bytes(std::span(array)));
    }
    PhysicalMemory& ram() { return machine_->ram; }

    static std::array<abi::kho_scratch, 4> good_scratch() {
        return {{{hostile_area.begin.raw, 16 * MiB}, {hostile_area.begin.raw + 16 * MiB, 16 * MiB}, {}, {}}};
    }
    /// A root tree with an empty map and one consumer, whose tree is the page behind it.
    static std::vector<std::byte> root_with_memblock() {
        HostileBoot boot("linux-6.16");
        FdtWriter tree(boot.ram(), phys_range(hostile_root, page_bytes), "fuzz");
        const int code = tree.create() | tree.begin_node("") |
                         tree.property_text("compatible", abi::KHO_FDT_COMPATIBLE) |
                         tree.property_u64(abi::PROP_PRESERVED_MEMORY_MAP, 0) | tree.begin_node("memblock") |
                         tree.property_u64(abi::PROP_SUB_FDT, hostile_root.raw + page_bytes) | tree.end_node() |
                         tree.end_node() | tree.finish();
        INVARIANT(code == 0);
        return boot.ram().read_vector(hostile_root, page_bytes);
    }

    /// Boots, uses what came over, and finalizes once more. A named panic is an end like any other; a wild read is not.
    void run() {
        machine_->referee.kernel_boots(0, {.edition = profile_});
        KernelConfig config;
        config.profile = profile_;
        Kernel kernel(*machine_, config, params());
        Kho kho(kernel, edition_for_profile(profile_));
        try {
            kernel.boot();
            use(kernel, kho);
        } catch (const BadPhysAccess& access) {
            std::fprintf(stderr, "wild access: %s\n", access.what());
            std::abort();
        } catch (const KernelPanic&) {}
    }

private:
    BootParams params() const {
        BootParams params;
        params.cmdline = cmdline_;
        params.memory_map.assign(machine_->memory_map.begin(), machine_->memory_map.end());
        params.kernel_image = phys_range(hostile_area.begin, 4 * MiB);
        params.initrd = phys_range(hostile_area.begin + 4 * MiB, MiB);
        params.boot_data = phys_range(hostile_area.begin + 5 * MiB, boot_params_bytes);
        const abi::kho_data data{hostile_root.raw, page_bytes, hostile_scratch.raw, 4 * sizeof(abi::kho_scratch)};
        SetupData entry{SETUP_KEXEC_KHO, std::vector<std::byte>(sizeof data)};
        std::memcpy(entry.payload.data(), &data, sizeof data);
        params.setup_data.push_back(std::move(entry));
        return params;
    }
    void use(Kernel& kernel, Kho& kho) {
        static_cast<void>(kho.retrieve_subtree("memblock"));
        for (const std::string& path : kernel.vfs.list("kho/")) static_cast<void>(kernel.vfs.read(path));
        for (u64 phys = 0; phys < 64 * MiB; phys += 256 * KiB) {
            // Only what came over: a kernel of 6.16 would restore its own memory as well.
            if (kernel.pages.block(PhysAddr{phys}.pfn()).meta.state != PageState::preserved) continue;
            static_cast<void>(kho.restore_folio(PhysAddr{phys}, "bench", FrameClass::bench));
        }
        kernel.pages.check_sane(true);
        static_cast<void>(kho.finalize());
        static_cast<void>(kho.map_statistics());
    }

    std::string profile_, cmdline_;
    MachineHandle machine_;
};

}  // namespace kexec_sim::kho
