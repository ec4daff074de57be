// debugfs, below "kho/": what KHO shows of itself, and in mainline kernels its only switch.
//
//   out/finalize          "0" or "1"; writing 1 finalizes (EEXIST if it is), 0 aborts (ENOENT if it is not)
//   out/fdt               the root tree, while finalized
//   out/sub_fdts/<name>   a consumer's tree
//   out/scratch_phys      a line for each area
//   out/scratch_len       a line for each area
//   in/fdt                the incoming root tree, on a boot with a handover
//   in/sub_fdts/<name>    what it names
//
// Blobs are shown as long as their header says. Source: Linux 6.16, kernel/kexec_handover.c: kho_out_debugfs_init,
// kho_in_debugfs_init.
#include <cctype>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "kho/abi/root_tree.hpp"
#include "kho/state.hpp"
#include "machine/reached.hpp"

namespace kexec_sim::kho {

namespace {

Result<std::string> read_blob(const PhysicalMemory& ram, PhysAddr phys) {
    const auto tree = FdtReader::open(ram, phys);
    if (!tree) return fail(Errno::enoent);
    return std::string(reinterpret_cast<const char*>(tree->blob().data()), tree->bytes());
}

Vfs::PseudoFile blob_file(const PhysicalMemory& ram, PhysAddr phys) {
    return {[&ram, phys] { return read_blob(ram, phys); }, {}};
}

/// What simple_attr files take: a number in C's notation, and a line feed behind it. EINVAL for anything else.
Result<bool> parse_switch(std::string text) {
    if (text.ends_with('\n')) text.pop_back();
    char* end = nullptr;
    const bool begins = !text.empty() && std::isdigit(static_cast<unsigned char>(text[0]));
    errno = 0;
    const unsigned long long value = begins ? std::strtoull(text.c_str(), &end, 0) : 0;
    if (!begins || *end != '\0' || errno == ERANGE) return fail(Errno::einval);
    return value != 0;
}

}  // namespace

Result<> Kho::State::make_debugfs() {
    for (const char* folder : {"root", "out"}) TRY(machine.faults.check(FaultPoint::kho_debugfs, folder));
    return {};
}

void Kho::State::publish_debugfs() {
    Vfs& vfs = kernel.vfs;
    if (edition.notifier_chain || edition.exported_control)
        vfs.add_pseudo_file("kho/out/finalize",
                            {[this]() -> Result<std::string> { return finalized ? "1\n" : "0\n"; },
                             [this](std::string_view text) -> Result<> {
                                 return TRY(parse_switch(std::string(text))) ? kho.finalize() : kho.abort();
                             }});
    const auto lines = [this](u64 (*value)(const PhysRange&)) {
        std::string text;
        for (const PhysRange& area : scratch) text += fmt::format("{:#x}\n", value(area));
        return text;
    };
    vfs.add_pseudo_file(
        "kho/out/scratch_phys",
        {[lines]() -> Result<std::string> { return lines([](const PhysRange& area) { return area.begin.raw; }); },
         {}});
    vfs.add_pseudo_file(
        "kho/out/scratch_len",
        {[lines]() -> Result<std::string> { return lines([](const PhysRange& area) { return area.bytes(); }); }, {}});
    if (in) publish_incoming();
}

void Kho::State::publish_outgoing() {
    if (finalized)
        kernel.vfs.add_pseudo_file("kho/out/fdt", blob_file(kernel.machine.ram, root));
    else
        kernel.vfs.remove_pseudo_file("kho/out/fdt");
}

void Kho::State::publish_subtree(const Subtree& subtree) {
    kernel.vfs.add_pseudo_file("kho/out/sub_fdts/" + subtree.name, blob_file(kernel.machine.ram, subtree.fdt));
}
void Kho::State::withdraw_subtree(const std::string& name) {
    kernel.vfs.remove_pseudo_file("kho/out/sub_fdts/" + name);
}

void Kho::State::publish_incoming() {
    const PhysicalMemory& ram = kernel.machine.ram;
    const auto tree = incoming_tree();
    const auto made = tree ? machine.faults.check(FaultPoint::kho_debugfs, "in") : Result<>(fail(Errno::enoent));
    if (!made) {
        REACHED("kho.debugfs.in_failed");
        kernel.log.err("KHO: failed exposing handover FDT in debugfs: {}", -static_cast<int>(made.error()));
        return;
    }
    kernel.vfs.add_pseudo_file("kho/in/fdt", blob_file(ram, in->fdt));
    for (int node = tree->first_subnode(FdtReader::root); node >= 0; node = tree->next_subnode(node)) {
        const std::string name = tree->node_name(node);
        const auto value = tree->property(node, abi::PROP_SUB_FDT);
        if (!value) continue;
        u64 phys = 0;
        if (value->size() != sizeof phys) {
            REACHED("kho.debugfs.subtree_length");
            const std::string line =
                fmt::format("node `{}`'s prop `fdt` has invalid length: {}", name, value->size());
            kernel.log.warn("KHO: {}", line);
            kernel.machine.referee.handover_damaged("KHO: " + line);
            continue;
        }
        std::memcpy(&phys, value->data(), sizeof phys);
        kernel.vfs.add_pseudo_file("kho/in/sub_fdts/" + name, blob_file(ram, PhysAddr{phys}));
    }
}

}  // namespace kexec_sim::kho
