#include "kernel-model/kvm/kvm.hpp"

#include <algorithm>

#include "kernel-model/kernel.hpp"
#include "kernel-model/vfio/iommufd.hpp"
#include "machine/device/dma_nic.hpp"
#include "machine/reached.hpp"

namespace kexec_sim {
namespace {

constexpr u16 asid_max = 99;  // SEV-SNP ASIDs that the processor has

std::unexpected<Errno> is_running() {
    REACHED("kvm.registers.running");
    return fail(Errno::ebusy);
}

}  // namespace

VmFile::VmFile(Kernel& kernel, u64 id, std::string label) : File(id), kernel_(kernel), label_(std::move(label)) {}

Result<> VmFile::set_memory(std::shared_ptr<ShmemFile> memory) {
    if (memory_ || memory->size() == 0 || memory->size() % page_bytes) {
        REACHED("kvm.memory.invalid");
        return fail(Errno::einval);
    }
    // Every page is there from the start, so that no guest waits for memory.
    if (const auto pinned = memory->pin_all(); !pinned) {
        REACHED("kvm.memory.none");
        return pinned;
    }
    if (!context_) memory->unpin_all();  // private pages may not move
    memory_ = std::move(memory);
    return {};
}

Result<> VmFile::create_vcpus(unsigned count) {
    if (count == 0 || count > Kvm::vcpus_max || !registers_.empty()) {
        REACHED("kvm.vcpus.invalid");
        return fail(Errno::einval);
    }
    registers_.resize(count);
    return {};
}

// --- confidential guests -----------------------------------------------------------------------------------------

Result<> VmFile::launch_confidential() {
    if (!memory_ || context_) return fail(Errno::einval);
    SnpFirmware& snp = kernel_.machine.snp;
    snp.enable();
    const Folio context = TRY(kernel_.pages.alloc_folio({.order = Order{0}, .site = "kvm.snp_context"}));
    const auto asid = kernel_.kvm.create_context(context.pfn);
    if (!asid) {
        kernel_.pages.free_folio(context);
        return fail(asid.error());
    }
    if (const auto pinned = memory_->pin_all(); !pinned) {
        static_cast<void>(snp.destroy_context(context.pfn));
        kernel_.kvm.free_asid(*asid);
        kernel_.pages.free_folio(context);
        return pinned;
    }
    private_runs_ = memory_->frames(0, private_bytes());
    u64 gfn = 0;
    for (const PfnRange run : private_runs_) {
        const auto assigned = snp.assign(run, *asid, gfn);
        INVARIANT(assigned.has_value());
        gfn += run.pages();
    }
    context_ = context;
    asid_ = *asid;
    kernel_.machine.device_referee.snp_context(label_, context.pfn);
    return {};
}

Result<> VmFile::adopt_context(Folio context, std::vector<PfnRange> private_runs) {
    const u16 asid = TRY(kernel_.machine.snp.context_asid(context.pfn));
    kernel_.kvm.reserve_asid(asid);
    context_ = context;
    asid_ = asid;
    private_runs_ = std::move(private_runs);
    return {};
}

// --- registers ---------------------------------------------------------------------------------------------------

Result<GuestRegisters> VmFile::get_registers(unsigned vcpu) const {
    if (vcpu >= registers_.size()) return fail(Errno::einval);
    if (running_) return is_running();
    GuestRegisters registers;
    TRY(under_fault(kernel_.machine.faults, FaultPoint::kvm_vcpu_get, label_, [&]() -> Result<> {
        registers = registers_[vcpu];
        return {};
    }));
    return registers;
}

Result<> VmFile::set_registers(unsigned vcpu, const GuestRegisters& registers) {
    if (vcpu >= registers_.size()) return fail(Errno::einval);
    if (running_) return is_running();
    return under_fault(kernel_.machine.faults, FaultPoint::kvm_vcpu_set, label_, [&]() -> Result<> {
        registers_[vcpu] = registers;
        return {};
    });
}

// --- devices -----------------------------------------------------------------------------------------------------

Result<unsigned> VmFile::wire(const std::shared_ptr<VfioFile>& device) {
    if (devices_.size() >= guest_devices_max) return fail(Errno::enospc);
    const unsigned number = static_cast<unsigned>(devices_.size());
    devices_.push_back(device);
    // Before anything that is pending arrives, the instruments know whose it is.
    kernel_.machine.device_referee.guest_interrupt_wired(*device->device().hardware, label_, number);
    if (const auto wired = rewire(number); !wired) {
        devices_.pop_back();
        return fail(wired.error());
    }
    return number;
}

Result<> VmFile::rewire(unsigned number) {
    const std::weak_ptr<VmFile> self = std::static_pointer_cast<VmFile>(kernel_.vfs.find_file(id()));
    return devices_[number]->enable_interrupts(1, [self, number](u16) {
        if (const auto vm = self.lock()) vm->inject(number);
    });
}

void VmFile::set_label(std::string label) {
    label_ = std::move(label);
    if (context_) kernel_.machine.device_referee.snp_context(label_, context_->pfn);
}

void VmFile::inject(unsigned device) {
    if (!registers_.empty()) registers_[0].pending_irq |= u64{1} << device;
}

u64 VmFile::device_completed(unsigned device) {
    if (device >= devices_.size()) return ~u64{0};
    return devices_[device]->read(nic::registers_bar, nic::COMPLETED, 8).value_or(~u64{0});
}

void VmFile::device_tail(unsigned device, u32 tail) {
    if (device < devices_.size()) static_cast<void>(devices_[device]->write(nic::registers_bar, nic::TAIL, 4, tail));
}

// --- running -----------------------------------------------------------------------------------------------------

Result<PhysAddr> VmFile::translate(u64 gpa) {
    if (!memory_ || gpa >= memory_->size()) return fail(Errno::efault);
    const u64 index = gpa >> page_shift;
    const auto extents = memory_->extents();
    auto extent = std::upper_bound(extents.begin(), extents.end(), index,
                                   [](u64 wanted, const FileExtent& one) { return wanted < one.index; });
    if (extent == extents.begin()) return fail(Errno::efault);
    --extent;
    if (index >= extent->index + extent->pages) return fail(Errno::efault);
    return (extent->pfn + (index - extent->index)).phys() + gpa % page_bytes;
}

void VmFile::run(u64 steps) {
    for (unsigned vcpu = 0; vcpu < registers_.size(); ++vcpu) {
        if (!memory_ || broken_) return;
        const auto ran = kernel_.machine.guest_cpu.run(label_, vcpu, registers_[vcpu], *this, memory_->size(), steps);
        if (ran) continue;
        REACHED("kvm.guest.broken");
        broken_ = true;
        kernel_.log.err("kvm: VM {}: the guest cannot go on: {}", label_, errno_name(ran.error()));
    }
}

void VmFile::release() {
    if (context_ && !preserved) {
        SnpFirmware& snp = kernel_.machine.snp;
        // Private memory becomes the host's again, or whoever is given it next dies of an RMP fault.
        for (const PfnRange run : private_runs_) static_cast<void>(snp.reclaim(run));
        // One that was restored may never have been given its memory.
        if (memory_) memory_->unpin_all();
        static_cast<void>(snp.destroy_context(context_->pfn));
        kernel_.pages.free_folio(*context_);
        kernel_.kvm.free_asid(asid_);
    }
    context_.reset();
    private_runs_.clear();
    running_ = false;
    devices_.clear();
    memory_.reset();
}

std::shared_ptr<VmFile> Kvm::create_vm(const std::string& label) {
    auto vm = kernel_.vfs.make_file<VmFile>(kernel_, kernel_.vfs.next_file_id(), label);
    std::erase_if(vms_, [](const auto& one) { return one.expired(); });
    vms_.push_back(vm);
    return vm;
}

Result<u16> Kvm::create_context(Pfn page) {
    for (u16 asid = 1; asid <= asid_max; ++asid) {
        if (std::ranges::find(asids_, asid) != asids_.end()) continue;
        const auto created = kernel_.machine.snp.create_context(page, asid);
        if (!created && created.error() == Errno::ebusy) {
            REACHED("kvm.asid.of_another_kernel");
            continue;
        }
        if (!created) return fail(created.error());
        asids_.push_back(asid);
        return asid;
    }
    REACHED("kvm.asid.none");
    return fail(Errno::ebusy);
}

bool Kvm::any_running() const {
    return std::ranges::any_of(vms_, [](const auto& one) {
        const auto vm = one.lock();
        return vm && vm->running();
    });
}

void Kvm::run(u64 ns) {
    kernel_.irq.handle_pending();
    while (ns) {
        const u64 slice = any_running() ? std::min(ns, slice_ns) : ns;
        kernel_.machine.clock.advance(slice);
        kernel_.irq.handle_pending();
        for (const auto& one : vms_)
            if (const auto vm = one.lock(); vm && vm->running()) vm->run(slice / guest_step_ns);
        ns -= slice;
    }
}

void Kvm::shutdown(bool keeps_confidential) {
    for (const auto& one : vms_)
        if (const auto vm = one.lock()) vm->pause();
    if (!keeps_confidential) kernel_.machine.snp.shutdown();
}

}  // namespace kexec_sim
