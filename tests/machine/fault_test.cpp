// Fault plans: their text form, and which visit they hit.
#include <catch2/catch.hpp>

#include "machine/machine.hpp"

using namespace kexec_sim;

namespace {

struct Bench {
    explicit Bench(std::vector<std::string> plans) {
        MachineConfig config;
        config.node_bytes = {64 * MiB};
        machine = make_machine(config);
        std::vector<PlannedFault> faults;
        for (const std::string& plan : plans) faults.push_back(parse_fault(plan).value());
        machine->faults.set_plan(faults);
    }
    FaultInjector& faults() { return machine->faults; }
    MachineHandle machine;
};

Errno error_of(const Result<>& result) { return result ? Errno::ok : result.error(); }

}  // namespace

TEST_CASE("a plan's text is read and written alike") {
    for (const char* text :
         {"luo.subsystem.prepare[iommu]#1=fail(ENOMEM)", "mm.folio_alloc#17@0=fail(ENOMEM)",
          "kexec.jump#1=delay(80ms)", "kexec.jump#1=panic", "kexec.jump#every=power-loss", "luo.copy_in#2=kill-agent",
          "kho.preserve[memfd*]#3=skip", "kho.preserve#1=lie(EIO)", "handover.fdt#1=flip(0x34,3)",
          "handover.map[chunk:0]#1=zero(0,64)", "handover.luo[LUO]#1=truncate(0x64)",
          "handover.fdt[root]#1=replace(\"kho]v1\",\"kho#=2\")", "handover.fdt#1=replace(\"kho-v1\",\"kho-v2\")"}) {
        INFO(text);
        const auto fault = parse_fault(text);
        REQUIRE(fault);
        const auto again = parse_fault(fault->text());
        REQUIRE(again);
        CHECK(again->text() == fault->text());
    }
    CHECK(parse_fault("kexec.jump=panic")->visit == 1);
    CHECK(parse_fault("kexec.jump#every=panic")->visit == 0);
    CHECK(parse_fault("kexec.jump#2@3=panic")->generation == Generation{3});
}

TEST_CASE("what is no plan is refused with a reason") {
    for (const char* text : {"", "kexec.jump", "kexec.jump#0=panic", "kexec.jmp#1=panic", "kexec.jump#1=explode",
                             "kho.preserve#1=fail(EWHAT)", "kho.preserve#1=fail", "kexec.jump#x=panic",
                             "kexec.jump[#1=panic", "handover.fdt#1=flip(1)", "handover.fdt#1=replace(\"a\",\"bc\")",
                             "kexec.jump#1=delay(soon)", "kexec.jump#1=panic trailing",
                             "kexec.load[]junk#1=fail(EINVAL)", "kexec.load@1#1=fail(EINVAL)", "kexec.load[x"}) {
        INFO(text);
        const auto fault = parse_fault(text);
        REQUIRE_FALSE(fault);
        CHECK_FALSE(fault.error().empty());
    }
}

TEST_CASE("only visits by a matching name, in the generation that was named, count") {
    Bench bench({"kho.preserve[memfd*]#2@1=fail(ENOMEM)"});
    FaultInjector& faults = bench.faults();
    CHECK(faults.check(FaultPoint::kho_preserve, "memfd-v1"));
    CHECK(faults.check(FaultPoint::kho_preserve, "memfd-v1"));  // generation 0
    bench.machine->set_generation(1);
    CHECK(faults.check(FaultPoint::kho_preserve, "memfd-v1"));
    CHECK(faults.check(FaultPoint::kho_preserve, "luo"));
    CHECK(faults.check(FaultPoint::kho_restore, "memfd-v1"));
    CHECK(error_of(faults.check(FaultPoint::kho_preserve, "memfd-v2")) == Errno::enomem);
    CHECK(faults.check(FaultPoint::kho_preserve, "memfd-v1"));
    CHECK(faults.status().at(0).visits == 3);
    CHECK(faults.status().at(0).fired);
}

TEST_CASE("every visit, and visits that come in bulk") {
    Bench bench({"mm.folio_alloc#every=fail(ENOMEM)", "kho.restore#5=fail(ENOENT)"});
    for (int i = 0; i < 3; ++i)
        CHECK(error_of(bench.faults().check(FaultPoint::mm_folio_alloc, "site")) == Errno::enomem);
    const auto run = bench.faults().check_many(FaultPoint::kho_restore, "memfd-v1", 10);
    CHECK(run.good == 4);
    CHECK(run.error == Errno::enoent);
    // The visits after the one that failed have not happened.
    CHECK(bench.faults().status().at(1).visits == 5);
    CHECK(bench.faults().check_many(FaultPoint::kho_restore, "memfd-v1", 10).good == 10);
}

TEST_CASE("what is the same everywhere is carried out by the injector") {
    Bench bench(
        {"kexec.load#1=panic", "kexec.load#2=power-loss", "kexec.load#3=delay(7us)", "kexec.load#4=kill-agent"});
    FaultInjector& faults = bench.faults();
    CHECK_THROWS_AS(faults.visit(FaultPoint::kexec_load), KernelPanic);
    CHECK_THROWS_AS(faults.visit(FaultPoint::kexec_load), PowerLoss);
    const u64 before = bench.machine->clock.now_ns();
    CHECK_FALSE(faults.visit(FaultPoint::kexec_load));
    CHECK(bench.machine->clock.now_ns() == before + 7000);
    CHECK_FALSE(faults.agent_kill_pending());
    CHECK_FALSE(faults.visit(FaultPoint::kexec_load));
    CHECK(faults.agent_kill_pending());
    CHECK(faults.take_agent_kill());
    CHECK_FALSE(faults.take_agent_kill());
}

TEST_CASE("a corruption that found nothing to corrupt counts as never fired") {
    Bench bench({"handover.fdt#1=flip(4096,0)"});
    const auto action = bench.faults().visit(FaultPoint::handover_fdt, "root");
    REQUIRE(action);
    CHECK(bench.faults().corrupting_fired());
    bench.faults().missed("root");
    CHECK_FALSE(bench.faults().any_fired());
    CHECK(bench.faults().status().at(0).visits == 1);
}

TEST_CASE("work under a fault point is done, left out, or done and denied") {
    Bench bench({"kho.preserve[a]=fail(EBUSY)", "kho.preserve[b]=skip", "kho.preserve[c]=lie(EIO)"});
    const auto run = [&](const char* name, Result<> own = {}) {
        bool done = false;
        const auto result = under_fault(bench.faults(), FaultPoint::kho_preserve, name, [&] {
            done = true;
            return own;
        });
        return std::pair{done, error_of(result)};
    };
    CHECK(run("a") == std::pair{false, Errno::ebusy});
    CHECK(run("b") == std::pair{false, Errno::ok});
    CHECK(run("c") == std::pair{true, Errno::eio});
    CHECK(run("d") == std::pair{true, Errno::ok});
    CHECK(run("d", fail(Errno::enomem)) == std::pair{true, Errno::enomem});
}

TEST_CASE("globs match as a shell's do") {
    CHECK(glob_matches("memfd*", "memfd-v1"));
    CHECK(glob_matches("*", ""));
    CHECK(glob_matches("a?c", "abc"));
    CHECK(glob_matches("*b*d", "abcd"));
    CHECK_FALSE(glob_matches("a?c", "ac"));
    CHECK_FALSE(glob_matches("memfd", "memfd-v1"));
    CHECK_FALSE(glob_matches("", "x"));
}
