// Registration, order and failure of callbacks, and the life of a data handle.
#include "luo_fixture.hpp"

namespace kexec_sim::luo {

TEST_CASE("a subsystem registers once, under a name that is free, in normal and updated only") {
    LuoWorld world;
    Probe one("one"), same_name("one"), late("late");
    CHECK(world.luo().register_subsystem(&one.subsystem));
    CHECK(world.luo().register_subsystem(&one.subsystem).error() == Errno::eexist);
    CHECK(world.logged("luo: Subsystem 'one' (____ptrval____) already registered."));
    CHECK(world.luo().register_subsystem(&same_name.subsystem).error() == Errno::eexist);
    CHECK(world.logged("luo: Subsystem with name 'one' already registered."));
    for (const Errno step : {world.prepare(), world.freeze()}) {
        REQUIRE(step == Errno::ok);
        CHECK(world.luo().register_subsystem(&late.subsystem).error() == Errno::ebusy);
        CHECK(world.luo().register_subsystem(&one.subsystem).error() == Errno::ebusy);  // before EEXIST
        CHECK(world.luo().unregister_subsystem(&one.subsystem).error() == Errno::ebusy);
    }
    REQUIRE(world.cancel() == Errno::ok);
    CHECK(world.luo().unregister_subsystem(&late.subsystem).error() == Errno::enoent);
    CHECK(world.logged("luo: Subsystem handler 'late' not found for unregistration."));
    CHECK(world.luo().unregister_subsystem(&one.subsystem));
    CHECK_FALSE(world.luo().on_list(&one.subsystem));
}

TEST_CASE("callbacks come in order of registration, the files first") {
    LuoWorld world;
    Calls calls;
    Probe one("one", &calls), two("two", &calls);
    REQUIRE(world.luo().register_subsystem(&one.subsystem));
    REQUIRE(world.luo().register_subsystem(&two.subsystem));
    CHECK(world.luo().subsystems().front()->name == "file-descriptors");
    REQUIRE(world.prepare() == Errno::ok);
    REQUIRE(world.freeze() == Errno::ok);
    REQUIRE(world.cancel() == Errno::ok);
    CHECK(calls == Calls{"one.prepare", "two.prepare", "one.freeze", "two.freeze", "one.cancel", "two.cancel"});
}

TEST_CASE("when subsystem k cannot prepare, exactly those before it are cancelled, first registered first") {
    for (std::size_t failing = 0; failing < 4; ++failing) {
        LuoWorld world;
        Calls calls, wanted;
        std::vector<std::unique_ptr<Probe>> probes;
        for (std::size_t i = 0; i < 4; ++i) {
            probes.push_back(std::make_unique<Probe>(fmt::format("s{}", i), &calls));
            REQUIRE(world.luo().register_subsystem(&probes[i]->subsystem));
        }
        probes[failing]->prepare_answer = -static_cast<int>(Errno::enomem);
        for (std::size_t i = 0; i <= failing; ++i) wanted.push_back(fmt::format("s{}.prepare", i));
        for (std::size_t i = 0; i < failing; ++i) wanted.push_back(fmt::format("s{}.cancel", i));
        CHECK(world.prepare() == Errno::enomem);
        CHECK(calls == wanted);
        CHECK(world.logged(fmt::format("luo: Subsystem 's{}' prepare callback failed [-12]", failing)));
        for (std::size_t i = 0; i < 4; ++i) {
            INFO(failing << " fails, look at " << i);
            // Its own data is its own; the others' is cleared; those after it never had any.
            CHECK(probes[i]->subsystem.private_data() == (i == failing ? probes[i]->handle : 0));
        }
        CHECK(world.findings() == Calls{});
    }
}

TEST_CASE("a positive answer of a callback is no error, and a missing callback is skipped") {
    LuoWorld world;
    Probe odd("odd"), bare("bare");
    odd.prepare_answer = 7;
    bare.subsystem = Subsystem{.name = "bare"};
    REQUIRE(world.luo().register_subsystem(&odd.subsystem));
    REQUIRE(world.luo().register_subsystem(&bare.subsystem));
    CHECK(world.prepare() == Errno::ok);
    CHECK(world.freeze() == Errno::ok);
    CHECK(world.cancel() == Errno::ok);
    CHECK(world.findings() == Calls{});
}

TEST_CASE("a handle that cannot be written cancels all and is ENOENT") {
    LuoWorld world({.faults = "luo.fdt_write[one]#2=fail(ENOSPC)"});
    Calls calls;
    Probe one("one", &calls), two("two", &calls);
    REQUIRE(world.luo().register_subsystem(&one.subsystem));
    REQUIRE(world.luo().register_subsystem(&two.subsystem));
    CHECK(world.prepare() == Errno::enoent);
    CHECK(world.logged("luo: Failed to set FDT property for subsystem 'one' FDT_ERR_NOSPACE"));
    CHECK(calls == Calls{"one.prepare", "two.prepare", "one.cancel", "two.cancel"});
}

TEST_CASE("the handle of freeze replaces that of prepare, and the next kernel gets it once") {
    for (const std::string profile : {"luo-v2", "luo-v3"}) {
        INFO(profile);
        LuoWorld world({.profile = profile});
        Probe before("probe");
        before.subsystem.freeze = [](u64* data) { return *data += 0x1000, 0; };
        REQUIRE(world.luo().register_subsystem(&before.subsystem));
        REQUIRE(world.prepare() == Errno::ok);
        REQUIRE(world.kexec() == Errno::ok);

        Probe after("probe");
        REQUIRE(world.luo().register_subsystem(&after.subsystem));
        CHECK(after.subsystem.private_data() == 0);
        CHECK(*world.luo().get_subsystem_data(&after.subsystem) == before.handle + 0x1000);
        REQUIRE(world.finish() == Errno::ok);
        CHECK(after.seen == before.handle + 0x1000);
        CHECK(after.subsystem.private_data() == 0);
        CHECK(after.own_calls == (profile == "luo-v3" ? Calls{"probe.boot", "probe.finish"} : Calls{"probe.finish"}));
        CHECK(world.luo().get_subsystem_data(&after.subsystem).error() == Errno::enoent);
    }
}

TEST_CASE("a subsystem that the old kernel did not have is refused, stays listed, and makes FINISH panic") {
    LuoWorld world;
    REQUIRE(world.prepare() == Errno::ok);
    REQUIRE(world.kexec() == Errno::ok);
    Probe newcomer("newcomer");
    CHECK(world.luo().register_subsystem(&newcomer.subsystem).error() == Errno::enoent);
    CHECK(world.luo().on_list(&newcomer.subsystem));
    CHECK(newcomer.own_calls == Calls{});
    CHECK(world.luo().get_subsystem_data(&newcomer.subsystem).error() == Errno::enoent);
    CHECK_THROWS_WITH(world.luo().request(LuoEvent::finish),
                      "In FDT node '/subsystems' can't find property 'newcomer': FDT_ERR_NOTFOUND");
}

TEST_CASE("scripted subsystems carry their pages, and notice when they were changed") {
    for (const bool damaged : {false, true}) {
        LuoWorld world;
        ScriptedSubsystem before(world.kernel(), world.kho(), world.luo(), "probe", {.pages = 9});
        REQUIRE(before.register_with_luo());
        REQUIRE(world.prepare() == Errno::ok);
        const PhysAddr page = before.frames().front().begin.phys();
        if (damaged) world.before_jump = [&] { world.ram().write(page + 100, u8{1}); };
        REQUIRE(world.kexec() == Errno::ok);
        ScriptedSubsystem after(world.kernel(), world.kho(), world.luo(), "probe", {.pages = 9});
        REQUIRE(after.register_with_luo());
        CHECK(world.logged("subsystem 'probe': content of its pages differs") == damaged);
        const u64 free_before = world.free_frames();
        REQUIRE(world.finish() == Errno::ok);
        CHECK(world.free_frames() == free_before + 9);
        CHECK(after.calls() == Calls{"boot", "finish"});
        CHECK(world.has_finding("frame.intact") == damaged);
        if (!damaged) CHECK(world.findings() == Calls{});
    }
}

TEST_CASE("a scripted subsystem survives a data handle that means nothing") {
    // What the previous kernel says is not to be trusted: no address, no RAM, no header, a loop.
    LuoWorld world;
    ScriptedSubsystem probe(world.kernel(), world.kho(), world.luo(), "probe", {.pages = 2});
    REQUIRE(probe.register_with_luo());
    const Subsystem& subsystem = probe.subsystem();
    for (const u64 data : {u64{0}, u64{0x1001}, u64{0x20'0000}, u64{1} << 50, ~u64{0}}) {
        CHECK_NOTHROW(subsystem.boot(data));
        CHECK_NOTHROW(subsystem.finish(data));
    }
    CHECK(world.logged("subsystem 'probe': no page of it at 0x4000000000000"));
    const PhysAddr first = probe.frames().front().begin.phys();
    world.ram().write(first + 24, first.raw);  // its next page is itself
    CHECK_NOTHROW(subsystem.boot(first.raw));
}

TEST_CASE("unregistering returns the pages of a scripted subsystem, prepared or not") {
    LuoWorld world;
    REQUIRE(world.prepare() == Errno::ok);
    REQUIRE(world.cancel() == Errno::ok);
    const u64 before = world.free_frames();
    ScriptedSubsystem probe(world.kernel(), world.kho(), world.luo(), "probe", {.pages = 3});
    REQUIRE(probe.register_with_luo());
    CHECK(world.free_frames() == before - 3);
    REQUIRE(world.prepare() == Errno::ok);
    CHECK(probe.unregister_from_luo().error() == Errno::ebusy);
    REQUIRE(world.cancel() == Errno::ok);
    REQUIRE(probe.unregister_from_luo());
    CHECK(probe.unregister_from_luo().error() == Errno::enoent);
    // At most a page of KHO's own tracking is new.
    CHECK(world.free_frames() + 2 >= before);
    CHECK(world.kho().preserved_folios() == 1);  // KHO's root page
}

}  // namespace kexec_sim::luo
