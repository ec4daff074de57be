#include "kho/kho.hpp"

#include <algorithm>

#include "kho/deserialize.hpp"
#include "kho/state.hpp"

namespace kexec_sim::kho {

namespace {

Edition as_built(Edition edition, const KernelConfig& config) {
    edition.overlap_check = edition.overlap_check && config.debug;
    return edition;
}

}  // namespace

Kho::State::State(Kho& owner, Kernel& kernel_, const Edition& edition_)
    : kho(owner),
      kernel(kernel_),
      machine(kernel_.machine),
      edition(as_built(edition_, kernel_.config)),
      configured(kernel_.config.built_with("kho")),
      tracking(kernel_, edition, scratch) {}

Kho::Kho(Kernel& kernel, const Edition& edition) : state_(std::make_unique<State>(*this, kernel, edition)) {
    state_->attach_boot();
    state_->attach_load();
    state_->attach_memblock_consumer();
}

Kho::~Kho() = default;

const Edition& Kho::edition() const { return state_->edition; }
Kernel& Kho::kernel() { return state_->kernel; }
bool Kho::enabled() const { return state_->enabled; }
bool Kho::incoming() const { return state_->in.has_value(); }
bool Kho::finalized() const { return state_->finalized; }
std::vector<PhysRange> Kho::scratch_areas() const { return state_->scratch; }

Result<MapStatistics> Kho::map_statistics() const {
    if (!state_->finalized) return fail(Errno::enoent);
    const PhysicalMemory& ram = state_->kernel.machine.ram;
    MapStatistics statistics;
    const MapDirectory directory = read_map_directory(ram, state_->edition, state_->map.first());
    statistics.chunks = directory.chunks.size();
    statistics.bitmaps = directory.elements.size();
    MapDecoder(ram, state_->edition).decode(directory, [&](const BlockRun& run) {
        statistics.folios += run.count;
        statistics.bytes += run.frames().phys().bytes();
        statistics.orders[run.order.raw] += run.count;
    });
    return statistics;
}

u64 Kho::preserved_folios() const { return state_->tracking.count().blocks; }
u64 Kho::preserved_bytes() const { return state_->tracking.count().bytes; }
u64 Kho::map_pages() const { return state_->map.chunks.size() + state_->tracking.bitmap_pages(); }
PhysAddr Kho::root_tree() const { return state_->root; }

std::vector<Kho::Blob> Kho::outgoing_blobs() const {
    std::vector<Blob> blobs;
    if (!state_->finalized) return blobs;
    const PhysicalMemory& ram = state_->kernel.machine.ram;
    blobs.push_back({"root", phys_range(state_->root, page_bytes)});
    for (const State::Subtree& subtree : state_->subtrees) {
        const auto tree = FdtReader::open(ram, subtree.fdt);
        const u64 bytes = tree ? tree->bytes() : page_bytes;
        if (ram.contains(subtree.fdt, bytes)) blobs.push_back({subtree.name, phys_range(subtree.fdt, bytes)});
    }
    return blobs;
}

}  // namespace kexec_sim::kho
