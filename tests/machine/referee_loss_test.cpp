// How promises are lost, and what the referee says then.
#include "tests/machine/referee_fixture.hpp"

using namespace kexec_sim;
using namespace kexec_sim::test;

namespace {

/// Generation 0 has promised a file, a folio of the bench and a subsystem's page, and is about to jump.
struct Promised : World {
    explicit Promised(u64 token = 1) : World("luo-v3") {
        preserve_file(token, 5000, 2);
        register_silent("kvm");
        referee.kho_preserved({frames(6200, 1), Order{0}, "kvm"});
        referee.kho_preserved({frames(6000, 1), Order{0}, "bench"});
        referee.name_frames(frames(6000, 1), "kept");
        prepare();
        reserved = {frames(5000, 3), frames(6000, 1), frames(6200, 1)};
    }
    void freeze() {
        referee.luo_state(LuoState::prepared, LuoState::frozen);
        referee.luo_request(LuoEvent::freeze, {});
        state = LuoState::frozen;
    }
    std::vector<PfnRange> reserved;
};

}  // namespace

TEST_CASE("a refused handover loses every promise, and says so") {
    Promised world;
    world.freeze();
    world.leave();
    world.boot(1);
    world.referee.handover_refused("disabling KHO revival: -22");
    world.referee.luo_state(LuoState::undefined, LuoState::normal);
    world.referee.frames_to_allocator(frames(1024, 15000));
    world.referee.user_space_reached();
    REQUIRE(world.ids() == "loss.reported loss.reported loss.reported");
    REQUIRE(
        world.referee.findings()[0].message ==
        "file 0x1 (memfd-v1) was promised by generation 0; generation 1 refused the handover: disabling KHO revival: "
        "-22");

    // What has ended is not looked at any more: the frames are free memory, whoever restores them.
    world.referee.frames_handed_out(frames(5000, 2), "slab", FrameClass::slab);
    world.referee.kho_restored(folio(6000), "bench");
    world.referee.scenario_ends();
    REQUIRE(world.referee.findings().size() == 3);
}

TEST_CASE("a handover that is not passed on is lost in silence") {
    World world("linux-6.18");
    world.referee.kho_preserved({frames(6000, 1), Order{0}, "bench"});
    world.referee.kho_finalized();
    world.kexec({}, false, false);
    REQUIRE(world.ids() == "loss.silent");
}

TEST_CASE("a successor that never looks at the handover loses it in silence") {
    Promised world;
    world.kexec(world.reserved, false);
    REQUIRE(world.ids() == "loss.silent loss.silent loss.silent");
}

TEST_CASE("reaching user space without LUO loses files and subsystems, not what the bench can claim") {
    Promised world;
    world.freeze();
    world.leave();
    world.traits.has_luo = false;
    SECTION("in silence") {
        world.arrive(world.reserved);
        REQUIRE(world.ids() == "loss.silent loss.silent");
    }
    SECTION("with a line in the log") {
        world.boot(1);
        world.referee.handover_accepted();
        world.referee.luo_declined("Disabling liveupdate because KHO is disabled");
        world.referee.user_space_reached();
        REQUIRE(world.ids() == "loss.reported loss.reported");
    }
    SECTION("a line about something else announces nothing") {
        world.boot(1);
        world.referee.handover_accepted();
        world.referee.handover_damaged("KHO: a chunk is damaged");
        world.referee.user_space_reached();
        REQUIRE(world.ids() == "loss.silent loss.silent");
    }
}

TEST_CASE("reaching user space without the handler loses its files") {
    World world;
    SECTION("registered at boot in generation 0") {
        world.preserve_file(1, 5000, 2);
        world.finish_prepare();
        world.freeze_and_jump_without_handlers();
        REQUIRE(world.ids() == "loss.silent");
    }
    SECTION("loaded late in generation 0: it may come as late again") {
        world.referee.claimer_present("late-v1");
        world.referee.callback_absent("late-v1", LuoCallback::prepare);
        world.referee.callback_absent("late-v1", LuoCallback::freeze);
        world.files[1] = {FileView{1, page_bytes, 0, {}}, {FileExtent{0, Pfn{5000}, 1}}};
        world.referee.file_preserved(1, "late-v1", 1);
        world.finish_prepare();
        world.freeze_and_jump_without_handlers();
        REQUIRE(world.ids() == "");
    }
}

