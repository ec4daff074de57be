#include <catch2/catch.hpp>

#include <filesystem>

#include "machine/result.hpp"
#include "sim/scenario.hpp"

using namespace kexec_sim;
using namespace kexec_sim::sim;

namespace {

constexpr std::string_view head =
    "format: 1\nscenario: s\nmachine: {memory: 512MiB}\nkernels:\n  - {profile: luo-v3, release: 6.16.0, cmdline: "
    "\"kho=on\"}\n";

Scenario parse(const std::string& rest, const LoadOptions& options = {}) {
    return parse_scenario(std::string(head) + rest, "dir/s.yaml", options);
}

/// Every key of the format, and every form that a value of it can have.
constexpr std::string_view everything = R"yaml(
format: 1
scenario: all
summary: One of each.
seed: 0x10
machine: {nodes: [{memory: 1GiB}, {memory: 0}, {memory: "${small}"}], memory: 1152MiB}
kernels:
  - {profile: linux-6.16, release: 6.16.1, cmdline: "a b", image: {kernel: 4MiB, initrd: 0}, cost: typical}
  - profile: luo-v2
    defects: strict
    mutants: [KB-05, KB-align]
    without: [memfd]
    debug: true
    numa: false
    cost: {early_boot: 400ms, pci: 1ns}
parameters: {small: 128MiB, name: x}
modules: [m.so, ../n.so, /abs/o.so]
faults:
  - {at: luo.subsystem.prepare, match: "io*", visit: 2, do: {fail: ENOMEM}, in: 1}
  - {at: mm.folio_alloc, visit: every, do: panic}
  - {at: handover.fdt, do: {flip: {offset: 0x34, bit: 3}}}
  - {at: handover.map, do: {zero: {offset: 0, length: 4K}}}
  - {at: handover.luo, do: {truncate: 64}}
  - {at: handover.fdt, do: {replace: ["kho-v1", "kho-v2"]}}
  - {at: kexec.jump, do: {delay: 80ms}}
  - {at: luo.file.freeze, do: skip}
  - {at: kho.finalize, do: {lie: EIO}}
  - {at: boot.populate, do: power-loss}
  - {at: luo.copy_in, do: kill-agent}
steps:
  - memfd.create: {name: "${name}", size: 4K, flags: [cloexec, exec]}
expect:
  findings: {any-of: [frame.intact], may: [loss.silent, loss.reported]}
  log: ["one", two]
  no-log: [three]
under-faults: {steps: [{luo.cancel: }, {memfd.close: {fd: x}}], accept: [luo.rollback]}
reproduces: {scenario: other.yaml, seed: 7, plan: ["mm.folio_alloc#3=fail(ENOMEM)"], trace_hash: 0123456789abcdef0123456789abcdef}
)yaml";

}  // namespace

TEST_CASE("defaults are filled in where a scenario is silent") {
    const Scenario scenario =
        parse_scenario("format: 1\nscenario: s\nmachine: {memory: 1GiB}\nkernels: [{}]\nsteps: []\n", "s.yaml");
    CHECK(scenario.seed == 1);
    CHECK(scenario.machine.node_bytes == std::vector<u64>{GiB});
    const KernelSpec& kernel = scenario.kernel(5);
    CHECK(kernel.profile == Profile::luo_v3);
    CHECK(kernel.release == "6.16.0");
    CHECK(kernel.cmdline.empty());
    CHECK(kernel.image_bytes == 16 * MiB);
    CHECK(kernel.initrd_bytes == 8 * MiB);
    CHECK_FALSE(kernel.strict_defects);
    CHECK_FALSE(kernel.debug);
    CHECK(kernel.numa);
    CHECK(kernel.cost.early_boot == CostModel::fast().early_boot);
    CHECK(scenario.expect.findings.kind == FindingsSpec::Kind::none);
    CHECK_FALSE(scenario.under_faults);
    CHECK_FALSE(scenario.reproduces);
}

