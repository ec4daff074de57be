// KVM: virtual machines, their registers, their devices, and confidential ones.
#include "device_kernel.hpp"

#include "kernel-model/kvm/kvm.hpp"

namespace kexec_sim {
namespace {

struct VmWorld : DeviceKernel {
    explicit VmWorld(std::vector<PciDeviceConfig> devices = {test::on_root("nic0", "dma-nic", 4)})
        : DeviceKernel({.devices = std::move(devices)}) {}
    std::shared_ptr<VmFile> vm(unsigned vcpus = 1, u64 bytes = MiB) {
        auto made = kernel->kvm.create_vm("vm");
        REQUIRE(made->set_memory(memory(bytes)));
        REQUIRE(made->create_vcpus(vcpus));
        return made;
    }
    u64 steps(const VmFile& vm, unsigned vcpu = 0) { return vm.get_registers(vcpu)->steps; }
};

}  // namespace

TEST_CASE("memory of a VM is whole pages, given once; vCPUs are 1 to 16, made once") {
    VmWorld world;
    const auto vm = world.kernel->kvm.create_vm("vm");
    for (const u64 bytes : {u64{0}, page_bytes + 1})
        CHECK(errno_of(vm->set_memory(world.memory(bytes))) == Errno::einval);
    CHECK(vm->set_memory(world.memory(MiB)));
    CHECK(errno_of(vm->set_memory(world.memory(MiB))) == Errno::einval);
    for (const unsigned count : {0u, 17u}) CHECK(errno_of(vm->create_vcpus(count)) == Errno::einval);
    CHECK(vm->create_vcpus(16));
    CHECK(errno_of(vm->create_vcpus(1)) == Errno::einval);
    CHECK(vm->vcpus() == 16);
}

TEST_CASE("a VM has all its pages from the start, or none is given to it") {
    VmWorld world;
    const auto vm = world.kernel->kvm.create_vm("vm");
    const auto memory = world.memory(MiB);
    world.plan("mm.folio_alloc[memfd*]#100=fail(ENOMEM)");
    CHECK(errno_of(vm->set_memory(memory)) == Errno::enomem);
    CHECK(vm->memory() == nullptr);
    CHECK_FALSE(memory->pinned());
    REQUIRE(vm->set_memory(memory));
    CHECK(memory->allocated_bytes() == MiB);
    CHECK_FALSE(memory->pinned());
}

TEST_CASE("registers are to be had while the VM stands") {
    VmWorld world;
    const auto vm = world.vm(2);
    CHECK(errno_of(vm->get_registers(2)) == Errno::einval);
    CHECK(errno_of(vm->set_registers(2, {})) == Errno::einval);
    GuestRegisters registers;
    registers.steps = 7;
    REQUIRE(vm->set_registers(1, registers));
    CHECK(vm->get_registers(1)->steps == 7);
    CHECK(vm->get_registers(0)->steps == 0);
    vm->resume();
    CHECK(errno_of(vm->get_registers(0)) == Errno::ebusy);
    CHECK(errno_of(vm->set_registers(0, {})) == Errno::ebusy);
    vm->pause();
    world.plan("kvm.vcpu_get[vm]#1=fail(EIO)");
    CHECK(errno_of(vm->get_registers(0)) == Errno::eio);
    world.plan("kvm.vcpu_set[vm]#1=lie(EIO)");
    CHECK(errno_of(vm->set_registers(0, registers)) == Errno::eio);
    CHECK(vm->get_registers(0)->steps == 7);
}

TEST_CASE("every vCPU of every VM that runs retires a step a microsecond") {
    VmWorld world;
    const auto running = world.vm(2), standing = world.vm();
    running->resume();
    const u64 begin = world.machine->clock.now_ns();
    world.kernel->kvm.run(250'000);
    CHECK(world.machine->clock.now_ns() == begin + 250'000);
    running->pause();
    CHECK(world.steps(*running, 0) == 250);
    CHECK(world.steps(*running, 1) == 250);
    CHECK(world.steps(*standing) == 0);
    CHECK(running->steps_retired() == 500);
    CHECK_FALSE(world.kernel->kvm.any_running());
}

TEST_CASE("a guest whose memory is not there is stopped for good") {
    struct Row {
        const char* what;
        u64 bytes;
        bool hole;
    };
    for (const Row& row : {Row{"a page was taken", MiB, true}, Row{"too little memory", 256 * KiB, false}}) {
        INFO(row.what);
        VmWorld world;
        const auto vm = world.vm(1, row.bytes);
        if (row.hole) REQUIRE(vm->memory()->punch_hole(0, row.bytes));
        vm->resume();
        world.kernel->kvm.run(100'000);
        CHECK(vm->broken());
        CHECK_FALSE(vm->running());
        CHECK(world.logged("kvm: VM vm: the guest cannot go on: "));
        vm->resume();
        CHECK_FALSE(vm->running());
    }
}

TEST_CASE("an interrupt of a wired device is injected into the first vCPU, and its handler runs") {
    VmWorld world;
    const auto vm = world.vm(2);
    REQUIRE(*vm->wire(world.open("nic0")) == 0);
    GuestRegisters registers;
    registers.devices[0].ring_gpa = 8 * KiB;
    registers.devices[0].entries = 4;
    REQUIRE(vm->set_registers(0, registers));
    world.function("nic0").raise_interrupt(0);
    world.kernel->irq.handle_pending();
    CHECK(vm->get_registers(0)->pending_irq == 1);
    CHECK(vm->get_registers(1)->pending_irq == 0);
    vm->inject(0);  // a second one before the first is taken is the same
    vm->resume();
    world.kernel->kvm.run(2000);
    vm->pause();
    CHECK(vm->get_registers(0)->pending_irq == 0);
    CHECK(vm->get_registers(0)->devices[0].interrupts == 1);
}

TEST_CASE("a VM has eight devices; one that cannot be wired is none") {
    VmWorld world(test::many_nics(10));
    const auto vm = world.vm();
    const auto frozen = world.open("nic9");
    frozen->set_frozen(true);
    CHECK(errno_of(vm->wire(frozen)) == Errno::eio);
    CHECK(vm->devices().empty());
    for (unsigned number = 0; number < 8; ++number)
        CHECK(*vm->wire(world.open(fmt::format("nic{}", number))) == number);
    CHECK(errno_of(vm->wire(world.open("nic8"))) == Errno::enospc);
    CHECK(vm->devices().size() == 8);
}

TEST_CASE("interrupts can be wired again after they were turned off") {
    VmWorld world;
    const auto vm = world.vm();
    const auto nic = world.open("nic0");
    REQUIRE(vm->wire(nic));
    nic->disable_interrupts();
    world.function("nic0").raise_interrupt(0);
    REQUIRE(vm->rewire(0));
    world.kernel->irq.handle_pending();
    CHECK(vm->get_registers(0)->pending_irq == 0);  // that one was lost
    world.function("nic0").raise_interrupt(0);
    world.kernel->irq.handle_pending();
    CHECK(vm->get_registers(0)->pending_irq == 1);
}

// --- confidential VMs --------------------------------------------------------------------------------------------

TEST_CASE("a confidential VM has a quarter of its memory to itself, and gives it back when it ends") {
    VmWorld world;
    const SnpFirmware& snp = world.machine->snp;
    const auto memory = world.memory(MiB);
    REQUIRE(memory->pin_all());
    memory->unpin_all();
    const u64 frames = world.free_frames();
    auto vm = world.kernel->kvm.create_vm("vm");
    CHECK(errno_of(vm->launch_confidential()) == Errno::einval);  // no memory yet
    REQUIRE(vm->set_memory(memory));
    REQUIRE(vm->create_vcpus(1));
    REQUIRE(vm->launch_confidential());
    CHECK(errno_of(vm->launch_confidential()) == Errno::einval);
    CHECK(vm->private_bytes() == 256 * KiB);
    for (const FileExtent& extent : memory->extents())
        for (u64 page = 0; page < extent.pages; ++page)
            CHECK((snp.owner(extent.pfn + page) == RmpOwner::guest) == (extent.index + page < 64));
    const Pfn context = vm->snp_context()->pfn;
    CHECK(snp.owner(context) == RmpOwner::firmware);
    CHECK(memory->pinned());
    CHECK_THROWS_AS(world.machine->ram.read<u64>(memory->extents()[0].pfn.phys()), KernelPanic);
    vm->resume();
    world.kernel->kvm.run(100'000);
    CHECK_FALSE(vm->broken());
    const Pfn first = memory->extents()[0].pfn;
    world.put(std::move(vm));
    CHECK(snp.owner(first) == RmpOwner::hypervisor);
    CHECK(snp.owner(context) == RmpOwner::hypervisor);
    CHECK_FALSE(memory->pinned());
    CHECK(world.free_frames() == frames);
    const auto next = world.vm();
    REQUIRE(next->launch_confidential());
    CHECK(next->asid() == 1);
}

TEST_CASE("a launch that fails keeps no id, no context and no page") {
    VmWorld world;
    const auto vm = world.vm();
    const u64 frames = world.free_frames();
    world.plan("mm.folio_alloc[kvm.snp_context]#1=fail(ENOMEM)");
    CHECK(errno_of(vm->launch_confidential()) == Errno::enomem);
    CHECK_FALSE(vm->snp_context());
    CHECK(vm->asid() == 0);
    CHECK(world.free_frames() == frames);
    const auto other = world.vm();
    REQUIRE(other->launch_confidential());
    CHECK(other->asid() == 1);
    for (u16 asid = 2; asid <= 99; ++asid) world.kernel->kvm.reserve_asid(asid);
    const u64 left = world.free_frames();
    CHECK(errno_of(vm->launch_confidential()) == Errno::ebusy);
    CHECK(world.free_frames() == left);
    world.kernel->kvm.free_asid(42);
    CHECK(vm->launch_confidential());
    CHECK(vm->asid() == 42);
}

TEST_CASE("only a context page that the firmware knows is adopted, and its id is taken from then on") {
    VmWorld world;
    SnpFirmware& snp = world.machine->snp;
    const auto page = [&] {
        return *world.kernel->pages.alloc_folio({.order = Order{0}, .site = "kvm.snp_context"});
    };
    auto vm = world.kernel->kvm.create_vm("vm");
    CHECK(errno_of(vm->adopt_context(page(), {})) == Errno::enoent);
    CHECK(vm->asid() == 0);
    snp.enable();
    const Folio context = page();
    REQUIRE(snp.create_context(context.pfn, 1));
    REQUIRE(vm->adopt_context(context, {}));
    CHECK(vm->asid() == 1);
    const auto asid_of_next = [&] {
        auto next = world.vm();
        REQUIRE(next->launch_confidential());
        const u16 asid = next->asid();
        world.put(std::move(next));
        return asid;
    };
    CHECK(asid_of_next() == 2);
    world.put(std::move(vm));
    CHECK(snp.owner(context.pfn) == RmpOwner::hypervisor);
    CHECK(asid_of_next() == 1);
}

TEST_CASE("a retrieved VM that ends before it has memory gives back what was private to its guest") {
    VmWorld world;
    SnpFirmware& snp = world.machine->snp;
    snp.enable();
    const auto folio = [&](u8 order) {
        return *world.kernel->pages.alloc_folio({.order = Order{order}, .site = "test"});
    };
    const Folio context = folio(0), first = folio(1), second = folio(0);
    REQUIRE(snp.create_context(context.pfn, 1));
    REQUIRE(snp.assign(first.frames(), 1, 0));
    REQUIRE(snp.assign(second.frames(), 1, 2));
    auto vm = world.kernel->kvm.create_vm("vm");
    REQUIRE(vm->adopt_context(context, {first.frames(), second.frames()}));
    CHECK(vm->private_runs().size() == 2);
    world.put(std::move(vm));
    for (const Pfn frame : {first.pfn, first.pfn + 1, second.pfn}) CHECK(snp.owner(frame) == RmpOwner::hypervisor);
}

TEST_CASE("a confidential VM is made while a guest of the previous kernel, not retrieved yet, has the first id") {
    VmWorld world;
    SnpFirmware& snp = world.machine->snp;
    snp.enable();
    const Folio context = *world.kernel->pages.alloc_folio({.order = Order{0}, .site = "kvm.snp_context"});
    REQUIRE(snp.create_context(context.pfn, 1));
    const auto vm = world.vm();
    REQUIRE(vm->launch_confidential());
    CHECK(vm->asid() == 2);
    auto old = world.kernel->kvm.create_vm("old");
    REQUIRE(old->adopt_context(context, {}));
    CHECK(old->asid() == 1);
}

TEST_CASE("shutdown stops every guest, and SNP unless a confidential one is kept") {
    for (const bool keeps : {false, true}) {
        VmWorld world;
        const auto vm = world.vm();
        REQUIRE(vm->launch_confidential());
        vm->resume();
        world.kernel->kvm.shutdown(keeps);
        CHECK_FALSE(world.kernel->kvm.any_running());
        CHECK(world.machine->snp.enabled() == keeps);
        CHECK((world.machine->snp.owner(vm->snp_context()->pfn) == RmpOwner::firmware) == keeps);
    }
}

}  // namespace kexec_sim
