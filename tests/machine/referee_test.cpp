// Frames and content, as the referee sees them. Each test reports what a kernel would report, and nothing else.
#include "tests/machine/referee_fixture.hpp"

using namespace kexec_sim;
using namespace kexec_sim::test;

TEST_CASE("a file that is restored as it was gives no finding") {
    World world;
    world.preserve_file(0x1001, 5000, 4);
    write_word(world.machine, 5001, 42);
    world.prepare();
    world.kexec({frames(5000, 5)});
    world.restore_file(0x1001, 5000, 4);
    world.finish();
    world.referee.scenario_ends();
    REQUIRE(world.ids() == "");
    REQUIRE(world.referee.counters().luo_files == 1);
    REQUIRE(world.referee.counters().preserved_folios == 5);
    REQUIRE(world.referee.counters().preserved_bytes == 5 * page_bytes);
}

// --- frame.intact ------------------------------------------------------------------------------------------------

TEST_CASE("a folio that changed over the jump is not intact") {
    World world("linux-6.16");
    write_word(world.machine, 5000, 1);
    world.referee.kho_preserved({frames(5000, 1), Order{0}, "bench"});
    world.referee.name_frames(frames(5000, 1), "kept");
    world.referee.kho_finalized();
    world.leave();
    write_word(world.machine, 5000, 2);
    world.arrive({frames(5000, 1)});
    world.referee.kho_restored(folio(5000), "bench");
    const Finding finding = world.only();
    REQUIRE(finding.invariant == InvariantId::frame_intact);
    REQUIRE(finding.frames == std::vector<u64>{5000});
    REQUIRE(finding.generation == 1);
    REQUIRE(finding.resource == "bench kept");
    REQUIRE_FALSE(finding.by_fault);
}

TEST_CASE("a page of a restored file with other content is named by its index") {
    World world;
    world.preserve_file(1, 5000, 4);
    write_word(world.machine, 5002, 7);
    world.prepare();
    world.kexec({frames(5000, 5)});
    // The pages come back elsewhere, as a handler that copies would do it, and one byte is different.
    world.referee.frames_handed_out(frames(9000, 4), "shmem", FrameClass::file);
    write_word(world.machine, 9002, 8);
    for (u64 i = 0; i < 5; ++i) world.referee.kho_restored(folio(5000 + i), "memfd-v1");
    const FileExtent extent{0, Pfn{9000}, 4};
    world.referee.file_restored(1, {1, 4 * page_bytes, 0, std::span(&extent, 1)});
    REQUIRE(world.only().invariant == InvariantId::frame_intact);
    REQUIRE(world.only().message.find("page 2 of file 0x1 (memfd-v1)") != std::string::npos);
}

TEST_CASE("a hole that came back as a page of zeros is the same content") {
    World world;
    world.preserve_file(1, 5000, 4);
    write_word(world.machine, 5000, 7);
    world.prepare();
    world.kexec({frames(5000, 5)});
    for (u64 i = 0; i < 5; ++i) world.referee.kho_restored(folio(5000 + i), "memfd-v1");
    const FileExtent extent{0, Pfn{5000}, 1};
    world.referee.file_restored(1, {1, 4 * page_bytes, 0, std::span(&extent, 1)});
    REQUIRE(world.ids() == "");
}

TEST_CASE("a file that came back shorter is not intact") {
    World world;
    world.preserve_file(1, 5000, 4);
    world.prepare();
    world.kexec({frames(5000, 5)});
    world.restore_file(1, 5000, 4, 100);
    REQUIRE(world.ids() == "frame.intact");
}

TEST_CASE("the position of a file is promised as its handler read it last") {
    World world;
    world.preserve_file(1, 5000, 1);
    world.prepare();
    world.files.at(101).first.pos = 77;  // a seek after prepare
    SECTION("freeze reads it again") {
        world.referee.file_callback(1, "memfd-v1", LuoCallback::freeze, std::nullopt);
        world.referee.file_callback(1, "memfd-v1", LuoCallback::freeze, Result<>{});
        world.kexec({frames(5000, 2)});
        world.restore_file(1, 5000, 1);
        REQUIRE(world.ids() == "frame.intact");
    }
    SECTION("no freeze callback, no new position") {
        world.kexec({frames(5000, 2)});
        world.restore_file(1, 5000, 1);
        REQUIRE(world.ids() == "");
    }
}

