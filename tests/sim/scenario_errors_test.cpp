// Bad files: each case is one mistake, and the whole first line of the message, place included.
#include <catch2/catch.hpp>

#include "tests/sim/bad_scenarios.hpp"

using namespace kexec_sim;
using namespace kexec_sim::sim;

namespace {

constexpr std::string_view good = "format: 1\nscenario: s\nmachine: {memory: 512MiB}\nkernels: [{}]\nsteps: []\n";
constexpr std::string_view before_steps =
    "format: 1\nscenario: s\nmachine: {memory: 512MiB}\nkernels: [{}]\nsteps:\n";

}  // namespace

// One case a line, with the place that it is about.
// clang-format off
TEST_CASE("the frame of the errors is a good file") {
    CHECK(first_line(good) == "(no error)");
    CHECK(first_line(std::string(before_steps) + "  - luo.open:\n") == "(no error)");
}

TEST_CASE("an error at the top of the file says what is missing, unknown or of another version") {
    const BadCase cases[] = {
        {"[]", "1:1: error: a scenario file is a map that begins with 'format: 1', not a list"},
        {"just text", "1:1: error: a scenario file is a map that begins with 'format: 1', not a value"},
        {"scenario: s\n", "1:1: error: 'format' is missing; a scenario file begins with 'format: 1'"},
        {"format: 2\nnonsense: 1\n", "1:9: error: format 2 is not known; this program reads format 1"},
        {"format: one\n", "1:9: error: 'format' needs a number, not 'one'"},
        {"format: 1\nscenaro: s\n", "2:1: error: unknown key 'scenaro' in 'scenario file'; did you mean 'scenario'?"},
        {"format: 1\nmutants: []\n", "2:1: error: unknown key 'mutants' in 'scenario file'"},
        {"format: 1\n", "1:1: error: 'scenario' is missing"},
        {"format: 1\nscenario: s\n", "1:1: error: 'machine' is missing"},
        {"format: 1\nscenario: s\nmachine: {memory: 64M}\n", "1:1: error: 'kernels' is missing"},
        {"format: 1\nscenario: s\nmachine: {memory: 64M}\nkernels: [{}]\n", "1:1: error: 'steps' is missing"},
        {"format: 1\nscenario: [s]\n", "2:11: error: 'scenario' needs a name, not a list"},
        {"format: 1\nscenario:\n", "2:1: error: 'scenario' needs a name, not nothing"},
        {"format: 1\nscenario: \"\"\n", "2:11: error: 'scenario' needs a name; it is empty"},
        {"format: 1\nscenario: s\nscenario: s\n", "3:1: error: 'scenario' is written twice; the first one is in line 2"},
    };
    check_cases("", cases);
}

TEST_CASE("an error in the machine") {
    constexpr std::string_view before = "format: 1\nscenario: s\nmachine: ", after = "\nkernels: [{}]\nsteps: []\n";
    const BadCase cases[] = {
        {"{}", "3:10: error: 'machine' needs 'memory'"},
        {"512MiB", "3:10: error: 'machine' needs a map, not '512MiB'"},
        {"{memory: lots}", "3:19: error: 'memory' needs a size, as 4096 or 2MiB, not 'lots'"},
        {"{memory: 512MB}", "3:19: error: 'memory' needs a size, as 4096 or 2MiB, not '512MB'"},
        {"{memory: 63MiB}", "3:19: error: a machine has 64 MiB to 4 TiB of memory, not 66060288 bytes"},
        {"{memory: 5TiB}", "3:19: error: a machine has 64 MiB to 4 TiB of memory, not 5497558138880 bytes"},
        {"{memory: 64000001}", "3:19: error: 'memory' must be a multiple of 4 KiB"},
        {"{memory: 1G, nodes: 0}", "3:30: error: a machine has at least one node"},
        {"{memory: 1G, nodes: []}", "3:30: error: a machine has at least one node"},
        {"{memory: 1G, nodes: 1025}", "3:30: error: 'nodes' is at most 1024, not 1025"},
        {"{memory: 64M, nodes: 64}", "3:31: error: the memory is too small for 64 nodes"},
        {"{memory: 1G, nodes: [{memory: 1G}, {memory: 1G}]}", "3:19: error: the nodes have 2147483648 bytes together, which is not 'memory'"},
        {"{nodes: [{size: 1G}]}", "3:20: error: unknown key 'size' in 'nodes'"},
        {"{memory: 1G, iommmu: true}", "3:23: error: unknown key 'iommmu' in 'machine'; did you mean 'iommu'?"},
        {"{memry: 1G}", "3:11: error: unknown key 'memry' in 'machine'; did you mean 'memory'?"},
        {"{image: a}", "3:10: error: 'machine' needs 'boot-params'"},
        {"{boot-params: a}", "3:10: error: 'machine' needs 'image'"},
        {"{image: a, boot-params: b, memory: 1G}", "3:37: error: 'memory' makes no sense beside 'image': memory is a copy of that file"},
    };
    check_cases(before, cases, after);
}

