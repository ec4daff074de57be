#include <algorithm>
#include <cstring>
#include <fmt/format.h>

#include "sim/steps.hpp"

namespace kexec_sim::sim {
namespace {
constexpr u64 chunk_bytes = MiB;
}

void fill_ram(PhysicalMemory& ram, PhysRange range, const Fill& fill) {
    if (fill.kind == Fill::Kind::zero) {
        ram.zero(range);
        return;
    }
    std::vector<std::byte> buffer(std::min(chunk_bytes, range.bytes()));
    for (u64 done = 0; done < range.bytes(); done += chunk_bytes) {
        const u64 count = std::min(chunk_bytes, range.bytes() - done);
        fill.write(done, std::span(buffer).first(count));
        ram.write_bytes(range.begin + done, std::span(buffer).first(count));
    }
}

std::optional<u64> compare_ram(const PhysicalMemory& ram, PhysRange range, const Fill& fill, u64 object_offset) {
    std::vector<std::byte> found(std::min(chunk_bytes, range.bytes()));
    std::vector<std::byte> wanted(found.size());
    for (u64 done = 0; done < range.bytes(); done += chunk_bytes) {
        const u64 count = std::min(chunk_bytes, range.bytes() - done);
        ram.read_bytes(range.begin + done, std::span(found).first(count));
        fill.write(object_offset + done, std::span(wanted).first(count));
        if (std::memcmp(found.data(), wanted.data(), count) == 0) continue;
        for (u64 i = 0; i < count; ++i)
            if (found[i] != wanted[i]) return done + i;
    }
    return std::nullopt;
}

std::string difference_text(u64 offset, u8 found, u8 expected) {
    return fmt::format("byte {:#x} is {:#04x}, expected {:#04x}", offset, found, expected);
}

}  // namespace kexec_sim::sim
