// Planned damage to what is handed over, applied to RAM just before the next kernel starts.
//
// The blobs are found as the next kernel will find them, from the boot data: root tree, then the trees it names, the
// map's chunks, the bitmaps, the scratch array. Each is one visit of a fault point, in this order:
//
//   handover.fdt       "root", then every sub-tree by its name
//   handover.map       "chunk:0", "chunk:1", …, then "bitmap:0", "bitmap:1", … in chain order
//   handover.scratch   ""
//   handover.setup_data  "" (the entry of the boot data itself)
//
// What a chunk of the map can suffer beside: `misdirect` (the pointer to the next chunk leads to that address), `duplicate`
// (it leads back to the chunk itself: a circle), `swap` (its first two elements exchange their bitmaps). Bitmaps: `swap`
// (the page exchanges its content with the one behind it).
//
// All blobs are found before the first is damaged, so that a broken root tree does not hide the map from another fault.
#include <algorithm>
#include <cstring>

#include "kho/abi/root_tree.hpp"
#include "kho/deserialize.hpp"
#include "kho/state.hpp"

namespace kexec_sim::kho {

namespace {

struct Target {
    FaultPoint point;
    std::string name;
    PhysRange blob;
};

void find_map_targets(const PhysicalMemory& ram, const Edition& edition, PhysAddr first,
                      std::vector<Target>& targets) {
    const MapDirectory directory = read_map_directory(ram, edition, first);
    u64 number = 0;
    for (const PhysAddr chunk : directory.chunks)
        targets.push_back(
            {FaultPoint::handover_map, fmt::format("chunk:{}", number++), phys_range(chunk, page_bytes)});
    number = 0;
    for (const MapElement& element : directory.elements)
        targets.push_back({FaultPoint::handover_map, fmt::format("bitmap:{}", number++),
                           phys_range(element.bitmap, edition.bitmap_bytes)});
}

std::vector<Target> find_targets(const PhysicalMemory& ram, const Edition& edition, const abi::kho_data& data) {
    std::vector<Target> targets;
    const PhysAddr root{data.fdt_addr};
    if (ram.contains(root, page_bytes))
        targets.push_back({FaultPoint::handover_fdt, "root", phys_range(root, page_bytes)});
    if (const auto tree = FdtReader::open(ram, root, data.fdt_size)) {
        for (int node = tree->first_subnode(FdtReader::root); node >= 0; node = tree->next_subnode(node)) {
            const auto phys = tree->property_u64(node, abi::PROP_SUB_FDT);
            if (!phys) continue;
            const auto subtree = FdtReader::open(ram, PhysAddr{*phys});
            const u64 bytes = subtree ? subtree->bytes() : page_bytes;
            if (ram.contains(PhysAddr{*phys}, bytes))
                targets.push_back(
                    {FaultPoint::handover_fdt, tree->node_name(node), phys_range(PhysAddr{*phys}, bytes)});
        }
        if (const auto first = tree->property_u64(FdtReader::root, abi::PROP_PRESERVED_MEMORY_MAP); first && *first)
            find_map_targets(ram, edition, PhysAddr{*first}, targets);
    }
    if (data.scratch_size && ram.contains(PhysAddr{data.scratch_addr}, data.scratch_size))
        targets.push_back(
            {FaultPoint::handover_scratch, "", phys_range(PhysAddr{data.scratch_addr}, data.scratch_size)});
    return targets;
}

bool swap_elements(PhysicalMemory& ram, PhysRange blob) {
    const auto chunk = ram.read<abi::khoser_mem_chunk>(blob.begin);
    if (chunk.hdr.num_elms < 2) return false;
    const PhysAddr first = blob.begin + offsetof(abi::khoser_mem_chunk, bitmaps);
    auto one = chunk.bitmaps[0], other = chunk.bitmaps[1];
    std::swap(one.bitmap, other.bitmap);
    ram.write(first, one);
    ram.write(first + sizeof one, other);
    return true;
}

bool swap_with_next(PhysicalMemory& ram, PhysRange blob) {
    const PhysRange behind = phys_range(blob.end, blob.bytes());
    if (!ram.contains(behind)) return false;
    const auto here = ram.read_vector(blob.begin, blob.bytes()), there = ram.read_vector(behind.begin, blob.bytes());
    if (here == there) return false;
    ram.write_bytes(blob.begin, there);
    ram.write_bytes(behind.begin, here);
    return true;
}

/// What is not done byte by byte. False: it means nothing for this part of the map.
bool apply_to_map(PhysicalMemory& ram, std::string_view name, PhysRange blob, const FaultAction& action) {
    const bool is_chunk = name.starts_with("chunk:");
    if (action.kind == FaultKind::swap) return is_chunk ? swap_elements(ram, blob) : swap_with_next(ram, blob);
    if (!is_chunk) return false;
    ram.write(blob.begin, action.kind == FaultKind::misdirect ? action.address : blob.begin.raw);
    return true;
}

}  // namespace

bool apply_corruption(PhysicalMemory& ram, PhysRange blob, const FaultAction& action) {
    const u64 bytes = blob.bytes();
    const auto zero = [&](u64 offset, u64 length) {
        if (offset >= bytes || length == 0) return false;
        const std::vector<std::byte> zeros(std::min(length, bytes - offset));
        ram.write_bytes(blob.begin + offset, zeros);
        return true;
    };
    switch (action.kind) {
    case FaultKind::flip: {
        const u64 offset = action.offset + action.bit / 8;
        if (offset >= bytes) return false;
        const auto old = ram.read<u8>(blob.begin + offset);
        ram.write(blob.begin + offset, static_cast<u8>(old ^ (1u << (action.bit % 8))));
        return true;
    }
    case FaultKind::zero: return zero(action.offset, action.length);
    case FaultKind::truncate: return zero(action.length, bytes);
    case FaultKind::replace: {
        const auto content = ram.read_vector(blob.begin, bytes);
        const auto as_bytes = std::as_bytes(std::span(action.old_text));
        const auto found = std::search(content.begin(), content.end(), as_bytes.begin(), as_bytes.end());
        if (found == content.end() || as_bytes.empty()) return false;
        const u64 offset = static_cast<u64>(found - content.begin());
        const auto fresh = std::as_bytes(std::span(action.new_text));
        ram.write_bytes(blob.begin + offset, fresh.first(std::min(fresh.size(), as_bytes.size())));
        return true;
    }
    default: break;
    }
    return true;
}

void visit_blob(Machine& machine, FaultPoint point, std::string_view name, PhysRange blob,
                const std::function<bool(const FaultAction&)>& by_meaning) {
    const auto action = machine.faults.visit(point, name);
    if (!action) return;
    const bool has_meaning = action->kind == FaultKind::misdirect || action->kind == FaultKind::duplicate ||
                             action->kind == FaultKind::swap;
    const bool done = has_meaning ? by_meaning(*action) : apply_corruption(machine.ram, blob, *action);
    if (!done) machine.faults.missed(name);
}

void Kho::corrupt_handover(const BootParams& passed) {
    Machine& machine = state_->machine;
    state_->tracking.settle();
    for (const SetupData& entry : passed.setup_data) {
        abi::kho_data data{};
        if (entry.type != SETUP_KEXEC_KHO || entry.payload.size() < sizeof data) continue;
        std::memcpy(&data, entry.payload.data(), sizeof data);
        std::vector<Target> targets = find_targets(machine.ram, state_->edition, data);
        targets.push_back(
            {FaultPoint::handover_setup_data, "", phys_range(entry.at, setup_data_header_bytes + sizeof data)});
        for (const Target& target : targets)
            visit_blob(machine, target.point, target.name, target.blob, [&](const FaultAction& action) {
                return target.point == FaultPoint::handover_map &&
                       apply_to_map(machine.ram, target.name, target.blob, action);
            });
    }
}

}  // namespace kexec_sim::kho