TEST_CASE("an error in a kernel") {
    constexpr std::string_view before = "format: 1\nscenario: s\nmachine: {memory: 1G}\nkernels: ", after = "\nsteps: []\n";
    const BadCase cases[] = {
        {"[]", "4:10: error: 'kernels' needs at least one kernel"},
        {"{profile: luo-v3}", "4:10: error: 'kernels' needs a list, not a map"},
        {"[luo-v3]", "4:11: error: 'kernels' needs a map, not 'luo-v3'"},
        {"[{profile: linux-7.3}]", "4:21: error: 'profile' needs one of linux-6.16, linux-6.18, luo-v2, luo-v3, not 'linux-7.3'"},
        {"[{profile: luo-3}]", "4:21: error: 'profile' needs one of linux-6.16, linux-6.18, luo-v2, luo-v3, not 'luo-3'; did you mean 'luo-v3'?"},
        {"[{relase: 6.16.0}]", "4:12: error: unknown key 'relase' in 'kernels'; did you mean 'release'?"},
        {"[{devices: presrve}]", "4:21: error: 'devices' needs one of preserve, teardown, not 'presrve'; did you mean 'preserve'?"},
        {"[{mutant: [KB-05]}]", "4:12: error: unknown key 'mutant' in 'kernels'; did you mean 'mutants'?"},
        {"[{image: {kernal: 1M}}]", "4:20: error: unknown key 'kernal' in 'image'; did you mean 'kernel'?"},
        {"[{image: {kernel: 0}}]", "4:28: error: a kernel image has at least one byte"},
        {"[{defects: none}]", "4:21: error: 'defects' needs one of literal, strict, not 'none'"},
        {"[{without: [vfio]}]", "4:22: error: 'without' needs one of iommu, pci, memfd, vfio-pci, iommufd, kvm, luo, kho, not 'vfio'"},
        {"[{mutants: [KB-05, KB-05]}]", "4:29: error: 'KB-05' stands twice in 'mutants'"},
        {"[{mutants: [KB-20]}]", "4:22: error: KB-20 is not modelled; it needs sessions"},
        {"[{without: [memfd, memfd]}]", "4:29: error: 'memfd' stands twice in 'without'"},
        {"[{debug: yes}]", "4:19: error: 'debug' needs true or false, not 'yes'"},
        {"[{numa: 1}]", "4:18: error: 'numa' needs true or false, not '1'"},
        {"[{cost: fasst}]", "4:18: error: 'cost' needs one of fast, typical, not 'fasst'; did you mean 'fast'?"},
        {"[{cost: {boot: 1ms}}]", "4:19: error: unknown key 'boot' in 'cost'"},
        {"[{cost: {early_boot: 400}}]", "4:31: error: 'early_boot' needs a duration, as 10us or 3ms, not '400'"},
        {"[{release: }]", "4:12: error: 'release' needs a version, not nothing"},
    };
    check_cases(before, cases, after);
}

