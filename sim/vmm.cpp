#include "sim/vmm.hpp"

#include <fmt/format.h>

namespace kexec_sim::sim {
namespace {

constexpr u64 state_magic = 0x6b73'766d'7374'6174;  // "tatsmvsk" as bytes
constexpr u64 mapping_words = 6;
constexpr u64 register_words = sizeof(GuestRegisters) / sizeof(u64);
static_assert(sizeof(GuestRegisters) % sizeof(u64) == 0);
constexpr u64 header_words = 6;
constexpr u64 bars_max = 6;
/// Room for what is mapped later (peers).
constexpr u64 mappings_max = 32;

Result<std::shared_ptr<ShmemFile>> anonymous_file(Kernel& kernel, const std::string& name, u64 bytes) {
    MemfdFlags flags;
    flags.cloexec = true;
    return memfd_create_file(kernel, name, bytes, flags);
}

/// In the order of tokens, which is that of preparation, unless the devices are to come first.
struct FileTokens {
    u64 iommufd, first_device;
};
FileTokens file_tokens(u64 tokens, u64 devices, bool vfio_first) {
    if (vfio_first) return {tokens + 2 + devices, tokens + 2};
    return {tokens + 2, tokens + 3};
}

}  // namespace

// --- create, attach ----------------------------------------------------------------------------------------------

Result<> VirtualMachine::create(const Config& config) {
    // The program that guests run needs some room.
    if (guest_layout::work_pages(config.memory_bytes) == 0 || config.memory_bytes % page_bytes)
        return fail(Errno::einval);
    memory_ = TRY(anonymous_file(kernel_, name_ + ".memory", config.memory_bytes));
    fd_.memory = TRY(install(memory_));
    vm_ = kernel_.kvm.create_vm(name_);
    fd_.vm = TRY(install(vm_));
    TRY(vm_->set_memory(memory_));
    TRY(vm_->create_vcpus(config.vcpus));
    if (config.confidential) TRY(vm_->launch_confidential());
    kernel_.machine.device_referee.guest_created(name_, vm_->id());
    kernel_.machine.device_referee.guest_memory(name_, memory_->id());
    vm_->resume();
    return {};
}

Result<> VirtualMachine::open_iommufd_with_memory() {
    if (iommufd_) return {};
    auto opened = open_iommufd(kernel_, name_);
    const i32 fd = TRY(install(opened));
    const u64 shared = vm_->asid() ? vm_->private_bytes() : 0;
    const auto mapped =
        opened->map(shared, memory_, shared, memory_->size() - shared, vtd::PTE_READ | vtd::PTE_WRITE);
    if (!mapped) {
        static_cast<void>(agent_.close(fd));
        return mapped;
    }
    iommufd_ = std::move(opened);
    fd_.iommufd = fd;
    return {};
}

Result<> VirtualMachine::attach(const std::shared_ptr<VfioFile>& device) {
    if (device_number(device->device()) || preserved()) return fail(Errno::ebusy);
    if (devices_.size() == guest_devices_max) return fail(Errno::enospc);
    TRY(open_iommufd_with_memory());
    const i32 fd = TRY(install(device));
    auto attached = iommufd_->attach(device);
    if (attached) {
        const auto wired = vm_->wire(device);
        if (!wired) attached = fail(wired.error());
    }
    if (!attached) {
        static_cast<void>(agent_.close(fd));
        return attached;
    }
    devices_.push_back(device);
    fd_.devices.push_back(fd);
    return {};
}

Result<> VirtualMachine::map_peer(const PciDevice& peer, unsigned bar) {
    TRY(open_iommufd_with_memory());
    const PciResource& resource = peer.bars[bar];
    if (iommufd_->mappings().contains(resource.address)) return {};
    return iommufd_->map_peer(resource.address, peer, bar, resource.bytes);
}

std::optional<unsigned> VirtualMachine::device_number(const PciDevice& device) const {
    for (unsigned number = 0; number < devices_.size(); ++number)
        if (&devices_[number]->device() == &device) return number;
    return std::nullopt;
}

void VirtualMachine::close() {
    give_up();
    for (const i32 fd : fd_.devices) static_cast<void>(agent_.close(fd));
    devices_.clear();
    for (const i32 fd : {fd_.vm, fd_.iommufd, fd_.state, fd_.memory})
        if (fd >= 0) static_cast<void>(agent_.close(fd));
}

// --- the old kernel ----------------------------------------------------------------------------------------------

Result<> VirtualMachine::make_state_file() {
    if (state_file_) return {};
    const u64 words = header_words + mappings_max * mapping_words + vm_->vcpus() * register_words;
    state_file_ = TRY(anonymous_file(kernel_, name_ + ".state", align_up(words * sizeof(u64), page_bytes)));
    fd_.state = TRY(install(state_file_));
    return {};
}

Result<> VirtualMachine::preserve(luo::LuoClient& client, u64 tokens, PreserveOrder order) {
    TRY(make_state_file());
    const u64 devices = fd_.devices.size();
    vfio_first_ = order.vfio_first;
    const FileTokens file = file_tokens(tokens, devices, vfio_first_);
    std::vector<std::pair<i32, u64>> files{{fd_.memory, tokens}, {fd_.state, tokens + 1}};
    if (fd_.iommufd >= 0) files.emplace_back(fd_.iommufd, file.iommufd);
    for (u64 device = 0; device < devices; ++device)
        files.emplace_back(fd_.devices[device], file.first_device + device);
    files.emplace_back(fd_.vm, tokens + 3 + devices);
    for (std::size_t i = 0; i < files.size(); ++i) {
        const auto preserved = client.fd_preserve(files[i].first, files[i].second);
        if (preserved) continue;
        // All of a guest or nothing of it.
        while (i-- > 0) static_cast<void>(client.fd_unpreserve(files[i].second));
        return preserved;
    }
    tokens_ = tokens;
    return {};
}

Result<> VirtualMachine::write_state() {
    std::vector<u64> words{state_magic, memory_->size(), vm_->vcpus(), devices_.size(), 0, vfio_first_};
    if (iommufd_)
        for (const auto& [iova, mapping] : iommufd_->mappings()) {
            const u64 peer = mapping.peer ? u64{mapping.peer->segment} << 16 | mapping.peer->bdf.raw : 0;
            words.insert(words.end(), {iova, mapping.offset, mapping.bytes, mapping.prot, peer,
                                       mapping.peer ? u64{mapping.bar} + 1 : 0});
            ++words[4];
        }
    if (words[4] > mappings_max) return fail(Errno::e2big);
    for (unsigned vcpu = 0; vcpu < vm_->vcpus(); ++vcpu) {
        const GuestRegisters registers = TRY(vm_->get_registers(vcpu));
        const auto* raw = reinterpret_cast<const u64*>(&registers);
        words.insert(words.end(), raw, raw + register_words);
    }
    const auto bytes = std::as_bytes(std::span(words));
    if (bytes.size() > state_file_->size()) return fail(Errno::e2big);
    const u64 written = TRY(state_file_->write(0, bytes));
    return written == bytes.size() ? Result<>() : fail(Errno::eio);
}

Result<> VirtualMachine::do_duties(VmmDuties duties) {
    ran_before_ = vm_->running();
    vm_->pause();
    kernel_.machine.trace.emit(Layer::sim, "vm.pause", {{"vm", name_}, {"by", "kexec"}});
    duties_done_ = duties;
    TRY(write_state());
    for (const auto& device : devices_) {
        if (!device->present()) continue;
        if (duties == VmmDuties::disable)
            device->disable_interrupts();
        else
            TRY(device->mask_interrupts(true));
    }
    return {};
}

Result<> VirtualMachine::undo_duties() {
    if (!duties_done_) return {};
    for (unsigned number = 0; number < devices_.size(); ++number) {
        if (!devices_[number]->present()) continue;
        if (*duties_done_ == VmmDuties::disable) {
            TRY(vm_->rewire(number));
            vm_->inject(number);  // what came meanwhile is gone
        } else
            TRY(devices_[number]->mask_interrupts(false));
    }
    duties_done_.reset();
    if (!ran_before_) return {};
    vm_->resume();
    kernel_.machine.trace.emit(Layer::sim, "vm.resume", {{"vm", name_}, {"by", "undo"}});
    return {};
}

void VirtualMachine::give_up() {
    if (vm_) vm_->pause();
}

// --- the new kernel ----------------------------------------------------------------------------------------------

Result<VirtualMachine::State> VirtualMachine::read_state(const ShmemFile& file) const {
    std::vector<u64> words(file.size() / sizeof(u64));
    static_cast<void>(TRY(file.read(0, std::as_writable_bytes(std::span(words)))));
    if (words.size() < header_words || words[0] != state_magic || words[4] > mappings_max ||
        words[2] > Kvm::vcpus_max || words[3] > guest_devices_max || words[5] > 1)
        return fail(Errno::einval);
    State state{words[1], words[2], words[3], words[5] != 0, {}, {}};
    const u64 needed = header_words + words[4] * mapping_words + words[2] * register_words;
    if (needed > words.size()) return fail(Errno::einval);
    u64 at = header_words;
    for (u64 i = 0; i < words[4]; ++i, at += mapping_words)
        state.mappings.push_back(
            {words[at], words[at + 1], words[at + 2], words[at + 3], words[at + 4], words[at + 5]});
    for (u64 vcpu = 0; vcpu < state.vcpus; ++vcpu, at += register_words) {
        GuestRegisters registers;
        std::memcpy(static_cast<void*>(&registers), &words[at], sizeof registers);
        state.registers.push_back(registers);
    }
    return state;
}

Result<std::shared_ptr<File>> VirtualMachine::retrieve(luo::LuoClient& client, u64 token, i32& fd) {
    fd = TRY(client.fd_restore(token));
    return agent_.get(fd);
}

Result<> VirtualMachine::restore(luo::LuoClient& client, u64 tokens, RestoreOptions options) {
    memory_ = std::dynamic_pointer_cast<ShmemFile>(TRY(retrieve(client, tokens, fd_.memory)));
    state_file_ = std::dynamic_pointer_cast<ShmemFile>(TRY(retrieve(client, tokens + 1, fd_.state)));
    if (!memory_ || !state_file_) return fail(Errno::einval);
    const State state = TRY(read_state(*state_file_));
    if (memory_->size() != state.memory_bytes) return fail(Errno::einval);
    vm_ = std::dynamic_pointer_cast<VmFile>(TRY(retrieve(client, tokens + 3 + state.devices, fd_.vm)));
    if (!vm_) return fail(Errno::einval);
    kernel_.machine.device_referee.guest_retrieved(name_, vm_->id());
    kernel_.machine.device_referee.guest_memory(name_, memory_->id());
    vm_->set_label(name_);
    TRY(vm_->set_memory(memory_));
    TRY(vm_->create_vcpus(static_cast<unsigned>(state.vcpus)));
    if (state.devices) TRY(restore_devices(client, tokens, state, options));
    return start(state, options);
}

Result<> VirtualMachine::restore_devices(luo::LuoClient& client, u64 tokens, const State& state,
                                         RestoreOptions options) {
    const FileTokens file = file_tokens(tokens, state.devices, state.vfio_first);
    iommufd_ = std::dynamic_pointer_cast<IommufdFile>(TRY(retrieve(client, file.iommufd, fd_.iommufd)));
    if (!iommufd_) return fail(Errno::einval);
    for (u64 number = 0; number < state.devices; ++number) {
        i32 fd = -1;
        auto device = std::dynamic_pointer_cast<VfioFile>(TRY(retrieve(client, file.first_device + number, fd)));
        if (!device) return fail(Errno::einval);
        devices_.push_back(device);
        fd_.devices.push_back(fd);
    }
    return options.hotswap ? hotswap(state) : Result<>();
}

Result<> VirtualMachine::hotswap(const State& state) {
    for (const State::Mapping& mapping : state.mappings) {
        if (!mapping.bar) {
            TRY(iommufd_->map(mapping.iova, memory_, mapping.offset, mapping.bytes, mapping.prot));
            continue;
        }
        if (mapping.bar > bars_max) return fail(Errno::einval);
        const PciAddress peer{static_cast<u32>(mapping.peer >> 16), Bdf(mapping.peer & 0xffff)};
        const PciDevice* device = kernel_.pci.find(peer);
        if (!device) return fail(Errno::enodev);
        TRY(iommufd_->map_peer(mapping.iova, *device, static_cast<unsigned>(mapping.bar - 1), mapping.bytes));
    }
    for (const auto& device : devices_) TRY(iommufd_->attach(device));
    return {};
}

Result<> VirtualMachine::start(const State& state, RestoreOptions options) {
    for (unsigned vcpu = 0; vcpu < state.vcpus; ++vcpu) TRY(vm_->set_registers(vcpu, state.registers[vcpu]));
    for (const auto& device : devices_) {
        const unsigned number = TRY(vm_->wire(device));
        // What came while nobody listened is gone; guests look at their rings when they are interrupted.
        if (options.spurious) vm_->inject(number);
    }
    vm_->resume();
    kernel_.machine.trace.emit(Layer::sim, "vm.resume", {{"vm", name_}, {"by", "restore"}});
    return {};
}

}  // namespace kexec_sim::sim