// --- frame.exclusive ---------------------------------------------------------------------------------------------

TEST_CASE("an allocator that hands out a promised frame is reported with both owners") {
    World world;
    world.preserve_file(0x1001, 5000, 2);
    world.prepare();
    world.kexec({frames(5001, 2)});  // the map has lost frame 5000
    world.referee.frames_handed_out(frames(4998, 4), "bench.folio", FrameClass::bench);
    const Finding finding = world.only();
    REQUIRE(finding.invariant == InvariantId::frame_exclusive);
    REQUIRE(finding.message ==
            "frame 0x1388 was promised to file 0x1001 (memfd-v1) by generation 0 and is not restored; generation 1's "
            "allocator handed it out to bench.folio");
    REQUIRE(finding.frame_count == 2);
}

TEST_CASE("a file page that its handler forgot to preserve is promised all the same") {
    World world;
    world.preserve_file(1, 5000, 3);
    world.files.at(101).second.push_back({3, Pfn{5500}, 1});
    world.prepare();
    world.kexec({frames(5000, 4)});
    world.referee.frames_handed_out(frames(5500, 1), "slab", FrameClass::slab);
    REQUIRE(world.ids() == "frame.exclusive");
}

TEST_CASE("a restored frame may be handed out once it was freed") {
    World world("linux-6.16");
    world.referee.kho_preserved({frames(5000, 1), Order{0}, "bench"});
    world.referee.kho_finalized();
    world.kexec({frames(5000, 1)});
    world.referee.kho_restored(folio(5000), "bench");
    SECTION("freed") {
        world.referee.frames_returned(frames(5000, 1));
        world.referee.frames_handed_out(frames(5000, 1), "shmem", FrameClass::file);
        REQUIRE(world.ids() == "");
    }
    SECTION("not freed: it has two owners") {
        world.referee.frames_handed_out(frames(5000, 1), "shmem", FrameClass::file);
        REQUIRE(world.ids() == "frame.exclusive");
    }
}

TEST_CASE("a frame with an owner is not handed out again") {
    World world;
    world.referee.frames_handed_out(frames(5000, 4), "shmem", FrameClass::file);
    world.referee.frames_returned(frames(5002, 1));
    world.referee.frames_handed_out(frames(5002, 1), "slab", FrameClass::slab);
    REQUIRE(world.ids() == "");
    world.referee.frames_handed_out(frames(5003, 1), "slab", FrameClass::slab);
    REQUIRE(world.ids() == "frame.exclusive");
}

TEST_CASE("a promised frame that its owner frees and another gets, still before the jump, is reported") {
    World world("linux-6.16");
    world.referee.frames_handed_out(frames(5000, 1), "bench.folio", FrameClass::bench);
    world.referee.kho_preserved({frames(5000, 1), Order{0}, "bench"});
    world.referee.kho_finalized();
    world.referee.frames_returned(frames(5000, 1));
    REQUIRE(world.ids() == "");
    world.referee.frames_handed_out(frames(5000, 1), "shmem", FrameClass::file);
    REQUIRE(world.ids() == "frame.exclusive");
}

TEST_CASE("what is restored although the allocator has it is not exclusive") {
    World world;
    world.preserve_file(1, 5000, 2);
    world.prepare();
    world.kexec();  // a map of zeros: nothing was reserved, and the edition restores blindly
    world.restore_file(1, 5000, 2);
    REQUIRE(world.ids() == "frame.exclusive");
}

// --- frame.scratch -----------------------------------------------------------------------------------------------

TEST_CASE("a promise inside a scratch area is reported, an intent is not") {
    World world("linux-6.16");
    const PhysRange area{PhysAddr{16 * MiB}, PhysAddr{18 * MiB}};
    world.referee.scratch_areas(std::span(&area, 1));
    world.referee.kho_preserved({frames(4096 + 511, 2), std::nullopt, "bench"});
    REQUIRE(world.ids() == "");
    world.referee.kho_finalized();
    REQUIRE(world.only().invariant == InvariantId::frame_scratch);
    REQUIRE(world.only().frames == std::vector<u64>{4096 + 511});
    world.kexec({frames(4096 + 511, 2)});
    REQUIRE(world.ids() == "frame.scratch");
}