TEST_CASE("an error in a step's name or shape") {
    const BadCase cases[] = {
        {"  - memfd.creat: {name: a, size: 4096}\n", "6:5: error: unknown step 'memfd.creat'; did you mean 'memfd.create'?"},
        {"  - nic.begin: {device: nic0}\n", "6:5: error: unknown step 'nic.begin'"},
        {"  - session.create: {name: s0}\n", "6:5: error: unknown step 'session.create'"},
        {"  - luo.prepare\n", "6:5: error: a step needs a colon: 'luo.prepare:'"},
        {"  - something\n", "6:5: error: a step is a map with the step's name as its key, not a value"},
        {"  - {}\n", "6:5: error: an empty step"},
        {"  - expect: ok\n", "6:5: error: 'expect' without a step"},
        {"  - luo.open:\n    luo.close:\n", "7:5: error: 'luo.close' is a second step in one item; each step begins with its own '-'"},
        {"  - luo.open:\n    expct: EBUSY\n", "7:5: error: unknown key 'expct' beside step 'luo.open', where only 'expect' and 'note' may stand; did you mean 'expect'?"},
        {"  - luo.prepare: now\n", "6:18: error: step 'luo.prepare' takes no value"},
        {"  - kexec: now\n", "6:12: error: 'kexec' needs a map, not 'now'"},
        {"  - kexec: {vmm: nothing}\n", "6:18: error: 'vmm' needs one of duties, disable, none, not 'nothing'"},
        {"  - luo.open:\n    expect: EBUSSY\n", "7:13: error: 'expect' needs a result: ok, an errno, panic, deadlock, blocked, dead or exit N, not 'EBUSSY'; did you mean 'EBUSY'?"},
        {"  - luo.open:\n    expect: exit 1\n", "7:13: error: only 'luoctl' ends with an exit status"},
        {"  - luoctl: prepare\n    expect: exit 256\n", "7:13: error: 'exit' needs a status from 0 to 255"},
        {"  - luo.open:\n    expect:\n", "7:5: error: 'expect' needs a result: ok, an errno, panic, deadlock, blocked, dead or exit N, not nothing"},
        {"  - luo.open:\n    note: [a]\n", "7:11: error: 'note' needs a text, not a list"},
    };
    check_cases(before_steps, cases);
}