TEST_CASE("everything that a scenario can say is read") {
    const Scenario scenario = parse_scenario(everything, "dir/s.yaml");
    CHECK(scenario.name == "all");
    CHECK(scenario.summary == "One of each.");
    CHECK(scenario.seed == 16);
    CHECK(scenario.machine.node_bytes == std::vector<u64>{GiB, 0, 128 * MiB});
    CHECK(scenario.machine.memory_bytes == 1152 * MiB);
    CHECK(scenario.kernels[0].profile == Profile::linux_6_16);
    CHECK(scenario.kernels[0].initrd_bytes == 0);
    CHECK(scenario.kernels[0].cost.user_space == CostModel::typical().user_space);
    CHECK(scenario.kernels[1].strict_defects);
    CHECK(scenario.kernels[1].mutants.has(Mutant::kb05));
    CHECK(scenario.kernels[1].mutants.has(Mutant::kb_align));
    CHECK_FALSE(scenario.kernels[1].mutants.has(Mutant::kb06));
    CHECK(scenario.kernels[0].mutants.empty());
    CHECK(scenario.kernels[1].without == std::set<std::string>{"memfd"});
    CHECK(scenario.kernels[1].debug);
    CHECK_FALSE(scenario.kernels[1].numa);
    CHECK(scenario.kernels[1].cost.early_boot == 400'000'000);
    CHECK(scenario.kernels[1].cost.pci == 1);
    CHECK(scenario.kernels[1].cost.freeze == CostModel::fast().freeze);
    CHECK(scenario.modules == std::vector<std::filesystem::path>{"dir/m.so", "n.so", "/abs/o.so"});
    const char* faults[] = {"luo.subsystem.prepare[io*]#2@1=fail(ENOMEM)",
                            "mm.folio_alloc#every=panic",
                            "handover.fdt#1=flip(0x34,3)",
                            "handover.map#1=zero(0x0,4096)",
                            "handover.luo#1=truncate(64)",
                            "handover.fdt#1=replace(\"kho-v1\",\"kho-v2\")",
                            "kexec.jump#1=delay(80ms)",
                            "luo.file.freeze#1=skip",
                            "kho.finalize#1=lie(EIO)",
                            "boot.populate#1=power-loss",
                            "luo.copy_in#1=kill-agent"};
    REQUIRE(scenario.faults.size() == std::size(faults));
    for (std::size_t i = 0; i < std::size(faults); ++i) CHECK(scenario.faults[i].text() == faults[i]);
    CHECK(scenario.steps[0].get_name("name") == "x");
    CHECK(scenario.steps[0].get_list("flags") == std::vector<std::string>{"cloexec", "exec"});
    CHECK(scenario.expect.findings.kind == FindingsSpec::Kind::any_of);
    CHECK(scenario.expect.findings.may == std::vector<std::string>{"loss.silent", "loss.reported"});
    CHECK(scenario.expect.log == std::vector<std::string>{"one", "two"});
    CHECK(scenario.expect.no_log == std::vector<std::string>{"three"});
    CHECK(scenario.under_faults->steps.size() == 2);
    CHECK(scenario.under_faults->accept == std::vector<std::string>{"luo.rollback"});
    CHECK(scenario.reproduces->plan[0].visit == 3);
}

