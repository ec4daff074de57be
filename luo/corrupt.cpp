// Planned damage to LUO's part of a handover: handover.luo[LUO], [file-descriptors], [0x<token>].
//
// It is applied after relocation, when nothing of the old kernel runs any more, to RAM alone: where the trees lie is
// read from the trees themselves, as the next kernel will do. What cannot be found (because something else is damaged)
// is left alone.
#include "luo/abi/trees.hpp"
#include "luo/orchestrator.hpp"

namespace kexec_sim::luo {
namespace {

/// The blob at `phys`: as long as its header says.
std::optional<PhysRange> blob_at(const PhysicalMemory& ram, u64 phys) {
    const auto reader = kho::FdtReader::open(ram, PhysAddr{phys});
    if (!reader) return std::nullopt;
    return phys_range(PhysAddr{phys}, reader->bytes());
}

/// The first two folios of a memfd change places.
bool swap_folios(PhysicalMemory& ram, PhysRange blob) {
    const auto reader = kho::FdtReader::open(ram, blob.begin);
    const auto folios = reader ? reader->property(kho::FdtReader::root, abi::MEMFD_PROP_FOLIOS) : std::nullopt;
    if (!folios || folios->size() < 2 * sizeof(abi::MemfdFolio)) return false;
    const PhysAddr first = blob.begin + static_cast<u64>(folios->data() - reader->blob().data());
    const PhysAddr second = first + sizeof(abi::MemfdFolio);
    const u64 desc = ram.read<u64>(first);
    ram.write(first, ram.read<u64>(second));
    ram.write(second, desc);
    return true;
}

void corrupt(Machine& machine, std::string_view name, std::optional<PhysRange> blob) {
    if (!blob) return;
    kho::visit_blob(machine, FaultPoint::handover_luo, name, *blob, [&](const FaultAction& action) {
        return action.kind == FaultKind::swap && swap_folios(machine.ram, *blob);
    });
}

}  // namespace

void Orchestrator::corrupt_handover() {
    if (!tree_.exists() || !kho_.finalized()) return;
    Machine& machine = kernel_.machine;
    const auto luo = kho::FdtReader::open(machine.ram, tree_.page());
    if (!luo) return;
    const int node = luo->subnode(kho::FdtReader::root, abi::LUO_SUBSYSTEMS_NODE_NAME);
    const auto files_data = luo->property_u64(node, abi::LUO_FILES_NODE_NAME);
    corrupt(machine, abi::LUO_KHO_ENTRY_NAME, phys_range(tree_.page(), abi::LUO_FDT_SIZE));
    if (!files_data) return;

    FileTree files(kernel_, kho_);
    if (files.adopt(PhysAddr{*files_data}, false) != 0) return;
    corrupt(machine, abi::LUO_FILES_NODE_NAME, blob_at(machine.ram, *files_data));
    for (const FileTree::Node& file : files.nodes())
        if (file.data) corrupt(machine, file.name, blob_at(machine.ram, *file.data));
}

}  // namespace kexec_sim::luo