TEST_CASE("an error in a step's fields") {
    const BadCase cases[] = {
        {"  - memfd.create: {name: a}\n", "6:19: error: step 'memfd.create' needs 'size'"},
        {"  - memfd.create:\n", "6:5: error: step 'memfd.create' needs 'name'"},
        {"  - memfd.create: guest-ram\n", "6:19: error: 'memfd.create' needs a map, not 'guest-ram'"},
        {"  - memfd.create: {nam: a, size: 4K}\n", "6:20: error: unknown key 'nam' in 'memfd.create'; did you mean 'name'?"},
        {"  - memfd.create: {name: a, size: 4K, size: 8K}\n", "6:39: error: 'size' is written twice; the first one is in line 6"},
        {"  - memfd.create: {name: a, size: -1}\n", "6:35: error: 'size' needs a size, as 4096 or 2MiB, not '-1'"},
        {"  - memfd.create: {name: a, size: [1]}\n", "6:35: error: 'size' needs a size, as 4096 or 2MiB, not a list"},
        {"  - memfd.create: {name: , size: 4K}\n", "6:20: error: 'name' needs a name, not nothing"},
        {"  - memfd.create: {name: a, size: 4K, fill: patern(7)}\n", "6:45: error: 'fill' needs a fill: zero, byte(N) or pattern(SEED), not 'patern(7)'"},
        {"  - memfd.create: {name: a, size: 4K, flags: cloexec}\n", "6:46: error: 'flags' needs a list, not 'cloexec'"},
        {"  - memfd.create: {name: a, size: 4K, flags: [cloexek]}\n",
         "6:47: error: 'flags' needs one of cloexec, allow_sealing, hugetlb, noexec_seal, exec, not 'cloexek'; did you mean 'cloexec'?"},
        {"  - memfd.create: {name: a, size: 4K, flags: [exec, exec]}\n", "6:53: error: 'exec' stands twice in 'flags'"},
        {"  - kho.alloc: {name: a, order: 64}\n", "6:33: error: 'order' is at most 63, not 64"},
        {"  - kho.alloc: {name: a}\n  - kho.preserve: {}\n", "7:19: error: step 'kho.preserve' needs one of folio, pages, vmalloc"},
        {"  - kho.alloc: {name: a}\n  - kho.preserve: {folio: a, pages: a}\n", "7:37: error: 'folio' and 'pages' exclude each other"},
        {"  - memfd.create: {name: a, size: 4K}\n  - memfd.write: {fd: a, text: x, length: 1}\n", "7:43: error: 'length' makes no sense beside 'text'"},
        {"  - memfd.create: {name: a, size: 4K}\n  - memfd.write: {fd: a, length: 1}\n", "7:18: error: step 'memfd.write' needs one of fill, text"},
        {"  - kexec.load: {kernel: 1}\n", "6:26: error: 'kernel' is an index into 'kernels', at most 0"},
        {"  - advance: 10\n", "6:14: error: 'advance' needs a duration, as 10us or 3ms, not '10'"},
        {"  - advance: {for: 10ms}\n", "6:14: error: 'advance' needs a duration, as 10us or 3ms, not a map"},
        {"  - advance:\n", "6:5: error: 'advance' needs a duration, as 10us or 3ms, not nothing"},
        {"  - reset: hot\n", "6:12: error: 'reset' needs one of cold, warm, not 'hot'"},
        {"  - luo.state: nomal\n", "6:16: error: 'luo.state' needs one of undefined, normal, prepared, frozen, updated, not 'nomal'; did you mean 'normal'?"},
        {"  - luo.event: prepare\n", "6:16: error: 'luo.event' needs a number, not 'prepare'"},
        {"  - luo.event: 0x100000000\n", "6:16: error: 'luo.event' is at most 4294967295, not 0x100000000"},
        {"  - luo.fd_event: {token: 1, event: prepair}\n",
         "6:37: error: 'event' needs prepare, freeze, finish, cancel or a number, not 'prepair'; did you mean 'prepare'?"},
        {"  - luo.unpreserve: {token: 0x1g}\n", "6:29: error: 'token' needs a number, not '0x1g'"},
        {"  - luo.raw: {on: luo, request: 1, bytes: \"0\"}\n", "6:43: error: 'bytes' needs hex digits, as \"00 10 a5\", not '0'"},
        {"  - subsystem.register: {name: s, prepare: ENOMEN}\n", "6:44: error: 'prepare' needs ok, an errno or panic, not 'ENOMEN'; did you mean 'ENOMEM'?"},
        {"  - kho.expect_map: {orders: {x: 1}}\n", "6:31: error: 'x' is not an order, a number from 0 to 63"},
        {"  - kho.expect_map: {orders: {1: 1, 0x1: 1}}\n", "6:37: error: order 1 is written twice"},
        {"  - kho.expect_map: {orders: [1]}\n", "6:30: error: 'orders' needs a map of order to count, as {0: 3}, not a list"},
        {"  - expect.counter: {name: luo.fils, eq: 1}\n",
         "6:28: error: 'name' needs one of kho.preserved_folios, kho.preserved_bytes, kho.overhead_pages, kho.map_pages, luo.files, "
         "mm.frames_in_use, dma.completions, dma.gaps, dma.dry_ns, dma.blackout_completions, irq.lost, iommu.faults, guest.steps, "
         "pci.config_writes, p2p.writes, not 'luo.fils'; did you mean 'luo.files'?"},
        {"  - expect.counter: {name: luo.files}\n", "6:21: error: step 'expect.counter' needs one of eq, le, ge"},
        {"  - kho.retrieve_subtree: {name: \"a\\nb\"}\n", "6:34: error: 'name' needs a text on one line"},
    };
    check_cases(before_steps, cases);
}

