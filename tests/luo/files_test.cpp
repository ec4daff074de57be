// Files under tokens: rules, per-file events, order, rollback, the incoming set.
#include "luo_fixture.hpp"

namespace kexec_sim::luo {
namespace {

constexpr u32 event(LuoEvent event) { return static_cast<u32>(event); }

/// A handler for memfds that notes what it is asked. It carries nothing.
class NotingHandler final : public FileHandler {
public:
    explicit NotingHandler(std::string compatible_) : FileHandler(std::move(compatible_)) {}
    bool can_preserve(File&) override { return true; }
    Result<> prepare(File&, u64& data) override {
        calls.push_back("prepare");
        data = 1;
        return {};
    }
    Result<> freeze(File&, u64&) override {
        calls.push_back("freeze");
        return {};
    }
    void cancel(File&, u64) override { calls.push_back("cancel"); }
    void finish(File*, u64, bool) override { calls.push_back("finish"); }
    Result<FileRef> retrieve(u64) override { return fail(Errno::eio); }

    Calls calls;
};

}  // namespace

TEST_CASE("preserve and unpreserve check in the order of the table") {
    LuoWorld world;
    LuoClient& client = world.client();
    const i32 fd = world.memfd(page_bytes);
    CHECK(client.fd_preserve(77, 1).error() == Errno::ebadf);
    CHECK(world.logged("luo: Bad file descriptor"));
    REQUIRE(client.fd_preserve(fd, 0));
    CHECK(client.fd_preserve(fd, 0).error() == Errno::eexist);
    CHECK(world.logged("luo: Token 0 is already taken"));
    CHECK(client.fd_preserve(fd, ~u64{0}));  // the same file under another token
    auto hugetlb = memfd_create_file(world.kernel(), "huge", 2 * MiB, {.hugetlb = true});
    const i32 huge = *world.main().install(*hugetlb, false);
    CHECK(client.fd_preserve(huge, 0).error() == Errno::enoent);  // before the token is looked at
    CHECK(client.fd_unpreserve(5).error() == Errno::enoent);
    CHECK(world.logged("luo: Failed to unregister: token 5 not found."));
    REQUIRE(world.prepare() == Errno::ok);
    CHECK(client.fd_preserve(77, 1).error() == Errno::ebadf);  // before the state is looked at
    CHECK(client.fd_preserve(huge, 1).error() == Errno::ebusy);
    CHECK(world.logged("luo: File can be registered only in normal or updated state"));
    CHECK(client.fd_unpreserve(5).error() == Errno::ebusy);
    REQUIRE(world.cancel() == Errno::ok);
    CHECK(client.fd_unpreserve(0));
    CHECK(client.fd_unpreserve(0).error() == Errno::enoent);
    world.plan("mm.slab_alloc[luo.file]#1=fail(ENOMEM)");
    CHECK(client.fd_preserve(fd, 0).error() == Errno::enomem);
    CHECK(client.fd_unpreserve(0).error() == Errno::enoent);
}

TEST_CASE("a preserved file stays open when its descriptor is closed, until it is unpreserved") {
    LuoWorld world;
    const u64 before = world.free_frames();
    const i32 fd = world.memfd(8 * page_bytes);
    REQUIRE(world.client().fd_preserve(fd, 1));
    REQUIRE(world.main().close(fd));
    CHECK(world.free_frames() == before - 8);
    REQUIRE(world.client().fd_unpreserve(1));
    CHECK(world.free_frames() == before);
}

TEST_CASE("handlers register under a free name, and not while files use them") {
    LuoWorld world;
    NotingHandler other("other-v1"), twin("memfd-v1");
    CHECK(world.luo().register_file_handler(&twin).error() == Errno::eexist);
    CHECK(world.logged("luo: File handler registration failed: Compatible string 'memfd-v1' already registered."));
    REQUIRE(world.luo().register_file_handler(&other));
    REQUIRE(world.prepare() == Errno::ok);
    CHECK(world.luo().unregister_file_handler(&other).error() == Errno::ebusy);
    REQUIRE(world.cancel() == Errno::ok);
    REQUIRE(world.client().fd_preserve(world.memfd(page_bytes), 1));
    CHECK(other.calls == Calls{});  // memfd-v1 came first and took it
    CHECK(world.luo().unregister_file_handler(&other));
    CHECK(world.luo().unregister_file_handler(&world.running->memfd).error() == Errno::ebusy);
    REQUIRE(world.client().fd_unpreserve(1));
    CHECK(world.luo().unregister_file_handler(&world.running->memfd));
    CHECK(world.client().fd_preserve(world.memfd(page_bytes), 1).error() == Errno::enoent);
}

TEST_CASE("per-file events follow the states of the file") {
    LuoWorld world({.without = {"memfd"}});
    NotingHandler handler("other-v1");
    REQUIRE(world.luo().register_file_handler(&handler));
    LuoClient& client = world.client();
    REQUIRE(client.fd_preserve(world.memfd(page_bytes), 1));
    const auto state = [&] { return *client.get_fd_state(1, false); };
    CHECK(state() == LuoState::normal);
    CHECK(client.set_fd_event(1, event(LuoEvent::freeze)));  // a warning, nothing else
    CHECK(client.set_fd_event(1, event(LuoEvent::cancel)));
    CHECK(handler.calls == Calls{});
    CHECK(client.set_fd_event(1, event(LuoEvent::prepare)));
    CHECK(client.set_fd_event(1, event(LuoEvent::prepare)));
    CHECK(state() == LuoState::prepared);
    CHECK(client.set_fd_event(1, event(LuoEvent::freeze)));
    CHECK(client.set_fd_event(1, event(LuoEvent::prepare)));
    CHECK(state() == LuoState::frozen);
    CHECK(client.set_fd_event(1, event(LuoEvent::cancel)));
    CHECK(state() == LuoState::normal);
    CHECK(handler.calls == Calls{"prepare", "freeze", "cancel"});
    CHECK(client.set_fd_event(1, event(LuoEvent::finish)).error() == Errno::ebusy);
    CHECK(world.logged("luo: finish can only be done in UPDATED state"));
    CHECK(client.set_fd_event(1, 4).error() == Errno::einval);
    CHECK(client.set_fd_event(2, 4).error() == Errno::enoent);
    CHECK(client.get_fd_state(1, true).error() == Errno::enoent);
    CHECK(world.luo().state() == LuoState::normal);
    CHECK(world.findings() == Calls{});
}

TEST_CASE("a file that is prepared by its own event is not asked again, and is cancelled when it is unpreserved") {
    LuoWorld world({.without = {"memfd"}});
    NotingHandler handler("other-v1");
    REQUIRE(world.luo().register_file_handler(&handler));
    REQUIRE(world.client().fd_preserve(world.memfd(page_bytes), 1));
    REQUIRE(world.client().set_fd_event(1, event(LuoEvent::prepare)));
    REQUIRE(world.prepare() == Errno::ok);
    CHECK(handler.calls == Calls{"prepare"});
    REQUIRE(world.cancel() == Errno::ok);
    REQUIRE(world.client().set_fd_event(1, event(LuoEvent::prepare)));
    REQUIRE(world.client().fd_unpreserve(1));
    CHECK(handler.calls == Calls{"prepare", "cancel", "prepare", "cancel"});
}

TEST_CASE("when a file cannot freeze, those before it are cancelled and the others stay frozen; strict cancels all") {
    for (const bool strict : {false, true}) {
        INFO("strict " << strict);
        LuoWorld world({.strict = strict, .faults = "luo.file.freeze[memfd-v1]#2=fail(EBUSY)"});
        std::vector<std::shared_ptr<ShmemFile>> files;
        for (u64 token = 1; token <= 3; ++token) {
            const i32 fd = world.memfd(page_bytes);
            files.push_back(world.shmem(fd));
            REQUIRE(world.client().fd_preserve(fd, token));
        }
        REQUIRE(world.prepare() == Errno::ok);
        CHECK(world.freeze() == Errno::ebusy);
        CHECK(world.logged("luo: Freeze callback failed for file token 0x2 handler 'memfd-v1' [-16]"));
        CHECK(world.logged("luo: Subsystem 'file-descriptors' freeze callback failed [-16]"));
        CHECK_FALSE(files[0]->frozen());
        CHECK(files[1]->frozen() == !strict);
        CHECK(files[2]->frozen() == !strict);
        CHECK(*world.client().get_fd_state(2, false) == (strict ? LuoState::normal : LuoState::prepared));
        if (strict) CHECK(world.findings() == Calls{});
    }
}

TEST_CASE("a prepare that fails in the middle of the files cancels those before, ascending") {
    LuoWorld world({.faults = "luo.file.prepare[memfd-v1]#2=fail(EINVAL)"});
    for (const u64 token : {0x30, 0x10, 0x20}) REQUIRE(world.client().fd_preserve(world.memfd(page_bytes), token));
    CHECK(world.prepare() == Errno::einval);
    CHECK(world.logged("luo: Prepare failed for file token 0x20 handler 'memfd-v1' [-22]"));
    CHECK(world.findings() == Calls{});
    CHECK(world.prepare() == Errno::ok);
}

TEST_CASE("the incoming set is restored once, in updated, and what nobody restored is discarded by FINISH") {
    for (const bool strict : {false, true}) {
        LuoWorld world({.strict = strict});
        for (u64 token = 1; token <= 3; ++token)
            REQUIRE(world.client().fd_preserve(world.memfd(4 * page_bytes, token), token));
        CHECK(world.client().fd_restore(1).error() == Errno::ebusy);
        CHECK(world.logged("luo: File can be retrieved only in updated state"));
        REQUIRE(world.prepare() == Errno::ok);
        REQUIRE(world.kexec() == Errno::ok);

        LuoClient& client = world.client();
        CHECK(client.get_fd_state(1, true).error() == Errno::enoent);  // not rebuilt yet
        CHECK(client.fd_restore(9).error() == Errno::enoent);
        CHECK(*client.get_fd_state(1, true) == LuoState::updated);
        const i32 fd = *client.fd_restore(2);
        CHECK(world.has_pattern(fd, 4 * page_bytes, 2));
        CHECK(client.fd_restore(2).error() == Errno::einval);
        CHECK(world.logged("luo: The file descriptor for token 2 has already been retrieved"));
        CHECK(client.set_fd_event(1, event(LuoEvent::finish)));
        CHECK(*client.get_fd_state(1, true) == LuoState::normal);
        CHECK(client.fd_restore(1).error() == Errno::einval);  // discarded
        // Unrestored: file 3 with four pages and its tree of two; strict: LUO's two trees as well.
        const u64 before = world.free_frames();
        REQUIRE(world.finish() == Errno::ok);
        CHECK(world.free_frames() - before == (strict ? 8u : 6u));
        CHECK(world.has_pattern(fd, 4 * page_bytes, 2));
        CHECK(client.get_fd_state(2, true).error() == Errno::enoent);
        CHECK(world.findings() == Calls{});
    }
}

TEST_CASE("a retrieve that fails cannot be tried again") {
    LuoWorld world({.faults = "luo.file.retrieve[memfd-v1]#1=fail(ENOMEM)"});
    REQUIRE(world.client().fd_preserve(world.memfd(page_bytes), 1));
    REQUIRE(world.prepare() == Errno::ok);
    REQUIRE(world.kexec() == Errno::ok);
    CHECK(world.client().fd_restore(1).error() == Errno::enomem);
    CHECK(world.client().fd_restore(1).error() == Errno::einval);
    CHECK(world.finish() == Errno::ok);
}

TEST_CASE("one token names an incoming and an outgoing file at the same time") {
    LuoWorld world;
    REQUIRE(world.client().fd_preserve(world.memfd(page_bytes, 1), 7));
    REQUIRE(world.prepare() == Errno::ok);
    REQUIRE(world.kexec() == Errno::ok);
    REQUIRE(world.client().fd_preserve(world.memfd(page_bytes, 2), 7));
    const i32 fd = *world.client().fd_restore(7);
    CHECK(world.has_pattern(fd, page_bytes, 1));
    CHECK(*world.client().get_fd_state(7, false) == LuoState::normal);
    CHECK(*world.client().get_fd_state(7, true) == LuoState::updated);
    REQUIRE(world.finish() == Errno::ok);
    REQUIRE(world.prepare() == Errno::ok);
    REQUIRE(world.kexec() == Errno::ok);
    CHECK(world.has_pattern(*world.client().fd_restore(7), page_bytes, 2));
}

}  // namespace kexec_sim::luo