TEST_CASE("a restore that failed is a reported loss once nothing can make up for it") {
    Promised world;
    world.kexec(world.reserved);
    world.referee.kho_restored(folio(6200), "kvm");
    world.referee.file_restore_failed(1, Errno::enomem);
    REQUIRE(world.ids() == "");
    SECTION("at finish; what it left reserved is not counted") {
        world.finish();
        REQUIRE(world.ids() == "loss.reported");
        REQUIRE(world.only().message.find("its restore failed with ENOMEM") != std::string::npos);
    }
    SECTION("at the end") {
        world.referee.scenario_ends();
        REQUIRE(world.ids() == "loss.reported");
    }
    SECTION("not if a second try succeeds") {
        world.restore_file(1, 5000, 2);
        world.finish();
        REQUIRE(world.ids() == "");
    }
}

TEST_CASE("a file that could not be restored for want of a descriptor is not lost") {
    Promised world;
    world.kexec(world.reserved);
    world.referee.file_restore_failed(1, Errno::emfile);
    world.referee.scenario_ends();
    REQUIRE(world.ids() == "");
}

TEST_CASE("finish discards what was not restored") {
    World world;
    world.preserve_file(1, 5000, 2);
    world.prepare();
    world.kexec({frames(5000, 3)});
    world.referee.file_callback(1, "memfd-v1", LuoCallback::finish, std::nullopt);
    for (u64 i = 0; i < 3; ++i) world.referee.kho_restored(folio(5000 + i), "memfd-v1");
    world.referee.frames_returned(frames(5000, 3));
    world.referee.file_callback(1, "memfd-v1", LuoCallback::finish, Result<>{});
    world.finish();
    world.referee.scenario_ends();
    REQUIRE(world.ids() == "");
}

TEST_CASE("a promise is good for one jump") {
    Promised world;
    world.kexec(world.reserved);
    world.leave();
    REQUIRE(world.ids() == "loss.silent loss.silent loss.silent");
    REQUIRE(world.referee.findings()[0].resource == "file 0x1");
    REQUIRE(world.referee.findings()[1].generation == 1);
}

TEST_CASE("what the running kernel promises anew is not lost by its jump") {
    World world("linux-6.16");
    for (Generation generation = 0; generation < 3; ++generation) {
        world.referee.kho_preserved({frames(6000, 1), Order{0}, "bench"});
        world.referee.kho_finalized();
        world.kexec({frames(6000, 1)});
    }
    REQUIRE(world.ids() == "");
}

TEST_CASE("a panic loses what is open, and is its own announcement") {
    SECTION("before the jump") {
        Promised world;
        world.referee.kernel_ended(KernelEnd::panic);
        REQUIRE(world.ids() == "loss.reported loss.reported loss.reported");
    }
    SECTION("in the successor") {
        Promised world;
        world.kexec(world.reserved);
        world.restore_file(1, 5000, 2);
        world.referee.kernel_ended(KernelEnd::panic);
        REQUIRE(world.ids() == "loss.reported loss.reported");
    }
    SECTION("with nothing promised") {
        World world;
        world.preserve_file(1, 5000, 2);
        world.referee.kernel_ended(KernelEnd::panic);
        REQUIRE(world.ids() == "");
    }
}

TEST_CASE("power loss and reset end promises without a finding") {
    for (const KernelEnd end : {KernelEnd::power_loss, KernelEnd::reset}) {
        Promised world;
        world.referee.kernel_ended(end);
        world.boot(1);
        world.referee.frames_to_allocator(frames(1024, 15000));
        world.referee.frames_handed_out(frames(5000, 2), "slab", FrameClass::slab);
        world.referee.user_space_reached();
        world.referee.scenario_ends();
        REQUIRE(world.ids() == "");
    }
}

TEST_CASE("a promise ends where its owner ends it") {
    Promised world;
    SECTION("by cancel") {
        world.referee.kho_aborted(false);
        world.referee.luo_state(LuoState::prepared, LuoState::normal);
        world.referee.file_callback(1, "memfd-v1", LuoCallback::cancel, std::nullopt);
        world.referee.frames_returned(frames(5002, 1));
        world.referee.kho_unpreserved(frames(5000, 3), "memfd-v1");
        world.referee.file_callback(1, "memfd-v1", LuoCallback::cancel, Result<>{});
        world.referee.luo_request(LuoEvent::cancel, {});
    }
    SECTION("by an abort") { world.referee.kho_aborted(true); }
    world.referee.kernel_ended(KernelEnd::panic);
    REQUIRE(world.ids() == "");
}