TEST_CASE("a name that no step binds is an error of the file, kind by kind") {
    const BadCase cases[] = {
        {"  - memfd.create: {name: guest-ram, size: 4K}\n  - luo.preserve: {fd: guest-rom, token: 1}\n",
         "7:24: error: no step of this file binds 'guest-rom'; did you mean 'guest-ram'?"},
        {"  - kho.alloc: {name: f}\n  - memfd.close: {fd: f}\n", "7:23: error: no step of this file binds 'f' as a descriptor (it is a bench object)"},
        {"  - memfd.create: {name: m, size: 4K}\n  - kho.free: {folio: m}\n", "7:23: error: no step of this file binds 'm' as a bench object (it is a descriptor)"},
        {"  - subsystem.unregister: {name: kvm}\n", "6:34: error: no step of this file binds 'kvm'"},
        {"  - agent.switch: {name: vmm}\n", "6:26: error: no step of this file binds 'vmm'"},
        {"  - expect.memory_in_use: {same_as: before}\n", "6:37: error: no step of this file binds 'before'"},
        {"  - luo.restore: {token: 1, as: a}\n  - memfd.stat: {fd: b}\n", "7:22: error: no step of this file binds 'b'"},
        {"  - memfd.create: {name: \"a\", size: 4K}\n  - each: {of: [a, b], as: x, steps: [{memfd.close: {fd: \"${x}\"}}]}\n",
         "7:58: error: no step of this file binds 'b'"},
    };
    check_cases(before_steps, cases);
}

TEST_CASE("an error in repeat, each and parameters") {
    const BadCase cases[] = {
        {"  - repeat: {steps: [{luo.open: }]}\n", "6:13: error: 'repeat' needs 'times'"},
        {"  - repeat: {times: 3}\n", "6:13: error: 'repeat' needs 'steps'"},
        {"  - repeat: {times: 3, steps: []}\n", "6:31: error: 'repeat' without steps"},
        {"  - repeat: {times: many, steps: [{luo.open: }]}\n", "6:21: error: 'times' needs a number, not 'many'"},
        {"  - repeat: {times: 1, steps: [{luo.opn: }]}\n", "6:33: error: unknown step 'luo.opn'; did you mean 'luo.open'?"},
        {"  - repeat: {times: 1, steps: [{luo.open: }]}\n    expect: ok\n", "7:5: error: 'expect' belongs to a step; 'repeat' takes none"},
        {"  - repaet: {times: 1, steps: []}\n", "6:5: error: unknown step 'repaet'; did you mean 'repeat'?"},
        {"  - each: {of: [], as: x, steps: [{luo.open: }]}\n", "6:16: error: 'of' is empty: the steps would never run"},
        {"  - each: {of: [a], as: \"x y\", steps: [{luo.open: }]}\n", "6:25: error: 'x y' cannot stand in '${…}'; use letters, digits, '-', '_' and '.'"},
        {"  - each: {of: [a], as: x, steps: [{each: {of: [b], as: x, steps: [{luo.open: }]}}]}\n", "6:57: error: 'x' is a parameter already"},
        {"  - each: {of: [a], as: x, steps: [{note: \"${y}\"}]}\n", "6:43: error: no parameter is called 'y'"},
        {"  - note: \"${size}\"\n", "6:11: error: no parameter is called 'size'"},
        {"  - note: \"${\"\n", "6:11: error: '${' without a name and '}'; a literal one is written '$${'"},
    };
    check_cases(before_steps, cases);
    const BadCase parameters[] = {
        {"parameters: [a]\n", "6:13: error: 'parameters' needs a map, not a list"},
        {"parameters: {a: [1]}\n", "6:17: error: 'a' needs a value, not a list"},
        {"parameters: {a: \"${b}\", b: 1}\n", "6:17: error: a parameter cannot refer to another"},
        {"parameters: {\"a b\": 1}\n", "6:14: error: 'a b' cannot be a parameter; use letters, digits, '-', '_' and '.'"},
    };
    check_cases(good, parameters);
}

