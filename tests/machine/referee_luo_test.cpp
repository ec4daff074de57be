// States, callbacks and rollback: luo.legal and luo.rollback.
#include "tests/machine/referee_fixture.hpp"

using namespace kexec_sim;
using namespace kexec_sim::test;

namespace {

/// A kernel with three subsystems, and short ways to run their callbacks.
struct Subsystems : World {
    Subsystems() : World("luo-v3") {
        for (const char* name : {"a", "b", "c"}) referee.subsystem_registered(name);
    }
    void call(const char* name, LuoCallback callback, Result<> result = {}) {
        referee.subsystem_callback(name, callback, std::nullopt);
        referee.subsystem_callback(name, callback, result);
    }
    void all(LuoCallback callback) {
        for (const char* name : {"a", "b", "c"}) call(name, callback);
    }
    void to(LuoState next) {
        referee.luo_state(state, next);
        state = next;
    }
};

}  // namespace

TEST_CASE("the happy path of LUO and a cancel are legal") {
    Subsystems world;
    for (int round = 0; round < 2; ++round) {
        world.all(LuoCallback::prepare);
        world.finish_prepare();
        if (round == 0) {
            world.referee.kho_aborted(false);
            world.all(LuoCallback::cancel);
            world.to(LuoState::normal);
            world.referee.luo_request(LuoEvent::cancel, {});
        }
    }
    world.all(LuoCallback::freeze);
    world.to(LuoState::frozen);
    world.referee.luo_request(LuoEvent::freeze, {});
    world.leave();
    world.arrive({});
    for (const char* name : {"c", "a"}) world.referee.subsystem_registered(name);
    world.call("c", LuoCallback::boot);
    world.call("c", LuoCallback::finish);
    world.call("a", LuoCallback::finish);
    world.finish();
    world.referee.luo_request(LuoEvent::freeze, {});  // the reboot hook in state normal: nothing to do
    world.referee.luo_request(LuoEvent::finish, fail(Errno::einval));
    world.leave();
    REQUIRE(world.ids() == "");
}

TEST_CASE("a transition that the edition does not have is not legal") {
    const std::pair<LuoState, LuoState> illegal[] = {{LuoState::normal, LuoState::frozen},
                                                     {LuoState::normal, LuoState::updated},
                                                     {LuoState::normal, LuoState::undefined}};
    for (const auto& [from, to] : illegal) {
        World world;
        world.referee.luo_state(from, to);
        REQUIRE(world.ids() == "luo.legal");
    }
}

TEST_CASE("a state that jumps without a transition is not legal") {
    World world;
    world.referee.luo_state(LuoState::prepared, LuoState::normal);
    REQUIRE(world.ids() == "luo.legal");
}

TEST_CASE("a success that left the state where it was is not legal") {
    World world;
    world.referee.luo_request(LuoEvent::prepare, {});
    REQUIRE(world.ids() == "luo.legal");
}

TEST_CASE("a refused request changes nothing") {
    World world;
    world.referee.luo_state(LuoState::normal, LuoState::prepared);
    world.referee.luo_request(LuoEvent::finish, fail(Errno::einval));
    REQUIRE(world.ids() == "luo.legal");
}

TEST_CASE("a jump in state prepared, without a freeze, is not legal") {
    World world;
    world.finish_prepare();
    world.leave();
    REQUIRE(world.ids() == "luo.legal");
}

TEST_CASE("a pass that succeeded has called everybody") {
    Subsystems world;
    SECTION("prepare forgot b") {
        world.call("a", LuoCallback::prepare);
        world.call("c", LuoCallback::prepare);
        world.finish_prepare();
    }
    SECTION("freeze forgot b") {
        world.all(LuoCallback::prepare);
        world.finish_prepare();
        world.call("a", LuoCallback::freeze);
        world.call("c", LuoCallback::freeze);
        world.to(LuoState::frozen);
        world.referee.luo_request(LuoEvent::freeze, {});
    }
    SECTION("finish forgot b") {
        world.boot(1);
        world.referee.luo_state(LuoState::undefined, LuoState::updated);
        for (const char* name : {"a", "b", "c"}) world.referee.subsystem_registered(name);
        world.call("a", LuoCallback::finish);
        world.call("c", LuoCallback::finish);
        world.finish();
    }
    REQUIRE(world.only().invariant == InvariantId::luo_legal);
    REQUIRE(world.only().resource == "subsystem b");
}

TEST_CASE("a file that prepare or freeze forgot is not legal, one whose handler has no such callback is") {
    for (const bool has_callback : {true, false}) {
        World world;
        world.referee.file_preserved(7, "other-v1", 1);
        if (!has_callback) {
            world.referee.callback_absent("other-v1", LuoCallback::prepare);
            world.referee.callback_absent("other-v1", LuoCallback::freeze);
        }
        world.finish_prepare();
        world.referee.luo_state(LuoState::prepared, LuoState::frozen);
        world.referee.luo_request(LuoEvent::freeze, {});
        REQUIRE(world.ids() == (has_callback ? "luo.legal" : ""));
    }
}