TEST_CASE("a failed freeze ends the promises of LUO, not those made to KHO alone") {
    Promised world;
    world.referee.luo_state(LuoState::prepared, LuoState::normal);
    world.referee.kho_aborted(false);
    world.referee.kho_finalized();
    world.referee.luo_request(LuoEvent::freeze, fail(Errno::ebusy));
    world.referee.kernel_ended(KernelEnd::panic);
    REQUIRE(world.ids().find("loss.reported") != std::string::npos);
    for (const Finding& finding : world.referee.findings())
        if (finding.invariant == InvariantId::loss_reported) REQUIRE(finding.resource == "bench kept");
}

TEST_CASE("a file that was unpreserved is promised no more") {
    Promised world;
    world.referee.file_unpreserved(1);
    world.kexec(world.reserved);
    world.referee.kho_restored(folio(6000), "bench");
    world.referee.kho_restored(folio(6200), "kvm");
    world.referee.scenario_ends();
    REQUIRE(world.ids() == "");
}

TEST_CASE("what lost its reservation without a word is lost at the end") {
    Promised world;
    world.kexec({frames(6200, 1)});
    world.referee.kho_restored(folio(6200), "kvm");
    SECTION("in silence") {
        world.referee.scenario_ends();
        REQUIRE(world.ids() == "loss.silent loss.silent");
    }
    SECTION("or after a word") {
        world.referee.handover_damaged("KHO: failed to get preserved memory bitmaps");
        world.referee.scenario_ends();
        REQUIRE(world.ids() == "loss.reported loss.reported");
    }
}

TEST_CASE("what is still reserved can be claimed, and is not lost at the end") {
    Promised world;
    world.kexec(world.reserved);
    world.referee.scenario_ends();
    REQUIRE(world.ids() == "");
}

TEST_CASE("a restore that KHO refused is a reported loss") {
    World world("linux-6.18");
    world.referee.kho_preserved({frames(6000, 8), Order{2}, "bench"});
    world.referee.kho_finalized();
    world.kexec({frames(6000, 8)});
    world.referee.kho_restored(folio(6000, 2), "bench");
    world.referee.kho_restore_failed(Pfn{6004}, "bench");
    world.referee.scenario_ends();
    REQUIRE(world.only().invariant == InvariantId::loss_reported);
    REQUIRE(world.only().frame_count == 4);
    REQUIRE(world.only().frames.front() == 6004);
}

TEST_CASE("a sub-tree that was found and read is claimed, and may still be restored") {
    World world("linux-6.16");
    write_word(world.machine, 6000, 1);
    world.referee.kho_preserved({frames(6000, 1), Order{0}, "bench"});
    world.referee.kho_finalized();
    SECTION("as it was") {
        world.kexec({frames(6000, 1)});
        world.referee.kho_retrieved(frames(6000, 1), "bench");
        SECTION("and left alone") {}
        SECTION("and restored") { world.referee.kho_restored(folio(6000), "bench"); }
        world.leave();
        REQUIRE(world.ids() == "");
    }
    SECTION("changed") {
        world.leave();
        write_word(world.machine, 6000, 2);
        world.arrive({frames(6000, 1)});
        world.referee.kho_retrieved(frames(6000, 1), "bench");
        REQUIRE(world.ids() == "frame.intact");
    }
}

// --- reserve_mem -------------------------------------------------------------------------------------------------

TEST_CASE("reserve_mem is revived, refused or forgotten") {
    World world("linux-6.16");
    const PhysRange range{PhysAddr{16 * MiB}, PhysAddr{17 * MiB}};
    world.referee.reserve_mem_allocated("trace", range);
    write_word(world.machine, 4100, 5);
    world.referee.kho_preserved({{range.begin.pfn(), range.end.pfn()}, std::nullopt, "reserve_mem:trace", false});
    world.referee.kho_finalized();
    world.leave();
    SECTION("revived with its content") {
        world.boot(1);
        world.referee.handover_accepted();
        world.referee.reserve_mem_revived("trace", range);
        world.referee.user_space_reached();
        REQUIRE(world.ids() == "");
    }
    SECTION("revived with other content") {
        write_word(world.machine, 4100, 6);
        world.boot(1);
        world.referee.handover_accepted();
        world.referee.reserve_mem_revived("trace", range);
        world.referee.user_space_reached();
        REQUIRE(world.ids() == "frame.intact");
    }
    SECTION("refused with a log line") {
        world.boot(1);
        world.referee.handover_accepted();
        world.referee.reserve_mem_refused("trace", "KHO reserve-mem 'trace' has wrong size");
        world.referee.user_space_reached();
        REQUIRE(world.ids() == "loss.reported");
    }
    SECTION("not named by the successor") {
        world.boot(1);
        world.referee.handover_accepted();
        world.referee.user_space_reached();
        REQUIRE(world.ids() == "loss.silent");
    }
}