TEST_CASE("an error in a fault plan") {
    constexpr std::string_view before = "format: 1\nscenario: s\nmachine: {memory: 1G}\nkernels: [{}]\nsteps: []\nfaults:\n  - ";
    const BadCase cases[] = {
        {"panic\n", "7:5: error: 'faults' needs a map, not 'panic'"},
        {"{do: panic}\n", "7:5: error: 'faults' needs 'at'"},
        {"{at: kexec.jump}\n", "7:5: error: 'faults' needs 'do'"},
        {"{at: kexec.jmp, do: panic}\n", "7:10: error: unknown fault point 'kexec.jmp'; did you mean 'kexec.jump'?"},
        {"{at: dma.wirte, do: drop}\n", "7:10: error: unknown fault point 'dma.wirte'; did you mean 'dma.write'?"},
        {"{at: dma.write, do: skip}\n", "7:25: error: there is no work to skip at 'dma.write'"},
        {"{at: dma.read, do: duplicate}\n", "7:24: error: 'dma.read' does not carry out action 'duplicate'; it can do: drop flip"},
        {"{at: irq.deliver, do: {zero: {offset: 0, length: 8}}}\n",
         "7:27: error: 'irq.deliver' does not carry out action 'zero'; it can do: drop duplicate"},
        {"{at: kexec.load, do: painc}\n", "7:26: error: unknown action 'painc'; did you mean 'panic'?"},
        {"{at: kexec.load, do: fail}\n", "7:26: error: action 'fail' needs an argument: 'do: {fail: …}'"},
        {"{at: kexec.load, do: {panic: 1}}\n", "7:27: error: action 'panic' takes no argument: 'do: panic'"},
        {"{at: kexec.load, do: {fail: ENOMEN}}\n", "7:33: error: 'fail' needs an errno, not 'ENOMEN'; did you mean 'ENOMEM'?"},
        {"{at: kexec.load, do: {fail: ENOMEM, lie: EIO}}\n", "7:26: error: 'do' needs an action, as panic or {fail: ENOMEM}"},
        {"{at: kexec.load, do: [panic]}\n", "7:26: error: 'do' needs an action, as panic or {fail: ENOMEM}, not a list"},
        {"{at: kexec.load, visit: 0, do: panic}\n", "7:29: error: 'visit' needs a number from 1, or every, not '0'"},
        {"{at: kexec.load, visit: all, do: panic}\n", "7:29: error: 'visit' needs a number from 1, or every, not 'all'"},
        {"{at: kexec.load, in: x, do: panic}\n", "7:26: error: 'in' needs a number, not 'x'"},
        {"{at: kexec.load, when: 1, do: panic}\n", "7:22: error: unknown key 'when' in 'faults'"},
        {"{at: kexec.jump, do: {delay: 80}}\n", "7:34: error: 'delay' needs a duration, as 10us or 3ms, not '80'"},
        {"{at: handover.fdt, do: {flip: {offset: 0, bit: 8}}}\n", "7:52: error: 'bit' is at most 7, not 8"},
        {"{at: handover.fdt, do: {flip: {offset: 0}}}\n", "7:35: error: 'flip' needs 'bit'"},
        {"{at: handover.fdt, do: {replace: [a]}}\n", "7:38: error: 'replace' needs two texts: [OLD, NEW]"},
        {"{at: handover.fdt, do: {replace: [a, bc]}}\n", "7:42: error: the two texts of 'replace' must have the same length, and not be empty"},
        {"{at: kexec.load, do: {truncate: 1}}\n", "7:26: error: action 'truncate' corrupts what is handed over, which 'kexec.load' is not"},
        {"{at: handover.fdt, do: {fail: EIO}}\n", "7:28: error: 'handover.fdt' cannot return an error, so action 'fail' has no meaning there"},
        {"{at: handover.fdt, do: skip}\n", "7:28: error: there is no work to skip at 'handover.fdt'"},
        {"{at: kexec.load, do: {misdirect: 0x7000000}}\n", "7:26: error: action 'misdirect' is one for interrupts and DMA, which 'kexec.load' is not"},
    };
    check_cases(before, cases);
}

