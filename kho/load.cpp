// What kexec_file_load gets from KHO: where segments may go, and what the next kernel is told.
//
//   image        in scratch areas only, tried in the order of the array (not for a crash image)
//   kho-scratch  an extra segment: a copy of the scratch array
//   setup_data   type 10: where the root tree's page and that copy are
//
// The tree itself is not copied; the next kernel reads it where it is. So an image that was loaded first hands over
// what finalize wrote later (6.16, luo-*), or an unfinished page if nothing was ever finalized, or the tree of a
// finalize that was aborted since. 6.18 passes data only if finalized when the image is loaded. Source: Linux 6.16 and
// 6.18, kernel/kexec_handover.c: kho_fill_kimage, kho_locate_mem_hole; arch/x86/kernel/kexec-bzimage64.c.
#include <cstring>

#include "kernel-model/abi_write.hpp"
#include "kho/abi/kho_v1.hpp"
#include "kho/state.hpp"

namespace kexec_sim::kho {

namespace {

constexpr const char* segment_name = "kho-scratch";

std::vector<std::byte> scratch_array_bytes(const std::vector<PhysRange>& areas) {
    std::vector<abi::kho_scratch> entries(areas.size());
    for (std::size_t i = 0; i < areas.size(); ++i) {
        if (!abi_write_dropped("kho.scratch.addr")) entries[i].addr = areas[i].begin.raw;
        if (!abi_write_dropped("kho.scratch.size")) entries[i].size = areas[i].bytes();
    }
    const auto bytes = std::as_bytes(std::span(entries));
    return {bytes.begin(), bytes.end()};
}

SetupData setup_data_for(PhysAddr root, PhysRange array, u64 array_bytes) {
    abi::kho_data data{};
    if (!abi_write_dropped("kho.setup_data.fdt_addr")) data.fdt_addr = root.raw;
    if (!abi_write_dropped("kho.setup_data.fdt_size")) data.fdt_size = page_bytes;
    if (!abi_write_dropped("kho.setup_data.scratch_addr")) data.scratch_addr = array.begin.raw;
    if (!abi_write_dropped("kho.setup_data.scratch_size")) data.scratch_size = array_bytes;
    SetupData entry{SETUP_KEXEC_KHO, std::vector<std::byte>(sizeof data)};
    std::memcpy(entry.payload.data(), &data, sizeof data);
    return entry;
}

}  // namespace

void Kho::State::attach_load() {
    Hooks::SegmentPolicy policy;
    policy.areas = [this](bool crash) -> std::optional<std::vector<PhysRange>> {
        if (!enabled || crash) return std::nullopt;
        return scratch;
    };
    const auto refuses = [this] {
        if (kernel.config.mutant(Mutant::kb04)) return false;  // KB-04
        return edition.load_requires_finalized && !finalized;
    };
    policy.extra = [this, refuses](bool crash) -> ExtraSegments {
        if (!enabled || crash || refuses()) return {};
        KexecSegment segment;
        segment.name = segment_name;
        segment.bytes = scratch.size() * sizeof(abi::kho_scratch);
        segment.align = abi::scratch_segment_align;
        segment.head = scratch_array_bytes(scratch);
        ExtraSegments extra;
        extra.finish = [tree = root, bytes = segment.bytes](const std::vector<KexecSegment>& placed,
                                                            std::vector<SetupData>& setup_data) {
            for (const KexecSegment& at : placed)
                if (at.name == segment_name) setup_data.push_back(setup_data_for(tree, at.destination, bytes));
        };
        extra.segments.push_back(std::move(segment));
        return extra;
    };
    kernel.hooks.segment_policy.push_back(std::move(policy));
}

}  // namespace kexec_sim::kho
