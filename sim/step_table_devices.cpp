#include "machine/device/dma_engine.hpp"
#include "machine/guest_cpu.hpp"
#include "sim/step_table.hpp"

// One row a step, laid out as a table.
// clang-format off
namespace kexec_sim::sim {
namespace {

using namespace fields;
using Type = FieldType;
using Form = StepForm;

constexpr std::string_view bar_states[] = {"kept", "moved"};
constexpr std::string_view widths[] = {"1", "2", "4"};
constexpr std::string_view accesses[] = {"r", "w", "rw"};
constexpr std::string_view orders[] = {"default", "vfio-first"};
constexpr u64 u16_max = 0xffff, u32_max = 0xffff'ffff;
constexpr u64 config_offset_max = 4095;
constexpr u64 vcpus_max = guest_vcpus_max;

FieldSpec device() { return refers("device", NameKind::device, "a device of the machine"); }
FieldSpec of_model(FieldSpec field, std::string_view model) {
    field.model = model;
    return field;
}
FieldSpec nic() { return of_model(refers("device", NameKind::device, "a dma-nic of the machine"), "dma-nic"); }
FieldSpec any_nic(std::string_view description) {
    FieldSpec field = nic();
    field.required = false;
    field.description = description;
    return field;
}
FieldSpec vfio_file() { return refers("device", NameKind::descriptor, "the descriptor of `vfio.open`"); }
FieldSpec domain() { return refers("domain", NameKind::descriptor, "the descriptor of `iommufd.create`"); }
FieldSpec interval() {
    return at_most(at_least(required("interval", Type::duration, "from one completion to the next"), 1), u32_max);
}

void add_pci(std::vector<StepSpec>& steps) {
    constexpr std::string_view group = "PCI";
    steps.push_back({.id = StepId::pci_expect, .name = "pci.expect", .group = group, .form = Form::map,
        .description = "Compares the registers of a device, as they stand, with what is given.",
        .fields = {device(),
                   at_most(optional("bus", Type::number, "the number of the bus that it is on"), 255),
                   one_of(optional("bars", Type::choice, "whether its BARs hold the addresses that the firmware gave them at power-on"), bar_states),
                   optional("bus_master", Type::boolean, "whether it may send requests (bit 2 of its command register)"),
                   at_most(optional("resets", Type::number, "times that it was reset since power-on"), u32_max),
                   optional("driver", Type::string, "the driver that is bound to it; `none`"),
                   optional("requester", Type::pci_address, "the bus, device and function that its requests carry")}});
    const auto access = [&](StepId id, std::string_view name, std::string_view description, std::string_view value) {
        steps.push_back({.id = id, .name = name, .group = group, .form = Form::map, .description = description,
            .fields = {device(),
                       at_most(required("offset", Type::number, "byte of its configuration space"), config_offset_max),
                       one_of(optional("bytes", Type::choice, "how wide the access is", "4"), widths),
                       at_most(required("value", Type::number, value), u32_max)}});
    };
    access(StepId::pci_read, "pci.read", "Reads configuration space, as setpci does, and compares.", "what must be there");
    access(StepId::pci_write, "pci.write", "Writes configuration space, as setpci does, past every driver.", "what is written");
    steps.push_back({.id = StepId::pci_swap, .name = "pci.swap", .group = group, .form = Form::map,
        .description = "Puts another card into the slot: the registers stay, the identity is another one.",
        .fields = {device(), at_most(required("vendor", Type::number, "its vendor id"), u16_max),
                   at_most(required("id", Type::number, "its device id"), u16_max)}});
    steps.push_back({.id = StepId::pci_remove, .name = "pci.remove", .group = group, .form = Form::map,
        .description = "Hot removal: the running kernel takes the device out of its tree.", .fields = {device()}});
}

void add_vfio(std::vector<StepSpec>& steps) {
    constexpr std::string_view group = "VFIO and IOMMU";
    steps.push_back({.id = StepId::vfio_open, .name = "vfio.open", .group = group, .form = Form::map,
        .description = "Opens the VFIO file of a device.",
        .fields = {device(), binds("as", NameKind::descriptor, "the name of the descriptor")}});
    steps.push_back({.id = StepId::vfio_close, .name = "vfio.close", .group = group, .form = Form::map,
        .description = "close.", .fields = {vfio_file()}});
    steps.push_back({.id = StepId::iommufd_create, .name = "iommufd.create", .group = group, .form = Form::map,
        .description = "Opens /dev/iommu and makes one domain of the same name in it.",
        .fields = {binds("as", NameKind::descriptor, "the name of the descriptor and of the domain")}});
    FieldSpec file = refers("fd", NameKind::descriptor, "the file; without it, anonymous memory of the agent");
    file.required = false;
    steps.push_back({.id = StepId::iommufd_map, .name = "iommufd.map", .group = group, .form = Form::map,
        .description = "Maps memory of a file in a domain.",
        .fields = {domain(), file,
                   optional("offset", Type::size, "first byte of the file", "0"),
                   required("iova", Type::number, "the first I/O address"), required("size", Type::size, "bytes"),
                   one_of(optional("access", Type::choice, "what devices may do", "rw"), accesses)}});
    steps.push_back({.id = StepId::iommufd_unmap, .name = "iommufd.unmap", .group = group, .form = Form::map,
        .description = "Takes a mapping back.",
        .fields = {domain(), required("iova", Type::number, "the first I/O address"), required("size", Type::size, "bytes")}});
    steps.push_back({.id = StepId::iommufd_attach, .name = "iommufd.attach", .group = group, .form = Form::map,
        .description = "Attaches a device to a domain; one that is attached already changes over.",
        .fields = {domain(), vfio_file()}});
    steps.push_back({.id = StepId::iommufd_close, .name = "iommufd.close", .group = group, .form = Form::map,
        .description = "close.", .fields = {refers("fd", NameKind::descriptor, "the descriptor of `iommufd.create`")}});
}

void add_dma(std::vector<StepSpec>& steps) {
    constexpr std::string_view group = "DMA";
    steps.push_back({.id = StepId::nic_start, .name = "nic.start", .group = group, .form = Form::map,
        .description = "Writes a ring of descriptors for a buffer and starts the DMA engine, which completes one at each interval.",
        .fields = {nic(), required("buffer", Type::buffer, "where it writes: memory of a virtual machine, or a file"), interval(),
                   at_most(at_least(optional("ring", Type::number, "entries of a ring that a driver must refill; without it the engine uses its descriptors again and again"), 1), nic::ring_entries_max)}});
    steps.push_back({.id = StepId::nic_stop, .name = "nic.stop", .group = group, .form = Form::map,
        .description = "Stops the DMA engine.",
        .fields = {any_nic("a dma-nic of the machine; by default all that the agent has")}});
    const FieldSpec one = any_nic("a dma-nic of the machine; by default the sum of all");
    steps.push_back({.id = StepId::nic_expect, .name = "nic.expect", .group = group, .form = Form::map,
        .description = "Compares what DMA engines have done since power-on.",
        .fields = {one,
                   optional("completions", Type::number, "descriptors completed, exactly"),
                   not_with(optional("completions_ge", Type::number, "at least"), "completions"),
                   not_with(optional("completions_le", Type::number, "at most"), "completions"),
                   optional("gaps", Type::number, "descriptors lost"),
                   optional("repeats", Type::number, "descriptors completed twice"),
                   optional("dry_ns", Type::number, "virtual ns with an empty ring")}});
    steps.push_back({.id = StepId::p2p_start, .name = "p2p.start", .group = group, .form = Form::map,
        .description = "As `nic.start`, into the memory of another device.",
        .fields = {of_model(refers("from", NameKind::device, "the dma-nic that writes"), "dma-nic"),
                   refers("to", NameKind::device, "the device that it writes to"), interval()}});
    steps.push_back({.id = StepId::p2p_stop, .name = "p2p.stop", .group = group, .form = Form::map,
        .description = "Stops the DMA engine.",
        .fields = {of_model(refers("from", NameKind::device, "the dma-nic that writes"), "dma-nic")}});
}

StepSpec on_vm(StepId id, std::string_view name, std::string_view description) {
    return {.id = id, .name = name, .group = "Virtual machines", .form = Form::map, .description = description,
        .fields = {refers("vm", NameKind::vm, "the virtual machine")}};
}

FieldSpec tokens() {
    return required("tokens", Type::number, "T is the token of guest memory, T+1 of the VMM's state file, T+2 of the iommufd, T+3 and so on of devices in order of attach, the next of the VM itself");
}

void add_vms(std::vector<StepSpec>& steps) {
    constexpr std::string_view group = "Virtual machines";
    steps.push_back({.id = StepId::vm_create, .name = "vm.create", .group = group, .form = Form::map,
        .description = "Starts a VMM in the agent: guest memory in a memfd, a KVM machine, its vCPUs.",
        .fields = {binds("name", NameKind::vm, "its name"), at_least(required("memory", Type::size, "bytes of guest memory"), 1),
                   at_most(at_least(optional("vcpus", Type::number, "virtual CPUs", "1"), 1), vcpus_max),
                   optional("snp", Type::boolean, "confidential (SEV-SNP)", "false")}});
    StepSpec attach = on_vm(StepId::vm_attach, "vm.attach", "Gives a device to a virtual machine: its memory is mapped in the VMM's domain, the device attached to it.");
    attach.fields.push_back(vfio_file());
    steps.push_back(std::move(attach));
    FieldSpec one = refers("vm", NameKind::vm, "the virtual machine; by default all that are not paused");
    one.required = false;
    steps.push_back({.id = StepId::vm_run, .name = "vm.run", .group = group, .form = Form::map,
        .description = "Lets guests run, and virtual time pass. They run in `advance` too, but never between steps.",
        .fields = {one, required("for", Type::duration, "how long")}, .short_field = "for"});
    steps.push_back(on_vm(StepId::vm_pause, "vm.pause", "Pauses the vCPUs."));
    steps.push_back(on_vm(StepId::vm_resume, "vm.resume", "Lets paused vCPUs run again."));
    steps.push_back(on_vm(StepId::vm_verify, "vm.verify", "Compares guest memory with what the guest stored there, and says what else was found wrong with it."));
    StepSpec preserve = on_vm(StepId::vm_preserve, "vm.preserve", "What a VMM agent does before `luo.prepare`: preserves its files one by one. Its last duties follow in `kexec`.");
    preserve.fields.push_back(tokens());
    preserve.fields.push_back(one_of(optional("order", Type::choice, "in which order it preserves them; `vfio-first` needs late binding", "default"), orders));
    preserve.opens_luo = true;
    steps.push_back(std::move(preserve));
    steps.push_back({.id = StepId::vm_restore, .name = "vm.restore", .group = group, .form = Form::map,
        .description = "What a VMM agent does after a kexec: restores its files, makes the machine anew over them, and lets it run.",
        .fields = {binds("vm", NameKind::vm, "its name, as it was"), tokens(),
                   optional("spurious", Type::boolean, "inject one spurious interrupt a vector, for those that were lost", "true"),
                   optional("hotswap", Type::boolean, "replace the restored domain by one of its own", "true")},
        .opens_luo = true});
    steps.push_back(on_vm(StepId::vm_close, "vm.close", "Ends the VMM: the kernel closes its files."));
}

}  // namespace

void add_device_steps(std::vector<StepSpec>& steps) {
    add_pci(steps);
    add_vfio(steps);
    add_dma(steps);
    add_vms(steps);
}

}  // namespace kexec_sim::sim
// clang-format on