TEST_CASE("a promised file with pages in scratch is reported at the jump") {
    World world;
    const PhysRange area{PhysAddr{16 * MiB}, PhysAddr{18 * MiB}};
    world.referee.scratch_areas(std::span(&area, 1));
    world.preserve_file(1, 4100, 2);
    world.finish_prepare();
    REQUIRE(world.ids() == "");  // the handler preserved nothing at all
    world.kexec();
    REQUIRE(world.ids() == "frame.scratch");
}

// --- frame.once --------------------------------------------------------------------------------------------------

TEST_CASE("a folio is restored once and with its order") {
    World world("linux-6.16");
    world.referee.kho_preserved({frames(5000, 8), Order{3}, "bench"});
    world.referee.kho_finalized();
    world.kexec({frames(5000, 8)});
    SECTION("once") {
        world.referee.kho_restored(folio(5000, 3), "bench");
        REQUIRE(world.ids() == "");
    }
    SECTION("twice") {
        world.referee.kho_restored(folio(5000, 3), "bench");
        world.referee.kho_restored(folio(5000, 3), "bench");
        REQUIRE(world.ids() == "frame.once");
    }
    SECTION("with another order") {
        world.referee.kho_restored(folio(5000, 2), "bench");
        REQUIRE(world.ids() == "frame.once");
    }
    SECTION("what was never preserved") {
        world.referee.kho_restored(folio(6000, 0), "bench");
        REQUIRE(world.ids() == "frame.once");
    }
}

TEST_CASE("a range is restored in pieces of any order") {
    World world("linux-6.16");
    world.referee.kho_preserved({frames(5003, 10), std::nullopt, "bench"});
    world.referee.kho_finalized();
    world.kexec({frames(5003, 10)});
    world.referee.kho_restored(folio(5003, 0), "bench");
    world.referee.kho_restored(folio(5004, 2), "bench");
    world.referee.kho_restored(folio(5008, 2), "bench");
    world.referee.kho_restored(folio(5012, 0), "bench");
    REQUIRE(world.ids() == "");
    REQUIRE(world.referee.counters().preserved_folios == 4);
}

TEST_CASE("what was preserved but not finalized was not handed over") {
    World world("linux-6.16");
    world.referee.kho_preserved({frames(5000, 1), Order{0}, "bench"});
    SECTION("never finalized") {}
    SECTION("aborted") {
        world.referee.kho_finalized();
        world.referee.kho_aborted(true);
    }
    world.kexec();
    world.referee.scenario_ends();
    REQUIRE(world.ids() == "");  // the user's to lose
    world.referee.kho_restored(folio(5000), "bench");
    REQUIRE(world.ids() == "frame.once");
}

// --- frame.accounted ---------------------------------------------------------------------------------------------

TEST_CASE("after finish every inherited frame is restored, freed, promised or overhead") {
    World world;
    world.preserve_file(1, 5000, 2);
    world.referee.kho_preserved({frames(6000, 1), Order{0}, "bench"});
    world.referee.kho_preserved({frames(6100, 1), std::nullopt, "luo"});
    world.register_silent("kvm");
    world.referee.kho_preserved({frames(6200, 2), Order{0}, "kvm"});
    world.prepare();
    world.kexec({frames(5000, 3), frames(6000, 1), frames(6100, 1), frames(6200, 2)});
    world.restore_file(1, 5000, 2);
    world.referee.kho_restored(folio(6200), "kvm");
    SECTION("all of it: bench's folio is still promised, the tree of LUO is overhead") {
        world.referee.kho_restored(folio(6201), "kvm");
        world.finish();
        REQUIRE(world.ids() == "");
        REQUIRE(world.referee.frames_of("overhead:luo-v3") == 1);
        REQUIRE(world.referee.frames_of("bench") == 1);
    }
    SECTION("a subsystem left one of its pages") {
        world.finish();
        REQUIRE(world.only().invariant == InvariantId::frame_accounted);
        REQUIRE(world.only().frames == std::vector<u64>{6201});
        REQUIRE(world.only().resource == "subsystem kvm");
    }
}

TEST_CASE("a strict kernel gives the tree of LUO back") {
    World world;
    world.referee.kho_preserved({frames(6100, 1), std::nullopt, "luo"});
    world.prepare();
    world.traits.strict = true;
    world.kexec({frames(6100, 1)});
    SECTION("it does") {
        world.referee.kho_restored(folio(6100), "luo");
        world.referee.frames_returned(frames(6100, 1));
        world.finish();
        REQUIRE(world.ids() == "");
    }
    SECTION("it does not") {
        world.finish();
        REQUIRE(world.ids() == "frame.accounted");
    }
}