TEST_CASE("reserve_mem that nobody promised does not appear") {
    World world("linux-6.16");
    world.kexec({}, true);
    world.referee.reserve_mem_revived("trace", {PhysAddr{16 * MiB}, PhysAddr{17 * MiB}});
    REQUIRE(world.ids() == "luo.resource");
}

// --- luo.resource ------------------------------------------------------------------------------------------------

TEST_CASE("a file is retrieved at most once, and only if it was promised") {
    Promised world;
    world.kexec(world.reserved);
    world.restore_file(1, 5000, 2);
    REQUIRE(world.ids() == "");
    const FileExtent extent{0, Pfn{5000}, 2};
    SECTION("twice") {
        world.referee.file_restored(1, {1, 2 * page_bytes, 0, std::span(&extent, 1)});
        REQUIRE(world.ids() == "luo.resource");
    }
    SECTION("a token that nobody preserved") {
        world.referee.file_restored(2, {1, 2 * page_bytes, 0, std::span(&extent, 1)});
        REQUIRE(world.ids() == "luo.resource");
    }
}

TEST_CASE("a file that finish neither found restored nor discarded is gone") {
    World world;
    world.preserve_file(1, 5000, 2);
    world.prepare();
    world.kexec({frames(5000, 3)});
    SECTION("a handler that has nothing to do at finish") {
        world.referee.callback_absent("memfd-v1", LuoCallback::finish);
        world.finish();
        REQUIRE(world.ids() == "frame.accounted");
    }
    SECTION("a handler that was not told") {
        world.finish();
        REQUIRE(world.ids() == "luo.resource frame.accounted");
    }
}

// --- as text -----------------------------------------------------------------------------------------------------

TEST_CASE("promises that travel as text are judged as they would have been") {
    std::string promises, image = "";
    const auto successor = [](World& world) {
        world.arrive({frames(5000, 3), frames(6000, 1)});
        world.referee.frames_handed_out(frames(6200, 1), "slab", FrameClass::slab);  // kvm's page was not kept
        write_word(world.machine, 5000, 8);
        world.restore_file(1, 5000, 2);
        world.referee.kho_restored(folio(6000), "bench");
        world.finish();
        world.referee.scenario_ends();
        std::vector<std::string> messages;
        for (const Finding& finding : world.referee.findings()) messages.push_back(finding.message);
        return messages;
    };
    std::vector<std::string> whole;
    {
        Promised world;
        write_word(world.machine, 5000, 7);
        world.freeze();
        world.leave();
        promises = world.referee.save_promises();
        whole = successor(world);
        REQUIRE(world.ids() == "frame.exclusive frame.intact");
    }
    Promised resumed;
    resumed.referee.kernel_ended(KernelEnd::reset);  // forget what this process knows by itself
    resumed.referee.load_promises(promises);
    REQUIRE(resumed.referee.save_promises() == promises);
    resumed.state = LuoState::frozen;
    resumed.files.clear();
    REQUIRE(successor(resumed) == whole);
}

TEST_CASE("a machine whose promises nobody told is judged by what can be seen") {
    World world;
    world.referee.load_promises("");
    world.state = LuoState::frozen;
    world.arrive({frames(5000, 3)});
    const FileExtent extent{0, Pfn{5000}, 2};
    world.referee.kho_restored(folio(5000), "memfd-v1");
    world.referee.file_restored(9, {1, 2 * page_bytes, 0, std::span(&extent, 1)});
    world.finish();
    REQUIRE(world.ids() == "");
}

TEST_CASE("promises that make no sense are refused") {
    World world;
    for (const char* text :
         {"promise 1\n", "promises 2\n", "promises 1\nframes 2 1 - 0 1\n", "promises 1\nframes 1 2 - 0 1\n",
          "promises 1\nextent 0 1 1\n", "promises 1\nhash 2 1\nhash 1 1\n", "promises 1\nsource x 9 - 1 1 0\n",
          "promises 1\nwhat\n", "promises 1\nby\n", "promises 1\nsource %4 1 - 1 1 0\n"}) {
        INFO(text);
        REQUIRE_THROWS_AS(world.referee.load_promises(text), UserError);
    }
}
