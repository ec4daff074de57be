// kexec_file_load and the segments of the next kernel.
//
// Segments get their destination at load time, by a top-down hole search; their bytes are kept in source pages of the
// running kernel until the reboot path copies them to the destination (relocation), just before the jump: that
// overwrites whatever lies there. The search goes over System RAM (page tables and all; nothing of the running kernel
// matters), over the areas of the `segment_policy` hook where one answers, or over the crash range for a crash image.
//
//   order of placement: extra segments of the hooks (scratch array), boot parameters and command line, initrd, kernel
//
// EINVAL nothing loaded (exec) or bad image; EADDRNOTAVAIL no hole; ENOMEM no source pages. A failed load changes
// nothing.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "kernel-model/boot_params.hpp"
#include "kernel-model/page_alloc.hpp"

namespace kexec_sim {

class Kernel;

struct KexecSegment {
    std::string name;  // "kernel", "initrd", "boot-params", "kho-scratch": fault point kexec.segment[name]
    u64 bytes = 0;
    u64 align = page_bytes;
    PhysRange destination;
    std::vector<std::byte> head;  // the first bytes; the rest is zero
};

struct KexecRequest {
    u32 kernel_index = 0;  // which entry of the scenario's kernels it boots
    std::string cmdline, release, profile;
    u64 kernel_bytes = 16 * MiB, initrd_bytes = 8 * MiB;
    bool crash = false;
};

struct KexecImage {
    KexecRequest request;
    std::vector<KexecSegment> segments;
    std::vector<SetupData> setup_data;
    PhysRange boot_params;  // destination of that segment
    std::vector<Folio> source_folios;
    std::vector<PfnRange> source_pages;
};

class KexecLoader {
public:
    explicit KexecLoader(Kernel& kernel) : kernel_(kernel) {}
    ~KexecLoader();
    Result<> load(const KexecRequest& request);
    void unload();
    const KexecImage* image() const { return image_ ? &*image_ : nullptr; }
    /// Copies every segment to its destination. Nothing of the running kernel may be used afterwards.
    void relocate();

private:
    Result<PhysRange> find_hole(u64 bytes, u64 align, const std::vector<KexecSegment>& placed, bool crash) const;
    Result<> take_source_pages(KexecImage& image, u64 bytes);
    void free_source_pages(KexecImage& image);
    Kernel& kernel_;
    std::optional<KexecImage> image_;
};

/// What the firmware does on a cold or warm boot: places image and initrd and writes the boot parameters.
BootParams firmware_boot(Machine& machine, const KexecRequest& request);
/// The RAM that the firmware loads a kernel and its initrd into; empty: they do not fit.
PhysRange firmware_room(std::span<const MemoryMapEntry> map, u64 image_bytes);
/// The same for a crash kernel: image and parameters go into `crash_range`, which is all the memory it gets (and what
/// is below 640 KiB).
BootParams crash_boot(Machine& machine, const KexecRequest& request, PhysRange crash_range);

}  // namespace kexec_sim
