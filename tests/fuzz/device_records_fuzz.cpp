// Records of devices, IOMMUs and VMs from a hostile predecessor: whatever they hold, the next kernel's update ends.
//
//   byte 0       bit 0 a confidential VM; 1 luo-v2; 2 nobody restores anything; 3 late binding
//   edits        page u8 | offset u16 | kind u8 | value u64        little endian; the last one may be cut off
//
// `page` counts the pages of hostile_update.hpp. kind 1:0 is the width (0: 8, 1: 2, 2: 1 byte), or (3) the value is the
// address of page `value`, from bit 8 on with low bits: what circles are made of. Bit 2: near the page's begin, where
// most records end. Bit 3: again and again, up to the page's end.
//
// Ends well: errnos, or a panic that has a name. A wild access is none; a hang is the driver's business.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "tests/fuzz/hostile_update.hpp"

namespace {

using namespace kexec_sim;

struct [[gnu::packed]] Edit {
    std::uint8_t page;
    std::uint16_t offset;
    std::uint8_t kind;
    std::uint64_t value;
};

void apply(PhysicalMemory& ram, const std::vector<PhysAddr>& pages, const Edit& edit) {
    static constexpr u64 widths[] = {8, 2, 1, 8};
    const u64 width = widths[edit.kind & 3];
    const u64 offset = std::min<u64>(edit.offset % (edit.kind & 4 ? 128 : page_bytes), page_bytes - width);
    u64 value = edit.value;
    if ((edit.kind & 3) == 3)
        value = pages[value & 0xff ? (value & 0xff) % pages.size() : 0].raw | (value >> 8 & 0xfff);
    const PhysAddr page = pages[edit.page % pages.size()];
    const u64 end = edit.kind & 8 ? page_bytes : offset + width;
    for (u64 at = offset; at + width <= end; at += width)
        ram.write_bytes(page + at, std::as_bytes(std::span(&value, 1)).first(width));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) return 0;
    const luo::HostileUpdate::Options options{.confidential = (data[0] & 1) != 0,
                                              .luo_v2 = (data[0] & 2) != 0,
                                              .restores = (data[0] & 4) == 0,
                                              .late_binding = (data[0] & 8) != 0};
    luo::HostileUpdate update(options);
    const bool came_back = update.run([&](const std::vector<PhysAddr>& pages) {
        for (std::size_t at = 1; at < size; at += sizeof(Edit)) {
            Edit edit{};
            std::memcpy(&edit, data + at, std::min(sizeof edit, size - at));
            apply(update.ram(), pages, edit);
        }
    });
    if (size == 1) INVARIANT(came_back == options.restores);  // nothing was changed
    return 0;
}

/// Every kind of world as it is; then each of the first pages with a circle, as a table of circles, with a count of all
/// ones, and with another version.
extern "C" std::size_t fuzz_seed(std::size_t index, std::uint8_t* data, std::size_t bytes_max) {
    constexpr std::size_t worlds = 16, pages = 24, kinds = 4;
    if (index >= worlds + pages * kinds || bytes_max < 1 + sizeof(Edit)) return 0;
    data[0] = static_cast<std::uint8_t>(index % worlds);
    if (index < worlds) return 1;
    const auto page = static_cast<std::uint8_t>((index - worlds) % pages);
    const Edit edits[kinds] = {
        {page, 0, 3, page}, {page, 0, 3 | 8, page | 0x300u}, {page, 8, 0, ~std::uint64_t{0}}, {page, 0, 0, 0x0101}};
    std::memcpy(data + 1, &edits[(index - worlds) / pages], sizeof(Edit));
    return 1 + sizeof(Edit);
}
