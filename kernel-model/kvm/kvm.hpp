// KVM: virtual machines, as much of them as a live update has to do with.
//
//   agent (VMM) ── fd ──► VmFile ── memory slot ──► memfd pages           the CPU in guest mode (machine/guest_cpu.hpp)
//                            │                                                        ▲
//                            ├── vCPUs: registers ────────────────────────────────────┘ runs them, a slice at a time
//                            └── devices: a VfioFile each, interrupts wired
//
// A guest runs while virtual time passes in `run()`: slices of 100 µs, in which devices do their work; after each, the
// kernel takes its interrupts and every vCPU of every VM that is not paused retires a step a microsecond.
//
// Guest physical memory is the memfd from 0 on. Which frame is behind a guest page is looked up each time: memory that
// moves or goes is missed at once.
//
// Confidential VMs (snp): the first quarter of memory is private: pinned, and assigned to the guest in the reverse map;
// the rest is shared, for devices. The firmware's context page belongs to the VM. Neither is touched by the kernel
// again until the VM ends: then the pages are reclaimed and the context is destroyed.
//
// Unhappy paths: 1. EINVAL: memory not page aligned, no vCPU, more vCPUs than 16. 2. ENOMEM. 3. EBUSY: the VM runs and
// its registers are asked for; no address-space id is free. 4. A guest touches memory that is not there: the VM is
// stopped (`broken`), with a log line. 5. An id is free here, but has a guest of the previous kernel: the next one.
// Source: Linux 7.3, virt/kvm, arch/x86/kvm/svm/sev.c. Simplified: see machine/guest_cpu.hpp; one memory slot.
#pragma once

#include <memory>
#include <vector>

#include "kernel-model/shmem.hpp"
#include "kernel-model/vfio/vfio.hpp"
#include "machine/guest_cpu.hpp"

namespace kexec_sim {

class VmFile final : public File, private GuestBus {
public:
    VmFile(Kernel& kernel, u64 id, std::string label);
    std::string_view kind() const override { return "kvm-vm"; }
    void release() override;

    /// KVM_SET_USER_MEMORY_REGION. EINVAL; ENOMEM: pages could not be had.
    Result<> set_memory(std::shared_ptr<ShmemFile> memory);
    /// KVM_CREATE_VCPU. EINVAL.
    Result<> create_vcpus(unsigned count);
    /// Makes it confidential: context and launch. EINVAL: no memory yet. EBUSY, ENOMEM.
    Result<> launch_confidential();
    /// The same for a guest that runs already: the context page came from the previous kernel, and so did its private
    /// memory, which is taken away from it when the VM ends, whether or not the VM was given memory. ENOENT: the
    /// firmware does not know the page.
    Result<> adopt_context(Folio context, std::vector<PfnRange> private_runs);

    unsigned vcpus() const { return static_cast<unsigned>(registers_.size()); }
    /// Fault points kvm.vcpu_get[label], kvm.vcpu_set[label]. EBUSY while it runs; EINVAL: no such vCPU.
    Result<GuestRegisters> get_registers(unsigned vcpu) const;
    Result<> set_registers(unsigned vcpu, const GuestRegisters& registers);

    /// The guest's device `number` is behind that file; its interrupts are injected.
    Result<unsigned> wire(const std::shared_ptr<VfioFile>& device);
    /// Interrupts of a device that was wired, after they were turned off.
    Result<> rewire(unsigned number);
    void inject(unsigned device);
    const std::vector<std::shared_ptr<VfioFile>>& devices() const { return devices_; }

    void resume() { running_ = true; }
    void pause() { running_ = false; }
    bool running() const { return running_ && !broken_; }
    bool broken() const { return broken_; }
    void run(u64 steps);
    /// All that its vCPUs have retired since it was created, in whichever kernel.
    u64 steps_retired() const {
        u64 steps = 0;
        for (const GuestRegisters& registers : registers_) steps += registers.steps;
        return steps;
    }

    const std::string& label() const { return label_; }
    void set_label(std::string label);
    const std::shared_ptr<ShmemFile>& memory() const { return memory_; }
    std::optional<Folio> snp_context() const { return context_; }
    u16 asid() const override { return asid_; }
    /// In order of guest addresses, from 0 on; empty: it is not confidential.
    const std::vector<PfnRange>& private_runs() const { return private_runs_; }
    u64 private_bytes() const { return memory_ ? align_down(memory_->size() / 4, page_bytes) : 0; }
    bool preserved = false;

private:
    Result<PhysAddr> translate(u64 gpa) override;
    u64 device_completed(unsigned device) override;
    void device_tail(unsigned device, u32 tail) override;

    Kernel& kernel_;
    std::string label_;
    std::shared_ptr<ShmemFile> memory_;
    std::vector<GuestRegisters> registers_;
    std::vector<std::shared_ptr<VfioFile>> devices_;
    std::optional<Folio> context_;
    u16 asid_ = 0;
    bool running_ = false, broken_ = false;
    std::vector<PfnRange> private_runs_;
};

class Kvm {
public:
    static constexpr u64 slice_ns = 100'000;
    static constexpr unsigned vcpus_max = guest_vcpus_max;
    explicit Kvm(Kernel& kernel) : kernel_(kernel) {}
    std::shared_ptr<VmFile> create_vm(const std::string& label);
    /// Lets `ns` of virtual time pass: devices, interrupts, guests.
    void run(u64 ns);
    /// Makes `page` the context page of a new guest, under the first id that is free; guests of the previous kernel
    /// that nobody has retrieved have theirs. EBUSY: none is free.
    Result<u16> create_context(Pfn page);
    void reserve_asid(u16 asid) { asids_.push_back(asid); }
    void free_asid(u16 asid) { std::erase(asids_, asid); }
    /// On the way into kexec: no guest may run any more. A kernel that keeps nothing shuts SNP down.
    void shutdown(bool keeps_confidential);
    bool any_running() const;
    const std::vector<std::weak_ptr<VmFile>>& vms() const { return vms_; }

private:
    friend class VmFile;
    Kernel& kernel_;
    std::vector<std::weak_ptr<VmFile>> vms_;
    std::vector<u16> asids_;
};

}  // namespace kexec_sim
