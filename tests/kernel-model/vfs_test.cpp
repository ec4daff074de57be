// Descriptors, references and agents; devices and pseudo files.
#include <catch2/catch.hpp>

#include "tests/kernel-model/booted_kernel.hpp"

using namespace kexec_sim;

namespace {

/// Counts its releases and notes the order.
class CountedFile final : public File {
public:
    CountedFile(u64 id, std::vector<u64>* released) : File(id), released_(released) {}
    std::string_view kind() const override { return "counted"; }
    void release() override { released_->push_back(id()); }

private:
    std::vector<u64>* released_;
};

struct Bench : BootedKernel {
    std::vector<u64> released;
    FileRef file(u64 id) { return std::make_shared<CountedFile>(id, &released); }
    Vfs& vfs() { return kernel->vfs; }
};

using Ids = std::vector<u64>;

}  // namespace

TEST_CASE("descriptors are the lowest free numbers from 3") {
    Bench bench;
    Agent& agent = bench.main();
    CHECK(agent.install(bench.file(1), false).value() == 3);
    CHECK(agent.install(bench.file(2), true).value() == 4);
    CHECK(agent.install(bench.file(3), false).value() == 5);
    CHECK(agent.close(4));
    CHECK(agent.free_descriptor().value() == 4);
    CHECK(agent.install(bench.file(4), true).value() == 4);
    CHECK(agent.descriptor(4).value()->cloexec);
    CHECK_FALSE(agent.descriptor(3).value()->cloexec);
    CHECK(agent.get(5).value()->id() == 3);
    CHECK(agent.open_fds() == std::vector<i32>{3, 4, 5});
}

TEST_CASE("a number that is not open is EBADF") {
    Bench bench;
    for (const i32 fd : {-1, 0, 2, 3, 99999}) {
        CHECK(bench.main().get(fd).error() == Errno::ebadf);
        CHECK(bench.main().descriptor(fd).error() == Errno::ebadf);
        CHECK(bench.main().close(fd).error() == Errno::ebadf);
        std::vector<std::byte> bytes(8);
        UserBuffer argument(bytes);
        CHECK(bench.vfs().ioctl(bench.main(), fd, 0, argument).error() == Errno::ebadf);
    }
}

TEST_CASE("an agent has room for descriptors up to number 1023") {
    Bench bench;
    const FileRef file = bench.file(1);
    for (i32 fd = 3; fd < 1024; ++fd) REQUIRE(bench.main().install(file, false).value() == fd);
    CHECK(bench.main().install(file, false).error() == Errno::emfile);
    // open(2) refuses before the device sees anything.
    bool opened = false;
    bench.vfs().register_device("/dev/x", [&](Agent&, u32) -> Result<FileRef> {
        opened = true;
        return bench.file(2);
    });
    CHECK(bench.vfs().open(bench.main(), "/dev/x").error() == Errno::emfile);
    CHECK_FALSE(opened);
}

TEST_CASE("a file is released once, when its last reference goes") {
    Bench bench;
    Agent& other = bench.vfs().start_agent("other");
    FileRef file = bench.file(1);
    const i32 first = bench.main().install(file, false).value();
    const i32 second = other.install(file, false).value();
    bench.vfs().put(std::move(file));
    file.reset();
    CHECK(bench.main().close(first));
    CHECK(bench.released.empty());
    CHECK(other.close(second));
    CHECK(bench.released == Ids{1});
}

TEST_CASE("a file that somebody else holds is released when he puts it") {
    Bench bench;
    FileRef held = bench.file(1);
    const i32 fd = bench.main().install(held, false).value();
    CHECK(bench.main().close(fd));
    CHECK(bench.released.empty());
    bench.vfs().put(std::move(held));
    CHECK(bench.released == Ids{1});
}

TEST_CASE("a file of make_file is released however its last reference goes") {
    Bench bench;
    auto file = bench.vfs().make_file<CountedFile>(7, &bench.released);
    CHECK(bench.vfs().find_file(7) == file);
    SECTION("dropped") { file.reset(); }
    SECTION("closed") {
        const i32 fd = bench.main().install(file, false).value();
        file.reset();
        CHECK(bench.main().close(fd));
    }
    SECTION("closed while a reference lives, which is dropped later") {
        const i32 fd = bench.main().install(file, false).value();
        CHECK(bench.main().close(fd));
        CHECK(bench.released.empty());
        file.reset();
    }
    CHECK(bench.released == Ids{7});
    CHECK(bench.vfs().find_file(7) == nullptr);
}

TEST_CASE("an agent that is killed closes its descriptors in ascending order") {
    Bench bench;
    Agent& agent = bench.vfs().start_agent("vmm");
    for (u64 id = 1; id <= 4; ++id) REQUIRE(agent.install(bench.file(id), false));
    REQUIRE(agent.close(4));
    REQUIRE(agent.install(bench.file(9), false).value() == 4);
    bench.released.clear();
    bench.count_events("");
    agent.kill();
    CHECK(bench.released == Ids{1, 9, 3, 4});
    CHECK_FALSE(agent.alive());
    CHECK(agent.install(bench.file(5), false).error() == Errno::esrch);
    CHECK(bench.vfs().open(agent, "/dev/x").error() == Errno::esrch);
    agent.kill();
    CHECK(bench.released.size() == 4);
    CHECK(bench.count_events("agent.kill") == 1);
}

