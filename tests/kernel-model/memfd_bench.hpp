// A booted kernel with memfds, and what the tests of shmem look at.
#pragma once

#include <catch2/catch.hpp>
#include <vector>

#include "tests/kernel-model/booted_kernel.hpp"

namespace kexec_sim {

using Bytes = std::vector<std::byte>;
using MemfdRef = std::shared_ptr<ShmemFile>;

inline Bytes filled(u64 bytes, unsigned value) { return Bytes(bytes, static_cast<std::byte>(value)); }

struct MemfdBench : BootedKernel {
    using BootedKernel::BootedKernel;
    MemfdRef memfd(u64 size, MemfdFlags flags = {.allow_sealing = true}) {
        return memfd_create_file(*kernel, "test", size, flags).value();
    }
    u64 free_frames() const { return kernel->pages.free_frames(); }
};

inline Bytes content(const ShmemFile& file) {
    Bytes bytes(file.size());
    REQUIRE(file.read(0, bytes).value() == file.size());
    return bytes;
}

/// Extents are ascending, disjoint, merged.
inline void check_extents(const ShmemFile& file) {
    const auto extents = file.extents();
    for (std::size_t i = 0; i < extents.size(); ++i) {
        CHECK(extents[i].pages > 0);
        if (i == 0) continue;
        const FileExtent& before = extents[i - 1];
        CHECK(before.index + before.pages <= extents[i].index);
        CHECK_FALSE((before.index + before.pages == extents[i].index && before.pfn + before.pages == extents[i].pfn));
    }
}

}  // namespace kexec_sim
