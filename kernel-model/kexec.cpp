#include "kernel-model/kexec.hpp"

#include <algorithm>
#include <cstring>
#include <fmt/format.h>

#include "kernel-model/kernel.hpp"
#include "machine/reached.hpp"

namespace kexec_sim {
namespace {

constexpr u64 image_align = 2 * MiB;  // CONFIG_PHYSICAL_ALIGN
constexpr u64 load_floor = MiB;       // nothing is loaded below 1 MiB
constexpr u64 cold_image_at = 16 * MiB;
constexpr u64 cold_boot_params_at = 0x10000;

std::vector<std::byte> bytes_of(std::string_view text) {
    std::vector<std::byte> bytes(text.size() + 1);
    std::memcpy(bytes.data(), text.data(), text.size());
    return bytes;
}

/// What distinguishes one image from another: a header. The rest of an image is zeros.
std::vector<std::byte> image_head(std::string_view what, const KexecRequest& request) {
    return bytes_of(fmt::format("kexec-sim {} profile={} release={}", what, request.profile, request.release));
}

/// Highest hole of `bytes` in `area` that avoids everything placed.
std::optional<PhysRange> hole_in(PhysRange area, u64 bytes, u64 align, const std::vector<KexecSegment>& placed) {
    if (area.bytes() < bytes) return std::nullopt;
    u64 at = align_down(area.end.raw - bytes, align);
    while (at >= area.begin.raw) {
        const PhysRange candidate = phys_range(PhysAddr{at}, bytes);
        const auto clash = std::ranges::find_if(
            placed, [&](const KexecSegment& segment) { return segment.destination.overlaps(candidate); });
        if (clash == placed.end()) return candidate;
        if (clash->destination.begin.raw < bytes) return std::nullopt;
        at = align_down(clash->destination.begin.raw - bytes, align);
    }
    return std::nullopt;
}

void place_image(PhysicalMemory& ram, PhysRange at, std::span<const std::byte> head) {
    ram.zero(at);
    ram.write_bytes(at.begin, head);
}

}  // namespace

KexecLoader::~KexecLoader() = default;

Result<PhysRange> KexecLoader::find_hole(u64 bytes, u64 align, const std::vector<KexecSegment>& placed,
                                         bool crash) const {
    bytes = align_up(bytes, page_bytes);
    std::vector<PhysRange> areas;
    bool policy_answered = false;
    for (const Hooks::SegmentPolicy& policy : kernel_.hooks.segment_policy)
        if (auto answer = policy.areas(crash)) {
            policy_answered = true;
            areas.insert(areas.end(), answer->begin(), answer->end());
        }
    if (crash) {
        areas = {kernel_.crash_range()};
    } else if (!policy_answered) {
        for (auto entry = kernel_.params.memory_map.rbegin(); entry != kernel_.params.memory_map.rend(); ++entry)
            if (entry->type == MemoryType::ram && entry->range.end.raw > load_floor)
                areas.push_back({std::max(entry->range.begin, PhysAddr{load_floor}), entry->range.end});
    }
    for (const PhysRange& area : areas)
        if (auto hole = hole_in(area, bytes, align, placed)) return *hole;
    return fail(Errno::eaddrnotavail);
}

Result<> KexecLoader::load(const KexecRequest& request) {
    TRY(kernel_.machine.faults.check(FaultPoint::kexec_load));
    if (request.cmdline.size() > cmdline_bytes_max) return fail(Errno::einval);
    if (request.kernel_bytes == 0) return fail(Errno::einval);
    KexecImage image;
    image.request = request;

    std::vector<std::function<void(const std::vector<KexecSegment>&, std::vector<SetupData>&)>> finishers;
    std::vector<KexecSegment> wanted;
    for (const Hooks::SegmentPolicy& policy : kernel_.hooks.segment_policy) {
        ExtraSegments extra = policy.extra(request.crash);
        std::ranges::move(extra.segments, std::back_inserter(wanted));
        if (extra.finish) finishers.push_back(extra.finish);
    }
    wanted.push_back({"boot-params", boot_params_bytes, page_bytes, {}, {}});
    if (request.initrd_bytes)
        wanted.push_back({"initrd", request.initrd_bytes, page_bytes, {}, image_head("initrd", request)});
    wanted.push_back({"kernel", request.kernel_bytes, image_align, {}, image_head("kernel", request)});

    u64 bytes_total = 0;
    for (KexecSegment& segment : wanted) {
        const auto fault = kernel_.machine.faults.visit(FaultPoint::kexec_segment, segment.name);
        if (fault && fault->kind == FaultKind::fail) return fail(fault->error);
        if (fault && fault->kind == FaultKind::misdirect)  // placed over what somebody else owns
            segment.destination = phys_range(PhysAddr{align_down(fault->address, segment.align)}, segment.bytes);
        else
            segment.destination = TRY(find_hole(segment.bytes, segment.align, image.segments, request.crash));
        bytes_total += segment.destination.bytes();
        image.segments.push_back(segment);
    }
    TRY(take_source_pages(image, bytes_total));
    for (const auto& finish : finishers) finish(image.segments, image.setup_data);

    unload();
    for (const KexecSegment& segment : image.segments) {
        kernel_.machine.trace.emit(
            Layer::kernel, "kexec.segment",
            {{"segment", segment.name}, {"phys", segment.destination.begin}, {"bytes", segment.destination.bytes()}});
        if (segment.name == "boot-params") image.boot_params = segment.destination;
    }
    image_ = std::move(image);
    return {};
}

Result<> KexecLoader::take_source_pages(KexecImage& image, u64 bytes) {
    const AllocRequest large{Order{max_page_order}, "kexec.segment", FrameClass::kernel};
    while (bytes >= large.order.bytes()) {
        const auto folio = kernel_.pages.alloc_folio(large);
        if (!folio) break;
        image.source_folios.push_back(*folio);
        bytes -= large.order.bytes();
    }
    if (bytes == 0) return {};
    const AllocRequest small{Order{0}, "kexec.segment", FrameClass::kernel};
    auto pages = kernel_.pages.alloc_pages(small, align_up(bytes, page_bytes) >> page_shift);
    if (!pages) {
        free_source_pages(image);
        return fail(pages.error());
    }
    image.source_pages = std::move(*pages);
    return {};
}

void KexecLoader::free_source_pages(KexecImage& image) {
    for (const Folio& folio : image.source_folios) kernel_.pages.free_folio(folio);
    for (const PfnRange& run : image.source_pages) kernel_.pages.free_pages(run);
}

void KexecLoader::unload() {
    if (!image_) return;
    free_source_pages(*image_);
    image_.reset();
}

void KexecLoader::relocate() {
    INVARIANT(image_.has_value());
    PhysicalMemory& ram = kernel_.machine.ram;
    for (const KexecSegment& segment : image_->segments)
        if (segment.name != "boot-params") place_image(ram, segment.destination, segment.head);

    BootParams params;
    params.cmdline = image_->request.cmdline;
    params.memory_map.assign(kernel_.machine.memory_map.begin(), kernel_.machine.memory_map.end());
    params.setup_data = image_->setup_data;
    for (const KexecSegment& segment : image_->segments) {
        if (segment.name == "kernel") params.kernel_image = segment.destination;
        if (segment.name == "initrd") params.initrd = segment.destination;
    }
    params.boot_data = image_->boot_params;
    ram.zero(image_->boot_params);
    const auto written = write_boot_params(ram, image_->boot_params, params);
    INVARIANT(written.has_value());
}

namespace {

/// Image, initrd and boot parameters to where `params` has them; what a kernel then reads there.
BootParams put_into_ram(PhysicalMemory& ram, const BootParams& params, const KexecRequest& request) {
    place_image(ram, params.kernel_image, image_head("kernel", request));
    if (!params.initrd.empty()) place_image(ram, params.initrd, image_head("initrd", request));
    ram.zero(params.boot_data);
    const auto written = write_boot_params(ram, params.boot_data, params);
    INVARIANT(written.has_value());
    return read_boot_params(ram, params.boot_data);
}

}  // namespace

PhysRange firmware_room(std::span<const MemoryMapEntry> map, u64 image_bytes) {
    for (const MemoryMapEntry& entry : map)
        if (entry.type == MemoryType::ram && entry.range.contains(PhysAddr{cold_image_at}) &&
            entry.range.end.raw >= cold_image_at + image_bytes)
            return entry.range;
    return {};
}

BootParams firmware_boot(Machine& machine, const KexecRequest& request) {
    BootParams params;
    params.cmdline = request.cmdline;
    params.memory_map.assign(machine.memory_map.begin(), machine.memory_map.end());
    const PhysRange low = firmware_room(params.memory_map, request.kernel_bytes + request.initrd_bytes);
    if (low.empty())
        throw UserError(
            fmt::format("kexec-sim: error: the firmware cannot load an image of {} MiB into this machine's memory",
                        (request.kernel_bytes + request.initrd_bytes) / MiB));
    params.kernel_image = phys_range(PhysAddr{cold_image_at}, align_up(request.kernel_bytes, page_bytes));
    const u64 initrd_bytes = align_up(request.initrd_bytes, page_bytes);
    params.initrd = phys_range(PhysAddr{align_down(low.end.raw - initrd_bytes, page_bytes)}, initrd_bytes);
    params.boot_data = phys_range(PhysAddr{cold_boot_params_at}, boot_params_bytes);
    return put_into_ram(machine.ram, params, request);
}

BootParams crash_boot(Machine& machine, const KexecRequest& request, PhysRange crash_range) {
    BootParams params;
    params.cmdline = request.cmdline;
    for (const MemoryMapEntry& entry : machine.memory_map)
        if (entry.range.end.raw <= MiB) params.memory_map.push_back(entry);
    params.memory_map.push_back({crash_range, MemoryType::ram});
    const u64 kernel_bytes = align_up(request.kernel_bytes, page_bytes),
              initrd_bytes = align_up(request.initrd_bytes, page_bytes);
    const auto too_small = [] {
        REACHED("kexec.crash.too_small");
        return KernelPanic("crash kernel: the reserved range is too small for the image");
    };
    if (crash_range.bytes() < kernel_bytes + initrd_bytes + boot_params_bytes + image_align) throw too_small();
    params.kernel_image = phys_range(PhysAddr{align_up(crash_range.begin.raw, image_align)}, kernel_bytes);
    params.boot_data = phys_range(params.kernel_image.end, boot_params_bytes);
    params.initrd = phys_range(params.boot_data.end, initrd_bytes);
    if (params.initrd.end > crash_range.end) throw too_small();
    return put_into_ram(machine.ram, params, request);
}

}  // namespace kexec_sim