TEST_CASE("a step gives its fields, its defaults and what is expected of it") {
    const Scenario scenario = parse(R"(steps:
  - kho.alloc: {name: f}
  - kho.verify: {folio: f}
    expect: ENOENT
    note: why
  - memfd.create: {name: m, size: 4K}
  - memfd.write: {fd: m, text: "a: \"b\""}
  - luo.fd_event: {token: 0xFEEDF00DCAFEBEE0, event: finish}
  - luoctl: prepare now
    expect: exit 1
  - luoctl: state
    expect: exit 0
  - kho.expect_map: {orders: {0: 3, 10: 1}}
  - subsystem.register: {name: s, prepare: ENOMEM, boot: panic}
  - subsystem.expect: {name: s, calls: [prepare, cancel, prepare]}
  - luo.raw: {on: luo, request: 0xBA04, bytes: "08 00 00 00", reply: ""}
  - note: only a note
    expect: ok
  - reserve_mem.find: {name: r, same_address: true}
  - luo.event: 1
  - advance: 10ms
  - module.load: {file: a.so}
)");
    const auto& steps = scenario.steps;
    CHECK(steps[0].id == StepId::kho_alloc);
    CHECK(steps[0].get_u64("order") == 0);
    CHECK_FALSE(steps[0].has("order"));
    CHECK(steps[0].get_fill("fill") == Fill{});
    CHECK_FALSE(steps[0].find_u64("node"));
    CHECK(steps[0].expected == "ok");
    CHECK(steps[1].expected == "ENOENT");
    CHECK(steps[1].note == "why");
    CHECK(steps[1].has("folio"));
    CHECK_FALSE(steps[1].has("pages"));
    CHECK(steps[1].find("fill") == nullptr);
    CHECK_THROWS_AS(steps[1].get_fill("fill"), SimulatorBug);
    CHECK(steps[2].pos == SourcePos{11, 5});
    CHECK(steps[3].get_text("text") == "a: \"b\"");
    CHECK(steps[3].text == R"(memfd.write: {fd: m, text: "a: \"b\""})");
    CHECK(steps[4].get_u64("token") == 0xFEEDF00DCAFEBEE0);
    CHECK(steps[4].get_u64("event") == 2);
    CHECK(steps[5].get_text("arguments") == "prepare now");
    CHECK(steps[5].expected == "exit 1");
    CHECK(steps[6].expected == "ok");
    CHECK(steps[7].get_orders("orders") == std::map<u64, u64>{{0, 3}, {10, 1}});
    CHECK(steps[8].get_text("prepare") == "ENOMEM");
    CHECK(steps[8].get_text("freeze") == "ok");
    CHECK(steps[8].get_u64("pages") == 1);
    CHECK(steps[9].get_list("calls").size() == 3);
    CHECK(steps[10].get_text("bytes") == std::string("\x08\0\0\0", 4));
    CHECK(steps[10].has("reply"));
    CHECK(steps[11].id == StepId::note);
    CHECK(steps[12].get_bool("same_address"));
    CHECK(steps[13].get_u64("event") == 1);
    CHECK(steps[14].get_u64("for") == 10'000'000);
    CHECK(steps[14].text == "advance: 10ms");
    CHECK(steps[15].get_text("file") == "dir/a.so");
    for (std::size_t i = 0; i < steps.size(); ++i) CHECK(steps[i].index == i);
}

TEST_CASE("repeat stays a loop and each is unrolled") {
    const Scenario scenario = parse(R"(steps:
  - luo.open:
  - repeat:
      times: 3
      steps:
        - luo.prepare:
        - repeat: {times: 0, steps: [{luo.cancel: }]}
  - each:
      of: [a, b]
      as: x
      steps:
        - each: {of: [1, 2], as: y, steps: [{memfd.create: {name: "${x}${y}", size: "${y}K"}}]}
  - memfd.close: {fd: b2}
)");
    using Kind = ProgramOp::Kind;
    const std::vector<std::pair<Kind, u32>> expected = {
        {Kind::step, 0}, {Kind::repeat_begin, 6}, {Kind::step, 1},       {Kind::repeat_begin, 5},
        {Kind::step, 2}, {Kind::repeat_end, 3},   {Kind::repeat_end, 1}, {Kind::step, 3},
        {Kind::step, 4}, {Kind::step, 5},         {Kind::step, 6},       {Kind::step, 7}};
    REQUIRE(scenario.program.size() == expected.size());
    for (std::size_t i = 0; i < expected.size(); ++i) {
        const ProgramOp& op = scenario.program[i];
        INFO(i);
        CHECK(op.kind == expected[i].first);
        CHECK((op.kind == Kind::step ? op.step : op.partner) == expected[i].second);
    }
    CHECK(scenario.program[1].times == 3);
    CHECK(scenario.program[3].times == 0);
    CHECK(scenario.steps[3].get_name("name") == "a1");
    CHECK(scenario.steps[6].get_name("name") == "b2");
    CHECK(scenario.steps[6].get_u64("size") == 2 * KiB);
}

