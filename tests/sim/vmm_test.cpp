// The VMM agent: its state file, the order in which it goes down and comes up, and what its death takes along.
#include "sim/vmm.hpp"
#include "tests/support/device_world.hpp"

namespace kexec_sim::sim {
namespace {

using luo::DeviceWorld;

struct VmmWorld : DeviceWorld {
    static constexpr u64 tokens = 0x100;

    explicit VmmWorld(luo::LuoOptions wanted = {}) : DeviceWorld(std::move(wanted)) {}

    /// A running VM of 1 MiB with those devices, owned by an agent of its own: "main" holds LUO's device.
    VirtualMachine& start(const std::vector<std::string>& devices = {}, bool confidential = false,
                          unsigned vcpus = 2) {
        made = std::make_unique<VirtualMachine>(kernel(), kernel().vfs.start_agent("vmm"), "vm");
        REQUIRE(made->create({.memory_bytes = MiB, .vcpus = vcpus, .confidential = confidential}));
        for (const std::string& name : devices) {
            auto opened = kernel().vfio.open(device(name));
            REQUIRE(opened);
            REQUIRE(made->attach(*opened));
        }
        return *made;
    }
    VirtualMachine& vm() { return *made; }
    void preserve_vm() {
        luo::LuoClient& luo = own_client();
        REQUIRE(vm().preserve(luo, tokens, {}));
    }
    /// LUO's device as the VMM has it open. It closes with the VMM.
    luo::LuoClient& own_client() {
        if (!vmm_client) {
            vmm_client = std::make_unique<luo::LuoClient>(kernel(), kernel().vfs.start_agent("vmm"));
            REQUIRE(vmm_client->open());
        }
        return *vmm_client;
    }
    void kexec_with_duties(VmmDuties duties = VmmDuties::mask) {
        REQUIRE(prepare() == Errno::ok);
        REQUIRE(vm().do_duties(duties));
        next();
    }
    void next() {
        if (before) before(*this);
        REQUIRE(kernel().kexec.load(request()));
        made.reset();
        vmm_client.reset();
        REQUIRE(kexec() == Errno::ok);
    }
    Errno restore_vm(VirtualMachine::RestoreOptions how = {}) {
        made = std::make_unique<VirtualMachine>(kernel(), kernel().vfs.start_agent("vmm"), "vm");
        return errno_of(made->restore(own_client(), tokens, how));
    }
    /// Token + 1: where the VMM's state is.
    std::shared_ptr<ShmemFile> state_file() {
        for (const i32 fd : kernel().vfs.find_agent("vmm")->open_fds())
            if (auto file = std::dynamic_pointer_cast<ShmemFile>(*kernel().vfs.find_agent("vmm")->get(fd));
                file && file->name() == "vm.state")
                return file;
        FAIL("no state file");
        return nullptr;
    }
    u64 state_word(u64 index) {
        u64 word = 0;
        REQUIRE(state_file()->read(index * 8, std::as_writable_bytes(std::span(&word, 1))));
        return word;
    }
    void damage_state(u64 index, u64 word) {
        REQUIRE(state_file()->write(index * 8, std::as_bytes(std::span(&word, 1))));
    }