TEST_CASE("callbacks of a pass run in registration order") {
    Subsystems world;
    world.call("b", LuoCallback::prepare);
    world.call("a", LuoCallback::prepare);
    REQUIRE(world.only().message ==
            "the prepare callback of subsystem a runs after that of b; it was registered before it");
}

TEST_CASE("no callback runs twice in a pass") {
    Subsystems world;
    world.call("a", LuoCallback::prepare);
    world.call("a", LuoCallback::prepare);
    REQUIRE(world.ids() == "luo.legal");
}

TEST_CASE("no callback runs outside its phase") {
    for (const LuoCallback callback :
         {LuoCallback::freeze, LuoCallback::boot, LuoCallback::cancel, LuoCallback::finish}) {
        Subsystems world;
        world.call("a", callback);
        REQUIRE(world.ids() == "luo.legal");
    }
    Subsystems world;
    world.all(LuoCallback::prepare);
    world.finish_prepare();
    world.call("a", LuoCallback::prepare);
    REQUIRE(world.ids() == "luo.legal");
}

TEST_CASE("a subsystem that was unregistered is not called") {
    Subsystems world;
    world.referee.subsystem_unregistered("b");
    world.call("a", LuoCallback::prepare);
    world.call("c", LuoCallback::prepare);
    REQUIRE(world.ids() == "");
    world.call("b", LuoCallback::prepare);
    REQUIRE(world.ids() == "luo.legal");
}

TEST_CASE("a callback inside a callback and a broken lock rule are not legal") {
    Subsystems world;
    SECTION("nested") {
        world.referee.subsystem_callback("a", LuoCallback::prepare, std::nullopt);
        world.referee.subsystem_callback("b", LuoCallback::prepare, std::nullopt);
    }
    SECTION("locks") { world.referee.lock_violation("a waits for the state lock, which it holds itself"); }
    REQUIRE(world.ids() == "luo.legal");
}

// --- Failed prepare ----------------------------------------------------------------------------------------------

TEST_CASE("when a subsystem cannot prepare, exactly those before it are cancelled") {
    Subsystems world;
    world.call("a", LuoCallback::prepare);
    world.call("b", LuoCallback::prepare, fail(Errno::enomem));
    std::string expected;
    SECTION("as written") { world.call("a", LuoCallback::cancel); }
    SECTION("itself too") {
        world.call("a", LuoCallback::cancel);
        world.call("b", LuoCallback::cancel);
        expected = "luo.legal";
    }
    SECTION("none") { expected = "luo.rollback"; }
    world.referee.luo_request(LuoEvent::prepare, fail(Errno::enomem));
    REQUIRE(world.ids() == expected);
    world.call("a", LuoCallback::prepare);  // and a new prepare starts from the first
    REQUIRE(world.ids() == expected);
}

TEST_CASE("a subsystem without a cancel callback is not missed in the rollback") {
    Subsystems world;
    world.referee.callback_absent("a", LuoCallback::cancel);
    world.call("a", LuoCallback::prepare);
    world.call("b", LuoCallback::prepare, fail(Errno::enomem));
    world.referee.luo_request(LuoEvent::prepare, fail(Errno::enomem));
    REQUIRE(world.ids() == "");
}

TEST_CASE("a tree that cannot be committed cancels all") {
    Subsystems world;
    world.all(LuoCallback::prepare);
    world.all(LuoCallback::cancel);
    world.referee.luo_request(LuoEvent::prepare, fail(Errno::enoent));
    REQUIRE(world.ids() == "");
}

TEST_CASE("a prepare that fails at finalize stays prepared, and that is no rollback") {
    Subsystems world;
    world.all(LuoCallback::prepare);
    world.to(LuoState::prepared);
    world.referee.luo_request(LuoEvent::prepare, fail(Errno::enomem));
    REQUIRE(world.ids() == "luo.rollback");
    world.referee.luo_request(LuoEvent::cancel, fail(Errno::enoent));
    REQUIRE(world.ids() == "luo.rollback");
}

// --- Failed freeze -----------------------------------------------------------------------------------------------