TEST_CASE("a failed prepare leaves no frame of a handler or of a callback behind") {
    World world;
    world.referee.frames_handed_out(frames(7000, 4), "kvm.pages",
                                    FrameClass::subsystem);  // its own, before any update
    world.referee.subsystem_registered("kvm");
    world.referee.subsystem_callback("kvm", LuoCallback::prepare, std::nullopt);
    world.referee.frames_handed_out(frames(7100, 1), "kvm.state", FrameClass::subsystem);
    SECTION("freed by the callback that failed") { world.referee.frames_returned(frames(7100, 1)); }
    SECTION("forgotten") {}
    const bool forgotten = world.referee.frames_of("kvm.state") == 1;
    world.referee.subsystem_callback("kvm", LuoCallback::prepare, Result<>{fail(Errno::enomem)});
    world.referee.luo_request(LuoEvent::prepare, fail(Errno::enomem));
    REQUIRE(world.ids() == (forgotten ? "frame.accounted" : ""));
    world.referee.luo_request(LuoEvent::prepare, fail(Errno::enomem));
    REQUIRE(world.referee.findings().size() == (forgotten ? 1 : 0));
}

TEST_CASE("what a subsystem allocates when it comes back is its own") {
    World world;
    world.prepare();
    world.kexec();
    world.referee.subsystem_registered("kvm");
    world.referee.subsystem_callback("kvm", LuoCallback::finish, std::nullopt);
    world.referee.frames_handed_out(frames(7100, 1), "kvm.state", FrameClass::subsystem);
    world.referee.subsystem_callback("kvm", LuoCallback::finish, Result<>{});
    world.finish();
    REQUIRE(world.ids() == "");
}

TEST_CASE("a file closed while KHO is finalized leaks in the successor") {
    World world;
    world.preserve_file(1, 5000, 2);
    world.prepare();
    world.referee.file_callback(1, "memfd-v1", LuoCallback::cancel, std::nullopt);
    world.referee.frames_returned(frames(5002, 1));
    world.referee.file_callback(1, "memfd-v1", LuoCallback::cancel, Result<>{});
    world.referee.file_unpreserved(1);
    world.referee.frames_returned(frames(5000, 2));
    SECTION("over a kexec") {
        world.kexec({frames(5000, 3)});
        REQUIRE(world.ids() == "");
        world.finish();
        REQUIRE(world.only().invariant == InvariantId::frame_accounted);
        REQUIRE(world.only().frame_count == 3);
    }
    SECTION("not when it is cancelled") {
        world.referee.kho_aborted(false);
        world.referee.luo_state(LuoState::prepared, LuoState::normal);
        world.referee.luo_request(LuoEvent::cancel, {});
        REQUIRE(world.ids() == "");
    }
}

TEST_CASE("frames in use are those of agents and of the update, not files, caches or overhead") {
    World world;
    Referee& referee = world.referee;
    referee.frames_handed_out(frames(5000, 1), "agent", FrameClass::agent);
    referee.frames_handed_out(frames(5001, 2), "bench.folio", FrameClass::bench);
    referee.frames_handed_out(frames(5010, 4), "shmem", FrameClass::file);
    referee.frames_handed_out(frames(5020, 8), "kho.bitmap", FrameClass::kho);
    referee.frames_handed_out(frames(5030, 16), "slab", FrameClass::slab);
    REQUIRE(referee.frames_in_use() == 3);
    referee.frames_become(frames(5002, 1), FrameClass::overhead);
    REQUIRE(referee.frames_in_use() == 2);
    REQUIRE(referee.frames_of("overhead:*") == 1);
    REQUIRE(referee.frames_of("kho.*") == 8);
    REQUIRE(referee.frames_of("file") == 4);
}

// --- abi.pointer -------------------------------------------------------------------------------------------------

