#include "luo/devices/kvm_handler.hpp"

#include <algorithm>

#include "kernel-model/abi_write.hpp"
#include "kernel-model/handed_over.hpp"
#include "machine/reached.hpp"

namespace kexec_sim::luo {
namespace {

VmFile& vm_file(File& file) { return dynamic_cast<VmFile&>(file); }

}  // namespace

KvmHandler::KvmHandler(Kernel& kernel, kho::Kho& kho, Orchestrator& orchestrator)
    : FileHandler(abi::KVM_COMPATIBLE),
      kernel_(kernel),
      pages_(kernel, kho, orchestrator, abi::KVM_COMPATIBLE, FrameClass::handler) {}

bool KvmHandler::can_preserve(File& file) { return dynamic_cast<VmFile*>(&file) != nullptr; }

// --- the old kernel ----------------------------------------------------------------------------------------------

Result<> KvmHandler::prepare(File& file, u64& data) {
    VmFile& vm = vm_file(file);
    if (vm.preserved) {
        REACHED("luo.kvm.second_token");
        return fail(Errno::ebusy);
    }
    std::vector<abi::KvmRun> runs;
    for (const PfnRange& run : vm.private_runs()) runs.push_back({run.begin.raw, run.pages()});
    if (runs.size() > abi::kvm_runs_max) {
        REACHED("luo.kvm.too_many_runs");
        return fail(Errno::e2big);
    }
    const auto context = vm.snp_context();
    const PhysAddr record = TRY(pages_.allocate("kvm.ser"));
    if (context)
        if (const auto preserved = pages_.preserve(context->pfn); !preserved) {
            pages_.release(record);
            return preserved;
        }
    PhysicalMemory& ram = kernel_.machine.ram;
    abi_write(ram, record,
              abi::KvmSer{context ? abi::KVM_TYPE_SNP : abi::KVM_TYPE_DEFAULT, context ? context->pfn.phys().raw : 0,
                          runs.size()},
              "kvm.ser");
    if (!runs.empty())
        abi_write_bytes(ram, record + sizeof(abi::KvmSer), std::as_bytes(std::span(runs)), "kvm.ser.runs");
    vm.preserved = true;
    data = record.raw;
    return {};
}

void KvmHandler::cancel(File& file, u64 data) {
    VmFile& vm = vm_file(file);
    if (data == 0 || !vm.preserved) return;
    vm.preserved = false;
    if (const auto context = vm.snp_context()) pages_.unpreserve(context->pfn);
    pages_.release(PhysAddr{data});
}

// --- the new kernel ----------------------------------------------------------------------------------------------

Result<FileRef> KvmHandler::retrieve(u64 data) {
    const PhysAddr record{data};
    if (!pages_.restore(record)) {
        REACHED("luo.kvm.record_lost");
        return fail(Errno::enoent);
    }
    const auto ser = read_handed_over<abi::KvmSer>(kernel_.machine, record, compatible);
    if (ser.type != abi::KVM_TYPE_DEFAULT && ser.type != abi::KVM_TYPE_SNP) {
        REACHED("luo.kvm.type_unknown");
        pages_.free(record);
        return fail(Errno::einval);
    }
    auto vm = kernel_.kvm.create_vm({});
    Result<> adopted;
    if (ser.type == abi::KVM_TYPE_SNP) adopted = adopt_confidential(*vm, ser, record);
    pages_.free(record);
    if (!adopted) return fail(adopted.error());
    return FileRef(std::move(vm));
}

Result<> KvmHandler::adopt_confidential(VmFile& vm, const abi::KvmSer& ser, PhysAddr record) {
    const Folio context{PhysAddr{ser.snp_context}.pfn(), Order{0}};
    if (const auto restored = pages_.restore(context.pfn.phys(), FrameClass::kernel); !restored) {
        REACHED("luo.kvm.context_lost");
        reclaim_memory(ser, record);
        return restored;
    }
    const auto adopted = vm.adopt_context(context, incoming_runs(ser, record));
    if (!adopted) {
        REACHED("luo.kvm.context_unknown");
        reclaim_memory(ser, record);
        give_back_context(context.pfn.phys());
    }
    return adopted;
}

void KvmHandler::finish(File* file, u64 data, bool reclaimed) {
    if (file || reclaimed) return;
    const PhysAddr record{data};
    if (!pages_.restore(record)) return;
    const auto ser = read_handed_over<abi::KvmSer>(kernel_.machine, record, compatible);
    if (ser.type == abi::KVM_TYPE_SNP) discard_confidential(ser, record);
    pages_.free(record);
}

void KvmHandler::discard_confidential(const abi::KvmSer& ser, PhysAddr record) {
    reclaim_memory(ser, record);
    const PhysAddr context{ser.snp_context};
    if (pages_.restore(context)) give_back_context(context);
}

/// The runs of the record, without those that are somebody else's.
std::vector<PfnRange> KvmHandler::incoming_runs(const abi::KvmSer& ser, PhysAddr record) const {
    const Machine& machine = kernel_.machine;
    const auto asid = machine.snp.context_asid(PhysAddr{ser.snp_context}.pfn());
    const u64 frames = machine.ram.bytes_max() >> page_shift;
    std::vector<PfnRange> runs;
    u64 gfn = 0;
    for (u64 index = 0; index < std::min<u64>(ser.nr_runs, abi::kvm_runs_max); ++index) {
        const auto run = read_handed_over<abi::KvmRun>(
            kernel_.machine, record + sizeof(abi::KvmSer) + index * sizeof(abi::KvmRun), compatible);
        if (run.pages == 0 || run.pfn > frames || run.pages > frames - run.pfn) continue;
        const PfnRange memory = pfn_range(Pfn{run.pfn}, run.pages);
        const auto owner = machine.snp.guest_of(memory, gfn);
        gfn += run.pages;
        if (owner && (asid ? *owner == *asid : !has_vm(*owner)))
            runs.push_back(memory);
        else
            REACHED("luo.kvm.run_of_another");
    }
    return runs;
}

bool KvmHandler::has_vm(u16 asid) const {
    return std::ranges::any_of(kernel_.kvm.vms(), [asid](const auto& one) {
        const auto vm = one.lock();
        return vm && vm->asid() == asid;
    });
}

/// Private memory becomes the host's again, or whoever is given it next dies of an RMP fault.
void KvmHandler::reclaim_memory(const abi::KvmSer& ser, PhysAddr record) {
    for (const PfnRange& run : incoming_runs(ser, record)) static_cast<void>(kernel_.machine.snp.reclaim(run));
}

void KvmHandler::give_back_context(PhysAddr context) {
    static_cast<void>(kernel_.machine.snp.destroy_context(context.pfn()));
    pages_.free(context);
}

}  // namespace kexec_sim::luo
