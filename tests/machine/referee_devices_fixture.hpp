// A World with devices: a root port with a NIC behind it, a second NIC and a GPU beside; and short ways to say what
// drivers, devices and guests report.
//
// The devices have registers and nothing else: what they would do is told to the referee by the test.
#pragma once

#include "tests/machine/referee_fixture.hpp"

namespace kexec_sim::test {

class FakeFunction final : public PciFunction {
public:
    using PciFunction::PciFunction;
};

inline constexpr u64 vfio_token = 0x10, iommufd_token = 0x11, memory_token = 0x12;
inline constexpr u64 memory_pfn = 0x1000, memory_pages = 16, buffer_iova = 0x10000;

struct DeviceWorld : World {
    DeviceReferee& devices;
    FakeFunction port, nic, other, gpu;
    bool found = true;  // by the next kernel, when it looks for what was handed over

    DeviceWorld()
        : World("luo-v3", {"memfd-v1", "vfio-pci", "iommufd", "kvm"}),
          devices(machine.device_referee),
          port(machine.pci, 0, "rp0", PciModel::root_port, 0x10, machine.arena),
          nic(machine.pci, 1, "nic0", PciModel::dma_nic, 0x00, machine.arena),
          other(machine.pci, 2, "nic1", PciModel::dma_nic, 0x20, machine.arena),
          gpu(machine.pci, 3, "gpu0", PciModel::p2p_gpu, 0x28, machine.arena) {
        nic.parent = &port;
        port.config.set(pci::SECONDARY_BUS, 1, 1);
        port.config.set(pci::SUBORDINATE_BUS, 1, 1);
    }

    // --- the kernel's side ---
    using Shared = DeviceReferee::SharedRecord;
    void shares(std::string_view subsystem, Shared event) { devices.shared_record(subsystem, event); }
    void attach(u64 domain, u64 iommufd, u64 pfn = memory_pfn, u64 pages = memory_pages) {
        devices.domain_belongs(domain, iommufd);
        const PfnRange mapped = frames(pfn, pages);
        devices.domain_mapped(domain, buffer_iova, std::span(&mapped, 1));
        devices.domain_attached(domain, nic);
    }
    /// On the list of what is preserved: the NIC and the port above it.
    void list(u32 references) {
        devices.function_listed(nic, references);
        devices.function_listed(port, references);
    }
    /// The NIC is opened as file 10, its domain 1 belongs to iommufd file 11 and maps the buffer to memory.
    void open() {
        if (!machine.referee.frames_of("shmem"))
            referee.frames_handed_out(frames(memory_pfn, memory_pages), "shmem", FrameClass::file);
        devices.device_opened(10, nic);
        attach(1, 11);
    }
    void promise(bool with_iommufd = true, bool with_memory = true) {
        if (with_memory) preserve_file(memory_token, memory_pfn, memory_pages, true);
        referee.file_preserved(vfio_token, "vfio-pci", 10);
        if (with_iommufd) referee.file_preserved(iommufd_token, "iommufd", 11);
        shares("pci", Shared::made);
        list(1);
        if (with_iommufd) shares("iommu", Shared::made);
        prepare();
    }
    void freeze() {
        referee.luo_state(LuoState::prepared, LuoState::frozen);
        referee.luo_request(LuoEvent::freeze, {});
        state = LuoState::frozen;
    }
    void arrive(std::vector<PfnRange> reserved, bool accepted = true) {
        for (const PciFunction* function : {&nic, &other, &gpu})
            if (found) devices.function_matched(*function);
        World::arrive(std::move(reserved), accepted);
    }
    /// The jump, and the next kernel up to user space.
    void jump() {
        leave_frozen();
        arrive({frames(memory_pfn, memory_pages + 1)});
    }
    void leave_frozen() {
        if (state == LuoState::prepared) freeze();
        leave();
    }
    void claim(const PciFunction& function) {
        restore_file(memory_token, memory_pfn, memory_pages);
        devices.device_opened(20, function);
        referee.file_restored(vfio_token, {20, 0, 0, {}});
        referee.file_restored(iommufd_token, {21, 0, 0, {}});
    }
    void claim() { claim(nic); }
    void end() { referee.scenario_ends(); }
    /// Everything up to finish, with nothing wrong.
    void whole_update() {
        jump();
        claim();
        attach(2, 21);
        finish();
    }

    // --- the device's side ---
    void write(u64 iova, u64 phys, u64 bytes = 16) {
        devices.dma_written(nic, iova, phys_range(PhysAddr{phys}, bytes));
    }
    void write_well() { write(buffer_iova + 0x40, Pfn{memory_pfn}.phys().raw + 0x40); }
    void write_to_stranger() { write(buffer_iova, Pfn{0x3000}.phys().raw); }

    // --- findings ---
    std::vector<Finding> of(std::string_view id) const {
        std::vector<Finding> all;
        for (Finding& finding : referee.findings())
            if (finding.invariant == *invariant_by_name(id)) all.push_back(std::move(finding));
        return all;
    }
    std::string message(std::string_view id) const {
        const std::vector<Finding> all = of(id);
        return all.empty() ? std::string() : all.front().message;
    }
};

}  // namespace kexec_sim::test