TEST_CASE("parameters are overridden from outside, and only those that exist") {
    const std::string rest = "parameters: {size: 8MiB}\nsteps:\n  - memfd.create: {name: a, size: \"${size}\"}\n";
    CHECK(parse(rest).steps[0].get_u64("size") == 8 * MiB);
    CHECK(parse(rest, {.overrides = {{"size", "1GiB"}}, .seed = 9, .extra_names = {}, .bench_names = {}})
              .steps[0]
              .get_u64("size") == GiB);
    CHECK(parse(rest, {.overrides = {}, .seed = 9, .extra_names = {}, .bench_names = {}}).seed == 9);
    CHECK_THROWS_WITH(parse(rest, {.overrides = {{"siez", "1"}}, .seed = {}, .extra_names = {}, .bench_names = {}}),
                      "kexec-sim: error: --set siez=1: dir/s.yaml has no parameter 'siez'; did you mean 'size'?");
    // A bad value is an error of the place where it is used.
    CHECK_THROWS_WITH(parse(rest, {.overrides = {{"size", "big"}}, .seed = {}, .extra_names = {}, .bench_names = {}}),
                      Catch::StartsWith("dir/s.yaml:8:35: error: 'size' needs a size, as 4096 or 2MiB, not 'big'\n"));
}

TEST_CASE("equal nodes share the memory and the last one takes the rest") {
    const auto nodes = [](const std::string& machine) {
        return parse_scenario("format: 1\nscenario: s\nmachine: " + machine + "\nkernels: [{}]\nsteps: []\n",
                              "s.yaml")
            .machine.node_bytes;
    };
    CHECK(nodes("{memory: 512MiB, nodes: 2}") == std::vector<u64>{256 * MiB, 256 * MiB});
    CHECK(nodes("{memory: 512MiB, nodes: 3}") == std::vector<u64>{170 * MiB, 170 * MiB, 172 * MiB});
    CHECK(nodes("{memory: 64MiB}") == std::vector<u64>{64 * MiB});
    CHECK(nodes("{memory: 4TiB, nodes: 1}") == std::vector<u64>{4 * TiB});
}

TEST_CASE("a machine from a handover takes names from its boot parameters") {
    const std::string text =
        "format: 1\nscenario: s\nmachine: {image: ram.zst, boot-params: ../b.json}\nkernels: [{}]\n"
        "steps: [{kho.restore: {folio: kept}}, {expect.memory_in_use: {same_as: before}}]\n";
    std::filesystem::path asked;
    const LoadOptions options{.overrides = {},
                              .seed = {},
                              .extra_names = {"before"},
                              .bench_names = [&](const std::filesystem::path& path, const std::filesystem::path&) {
                                  asked = path;
                                  return std::set<std::string>{"kept"};
                              }};
    const Scenario scenario = parse_scenario(text, "a/b/s.yaml", options);
    CHECK(scenario.machine.from_handover());
    CHECK(scenario.machine.image == "a/b/ram.zst");
    CHECK(asked == "a/b.json");
    CHECK_THROWS_WITH(parse_scenario(text, "a/b/s.yaml"),
                      Catch::StartsWith("a/b/s.yaml:5:31: error: no step of this file binds 'kept'"));
}

TEST_CASE("what exists without a step may be named: main, and reserve_mem areas of a command line") {
    const Scenario scenario = parse_scenario(
        "format: 1\nscenario: s\nmachine: {memory: 512MiB}\nkernels: [{cmdline: \"kho=on reserve_mem=4M:4096:kdata "
        "x\"}]\n"
        "steps: [{agent.kill: {name: main}}, {reserve_mem.write: {name: kdata, fill: zero}}]\n",
        "s.yaml");
    CHECK(scenario.steps.size() == 2);
}

TEST_CASE("a byte order mark and DOS line ends do not matter") {
    CHECK(parse_scenario(
              "\xef\xbb\xbf"
              "format: 1\r\nscenario: s\r\nmachine: {memory: 64M}\r\nkernels: [{}]\r\nsteps:\r\n  - note: x\r\n",
              "s.yaml")
              .steps[0]
              .get_text("text") == "x");
}

TEST_CASE("every scenario of the library loads") {
    const std::filesystem::path root = std::filesystem::path(KEXEC_SIM_SOURCE_DIR) / "scenarios";
    for (const auto& entry : std::filesystem::recursive_directory_iterator(root)) {
        if (entry.path().extension() != ".yaml") continue;
        INFO(entry.path().string());
        CHECK_NOTHROW(load_scenario(entry.path()));
    }
}
