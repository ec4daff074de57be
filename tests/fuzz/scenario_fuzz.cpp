// Any bytes as a scenario file: the loader answers with a Scenario or with a UserError, and with
// nothing else. What it accepts is then walked as the runner would, so that indexes are in range.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>

#include "machine/result.hpp"
#include "sim/scenario.hpp"

namespace {

using namespace kexec_sim;
using namespace kexec_sim::sim;

constexpr std::string_view head =
    "format: 1\nscenario: f\nmachine: {memory: 512MiB, nodes: 2, iommu: {never_evict: true}, devices: [{name: s, "
    "model: "
    "switch, behind: r}, {name: r, model: root-port, at: \"00:02.0\"}, {name: n, model: dma-nic, behind: s.0}]}\n"
    "kernels:\n"
    "  - {profile: luo-v3, release: 6.16.0, cmdline: \"kho=on\", image: {kernel: 1M}, cost: {freeze: 1ms}}\n"
    "parameters: {size: 8MiB}\n";
constexpr std::string_view bodies[] = {
    "steps:\n  - memfd.create: {name: a, size: \"${size}\", fill: pattern(7), flags: [cloexec]}\n"
    "  - luo.preserve: {fd: a, token: 0x10_01}\n    expect: EEXIST\n    note: why\n  - luo.prepare:\n  - kexec:\n",
    "steps:\n  - repeat: {times: 3, steps: [{luo.prepare: }, {luo.cancel: }]}\n"
    "  - each: {of: [a, b], as: x, steps: [{memfd.create: {name: \"${x}\", size: 4K}}]}\n",
    "steps: [{kho.alloc: {name: f, order: 3}}, {kho.preserve: {folio: f}}, {kho.expect_map: {orders: {0: 3}}}]\n"
    "faults:\n  - {at: handover.fdt, do: {replace: [\"kho-v1\", \"kho-v2\"]}}\n  - {at: mm.folio_alloc, visit: "
    "every, do: {fail: ENOMEM}, in: 0}\n",
    "steps:\n  - subsystem.register: {name: s, prepare: ENOMEM}\n  - subsystem.expect: {name: s, calls: [prepare, "
    "cancel]}\n"
    "expect:\n  findings: {any-of: [frame.intact], may: any}\n  log: [\"KHO\"]\nunder-faults: {steps: [], accept: "
    "[loss.silent]}\n",
    "steps:\n  - vm.create: {name: v, memory: 16MiB, snp: true}\n  - vfio.open: {device: n, as: f}\n"
    "  - nic.start: {device: n, buffer: {vm: v, offset: 4K, length: 1M}, interval: 10us, ring: 8}\n  - vm.run: 1ms\n"
    "  - pci.expect: {device: s.1, bars: kept, requester: \"02:00.0\"}\n  - kexec: {vmm: none}\n"
    "faults: [{at: dma.write, match: n, do: {misdirect: 0x7000000}}]\n",
    "steps: &a\n  - ? {x: y}\n  : !!str |\n    block\n  - *a\n---\n%TAG ! x\n",
};

}  // namespace

extern "C" std::size_t fuzz_seed(std::size_t index, std::uint8_t* data, std::size_t bytes_max) {
    if (index >= std::size(bodies)) return 0;
    const std::string text = std::string(head) + std::string(bodies[index]);
    const std::size_t bytes = std::min(text.size(), bytes_max);
    std::memcpy(data, text.data(), bytes);
    return bytes;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    try {
        const std::string_view text(reinterpret_cast<const char*>(data), size);
        const Scenario scenario = parse_scenario(text, "fuzz.yaml");
        if (scenario.kernels.empty()) std::abort();
        for (std::size_t i = 0; i < scenario.program.size(); ++i) {
            const ProgramOp& op = scenario.program[i];
            if (op.kind == ProgramOp::Kind::step && op.step >= scenario.steps.size()) std::abort();
            if (op.kind == ProgramOp::Kind::repeat_begin &&
                (op.partner <= i || op.partner >= scenario.program.size()))
                std::abort();
            if (op.kind == ProgramOp::Kind::repeat_end && op.partner >= i) std::abort();
        }
        for (const Step& step : scenario.steps)
            for (const FieldSpec& field : step.spec->fields)
                if (field.required && !step.has(field.name)) std::abort();
    } catch (const UserError& error) {
        if (std::string_view(error.what()).find("error: ") == std::string_view::npos) std::abort();
    }
    return 0;
}
