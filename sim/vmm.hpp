// The VMM agent: the user-space program that owns virtual machines, as far as a live update needs one.
//
// It makes every call that a real VMM makes, through its agent's descriptors: memfds for memory and state, VFIO and
// iommufd files, KVM. What it must know after a kexec it writes into a memfd of its own, the state file, as real VMMs
// do; its process does not survive. When its agent dies, all that it held goes with it: what is preserved stays with LUO,
// the rest is released as if closed.
//
//   create    memfd, VM, vCPUs, start
//   attach    iommufd (one a VM) with all shared guest memory at IOVA = guest address; device; interrupts
//   preserve  tokens T: memory, T+1: state file, T+2: iommufd, T+3…: devices in order of attach, then the VM's own file;
//             with `order: vfio-first` the devices begin at T+2, and the iommufd comes after them
//   duties    just before reboot: pause, state file written, interrupts of devices masked (or turned off)
//   restore   memory, state, VM, iommufd, devices; the mappings made anew and the devices moved over (hotswap);
//             registers; interrupts wired and one spurious one injected for each device; go on
//
// The state file, 64-bit words: magic, memory bytes, vCPUs, devices, mappings, whether devices came first; for each
// mapping iova, offset, bytes, rights, and of a peer's BAR its address (segment << 16 | bdf) and number + 1; then the
// registers of each vCPU.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "kernel-model/kernel.hpp"
#include "kernel-model/kvm/kvm.hpp"
#include "kernel-model/vfio/iommufd.hpp"
#include "luo/client.hpp"

namespace kexec_sim::sim {

enum class VmmDuties : u8 { mask, disable, none };

class VirtualMachine {
public:
    VirtualMachine(Kernel& kernel, Agent& agent, std::string name)
        : kernel_(kernel),
          agent_(agent),
          name_(std::move(name)) {}

    struct Config {
        u64 memory_bytes = 0;
        unsigned vcpus = 1;
        bool confidential = false;
    };
    Result<> create(const Config& config);
    Result<> attach(const std::shared_ptr<VfioFile>& device);
    void close();

    struct PreserveOrder {
        bool vfio_first = false;
    };
    Result<> preserve(luo::LuoClient& client, u64 tokens, PreserveOrder order);
    struct RestoreOptions {
        bool spurious = true, hotswap = true;
    };
    Result<> restore(luo::LuoClient& client, u64 tokens, RestoreOptions options);

    Result<> do_duties(VmmDuties duties);
    Result<> undo_duties();
    /// A restore failed half way: nothing of it runs.
    void give_up();

    const std::string& name() const { return name_; }
    const Agent& agent() const { return agent_; }
    /// Whether it has got any descriptor: its memory's comes first.
    bool has_files() const { return fd_.memory >= 0; }
    /// A VM that failed before it had one has no file.
    bool has_vm() const { return vm_ != nullptr; }
    VmFile& vm() { return *vm_; }
    const std::shared_ptr<ShmemFile>& memory() const { return memory_; }
    const std::shared_ptr<IommufdFile>& iommufd() const { return iommufd_; }
    const std::vector<std::shared_ptr<VfioFile>>& devices() const { return devices_; }
    bool preserved() const { return tokens_.has_value(); }
    /// Maps a BAR of another function for the VM's devices, at its own address.
    Result<> map_peer(const PciDevice& peer, unsigned bar);
    /// The number of the guest's device behind a function; nullopt: it has no such device.
    std::optional<unsigned> device_number(const PciDevice& device) const;

private:
    struct Fd {
        i32 memory = -1, state = -1, iommufd = -1, vm = -1;
        std::vector<i32> devices;
    };
    Result<i32> install(FileRef file) { return agent_.install(std::move(file), true); }
    Result<> open_iommufd_with_memory();
    Result<> make_state_file();
    Result<> write_state();
    struct State {
        u64 memory_bytes = 0, vcpus = 0, devices = 0;
        bool vfio_first = false;
        struct Mapping {
            u64 iova, offset, bytes, prot, peer, bar;
        };
        std::vector<Mapping> mappings;
        std::vector<GuestRegisters> registers;
    };
    Result<State> read_state(const ShmemFile& file) const;
    Result<std::shared_ptr<File>> retrieve(luo::LuoClient& client, u64 token, i32& fd);
    Result<> restore_devices(luo::LuoClient& client, u64 tokens, const State& state, RestoreOptions options);
    Result<> hotswap(const State& state);
    Result<> start(const State& state, RestoreOptions options);

    Kernel& kernel_;
    Agent& agent_;
    std::string name_;
    std::shared_ptr<ShmemFile> memory_, state_file_;
    std::shared_ptr<VmFile> vm_;
    std::shared_ptr<IommufdFile> iommufd_;
    std::vector<std::shared_ptr<VfioFile>> devices_;
    Fd fd_;
    std::optional<u64> tokens_;
    bool vfio_first_ = false;
    std::optional<VmmDuties> duties_done_;
    bool ran_before_ = false;  // the duties
};

}  // namespace kexec_sim::sim
