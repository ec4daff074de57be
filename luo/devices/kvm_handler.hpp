// Virtual machines over a live update: the file handler "kvm-v1".
//
// What a VM is made of travels elsewhere: its memory as a memfd, its registers in a memfd of the VMM. Its own file
// carries its type, and of a confidential one what only the kernel knows: the firmware's context page, which must keep
// its address, and which frames are private.
//
// Prepare: the context page is preserved; a record. Retrieve: a VM without memory or vCPUs; the VMM gives it both. A
// confidential VM that nobody retrieves is taken apart at finish: its frames are reclaimed, its context destroyed.
//
// Unhappy paths: 1. E2BIG: private memory in more pieces than a record holds. EBUSY: prepared already, under another
// token. 2. ENOMEM, KHO's errno. 3. Retrieve: ENOENT: record or context page cannot be restored, or the firmware does
// not know it; the private memory is the host's again, so that whoever has the file of guest memory can close it.
// EINVAL: a type that is none. 4. A run that is not this guest's, from one end to the other and at its guest address:
// left to whoever has it. Where nobody knows the context, not even whose it was: the frames of any guest but those that
// have a VM here.
// Source: the record's first field is that of "liveupdate: kvm: Guest_memfd preservation"; the rest is ours, there is no
// series for SEV-SNP.
#pragma once

#include "luo/abi/devices.hpp"
#include "luo/devices/record.hpp"

namespace kexec_sim::luo {

class KvmHandler final : public FileHandler {
public:
    KvmHandler(Kernel& kernel, kho::Kho& kho, Orchestrator& orchestrator);

    bool can_preserve(File& file) override;
    Result<> prepare(File& file, u64& data) override;
    void cancel(File& file, u64 data) override;
    Result<FileRef> retrieve(u64 data) override;
    void finish(File* file, u64 data, bool reclaimed) override;
    bool provides(LuoCallback callback) const override { return callback != LuoCallback::freeze; }

private:
    Result<> adopt_confidential(VmFile& vm, const abi::KvmSer& ser, PhysAddr record);
    void discard_confidential(const abi::KvmSer& ser, PhysAddr record);
    std::vector<PfnRange> incoming_runs(const abi::KvmSer& ser, PhysAddr record) const;
    bool has_vm(u16 asid) const;
    void reclaim_memory(const abi::KvmSer& ser, PhysAddr record);
    void give_back_context(PhysAddr context);
    Kernel& kernel_;
    RecordPages pages_;
};

}  // namespace kexec_sim::luo
