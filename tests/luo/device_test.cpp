// /dev/liveupdate, byte by byte, in both editions; libluo and luoctl on top of it.
#include "luo_fixture.hpp"

#include "luo/abi/ioctl.hpp"
#include "luo/device.hpp"
#include "luo/luoctl.hpp"

namespace kexec_sim::luo {
namespace {

/// An ioctl whose argument is these 32-bit words; the words hold the answer afterwards.
Errno raw(LuoWorld& world, u32 request, std::vector<u32>& words) {
    const auto result = world.client().raw(request, std::as_writable_bytes(std::span(words)));
    return result ? Errno::ok : result.error();
}
Errno raw(LuoWorld& world, u32 request, std::vector<u32>&& words) { return raw(world, request, words); }

}  // namespace

// --- luo-v3
// --------------------------------------------------------------------------------------------------------------

TEST_CASE("the checks of a size-prefixed ioctl come in the kernel's order") {
    struct Row {
        const char* what;
        u32 request;
        std::vector<u32> words;
        Errno result;
    };
    const Row rows[] = {
        {"number out of the table, before the size is read", 0xBA07, {}, Errno::einval},
        {"the same with another type", 0x12FF, {}, Errno::einval},
        {"the size cannot be read", 0xBA03, {}, Errno::efault},
        {"the size cannot be read, before the number is compared", 0xC010BA00, {}, Errno::efault},
        {"a number that is not _IO", 0xC010BA00, {16, 0, 0, 0}, Errno::enotty},
        {"another type with a number in the table", 0xBB03, {8, 0}, Errno::enotty},
        {"compared before the size is judged", 0x8004BA03, {0, 0}, Errno::enotty},
        {"size zero", 0xBA03, {0, 0}, Errno::einval},
        {"one byte too short", 0xBA03, {7, 0}, Errno::einval},
        {"exact", 0xBA03, {8, 0}, Errno::ok},
        {"longer, zero beyond", 0xBA03, {16, 0, 0, 0}, Errno::ok},
        {"longer, not zero beyond", 0xBA03, {16, 0, 0, 1}, Errno::e2big},
        {"longer than the memory behind it", 0xBA03, {16, 0}, Errno::efault},
        {"absurdly longer, not zero", 0xBA03, {0xffff'ffff, 0, 1}, Errno::e2big},
        {"struct not all there", 0xBA00, {16, 0, 0}, Errno::efault},
        {"GET_FD_STATE may end before the state", 0xBA05, {16, 0, 5, 0}, Errno::enoent},
        {"but not before the token", 0xBA05, {12, 0, 5}, Errno::einval},
        {"FD_PRESERVE of descriptor -1", 0xBA00, {16, ~0u, 1, 0}, Errno::ebadf},
        {"FD_UNPRESERVE of no token", 0xBA01, {16, 0, 1, 0}, Errno::enoent},
        {"FD_RESTORE in normal", 0xBA02, {16, 0, 1, 0}, Errno::ebusy},
        {"SET_EVENT does not take FREEZE", 0xBA04, {8, 1}, Errno::einval},
        {"nor an event that does not exist", 0xBA04, {8, 4}, Errno::einval},
        {"FINISH in normal", 0xBA04, {8, 2}, Errno::einval},
        {"CANCEL in normal", 0xBA04, {8, 3}, Errno::enoent},
        {"SET_FD_EVENT of no token", 0xBA06, {16, 0, 1, 0}, Errno::enoent},
    };
    LuoWorld world;
    for (const Row& row : rows) {
        INFO(row.what);
        CHECK(raw(world, row.request, std::vector<u32>(row.words)) == row.result);
    }
    CHECK(world.luo().state() == LuoState::normal);
}

TEST_CASE("GET_STATE and SET_EVENT speak the numbers of the header") {
    LuoWorld world;
    std::vector<u32> words{8, 0};
    CHECK(raw(world, 0xBA03, words) == Errno::ok);
    CHECK(words == std::vector<u32>{8, 1});
    CHECK(raw(world, 0xBA04, {8, 0}) == Errno::ok);
    CHECK(raw(world, 0xBA03, words) == Errno::ok);
    CHECK(words == std::vector<u32>{8, 2});
    CHECK(raw(world, 0xBA04, {8, 3}) == Errno::ok);
    CHECK(*world.client().get_state() == LuoState::normal);
}

TEST_CASE("the device has one opener, whose last close drops all files and keeps the state") {
    for (const bool strict : {false, true}) {
        LuoWorld world({.strict = strict});
        const i32 fd = world.memfd(4 * page_bytes);
        REQUIRE(world.client().fd_preserve(fd, 1));
        Agent& other = world.kernel().vfs.start_agent("other");
        LuoClient second(world.kernel(), other);
        CHECK(second.open().error() == Errno::ebusy);
        CHECK_FALSE(second.is_open());
        CHECK(second.get_state().error() == Errno::ebadf);
        REQUIRE(world.prepare() == Errno::ok);
        CHECK(world.shmem(fd)->frozen());
        REQUIRE(world.client().close());
        CHECK(world.luo().state() == LuoState::prepared);
        CHECK(world.luo().files().outgoing_count() == 0);
        CHECK_FALSE(world.shmem(fd)->frozen());
        REQUIRE(second.open());
        CHECK(second.fd_unpreserve(1).error() == Errno::ebusy);
        CHECK(second.set_event(static_cast<u32>(LuoEvent::cancel)));
        // KHO's root page stays. What was preserved for the file only the repaired kernel takes back (LUO-D7).
        CHECK(world.kho().preserved_folios() == (strict ? 1u : 6u));
        CHECK(world.has_finding("frame.accounted") == false);
    }
}

TEST_CASE("an agent that dies closes the device") {
    LuoWorld world;
    REQUIRE(world.client().fd_preserve(world.memfd(page_bytes), 1));
    world.main().kill();
    CHECK_FALSE(world.running->client->is_open());
    CHECK(world.luo().files().outgoing_count() == 0);
    LuoClient next(world.kernel(), world.kernel().vfs.start_agent("next"));
    CHECK(next.open());
}

TEST_CASE("a fault while copying is EFAULT; after RESTORE the descriptor stays behind, or goes in strict") {
    for (const bool strict : {false, true}) {
        LuoWorld world({.strict = strict, .faults = "luo.copy_in[FD_PRESERVE]#1=fail(EFAULT)"});
        const i32 fd = world.memfd(page_bytes);
        CHECK(world.client().fd_preserve(fd, 1).error() == Errno::efault);
        CHECK(world.client().fd_preserve(fd, 1));
        REQUIRE(world.prepare() == Errno::ok);
        REQUIRE(world.kexec() == Errno::ok);
        world.plan("luo.copy_out[FD_RESTORE]#1=fail(EFAULT)");
        CHECK(world.client().fd_restore(1).error() == Errno::efault);
        CHECK(world.main().open_fds().size() == (strict ? 1u : 2u));  // the device; the file
        CHECK(world.client().fd_restore(1).error() == Errno::einval);
        CHECK(world.finish() == Errno::ok);
    }
}

TEST_CASE("RESTORE without a free descriptor says EMFILE and can be repeated") {
    LuoWorld world;
    REQUIRE(world.client().fd_preserve(world.memfd(page_bytes), 1));
    REQUIRE(world.prepare() == Errno::ok);
    REQUIRE(world.kexec() == Errno::ok);
    LuoClient& client = world.client();
    const FileRef filler = *world.main().get(world.memfd(page_bytes));
    while (world.main().install(filler, false)) {}
    CHECK(client.fd_restore(1).error() == Errno::emfile);
    CHECK(world.logged("luo: Failed to allocate new fd: -24"));
    REQUIRE(world.main().close(100));
    CHECK(*client.fd_restore(1) == 100);
    CHECK((*world.main().descriptor(100))->cloexec);
}

// --- luo-v2
// --------------------------------------------------------------------------------------------------------------

TEST_CASE("luo-v2 has a number for each event, and says what it does not know") {
    LuoWorld world({.profile = "luo-v2"});
    std::vector<u32> state{0};
    CHECK(raw(world, 0x8004BA03, state) == Errno::ok);
    CHECK(state[0] == 1);
    CHECK(raw(world, 0x8004BA03, {}) == Errno::efault);
    CHECK(raw(world, 0x4010BA00, {~0u, 0, 1, 0}) == Errno::ebadf);
    CHECK(raw(world, 0x4010BA00, {~0u, 0, 1}) == Errno::efault);
    CHECK(raw(world, 0x4008BA01, {1, 0}) == Errno::enoent);
    CHECK(raw(world, 0xC010BA02, {0, 0, 1, 0}) == Errno::ebusy);
    CHECK(raw(world, 0xBA05, {}) == Errno::enotty);  // FREEZE is the self-test's
    CHECK(world.logged("luo_ioctl: ioctl: unknown command nr: 0x5"));
    CHECK(raw(world, 0xBA00, {16, 0, 1, 0}) == Errno::enotty);  // luo-v3's
    CHECK(raw(world, 0x8004BB03, {0}) == Errno::enotty);        // another type
    CHECK(raw(world, 0xBA04, {}) == Errno::ok);
    CHECK(world.luo().state() == LuoState::prepared);
    CHECK(world.logged("luo_core: Switched from [normal] to [prepared] state"));
    CHECK(raw(world, 0xBA06, {}) == Errno::ok);
    CHECK(raw(world, 0xBA07, {}) == Errno::einval);
    CHECK(world.client().get_fd_state(1, false).error() == Errno::enotty);
    CHECK(world.client().set_event(static_cast<u32>(LuoEvent::freeze)).error() == Errno::enotty);
}

TEST_CASE("luo-v2 takes several openers, not O_EXCL, and a close means nothing to files") {
    LuoWorld world({.profile = "luo-v2"});
    LuoClient second(world.kernel(), world.kernel().vfs.start_agent("other"));
    REQUIRE(world.client().fd_preserve(world.memfd(page_bytes), 1));
    REQUIRE(second.open());
    CHECK(world.kernel().vfs.open(world.main(), device_path, O_EXCL_BIT).error() == Errno::einval);
    REQUIRE(world.client().close());
    CHECK(world.luo().files().outgoing_count() == 1);
    CHECK(second.fd_unpreserve(1));
}

// --- luoctl
// --------------------------------------------------------------------------------------------------------------

TEST_CASE("luoctl checks the state itself") {
    LuoWorld world({.profile = "luo-v2"});
    const auto run = [&](const std::string& arguments) { return run_luoctl(world.kernel(), arguments); };
    const auto refused = [&](const std::string& arguments, std::string_view text) {
        const LuoctlResult result = run(arguments);
        return result.exit_code == 1 && result.out.empty() && result.err == fmt::format("Error: {}\n", text);
    };
    CHECK(run("state").out == "normal\n");
    CHECK(refused("cancel", "can only cancel from normal state"));
    CHECK(refused("finish", "can only finish from updated state"));
    for (const char* bad : {"", "freeze", "prepare finish", "--help state"}) CHECK(run(bad).exit_code == 1);
    CHECK(run("--help").exit_code == 0);
    CHECK(run("prepare").exit_code == 0);
    CHECK(run("state").out == "prepared\n");
    CHECK(refused("prepare", "can only switch to prepared state from normal state"));
    REQUIRE(world.freeze() == Errno::ok);
    CHECK(refused("cancel", "can only cancel from normal state"));
    REQUIRE(world.kexec() == Errno::ok);
    CHECK(run("finish").exit_code == 0);
    CHECK(world.luo().state() == LuoState::normal);
}

TEST_CASE("luoctl says where LUO is not available") {
    LuoWorld world({.profile = "luo-v2", .cmdline = "kho=on"});
    const LuoctlResult result = run_luoctl(world.kernel(), "state");
    CHECK(result.exit_code == 1);
    CHECK(result.err == "Error: LUO is not available on this system\n");
}

}  // namespace kexec_sim::luo