TEST_CASE("a dead agent's name can be started again") {
    Bench bench;
    Agent& first = bench.vfs().start_agent("vmm");
    CHECK(&bench.vfs().start_agent("vmm") == &first);
    first.kill();
    Agent& second = bench.vfs().start_agent("vmm");
    CHECK(second.alive());
    CHECK(second.open_fds().empty());
    CHECK(bench.vfs().find_agent("vmm") == &second);
    CHECK(bench.vfs().find_agent("nobody") == nullptr);
}

TEST_CASE("the end of a kernel releases nothing") {
    Bench bench;
    auto held = bench.vfs().make_file<CountedFile>(1, &bench.released);
    REQUIRE(bench.main().install(bench.file(2), false));
    REQUIRE(bench.main().install(held, false));
    SECTION("destroyed by name") { bench.vfs().destroy_all(); }
    SECTION("destroyed with the kernel") { bench.kernel.reset(); }
    held.reset();
    CHECK(bench.released.empty());
}

TEST_CASE("while a kernel dies by an exception its files are not released") {
    Bench bench;
    try {
        const auto held = bench.vfs().make_file<CountedFile>(1, &bench.released);
        throw KernelPanic("in the middle");
    } catch (const KernelPanic&) {}
    CHECK(bench.released.empty());
}

TEST_CASE("a device is opened by its path") {
    Bench bench;
    u32 flags_seen = 0;
    bench.vfs().register_device("/dev/counted", [&](Agent&, u32 flags) -> Result<FileRef> {
        flags_seen = flags;
        if (flags & 0x80) return fail(Errno::ebusy);
        return bench.file(11);
    });
    CHECK(bench.vfs().open(bench.main(), "/dev/nothing").error() == Errno::enoent);
    CHECK(bench.vfs().open(bench.main(), "/dev/counted", 0x80).error() == Errno::ebusy);
    CHECK(bench.main().open_fds().empty());
    const i32 fd = bench.vfs().open(bench.main(), "/dev/counted", O_CLOEXEC_BIT).value();
    CHECK(flags_seen == O_CLOEXEC_BIT);
    CHECK(bench.main().descriptor(fd).value()->cloexec);
    CHECK(bench.vfs().find_file(11) != nullptr);
    std::vector<std::byte> bytes(8);
    UserBuffer argument(bytes);
    CHECK(bench.vfs().ioctl(bench.main(), fd, 1, argument).error() == Errno::enotty);  // a file without ioctls
    CHECK(bench.main().close(fd));
    CHECK(bench.released == Ids{11});
}

TEST_CASE("copying beyond an ioctl's argument faults and copies nothing") {
    std::vector<std::byte> memory(16);
    UserBuffer argument(memory);
    std::vector<std::byte> data(8, std::byte{1});
    CHECK(argument.copy_out(8, data));
    CHECK(argument.copy_out(9, data).error() == Errno::efault);
    CHECK(argument.copy_out(~u64{0}, data).error() == Errno::efault);
    CHECK(memory[7] == std::byte{0});
    CHECK(memory[8] == std::byte{1});
    CHECK(argument.copy_in(0, data));
    CHECK(data[0] == std::byte{0});
    CHECK(argument.copy_in(9, data).error() == Errno::efault);
    CHECK(argument.copy_in(16, {}));
    CHECK(argument.copy_in(17, {}).error() == Errno::efault);
}

TEST_CASE("pseudo files are read and written by path") {
    Bench bench;
    std::string stored = "normal\n";
    bench.vfs().add_pseudo_file("/sys/kernel/liveupdate/state", {[&] { return Result<std::string>(stored); }, {}});
    bench.vfs().add_pseudo_file("/sys/kernel/debug/kho/out/finalize", {{}, [&](std::string_view text) -> Result<> {
                                                                           stored = text;
                                                                           return {};
                                                                       }});
    CHECK(bench.vfs().read("/sys/kernel/liveupdate/state").value() == "normal\n");
    CHECK(bench.vfs().write("/sys/kernel/liveupdate/state", "x").error() == Errno::eacces);
    CHECK(bench.vfs().read("/sys/kernel/debug/kho/out/finalize").error() == Errno::eacces);
    CHECK(bench.vfs().write("/sys/kernel/debug/kho/out/finalize", "1"));
    CHECK(stored == "1");
    CHECK(bench.vfs().read("/sys/none").error() == Errno::enoent);
    CHECK(bench.vfs().write("/sys/none", "").error() == Errno::enoent);
    CHECK(bench.vfs().list("/sys/kernel/debug/") == std::vector<std::string>{"/sys/kernel/debug/kho/out/finalize"});
    CHECK(bench.vfs().list("/sys/").size() == 2);
    bench.vfs().remove_pseudo_file("/sys/kernel/liveupdate/state");
    CHECK(bench.vfs().read("/sys/kernel/liveupdate/state").error() == Errno::enoent);
}
