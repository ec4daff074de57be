// States, events, rollback, and the defects of the series, as written and repaired.
#include "luo_fixture.hpp"

namespace kexec_sim::luo {
namespace {

void bring_to(LuoWorld& world, LuoState state) {
    if (state == LuoState::updated) {
        REQUIRE(world.prepare() == Errno::ok);
        REQUIRE(world.kexec() == Errno::ok);
    } else if (state == LuoState::prepared || state == LuoState::frozen) {
        REQUIRE(world.prepare() == Errno::ok);
        if (state == LuoState::frozen) REQUIRE(world.freeze() == Errno::ok);
    }
    REQUIRE(world.luo().state() == state);
}

}  // namespace

TEST_CASE("every event has in every state the result and the successor of the table") {
    struct Row {
        LuoState from;
        LuoEvent event;
        Errno result;
        LuoState to;
    };
    using S = LuoState;
    using E = LuoEvent;
    const Row rows[] = {
        {S::undefined, E::prepare, Errno::einval, S::undefined},
        {S::undefined, E::freeze, Errno::einval, S::undefined},
        {S::undefined, E::cancel, Errno::eopnotsupp, S::undefined},
        {S::undefined, E::finish, Errno::einval, S::undefined},
        {S::normal, E::prepare, Errno::ok, S::prepared},
        {S::normal, E::freeze, Errno::einval, S::normal},
        {S::normal, E::cancel, Errno::enoent, S::normal},
        {S::normal, E::finish, Errno::einval, S::normal},
        {S::prepared, E::prepare, Errno::einval, S::prepared},
        {S::prepared, E::freeze, Errno::ok, S::frozen},
        {S::prepared, E::cancel, Errno::ok, S::normal},
        {S::prepared, E::finish, Errno::einval, S::prepared},
        {S::frozen, E::prepare, Errno::einval, S::frozen},
        {S::frozen, E::freeze, Errno::einval, S::frozen},
        {S::frozen, E::cancel, Errno::ok, S::normal},
        {S::frozen, E::finish, Errno::einval, S::frozen},
        {S::updated, E::prepare, Errno::einval, S::updated},
        {S::updated, E::freeze, Errno::einval, S::updated},
        {S::updated, E::cancel, Errno::enoent, S::updated},
        {S::updated, E::finish, Errno::ok, S::normal},
    };
    for (const Row& row : rows) {
        LuoOptions options;
        if (row.from == S::undefined) options.cmdline = "liveupdate=on";
        LuoWorld world(options);
        bring_to(world, row.from);
        INFO(luo_state_name(row.from) << ", event " << static_cast<int>(row.event));
        CHECK(errno_of(world.luo().request(row.event)) == row.result);
        CHECK(world.luo().state() == row.to);
        const std::string_view target = row.event == E::prepare  ? "prepared"
                                        : row.event == E::freeze ? "frozen"
                                                                 : "normal";
        const std::string switched =
            fmt::format("luo: Switched from [{}] to [{}] state", luo_state_name(row.from), target);
        const std::string refused =
            fmt::format("luo: Can't switch to [{}] from [{}] state", target, luo_state_name(row.from));
        CHECK(world.logged(switched) == (row.result == Errno::ok));
        CHECK(world.logged(refused) == (row.result == Errno::einval));
        CHECK(world.findings() == Calls{});
    }
}

TEST_CASE("the reboot hook freezes a prepared machine and does nothing in any other state") {
    for (const LuoState state : {LuoState::normal, LuoState::frozen, LuoState::updated}) {
        LuoWorld world;
        bring_to(world, state);
        CHECK(world.luo().reboot());
        CHECK(world.luo().state() == state);
    }
    LuoWorld world;
    bring_to(world, LuoState::prepared);
    CHECK(world.luo().reboot());
    CHECK(world.luo().state() == LuoState::frozen);
}

TEST_CASE("a reboot without an image leaves the machine frozen") {
    LuoWorld world;
    REQUIRE(world.prepare() == Errno::ok);
    CHECK(world.kernel().kexec_reboot().error() == Errno::einval);
    CHECK(world.luo().state() == LuoState::frozen);
    CHECK(world.cancel() == Errno::ok);
}

TEST_CASE("without KHO the state stays undefined, and liveupdate=on is said to be off") {
    LuoWorld world({.cmdline = "liveupdate=on"});
    CHECK(world.luo().state() == LuoState::undefined);
    CHECK_FALSE(world.luo().enabled());
    CHECK(world.logged("luo: Disabling liveupdate because KHO is disabled"));
    CHECK(*world.kernel().vfs.read("sys/kernel/liveupdate/state") == "undefined\n");
    CHECK(world.kernel().vfs.open(world.main(), "/dev/liveupdate").error() == Errno::enoent);
}

TEST_CASE("with liveupdate=off an incoming tree leads to updated, without a device to end it") {
    LuoWorld world;
    REQUIRE(world.prepare() == Errno::ok);
    world.options.cmdline = "kho=on liveupdate=off";
    REQUIRE(world.kexec() == Errno::ok);
    CHECK(world.luo().state() == LuoState::updated);
    CHECK(*world.kernel().vfs.read("sys/kernel/liveupdate/state") == "updated\n");
    CHECK(world.kernel().vfs.open(world.main(), "/dev/liveupdate").error() == Errno::enoent);
}

TEST_CASE("a failed or cancelled prepare returns every frame") {
    LuoWorld world;
    Probe probe("probe");
    REQUIRE(world.luo().register_subsystem(&probe.subsystem));
    const i32 fd = world.memfd(4 * page_bytes);
    REQUIRE(world.client().fd_preserve(fd, 1));
    REQUIRE(world.prepare() == Errno::ok);
    REQUIRE(world.cancel() == Errno::ok);  // tracking pages of KHO are there from now on
    const u64 before = world.free_frames();
    for (const char* fault :
         {"mm.folio_alloc[luo.tree]#1=fail(ENOMEM)", "mm.folio_alloc[luo.fdt]#1=fail(ENOMEM)",
          "kho.preserve[luo]#1=fail(ENOMEM)", "kho.add_subtree[LUO]#1=fail(ENOMEM)",
          "luo.fdt_write[subsystems]#1=fail(ENOSPC)", "luo.fdt_write[probe]#1=fail(ENOSPC)",
          "luo.fdt_write[probe]#2=fail(ENOSPC)", "luo.fdt_write[data]#1=fail(ENOSPC)",
          "luo.fdt_write[data]#2=fail(ENOSPC)", "luo.subsystem.prepare[probe]#1=fail(EAGAIN)",
          "luo.file.prepare[memfd-v1]#1=fail(EINVAL)", "mm.folio_alloc[memfd.tree]#1=fail(ENOMEM)"}) {
        INFO(fault);
        world.plan(fault);
        CHECK(world.prepare() != Errno::ok);
        CHECK(world.luo().state() == LuoState::normal);
        CHECK(world.free_frames() == before);
    }
    world.machine->faults.set_plan({});
    CHECK(world.prepare() == Errno::ok);
    CHECK(world.cancel() == Errno::ok);
    CHECK(world.free_frames() == before);
    CHECK(world.findings() == Calls{});
}

// --- defects, as written and repaired
// ------------------------------------------------------------------------------------

TEST_CASE("after a failed freeze only those before it are cancelled and KHO stays finalized; strict repairs both") {
    for (const bool strict : {false, true}) {
        INFO("strict " << strict);
        LuoWorld world({.strict = strict});
        Calls calls;
        Probe one("one", &calls), two("two", &calls), three("three", &calls);
        for (Probe* probe : {&one, &two, &three}) REQUIRE(world.luo().register_subsystem(&probe->subsystem));
        two.freeze_answer = -static_cast<int>(Errno::ebusy);
        REQUIRE(world.prepare() == Errno::ok);
        calls.clear();
        CHECK(world.freeze() == Errno::ebusy);
        CHECK(world.luo().state() == LuoState::normal);
        CHECK(world.logged("luo: Subsystem 'two' freeze callback failed [-16]"));
        if (strict) {
            CHECK(calls == Calls{"one.freeze", "two.freeze", "one.cancel", "two.cancel", "three.cancel"});
            CHECK_FALSE(world.kho().finalized());
            CHECK(world.findings() == Calls{});
        } else {
            CHECK(calls == Calls{"one.freeze", "two.freeze", "one.cancel"});
            CHECK(one.subsystem.private_data() == 0);
            CHECK(three.subsystem.private_data() == three.handle);
            CHECK(world.kho().finalized());
            CHECK(world.prepare() == Errno::ebusy);
            CHECK(world.cancel() == Errno::einval);  // but KHO is aborted now
            CHECK_FALSE(world.kho().finalized());
            CHECK(world.has_finding("luo.rollback"));
        }
        CHECK(world.prepare() == Errno::ok);
    }
}

TEST_CASE("a finalize that fails leaves the machine prepared without a way back; strict leads back") {
    for (const bool strict : {false, true}) {
        INFO("strict " << strict);
        LuoWorld world({.strict = strict, .faults = "kho.finalize#1=fail(ENOMEM)"});
        Probe probe("probe");
        REQUIRE(world.luo().register_subsystem(&probe.subsystem));
        CHECK(world.prepare() == Errno::enomem);
        CHECK(world.luo().state() == (strict ? LuoState::normal : LuoState::prepared));
        CHECK(world.has_finding("luo.rollback") == !strict);
        if (!strict) CHECK(world.cancel() == Errno::enoent);
        if (strict) CHECK(world.prepare() == Errno::ok);
    }
}

TEST_CASE("CANCEL aborts a KHO that somebody else finalized, and then refuses") {
    LuoWorld world;
    REQUIRE(world.kho().finalize());
    CHECK(world.prepare() == Errno::ebusy);
    CHECK(world.logged("luo: failed to prepare LUO FDT: -16"));
    CHECK(world.cancel() == Errno::einval);
    CHECK_FALSE(world.kho().finalized());
    CHECK(world.prepare() == Errno::ok);
}

// --- re-entry
// ------------------------------------------------------------------------------------------------------------

TEST_CASE("a callback that calls back hangs with the lock, and everybody after it waits for ever") {
    LuoWorld world;
    Probe probe("probe"), other("other");
    probe.subsystem.prepare = [&](u64*) {
        return static_cast<int>(!world.luo().register_subsystem(&other.subsystem));
    };
    REQUIRE(world.luo().register_subsystem(&probe.subsystem));
    CHECK_THROWS_AS(world.luo().request(LuoEvent::prepare), TaskDeadlock);
    CHECK(world.has_finding("luo.legal"));
    CHECK_THROWS_AS(world.luo().request(LuoEvent::finish), TaskBlocked);
    CHECK(world.cancel() == Errno::enoent);  // KHO says so, before the lock
    CHECK_THROWS_AS(world.luo().register_subsystem(&other.subsystem), TaskBlocked);
    CHECK_THROWS_AS(world.luo().files().unpreserve(1), TaskBlocked);
    CHECK(*world.kernel().vfs.read("sys/kernel/liveupdate/state") == "normal\n");  // takes no lock
}

TEST_CASE("a boot callback that registers another subsystem hangs on the list") {
    LuoWorld world;
    {
        Probe probe("probe");
        REQUIRE(world.luo().register_subsystem(&probe.subsystem));
        REQUIRE(world.prepare() == Errno::ok);
        REQUIRE(world.kexec() == Errno::ok);
    }
    Probe probe("probe"), other("other");
    probe.subsystem.boot = [&](u64) { static_cast<void>(world.luo().register_subsystem(&other.subsystem)); };
    CHECK_THROWS_AS(world.luo().register_subsystem(&probe.subsystem), TaskDeadlock);
}

}  // namespace kexec_sim::luo