TEST_CASE("an error in what is expected") {
    const BadCase cases[] = {
        {"expect: {findngs: none}\n", "6:10: error: unknown key 'findngs' in 'expect'; did you mean 'findings'?"},
        {"expect: {findings: any}\n", "6:20: error: 'findings' needs none, a list of invariants or {any-of: […], may: […]}, not 'any'"},
        {"expect: {findings: [frame.intakt]}\n", "6:21: error: unknown invariant 'frame.intakt'; did you mean 'frame.intact'?"},
        {"expect: {findings: [dma.contaned]}\n", "6:21: error: unknown invariant 'dma.contaned'; did you mean 'dma.contained'?"},
        {"expect: {findings: [loss.silent, loss.silent]}\n", "6:34: error: 'loss.silent' stands twice in 'findings'"},
        {"expect: {findings: {}}\n", "6:20: error: 'findings' needs 'any-of' or 'may'"},
        {"expect: {findings: {any-of: []}}\n", "6:29: error: 'any-of' is empty: nothing could meet it"},
        {"expect: {findings: {may: all}}\n", "6:26: error: 'may' needs any, not 'all'"},
        {"expect: {log: KHO}\n", "6:15: error: 'log' needs a list, not 'KHO'"},
        {"expect: {log: [\"\"]}\n", "6:16: error: 'log' needs a list of texts; it is empty"},
        {"under-faults: {accept: []}\n", "6:15: error: 'under-faults' needs 'steps'"},
        {"under-faults: {steps: [{luo.opn: }]}\n", "6:25: error: unknown step 'luo.opn'; did you mean 'luo.open'?"},
        {"under-faults: {steps: [], accept: [x]}\n", "6:36: error: unknown invariant 'x'"},
        {"reproduces: {seed: 1}\n", "6:13: error: 'reproduces' needs 'scenario'"},
        {"reproduces: {scenario: a, seed: 1, plan: [], trace_hash: 12}\n", "6:58: error: 'trace_hash' is 32 hex digits"},
        {"reproduces: {scenario: a, seed: 1, plan: [x], trace_hash: 12}\n", "6:43: error: fault 'x': a fault is POINT[MATCH]#VISIT=ACTION(ARGUMENTS)"},
        {"modules: m.so\n", "6:10: error: 'modules' needs a list, not 'm.so'"},
        {"seed: -1\n", "6:7: error: 'seed' needs a number, not '-1'"},
    };
    check_cases(good, cases);
}

// clang-format on
TEST_CASE("each in each cannot make a small file into endless work") {
    std::string of;
    for (int i = 0; i < 100; ++i) of += (i ? ", " : "") + std::to_string(i);
    const std::string inner = "{each: {of: [" + of + "], as: c, steps: [{luo.open: }]}}";
    const std::string middle = "{each: {of: [" + of + "], as: b, steps: [" + inner + "]}}";
    CHECK(first_line(std::string(before_steps) + "  - each: {of: [" + of + "], as: a, steps: [" + middle + "]}\n")
              .find("more than 100000 steps") != std::string::npos);
    const std::string long_text(1 * MiB, 'x');
    CHECK(first_line(std::string(before_steps) + "  - each: {of: [" + of + "], as: a, steps: [{note: \"" + long_text +
                     "\"}]}\n")
              .find("more than 64 MiB of text") != std::string::npos);
}
