// pci.*, vfio.*, iommufd.*, nic.*, p2p.*: devices, as agents and the bench drive them and look at them.
#include <fmt/format.h>

#include "machine/device/dma_engine.hpp"
#include "sim/nic_driver.hpp"
#include "sim/steps.hpp"

namespace kexec_sim::sim {
namespace {

StepResult differs(std::string_view what, std::string_view found, std::string_view wanted) {
    return StepResult::mismatch(fmt::format("{} is {}, expected {}", what, found, wanted));
}
std::string number(u64 value) { return fmt::format("{}", value); }

PciFunction& function_of(KernelInstance& instance, const Step& step, std::string_view field = "device") {
    PciFunction* function = instance.machine.pci.find(step.get_name(field));
    INVARIANT(function);  // names were checked while reading the file
    return *function;
}

/// The kernel's idea of a device of the machine; ENODEV: it has not found it, or has lost it.
Result<PciDevice*> device_of(KernelInstance& instance, std::string_view name) {
    PciDevice* device = instance.kernel.pci.find_by_name(name);
    if (!device) return fail(Errno::enodev);
    return device;
}

// --- PCI ---------------------------------------------------------------------------------------------------------

StepResult pci_expect(KernelInstance& instance, const Step& step) {
    const PciFunction& function = function_of(instance, step);
    const PciDevice* device = instance.kernel.pci.find_by_name(function.name());
    if (const auto bus = step.find_u64("bus")) {
        const u64 found = function.parent ? function.parent->secondary_bus() : 0;
        if (found != *bus) return differs("its bus", number(found), number(*bus));
    }
    if (step.has("bars")) {
        const bool kept = function.bars_as_placed();
        if (kept != (step.get_text("bars") == "kept"))
            return differs("its BARs", kept ? "kept" : "moved", step.get_text("bars"));
    }
    if (step.has("bus_master") && function.bus_master() != step.get_bool("bus_master"))
        return differs("bus mastering", function.bus_master() ? "on" : "off", function.bus_master() ? "off" : "on");
    if (const auto resets = step.find_u64("resets"); resets && function.resets != *resets)
        return differs("the number of resets", number(function.resets), number(*resets));
    if (step.has("driver")) {
        const std::string found = device && device->driver ? std::string(device->driver->name()) : "none";
        if (found != step.get_text("driver")) return differs("its driver", found, step.get_text("driver"));
    }
    if (const auto requester = step.find_u64("requester")) {
        const PciAddress wanted{static_cast<u32>(*requester >> 16), Bdf(*requester & 0xffff)};
        const PciAddress found{function.segment, function.requester_id()};
        if (found != wanted) return differs("its requester id", found.text(), wanted.text());
    }
    return {};
}

StepResult pci_access(KernelInstance& instance, const Step& step) {
    const auto device = device_of(instance, step.get_name("device"));
    if (!device) return device.error();
    const u16 offset = static_cast<u16>(step.get_u64("offset"));
    const unsigned bytes = static_cast<unsigned>(step.find("bytes")->number);
    const u32 value = static_cast<u32>(step.get_u64("value"));
    if (offset % bytes) return Errno::einval;
    if (step.id == StepId::pci_write) {
        instance.kernel.pci.write(**device, offset, bytes, value);
        return {};
    }
    const u32 found = instance.kernel.pci.read(**device, offset, bytes);
    if (found == value) return {};
    return differs("the register", fmt::format("{:#x}", found), fmt::format("{:#x}", value));
}

StepResult pci_step(KernelInstance& instance, const Step& step) {
    if (step.id == StepId::pci_expect) return pci_expect(instance, step);
    if (step.id == StepId::pci_read || step.id == StepId::pci_write) return pci_access(instance, step);
    if (step.id == StepId::pci_swap) {
        const MachineEntry entry;
        instance.machine.pci.swap_identity(function_of(instance, step), static_cast<u16>(step.get_u64("vendor")),
                                           static_cast<u16>(step.get_u64("id")));
        return {};
    }
    const auto device = device_of(instance, step.get_name("device"));
    if (!device) return device.error();
    instance.kernel.pci.remove(**device);
    return {};
}

// --- VFIO and iommufd --------------------------------------------------------------------------------------------

template <typename T> Result<std::shared_ptr<T>> file_of(KernelInstance& instance, std::string_view name) {
    const FileRef file = TRY(instance.agent()->get(instance.fd(name)));
    auto wanted = std::dynamic_pointer_cast<T>(file);
    if (!wanted) return fail(Errno::einval);
    return wanted;
}

Result<> bind_descriptor(KernelInstance& instance, FileRef file, std::string_view name) {
    const i32 fd = TRY(instance.agent()->install(std::move(file), true));
    instance.bind_fd(name, fd);
    return {};
}

Result<> vfio_open(KernelInstance& instance, const Step& step) {
    PciDevice* device = TRY(device_of(instance, step.get_name("device")));
    const auto file = TRY(instance.kernel.vfio.open(*device));
    return bind_descriptor(instance, file, step.get_name("as"));
}

Result<> iommufd_map(KernelInstance& instance, const Step& step) {
    const auto domain = TRY(file_of<IommufdFile>(instance, step.get_name("domain")));
    const std::string& access = step.get_text("access");
    u64 prot = 0;
    if (access.contains('r')) prot |= vtd::PTE_READ;
    if (access.contains('w')) prot |= vtd::PTE_WRITE;
    const u64 iova = step.get_u64("iova"), bytes = step.get_u64("size");
    if (!step.has("fd")) return domain->map_anonymous(iova, bytes, prot);
    const auto memory = TRY(file_of<ShmemFile>(instance, step.get_name("fd")));
    return domain->map(iova, memory, step.get_u64("offset"), bytes, prot);
}

Result<> iommufd_attach(KernelInstance& instance, const Step& step) {
    const auto domain = TRY(file_of<IommufdFile>(instance, step.get_name("domain")));
    return domain->attach(TRY(file_of<VfioFile>(instance, step.get_name("device"))));
}

StepResult close_step(KernelInstance& instance, std::string_view name) {
    const i32 fd = instance.fd(name);
    instance.forget_fd(name);
    return instance.agent()->close(fd);
}

StepResult vfio_step(KernelInstance& instance, const Step& step) {
    switch (step.id) {
    case StepId::vfio_open: return vfio_open(instance, step);
    case StepId::vfio_close: return close_step(instance, step.get_name("device"));
    case StepId::iommufd_create:
        return bind_descriptor(instance, open_iommufd(instance.kernel, step.get_name("as")), step.get_name("as"));
    case StepId::iommufd_map: return iommufd_map(instance, step);
    case StepId::iommufd_unmap: {
        const auto domain = file_of<IommufdFile>(instance, step.get_name("domain"));
        if (!domain) return domain.error();
        return (*domain)->unmap(step.get_u64("iova"), step.get_u64("size"));
    }
    case StepId::iommufd_attach: return iommufd_attach(instance, step);
    default: return close_step(instance, step.get_name("fd"));
    }
}

// --- DMA ---------------------------------------------------------------------------------------------------------

Result<std::shared_ptr<VfioFile>> open_file(KernelInstance& instance, std::string_view device_name) {
    PciDevice* device = TRY(device_of(instance, device_name));
    auto file = instance.kernel.vfio.file_of(*device);
    if (!file) return fail(Errno::ebadf);
    for (const i32 fd : instance.agent()->open_fds())
        if (const auto held = instance.agent()->get(fd); held && *held == file) return file;
    return fail(Errno::ebadf);  // somebody else's
}

StepResult with_reason(StepResult result, const std::string& why) {
    result.detail = why;
    return result;
}

StepResult nic_start(KernelInstance& instance, const Step& step) {
    const auto file = open_file(instance, step.get_name("device"));
    if (!file) return file.error();
    NicStart start;
    start.interval_ns = static_cast<u32>(step.get_u64("interval"));
    start.circular = !step.has("ring");
    if (const auto ring = step.find_u64("ring")) start.entries = static_cast<u32>(*ring);
    std::string why;
    const BufferField& buffer = step.get_buffer("buffer");
    start.offset = buffer.offset;
    start.length = buffer.length;
    if (buffer.of_vm) {
        const auto vm = instance.vms.find(step.get_name("buffer"));
        if (vm == instance.vms.end()) return Errno::enoent;
        return with_reason(start_nic_in_guest(instance.kernel, **file, *vm->second, start, why), why);
    }
    const auto memory = file_of<ShmemFile>(instance, step.get_name("buffer"));
    if (!memory) return memory.error();
    return with_reason(start_nic_in_file(**file, *memory, start, why), why);
}

StepResult stop_engine(KernelInstance& instance, std::string_view name, unsigned engine) {
    const auto file = open_file(instance, name);
    if (!file) return file.error();
    return stop_nic(**file, engine);
}

StepResult nic_stop(KernelInstance& instance, const Step& step) {
    if (step.has("device")) return stop_engine(instance, step.get_name("device"), 0);
    StepResult result = Errno::ebadf;  // the agent has none
    for (const PciFunction* function : instance.machine.pci.functions())
        if (function->model == PciModel::dma_nic && open_file(instance, function->name()))
            result = stop_engine(instance, function->name(), 0);
    return result;
}

StepResult nic_expect(const KernelInstance& instance, const Step& step) {
    const DeviceReferee& referee = instance.machine.device_referee;
    DeviceReferee::EngineCounters sum;
    for (const PciFunction* function : instance.machine.pci.functions()) {
        if (step.find("device") && step.get_name("device") != function->name()) continue;
        const auto one = referee.engine(function->name());
        sum.completions += one.completions;
        sum.lost += one.lost;
        sum.repeated += one.repeated;
        sum.dry_ns += one.dry_ns;
    }
    const auto exactly = [&](std::string_view field, u64 found) -> StepResult {
        const auto wanted = step.find_u64(field);
        if (!wanted || *wanted == found) return {};
        return differs(field, number(found), number(*wanted));
    };
    for (const auto& result : {exactly("completions", sum.completions), exactly("gaps", sum.lost),
                               exactly("repeats", sum.repeated), exactly("dry_ns", sum.dry_ns)})
        if (result.text != "ok") return result;
    if (const auto least = step.find_u64("completions_ge"); least && sum.completions < *least)
        return differs("completions", number(sum.completions), fmt::format("at least {}", *least));
    if (const auto most = step.find_u64("completions_le"); most && sum.completions > *most)
        return differs("completions", number(sum.completions), fmt::format("at most {}", *most));
    return {};
}

StepResult p2p_start(KernelInstance& instance, const Step& step) {
    const auto from = open_file(instance, step.get_name("from"));
    if (!from) return from.error();
    const auto to = device_of(instance, step.get_name("to"));
    if (!to) return to.error();
    const u32 interval = static_cast<u32>(step.get_u64("interval"));
    for (const auto& [name, vm] : instance.vms)
        if (vm->device_number((*from)->device())) return start_p2p(**from, *vm, **to, interval);
    return Errno::einval;  // its memory is nobody's
}

StepResult dma_step(KernelInstance& instance, const Step& step) {
    switch (step.id) {
    case StepId::nic_start: return nic_start(instance, step);
    case StepId::nic_stop: return nic_stop(instance, step);
    case StepId::nic_expect: return nic_expect(instance, step);
    case StepId::p2p_start: return p2p_start(instance, step);
    default: return stop_engine(instance, step.get_name("from"), 1);
    }
}

}  // namespace

StepResult run_device_step(KernelInstance& instance, const Step& step) {
    if (step.id <= StepId::pci_remove) return pci_step(instance, step);
    if (step.id <= StepId::iommufd_close) return vfio_step(instance, step);
    return dma_step(instance, step);
}

}  // namespace kexec_sim::sim