TEST_CASE("a failed freeze as written leaves subsystems prepared and KHO finalized") {
    Subsystems world;
    world.all(LuoCallback::prepare);
    world.finish_prepare();
    world.call("a", LuoCallback::freeze);
    world.call("b", LuoCallback::freeze, fail(Errno::ebusy));
    world.call("a", LuoCallback::cancel);
    world.to(LuoState::normal);
    world.referee.luo_request(LuoEvent::freeze, fail(Errno::ebusy));
    REQUIRE(world.ids() == "luo.rollback luo.rollback luo.rollback");
    REQUIRE(world.referee.findings()[0].resource == "KHO");
    REQUIRE(world.referee.findings()[1].resource == "subsystem b");
    REQUIRE(world.referee.findings()[2].resource == "subsystem c");

    // The way out: a cancel that aborts KHO and is then refused. A new prepare works.
    world.referee.kho_aborted(false);
    world.referee.luo_request(LuoEvent::cancel, fail(Errno::einval));
    world.all(LuoCallback::prepare);
    world.finish_prepare();
    REQUIRE(world.referee.findings().size() == 3);
}

TEST_CASE("a failed freeze of a strict kernel cancels all and aborts KHO") {
    Subsystems world;
    world.traits.strict = true;
    world.boot(0);
    world.referee.luo_state(LuoState::undefined, LuoState::normal);
    for (const char* name : {"a", "b", "c"}) world.referee.subsystem_registered(name);
    world.all(LuoCallback::prepare);
    world.finish_prepare();
    world.call("a", LuoCallback::freeze);
    world.call("b", LuoCallback::freeze, fail(Errno::ebusy));
    world.all(LuoCallback::cancel);
    world.referee.kho_aborted(false);
    world.to(LuoState::normal);
    world.referee.luo_request(LuoEvent::freeze, fail(Errno::ebusy));
    REQUIRE(world.ids() == "");
}

TEST_CASE("a cancel that forgets a subsystem or KHO is no rollback") {
    Subsystems world;
    world.all(LuoCallback::prepare);
    world.finish_prepare();
    std::string expected;
    SECTION("forgets b") {
        world.referee.kho_aborted(false);
        world.call("a", LuoCallback::cancel);
        world.call("c", LuoCallback::cancel);
        expected = "subsystem b";
    }
    SECTION("forgets KHO") {
        world.all(LuoCallback::cancel);
        expected = "KHO";
    }
    world.to(LuoState::normal);
    world.referee.luo_request(LuoEvent::cancel, {});
    REQUIRE(world.only().invariant == InvariantId::luo_rollback);
    REQUIRE(world.only().resource == expected);
}

// --- Files -------------------------------------------------------------------------------------------------------

TEST_CASE("files are called by ascending token in a pass") {
    World world;
    world.referee.subsystem_registered("file-descriptors");
    for (const u64 token : {u64{3}, u64{5}}) world.preserve_file(token, 5000 + 10 * token, 1);
    world.referee.subsystem_callback("file-descriptors", LuoCallback::prepare, std::nullopt);
    const auto call = [&](u64 token, LuoCallback callback) {
        world.referee.file_callback(token, "memfd-v1", callback, std::nullopt);
        world.referee.file_callback(token, "memfd-v1", callback, Result<>{});
    };
    SECTION("ascending") {
        call(3, LuoCallback::prepare);
        call(5, LuoCallback::prepare);
        REQUIRE(world.ids() == "");
        call(3, LuoCallback::cancel);
        call(5, LuoCallback::cancel);
        REQUIRE(world.ids() == "");
        call(5, LuoCallback::cancel);
        REQUIRE(world.ids() == "luo.legal");
    }
    SECTION("descending") {
        call(5, LuoCallback::prepare);
        call(3, LuoCallback::prepare);
        REQUIRE(world.ids() == "luo.legal");
    }
    SECTION("a token that nobody preserved") {
        call(4, LuoCallback::prepare);
        REQUIRE(world.ids() == "luo.legal");
    }
}

TEST_CASE("a file prepared by its own event may stay prepared while the machine is normal") {
    World world;
    world.preserve_file(1, 5000, 1);
    world.referee.file_callback(1, "memfd-v1", LuoCallback::prepare, std::nullopt);
    world.referee.frames_handed_out(frames(5001, 1), "memfd.tree", FrameClass::handler);
    world.referee.kho_preserved({frames(5001, 1), Order{0}, "memfd-v1"});
    world.referee.file_callback(1, "memfd-v1", LuoCallback::prepare, Result<>{});
    world.referee.luo_request(LuoEvent::prepare, fail(Errno::enomem));
    REQUIRE(world.ids() == "");
    world.referee.file_callback(1, "memfd-v1", LuoCallback::freeze, std::nullopt);
    world.referee.file_callback(1, "memfd-v1", LuoCallback::freeze, Result<>{});
    world.referee.file_callback(1, "memfd-v1", LuoCallback::cancel, std::nullopt);
    world.referee.file_callback(1, "memfd-v1", LuoCallback::cancel, Result<>{});
    REQUIRE(world.ids() == "");
    world.referee.luo_request(LuoEvent::prepare, fail(Errno::enomem));
    REQUIRE(world.ids() == "frame.accounted");  // the cancel has left its tree page behind
}
