// A machine whose kernels have LUO: boot one, drive it as an agent would, jump to the next.
//
//   LuoWorld world;                                   generation 0: luo-v3, kho=on liveupdate=on, in user space
//   const i32 fd = world.memfd(2 * page_bytes, 7);    agent "main" makes a memfd and fills it
//   world.client().fd_preserve(fd, 0x10);
//   world.luo().request(LuoEvent::prepare);
//   world.kexec();                                    generation 1, from RAM and boot parameters alone
#pragma once

#include <catch2/catch.hpp>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "luo/scripted_subsystem.hpp"
#include "tests/support/errno_of.hpp"
#include "tests/support/findings.hpp"
#include "tests/support/luo_kernel.hpp"

namespace kexec_sim::luo {

struct LuoOptions {
    std::string profile = "luo-v3", cmdline = "kho=on liveupdate=on";
    bool strict = false;
    std::vector<std::string> without = {};
    std::string faults = {};
    u64 memory = 256 * MiB;
    std::vector<PciDeviceConfig> devices = {};  // with an IOMMU a segment
    bool preserve_devices = false;
};

class LuoWorld {
public:
    explicit LuoWorld(LuoOptions options_ = {}) : options(std::move(options_)) {
        MachineConfig config;
        config.node_bytes = {options.memory};
        config.devices = options.devices;
        config.iommu = !options.devices.empty();
        machine = make_machine(config);
        if (!options.devices.empty()) machine->reset_devices();
        if (!options.faults.empty()) plan(options.faults);
        boot(firmware_boot(*machine, request()));
    }
    LuoWorld(const LuoWorld&) = delete;
    LuoWorld& operator=(const LuoWorld&) = delete;

    Orchestrator& luo() { return running->luo; }
    kho::Kho& kho() { return running->kho; }
    Kernel& kernel() { return running->kernel; }
    PhysicalMemory& ram() { return machine->ram; }
    Agent& main() { return *kernel().vfs.find_agent("main"); }
    /// The device as "main" has it open.
    LuoClient& client() {
        if (!running->client) running->client = std::make_unique<LuoClient>(kernel(), main());
        if (!running->client->is_open()) REQUIRE(running->client->open());
        return *running->client;
    }

    Errno prepare() { return errno_of(luo().request(LuoEvent::prepare)); }
    Errno freeze() { return errno_of(luo().request(LuoEvent::freeze)); }
    Errno cancel() { return errno_of(luo().request(LuoEvent::cancel)); }
    Errno finish() { return errno_of(luo().request(LuoEvent::finish)); }

    KexecRequest request() const {
        KexecRequest wanted;
        wanted.cmdline = options.cmdline;
        wanted.profile = options.profile;
        wanted.kernel_bytes = 4 * MiB;
        wanted.initrd_bytes = MiB;
        return wanted;
    }
    /// Loads if nothing is loaded, jumps, boots the next kernel. A panic of its boot passes through.
    Errno kexec() {
        if (!kernel().kexec.image())
            if (const auto loaded = kernel().kexec.load(request()); !loaded) return loaded.error();
        const auto where = kernel().kexec_reboot();
        if (!where) return where.error();
        BootParams params = read_boot_params(machine->ram, *where);
        kho().corrupt_handover(params);
        luo().corrupt_handover();
        if (before_jump) before_jump();
        bool passed = false;
        for (const SetupData& entry : params.setup_data) passed |= entry.type == SETUP_KEXEC_KHO;
        machine->referee.jump(passed);
        running.reset();
        machine->referee.kernel_ended(KernelEnd::kexec);
        machine->set_generation(machine->generation + 1);
        boot(std::move(params));
        return Errno::ok;
    }

    /// A memfd of "main" with word i = seed << 32 | i.
    i32 memfd(u64 bytes, u64 seed = 1) {
        auto file = memfd_create_file(kernel(), "memfd", bytes, {});
        REQUIRE(file);
        std::vector<u64> words(bytes / 8);
        for (u64 i = 0; i < words.size(); ++i) words[i] = seed << 32 | i;
        if (!words.empty()) REQUIRE((*file)->write(0, std::as_bytes(std::span(words))) == words.size() * 8);
        return *main().install(*file, false);
    }
    std::shared_ptr<ShmemFile> shmem(i32 fd) { return std::dynamic_pointer_cast<ShmemFile>(*main().get(fd)); }
    bool has_pattern(i32 fd, u64 bytes, u64 seed = 1) {
        std::vector<u64> words(bytes / 8);
        const auto read = shmem(fd)->read(0, std::as_writable_bytes(std::span(words)));
        if (!read || *read != words.size() * 8) return false;
        for (u64 i = 0; i < words.size(); ++i)
            if (words[i] != (seed << 32 | i)) return false;
        return true;
    }

    void plan(const std::string& text) {
        const PlannedFault fault = parse_fault(text).value();
        machine->faults.set_plan({&fault, 1});
    }
    bool logged(std::string_view text) { return kernel().log.contains(text); }
    u64 free_frames() { return kernel().pages.free_frames(); }
    std::vector<std::string> findings() const { return test_support::findings(*machine); }
    bool has_finding(std::string_view id) const { return test_support::has_finding(*machine, id); }

    LuoOptions options;
    std::function<void()> before_jump;  // may damage what is handed over
    MachineHandle machine;
    std::unique_ptr<LuoKernel> running;  // goes before the machine

private:
    void boot(BootParams params) {
        KernelTraits traits;
        traits.edition = options.profile;
        traits.promise_at = KernelTraits::PromiseAt::prepare;
        traits.has_luo = true;
        traits.strict = options.strict;
        machine->referee.kernel_boots(machine->generation, traits);
        KernelConfig config;
        config.profile = options.profile;
        config.strict_defects = options.strict;
        config.without = options.without;
        config.preserve_devices = options.preserve_devices;
        running = std::make_unique<LuoKernel>(*machine, config, std::move(params));
        running->kernel.boot();
        machine->referee.user_space_reached();
    }
};

/// A subsystem of a test: it notes what is called, and answers what it is told.
struct Probe {
    explicit Probe(std::string name, std::vector<std::string>* calls_ = nullptr)
        : calls(calls_ ? calls_ : &own_calls) {
        subsystem.name = std::move(name);
        subsystem.prepare = [this](u64* data) { return note("prepare"), *data = handle, prepare_answer; };
        subsystem.freeze = [this](u64*) { return note("freeze"), freeze_answer; };
        subsystem.boot = [this](u64 data) { note("boot"), seen = data; };
        subsystem.cancel = [this](u64 data) { note("cancel"), seen = data; };
        subsystem.finish = [this](u64 data) { note("finish"), seen = data; };
    }
    void note(std::string_view callback) { calls->push_back(fmt::format("{}.{}", subsystem.name, callback)); }

    Subsystem subsystem;
    std::vector<std::string> own_calls;
    std::vector<std::string>* calls;
    int prepare_answer = 0, freeze_answer = 0;
    u64 handle = 0x1234'5000, seen = 0;
};

using Calls = std::vector<std::string>;

}  // namespace kexec_sim::luo
