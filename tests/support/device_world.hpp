// A machine whose kernels carry devices over a live update: the usual PCI devices (pci_wiring.hpp), and what user space
// makes of them.
//
//   DeviceWorld world;
//   const auto nic = world.assign("nic0");            memfd, iommufd that maps it, vfio file attached
//   world.preserve(nic, 0x10);                        under tokens 0x10 to 0x12, in that order
//   world.prepare(); world.kexec();
#pragma once

#include "kernel-model/vfio/iommufd.hpp"
#include "luo/abi/devices.hpp"
#include "tests/luo/luo_fixture.hpp"
#include "tests/support/machine_look.hpp"
#include "tests/support/pci_wiring.hpp"

namespace kexec_sim::luo {

struct DeviceWorld : LuoWorld {
    static constexpr u64 iova = 0x100000, mapped_bytes = 64 * KiB, rw = vtd::PTE_READ | vtd::PTE_WRITE;

    explicit DeviceWorld(LuoOptions wanted = {}) : LuoWorld(with_devices(std::move(wanted))) {}
    static LuoOptions with_devices(LuoOptions wanted) {
        if (wanted.devices.empty()) wanted.devices = test::usual_devices();
        wanted.preserve_devices = true;
        return wanted;
    }

    DeviceParticipants& participants() { return *running->devices; }
    PciDevice& device(std::string_view name) {
        PciDevice* found = kernel().pci.find_by_name(name);
        REQUIRE(found != nullptr);
        return *found;
    }
    PciFunction& function(std::string_view name) { return test::function_named(*machine, name); }
    /// Where a write of the device ends now; nullopt: it faults.
    std::optional<u64> reaches(std::string_view name, u64 at) {
        PciFunction& from = function(name);
        const auto translation = machine->iommu_of(from.segment)->translate(from.requester_id(), at, true);
        if (translation.fault != vtd::FaultReason::none) return std::nullopt;
        return translation.address;
    }
    template <typename T> std::shared_ptr<T> file(i32 fd) {
        auto found = std::dynamic_pointer_cast<T>(*main().get(fd));
        REQUIRE(found != nullptr);
        return found;
    }
    template <typename T> std::shared_ptr<T> restored(u64 token) {
        const auto fd = client().fd_restore(token);
        REQUIRE(fd);
        return file<T>(*fd);
    }
    i32 install(FileRef file) { return *main().install(std::move(file), false); }

    i32 open(std::string_view name) {
        auto made = kernel().vfio.open(device(name));
        REQUIRE(made);
        return install(*made);
    }
    struct Assigned {
        i32 memory, iommufd, nic;
    };
    Assigned assign(std::string_view name) {
        const Assigned made{memfd(mapped_bytes), install(open_iommufd(kernel(), "fd")), open(name)};
        REQUIRE(file<IommufdFile>(made.iommufd)->map(iova, shmem(made.memory), 0, mapped_bytes, rw));
        REQUIRE(file<IommufdFile>(made.iommufd)->attach(file<VfioFile>(made.nic)));
        return made;
    }
    void preserve(const Assigned& assigned, u64 token) {
        REQUIRE(client().fd_preserve(assigned.memory, token));
        REQUIRE(client().fd_preserve(assigned.iommufd, token + 1));
        REQUIRE(client().fd_preserve(assigned.nic, token + 2));
    }
    /// The address that a subsystem hands over; 0: nothing.
    PhysAddr handle(std::string_view subsystem) {
        for (Subsystem* one : luo().subsystems())
            if (one->name == subsystem) return PhysAddr{one->private_data()};
        FAIL("no subsystem " << subsystem);
        return {};
    }
    /// All that a failed or cancelled call must have given back.
    struct Held {
        u64 free_frames, preserved_folios;
        bool operator==(const Held&) const = default;
    };
    Held held() { return {free_frames(), kho().preserved_folios()}; }
    bool is_folio(PhysAddr page) { return kernel().pages.block(page.pfn()).meta.state == PageState::folio; }
};

}  // namespace kexec_sim::luo