    std::function<void(VmmWorld&)> before;  // when the VMM has done its duties
    std::unique_ptr<luo::LuoClient> vmm_client;
    std::unique_ptr<VirtualMachine> made;
};

/// Words of the state file.
enum StateWord : u64 { magic, memory_bytes, vcpus, devices, mappings, vfio_first, first_mapping };

}  // namespace

// --- the old kernel ----------------------------------------------------------------------------------------------

TEST_CASE("a VM's memory is whole pages") {
    VmmWorld world;
    VirtualMachine none(world.kernel(), world.main(), "none");
    for (const u64 bytes : {u64{0}, u64{4095}})
        CHECK(errno_of(none.create({.memory_bytes = bytes})) == Errno::einval);
    CHECK_FALSE(none.has_vm());
}

TEST_CASE("all memory that a VM shares is mapped for its devices") {
    for (const bool confidential : {false, true}) {
        VmmWorld other;
        VirtualMachine& vm = other.start({"nic0"}, confidential);
        const u64 begin = confidential ? MiB / 4 : 0;
        REQUIRE(vm.iommufd()->mappings().size() == 1);
        CHECK(vm.iommufd()->mappings().begin()->first == begin);
        CHECK(vm.iommufd()->mappings().at(begin).bytes == MiB - begin);
        CHECK(other.reaches("nic0", MiB / 4));
        CHECK(other.reaches("nic0", 0).has_value() == !confidential);
        CHECK(vm.device_number(other.device("nic0")) == 0u);
        CHECK_FALSE(vm.device_number(other.device("nic1")));
    }
}

TEST_CASE("the state file says what the VM is, and what its vCPUs were at") {
    VmmWorld world;
    VirtualMachine& vm = world.start({"nic0", "gpu0"});
    REQUIRE(vm.map_peer(world.device("gpu0"), 2));
    CHECK(vm.map_peer(world.device("gpu0"), 2));  // it is there
    world.preserve_vm();
    world.kernel().kvm.run(50'000);
    REQUIRE(vm.do_duties(VmmDuties::mask));
    CHECK(world.state_word(memory_bytes) == MiB);
    CHECK(world.state_word(vcpus) == 2);
    CHECK(world.state_word(devices) == 2);
    CHECK(world.state_word(mappings) == 2);
    CHECK(world.state_word(vfio_first) == 0);
    CHECK(world.state_word(first_mapping + 2) == MiB);  // iova, offset, bytes, …
    CHECK(world.state_word(first_mapping + 6 + 4) == world.device("gpu0").address.bdf.raw);
    CHECK(world.state_word(first_mapping + 6 + 5) == 3);  // BAR 2
    CHECK(world.state_word(first_mapping + 12) == vm.vm().get_registers(0)->steps);
    CHECK_FALSE(vm.vm().running());
}

TEST_CASE("a state that does not fit its file is E2BIG") {
    VmmWorld world;
    VirtualMachine& vm = world.start({"nic0"});
    world.preserve_vm();
    // More mappings than the file has room for: its size was fixed when it was preserved.
    const u64 room = world.state_file()->size() / 48;
    for (u64 i = 0; i < room; ++i)
        REQUIRE(vm.iommufd()->map(GiB + i * page_bytes, vm.memory(), 0, page_bytes, world.rw));
    CHECK(errno_of(vm.do_duties(VmmDuties::mask)) == Errno::e2big);
    REQUIRE(vm.undo_duties());
    CHECK(vm.vm().running());
}

TEST_CASE("duties quieten the devices as asked, and are undone") {
    struct Row {
        VmmDuties duties;
        bool enabled, masked;
    };
    for (const Row& row : {Row{VmmDuties::mask, true, true}, Row{VmmDuties::disable, false, false}}) {
        VmmWorld world;
        VirtualMachine& vm = world.start({"nic0"});
        world.preserve_vm();
        REQUIRE(vm.undo_duties());  // none were done
        REQUIRE(vm.do_duties(row.duties));
        CHECK_FALSE(vm.vm().running());
        CHECK(world.function("nic0").msix_enabled() == row.enabled);
        CHECK_FALSE(vm.devices()[0]->interrupts_on());
        world.function("nic0").raise_interrupt(0);
        CHECK(world.function("nic0").msix_pending(0) == row.masked);
        REQUIRE(vm.undo_duties());
        CHECK(vm.vm().running());
        CHECK(vm.devices()[0]->interrupts_on());
        world.kernel().irq.handle_pending();
        vm.vm().pause();
        CHECK(vm.vm().get_registers(0)->pending_irq == 1);  // it was pending; or one is injected for what was lost
        REQUIRE(vm.undo_duties());                          // once only
        CHECK_FALSE(vm.vm().running());
    }
}

TEST_CASE("a device that was removed is no duty") {
    VmmWorld world;
    VirtualMachine& vm = world.start({"nic0"});
    world.preserve_vm();
    world.kernel().pci.remove(world.device("nic0"));
    REQUIRE(vm.do_duties(VmmDuties::mask));
    REQUIRE(vm.undo_duties());
    CHECK(vm.vm().running());
}

TEST_CASE("closing a VM releases all that it had") {
    VmmWorld world;
    static_cast<void>(world.start({"nic0"}, true));
    world.vm().close();
    const std::weak_ptr<VfioFile> nic = world.vm().devices().empty() ? nullptr : world.vm().devices()[0];
    CHECK(nic.expired());
    world.made.reset();
    CHECK(world.kernel().vfs.find_agent("vmm")->open_fds().empty());
    CHECK_FALSE(world.function("nic0").bus_master());
    CHECK_FALSE(world.kernel().kvm.any_running());
}

TEST_CASE("the death of the VMM takes along what LUO does not hold") {
    for (const bool preserved : {false, true}) {
        VmmWorld world;
        VirtualMachine& vm = world.start({"nic0"}, true);
        const Pfn context = vm.vm().snp_context()->pfn;
        if (preserved) {
            // "main" has LUO's device open, and is given the files by their descriptors.
            Agent& vmm = *world.kernel().vfs.find_agent("vmm");
            u64 token = VmmWorld::tokens;
            for (const i32 fd : vmm.open_fds())
                REQUIRE(world.client().fd_preserve(world.install(*vmm.get(fd)), token++));
            REQUIRE(world.prepare() == Errno::ok);
            for (const i32 fd : world.main().open_fds())
                if (std::dynamic_pointer_cast<VmFile>(*world.main().get(fd)) ||
                    std::dynamic_pointer_cast<VfioFile>(*world.main().get(fd)))
                    REQUIRE(world.main().close(fd));
        }
        world.kernel().vfs.find_agent("vmm")->kill();
        world.made.reset();
        CHECK(world.function("nic0").bus_master() == preserved);
        CHECK((world.machine->snp.owner(context) == RmpOwner::firmware) == preserved);
        CHECK((world.kernel().vfio.file_of(world.device("nic0")) != nullptr) == preserved);
        CHECK(world.reaches("nic0", MiB / 2).has_value() == preserved);
    }
}

// --- the new kernel ----------------------------------------------------------------------------------------------

TEST_CASE("a VM goes on where it was, with its devices moved over") {
    for (const bool confidential : {false, true}) {
        VmmWorld world;
        VirtualMachine& old = world.start({"nic0", "nic1"}, confidential);
        world.kernel().kvm.run(200'000);
        world.preserve_vm();
        REQUIRE(world.prepare() == Errno::ok);
        REQUIRE(old.do_duties(VmmDuties::mask));
        std::vector<GuestRegisters> before;
        for (const unsigned vcpu : {0u, 1u}) before.push_back(*old.vm().get_registers(vcpu));
        world.next();
        REQUIRE(world.restore_vm({.spurious = false}) == Errno::ok);
        VirtualMachine& vm = world.vm();
        CHECK(vm.vm().running());
        vm.vm().pause();
        for (const unsigned vcpu : {0u, 1u}) CHECK(vm.vm().get_registers(vcpu) == before[vcpu]);
        CHECK(vm.iommufd()->restored->attached == 0);
        CHECK(world.reaches("nic1", MiB / 2));
        CHECK(vm.devices().size() == 2);
        CHECK(vm.devices()[1]->interrupts_on());
        CHECK(world.finish() == Errno::ok);
        vm.vm().resume();
        world.kernel().kvm.run(200'000);
        CHECK_FALSE(vm.vm().broken());
        CHECK(world.findings().empty());
    }
}

TEST_CASE("a spurious interrupt a device is injected, unless it is left out") {
    for (const bool spurious : {true, false}) {
        VmmWorld world;
        static_cast<void>(world.start({"nic0", "nic1"}));
        world.preserve_vm();
        world.kexec_with_duties(VmmDuties::disable);
        REQUIRE(world.restore_vm({.spurious = spurious}) == Errno::ok);
        world.vm().vm().pause();
        CHECK(world.vm().vm().get_registers(0)->pending_irq == (spurious ? 3 : 0));
    }
}

TEST_CASE("without hotswap devices stay in the page table of the previous kernel") {
    VmmWorld world;
    static_cast<void>(world.start({"nic0"}));
    world.preserve_vm();
    world.kexec_with_duties();
    REQUIRE(world.restore_vm({.hotswap = false}) == Errno::ok);
    CHECK(world.vm().iommufd()->mappings().empty());
    CHECK(world.vm().iommufd()->restored->attached == 1);
    CHECK(world.reaches("nic0", MiB / 2));
}

TEST_CASE("with late binding a VM whose devices were preserved first comes back") {
    VmmWorld world({.cmdline = "kho=on liveupdate=on vfio_pci.late_binding=1"});
    VirtualMachine& old = world.start({"nic0", "nic1"});
    REQUIRE(old.preserve(world.own_client(), VmmWorld::tokens, {.vfio_first = true}));
    world.kexec_with_duties();
    REQUIRE(world.restore_vm() == Errno::ok);
    CHECK(world.vm().devices()[1]->iommufd.lock() == world.vm().iommufd());
    CHECK(world.reaches("nic1", MiB / 2));
    CHECK(world.finish() == Errno::ok);
    CHECK(world.findings().empty());
}

TEST_CASE("a peer's BAR is mapped again, and is EINVAL beyond its end, ENODEV without the peer") {
    struct Row {
        const char* what;
        u64 word, value;
        Errno result;
    };
    constexpr u64 peer = first_mapping + 6;
    for (const Row& row :
         {Row{"as it was", magic, 0x6b73'766d'7374'6174, Errno::ok}, Row{"longer", peer + 2, 2 * MiB, Errno::einval},
          Row{"another BAR", peer + 5, 2, Errno::einval},
          Row{"a BAR that there cannot be", peer + 5, (u64{1} << 32) + 3, Errno::einval},
          Row{"no such function", peer + 4, 0x7700, Errno::enodev},
          Row{"somebody else's", peer + 4, 0x20, Errno::eacces}}) {
        INFO(row.what);
        VmmWorld world;
        VirtualMachine& vm = world.start({"nic0", "gpu0"});
        REQUIRE(vm.map_peer(world.device("gpu0"), 2));
        world.preserve_vm();
        world.before = [&](VmmWorld& self) { self.damage_state(row.word, row.value); };
        world.kexec_with_duties();
        CHECK(world.restore_vm() == row.result);
        if (row.result == Errno::ok) CHECK(world.vm().iommufd()->mappings().size() == 2);
    }
}

TEST_CASE("a state file that makes no sense is EINVAL, and nothing of it runs") {
    struct Row {
        const char* what;
        u64 word, value;
        Errno result;
    };
    for (const Row& row :
         {Row{"magic", magic, 0, Errno::einval}, Row{"vCPUs", vcpus, 17, Errno::einval},
          Row{"no vCPU", vcpus, 0, Errno::einval}, Row{"vCPUs beyond the file", vcpus, 16, Errno::einval},
          Row{"all vCPUs that there can be", vcpus, ~u64{0}, Errno::einval},
          Row{"mappings", mappings, 33, Errno::einval}, Row{"all mappings", mappings, ~u64{0}, Errno::einval},
          Row{"memory of another size", memory_bytes, 2 * MiB, Errno::einval},
          Row{"an order that there is not", vfio_first, 2, Errno::einval},
          Row{"another order than it was", vfio_first, 1, Errno::einval},
          Row{"rights of a mapping", first_mapping + 3, ~u64{0}, Errno::einval},
          Row{"bytes of a mapping", first_mapping + 2, 2 * MiB, Errno::einval},
          Row{"a device more", devices, 2, Errno::enoent}, Row{"all devices", devices, ~u64{0}, Errno::einval}}) {
        INFO(row.what);
        VmmWorld world;
        static_cast<void>(world.start({"nic0"}));
        world.preserve_vm();
        world.before = [&](VmmWorld& self) { self.damage_state(row.word, row.value); };
        world.kexec_with_duties();
        CHECK(world.restore_vm() == row.result);
        world.vm().give_up();
        CHECK_FALSE(world.kernel().kvm.any_running());
        CHECK(world.finish() == Errno::ok);
    }
}

TEST_CASE("a VM whose device went away while nobody looked is not restored") {
    VmmWorld world;
    static_cast<void>(world.start({"nic0"}));
    world.preserve_vm();
    world.kexec_with_duties();
    world.kernel().pci.remove(world.device("nic0"));
    CHECK(world.restore_vm() == Errno::enodev);
    world.vm().give_up();
    CHECK(world.vm().has_vm());
    CHECK_FALSE(world.vm().vm().running());
}

TEST_CASE("tokens that are not a VM's are EINVAL") {
    VmmWorld world;
    for (const u64 token : {VmmWorld::tokens, VmmWorld::tokens + 1})
        REQUIRE(world.client().fd_preserve(world.memfd(page_bytes), token));
    REQUIRE(world.prepare() == Errno::ok);
    world.next();
    CHECK(world.restore_vm() == Errno::einval);  // no state
    CHECK_FALSE(world.vm().has_vm());
}

}  // namespace kexec_sim::sim