TEST_CASE("a pointer into the direct map is stale only in metadata that is handed over") {
    World world;
    const u64 own = direct_map_address(direct_map_slot(world.machine.seed, 0));
    world.preserve_file(1, 5000, 2);
    write_word(world.machine, 5000, own + 0x3000);  // content of the file: whatever it likes
    world.prepare();
    SECTION("a pointer to RAM") {
        world.machine.ram.write<u64>(PhysAddr{5002 * page_bytes + 8}, own + 0x3000);
        world.kexec({frames(5000, 3)});
        REQUIRE(world.ids() == "abi.pointer");
        REQUIRE(world.only().frames == std::vector<u64>{5002});
    }
    SECTION("an address behind RAM") {
        write_word(world.machine, 5002, own + 64 * MiB);
        world.kexec({frames(5000, 3)});
        REQUIRE(world.ids() == "");
    }
    SECTION("the window of a generation that has not run yet") {
        write_word(world.machine, 5002, direct_map_address(direct_map_slot(world.machine.seed, 1)) + 0x3000);
        world.kexec({frames(5000, 3)});
        REQUIRE(world.ids() == "");
    }
    SECTION("two 32-bit numbers that look like one") {
        write_word(world.machine, 5002, (own >> 32 << 32) + 4 * KiB - 8);  // an index behind half an address
        world.machine.ram.write<u64>(PhysAddr{5002 * page_bytes + 8},
                                     own + 0x300'0000);  // a property's tag and length
        world.kexec({frames(5000, 3)});
        REQUIRE(world.ids() == "");
    }
    SECTION("not aligned") {
        world.machine.ram.write<u64>(PhysAddr{5002 * page_bytes + 4}, own + 0x3000);
        world.kexec({frames(5000, 3)});
        REQUIRE(world.ids() == "");
    }
}

// --- kernel.sane, abi.bounded ------------------------------------------------------------------------------------

TEST_CASE("a warning that the edition names is no finding") {
    World world;
    world.referee.kernel_warned("KHO: overlap", true);
    REQUIRE(world.ids() == "");
    world.referee.kernel_warned("refcount underflow", false);
    REQUIRE(world.ids() == "kernel.sane");
}

TEST_CASE("a frame that is free is not given back again") {
    World world;
    world.referee.frames_handed_out(frames(5000, 2), "slab", FrameClass::slab);
    world.referee.frames_returned(frames(5000, 2));
    REQUIRE(world.ids() == "");
    world.referee.frames_returned(frames(5001, 1));
    REQUIRE(world.ids() == "kernel.sane");
    world.referee.kernel_insane("tail without head", frames(5000, 1));
    REQUIRE(world.ids() == "kernel.sane kernel.sane");
}

TEST_CASE("an access outside RAM while the handover is read is not bounded") {
    World world;
    world.referee.wild_access(0xffff'f000, "chunk");
    REQUIRE(world.only().invariant == InvariantId::abi_bounded);
}

// --- results -----------------------------------------------------------------------------------------------------

TEST_CASE("findings of one kind, resource and generation are one, with the first sixteen frames") {
    World world;
    world.preserve_file(1, 5000, 40);
    world.prepare();
    world.kexec();
    for (u64 i = 0; i < 20; ++i) world.referee.frames_handed_out(frames(5000 + i, 1), "slab", FrameClass::slab);
    REQUIRE(world.only().frames.size() == 16);
    REQUIRE(world.only().frames.back() == 5015);
    REQUIRE(world.only().frame_count == 20);
}

TEST_CASE("a finding is an event, unless its id is muted") {
    World world;
    SECTION("muted") {
        world.referee.mute(InvariantId::abi_bounded);
        world.referee.wild_access(1, "chunk");
        REQUIRE(world.ids() == "");
    }
    SECTION("not muted") {
        world.referee.wild_access(1, "chunk");
        bool seen = false;
        world.machine.trace.drain([&](TraceEvent&& event) {
            seen = seen || (event.name == "referee.finding" && event.text("invariant") == "abi.bounded");
        });
        REQUIRE(seen);
    }
}

TEST_CASE("a finding after a corrupting fault is by fault, one after an operational fault is a violation") {
    for (const bool corrupting : {false, true}) {
        World world;
        const PlannedFault fault =
            *parse_fault(corrupting ? "handover.fdt#1=flip(0,0)" : "handover.fdt#1=fail(ENOMEM)");
        world.machine.faults.set_plan(std::span(&fault, 1));
        (void)world.machine.faults.visit(FaultPoint::handover_fdt, "root");
        world.referee.wild_access(1, "chunk");
        REQUIRE(world.only().by_fault == corrupting);
    }
}

TEST_CASE("a detached referee sees nothing") {
    World world;
    world.referee.attached = false;
    world.referee.kernel_warned("x", false);
    world.referee.wild_access(1, "chunk");
    REQUIRE(world.ids() == "");
}
