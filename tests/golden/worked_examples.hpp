// The worked examples of the ABI, byte for byte: what an encoder must produce and a decoder must understand.
//
// Each constant names the section of the specification that shows it ("kho-v1" or "luo-state-machine"). Where the
// specification prints a part of a blob, the rest follows from the stated length, order of properties and the layout
// that its other examples share: header 40 bytes, reserve map at 0x28, structure at 0x38, strings in reverse order of
// first use. The LUO tree is the exception. It is edited in its page, so its reserve map stays where creation puts it
// (0x30) and its strings are in order of first use; of it the specification fixes names, values and their order.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace worked_examples {

// Hex digits as the specification prints them; blanks and column bars do not count. A wrong count does not compile.
template <std::size_t count> consteval std::array<std::uint8_t, count> from_hex(std::string_view text) {
    std::array<std::uint8_t, count> bytes{};
    std::size_t digits = 0;
    for (const char c : text) {
        if (c == ' ' || c == '|') continue;
        const int value = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : throw "no hex digit";
        if (digits == 2 * count) throw "more digits than bytes";
        bytes[digits / 2] = static_cast<std::uint8_t>(bytes[digits / 2] << 4 | value);
        ++digits;
    }
    if (digits != 2 * count) throw "fewer digits than bytes";
    return bytes;
}

// Blobs that are zeros but for a few bytes.
template <std::size_t count> consteval std::array<std::uint8_t, count> zeros_but(std::size_t at, std::uint8_t value) {
    std::array<std::uint8_t, count> bytes{};
    bytes[at] = value;
    return bytes;
}

template <std::size_t count, std::size_t used>
consteval std::array<std::uint8_t, count> zero_extended(const std::array<std::uint8_t, used>& head) {
    std::array<std::uint8_t, count> bytes{};
    for (std::size_t i = 0; i < used; ++i) bytes[i] = head[i];
    return bytes;
}

// --- kho-v1 §3: one folio of order 0 at 0x12345000, one of order 9 at 0x40000000
// -----------------------------------------

inline constexpr auto bitmap_512_order_0 = zeros_but<512>(104, 0x20);     // index 18, bit 837
inline constexpr auto bitmap_512_order_9 = zeros_but<512>(64, 0x01);      // index 0, bit 512
inline constexpr auto bitmap_4096_order_0 = zeros_but<4096>(1128, 0x20);  // index 2, bit 9029

inline constexpr std::uint64_t bitmap_512_order_0_start = 0x12000000;
inline constexpr std::uint64_t bitmap_4096_order_0_start = 0x10000000;

// §3, range split: frames 3..12 as (pfn, order).
struct SplitBlock {
    std::uint64_t pfn;
    std::uint32_t order;
};
inline constexpr std::array<SplitBlock, 3> split_3_to_12{{{3, 0}, {4, 2}, {8, 2}}};

// --- kho-v1 §5.3: the chunk chain of these two folios ----------------------------------------------------------------

inline constexpr std::uint64_t first_chunk_addr = 0x105a2000;
inline constexpr auto first_chunk =
    zero_extended<4096>(from_hex<32>("00 30 5a 10 00 00 00 00 | 00 00 00 00 | 01 00 00 00 "
                                     "00 00 00 12 00 00 00 00 | 00 00 5c 10 00 00 00 00"));
inline constexpr std::uint64_t second_chunk_addr = 0x105a3000;
inline constexpr auto second_chunk =
    zero_extended<4096>(from_hex<32>("00 00 00 00 00 00 00 00 | 09 00 00 00 | 01 00 00 00 "
                                     "00 00 00 00 00 00 00 00 | 00 02 5c 10 00 00 00 00"));
inline constexpr std::uint64_t first_bitmap_addr = 0x105c0000;   // bitmap_512_order_0
inline constexpr std::uint64_t second_bitmap_addr = 0x105c0200;  // bitmap_512_order_9
inline constexpr auto map_property = from_hex<8>("00 20 5a 10 00 00 00 00");

// --- kho-v1 §5.4: three pages of vmalloc memory ----------------------------------------------------------------------

inline constexpr auto vmalloc_descriptor = from_hex<16>("00 00 70 10 00 00 00 00 03 00 00 00 01 00 00 00");
inline constexpr std::uint64_t vmalloc_chunk_addr = 0x10700000;
inline constexpr auto vmalloc_chunk =
    zero_extended<4096>(from_hex<32>("00 00 00 00 00 00 00 00 00 10 00 20 00 00 00 00 "
                                     "00 50 00 20 00 00 00 00 00 20 00 20 00 00 00 00"));

// --- kho-v1 §6: root tree with one child LUO -> 0x105b7000 and map 0x105a2000 ----------------------------------------

inline constexpr auto root_tree = from_hex<180>(
    "d0 0d fe ed 00 00 00 b4 00 00 00 38 00 00 00 90 "
    "00 00 00 28 00 00 00 11 00 00 00 10 00 00 00 00 "
    "00 00 00 24 00 00 00 58 00 00 00 00 00 00 00 00 "
    "00 00 00 00 00 00 00 00 00 00 00 01 00 00 00 00 "
    "00 00 00 03 00 00 00 07 00 00 00 19 6b 68 6f 2d "
    "76 31 00 00 00 00 00 03 00 00 00 08 00 00 00 04 "
    "00 20 5a 10 00 00 00 00 00 00 00 01 4c 55 4f 00 "
    "00 00 00 03 00 00 00 08 00 00 00 00 00 70 5b 10 "
    "00 00 00 00 00 00 00 02 00 00 00 02 00 00 00 09 "
    "66 64 74 00 70 72 65 73 65 72 76 65 64 2d 6d 65 "
    "6d 6f 72 79 2d 6d 61 70 00 63 6f 6d 70 61 74 69 "
    "62 6c 65 00");

// --- kho-v1 §10.2: tree 0x105b6000, scratch array of 3 areas at 0x7f0000 ---------------------------------------------

inline constexpr auto setup_data_payload = from_hex<32>(
    "00 60 5b 10 00 00 00 00 | 00 10 00 00 00 00 00 00 | 00 00 7f 00 00 00 00 00 | 30 00 00 00 00 00 00 00");
// The same behind its header {next 0, type 10, len 32}, as the last entry of the list.
inline constexpr auto setup_data_entry = from_hex<48>(
    "00 00 00 00 00 00 00 00 | 0a 00 00 00 | 20 00 00 00 "
    "00 60 5b 10 00 00 00 00 | 00 10 00 00 00 00 00 00 | 00 00 7f 00 00 00 00 00 | 30 00 00 00 00 00 00 00");

// --- kho-v1 §12: entry `trace` at 0x40000000, 16 MiB -----------------------------------------------------------------

inline constexpr auto memblock_tree = from_hex<202>(
    "d0 0d fe ed 00 00 00 ca 00 00 00 38 00 00 00 b4 "
    "00 00 00 28 00 00 00 11 00 00 00 10 00 00 00 00 "
    "00 00 00 16 00 00 00 7c 00 00 00 00 00 00 00 00 "
    "00 00 00 00 00 00 00 00 00 00 00 01 00 00 00 00 "
    "00 00 00 03 00 00 00 0c 00 00 00 0b 6d 65 6d 62 "
    "6c 6f 63 6b 2d 76 31 00 00 00 00 01 74 72 61 63 "
    "65 00 00 00 00 00 00 03 00 00 00 0f 00 00 00 0b "
    "72 65 73 65 72 76 65 2d 6d 65 6d 2d 76 31 00 00 "
    "00 00 00 03 00 00 00 08 00 00 00 05 00 00 00 40 "
    "00 00 00 00 00 00 00 03 00 00 00 08 00 00 00 00 "
    "00 00 00 01 00 00 00 00 00 00 00 02 00 00 00 02 "
    "00 00 00 09 73 69 7a 65 00 73 74 61 72 74 00 63 "
    "6f 6d 70 61 74 69 62 6c 65 00");

// --- luo-state-machine §6.1: file-descriptors (0x10616000) and ksft_luo.0 (0x12345000); the page's rest is zero ------

inline constexpr auto luo_tree =
    zero_extended<4096>(from_hex<226>("d0 0d fe ed 00 00 10 00 00 00 00 40 00 00 00 bc "
                                      "00 00 00 30 00 00 00 11 00 00 00 10 00 00 00 00 "
                                      "00 00 00 27 00 00 00 7c 00 00 00 00 00 00 00 00 "
                                      "00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 "
                                      "00 00 00 01 00 00 00 00 00 00 00 03 00 00 00 07 "
                                      "00 00 00 00 6c 75 6f 2d 76 31 00 00 00 00 00 01 "
                                      "73 75 62 73 79 73 74 65 6d 73 00 00 00 00 00 03 "
                                      "00 00 00 08 00 00 00 1c 00 50 34 12 00 00 00 00 "
                                      "00 00 00 03 00 00 00 08 00 00 00 0b 00 60 61 10 "
                                      "00 00 00 00 00 00 00 03 00 00 00 0e 00 00 00 00 "
                                      "73 75 62 73 79 73 74 65 6d 73 2d 76 31 00 00 00 "
                                      "00 00 00 02 00 00 00 02 00 00 00 09 63 6f 6d 70 "
                                      "61 74 69 62 6c 65 00 66 69 6c 65 2d 64 65 73 63 "
                                      "72 69 70 74 6f 72 73 00 6b 73 66 74 5f 6c 75 6f "
                                      "2e 30"));

// --- luo-state-machine §6.2: tokens 0 (data 0x10620000) and 42 (data 0x10640000) -------------------------------------

inline constexpr auto file_tree = from_hex<252>(
    "d0 0d fe ed 00 00 00 fc 00 00 00 38 00 00 00 ec "
    "00 00 00 28 00 00 00 11 00 00 00 10 00 00 00 00 "
    "00 00 00 10 00 00 00 b4 00 00 00 00 00 00 00 00 "
    "00 00 00 00 00 00 00 00 00 00 00 01 66 69 6c 65 "
    "2d 64 65 73 63 72 69 70 74 6f 72 73 00 00 00 00 "
    "00 00 00 03 00 00 00 14 00 00 00 05 66 69 6c 65 "
    "2d 64 65 73 63 72 69 70 74 6f 72 73 2d 76 31 00 "
    "00 00 00 01 30 78 30 00 00 00 00 03 00 00 00 09 "
    "00 00 00 05 6d 65 6d 66 64 2d 76 31 00 00 00 00 "
    "00 00 00 03 00 00 00 08 00 00 00 00 00 00 62 10 "
    "00 00 00 00 00 00 00 02 00 00 00 01 30 78 32 61 "
    "00 00 00 00 00 00 00 03 00 00 00 09 00 00 00 05 "
    "6d 65 6d 66 64 2d 76 31 00 00 00 00 00 00 00 03 "
    "00 00 00 08 00 00 00 00 00 00 64 10 00 00 00 00 "
    "00 00 00 02 00 00 00 02 00 00 00 09 64 61 74 61 "
    "00 63 6f 6d 70 61 74 69 62 6c 65 00");

// --- luo-state-machine §12: pos 4096, size 8192, pfn 0x12345 at index 0 and 0x12346 at index 1 -----------------------

inline constexpr auto memfd_tree = from_hex<172>(
    "d0 0d fe ed 00 00 00 ac 00 00 00 38 00 00 00 9c "
    "00 00 00 28 00 00 00 11 00 00 00 10 00 00 00 00 "
    "00 00 00 10 00 00 00 64 00 00 00 00 00 00 00 00 "
    "00 00 00 00 00 00 00 00 00 00 00 01 00 00 00 00 "
    "00 00 00 03 00 00 00 08 00 00 00 0c 00 10 00 00 "
    "00 00 00 00 00 00 00 03 00 00 00 08 00 00 00 07 "
    "00 20 00 00 00 00 00 00 00 00 00 03 00 00 00 20 "
    "00 00 00 00 03 50 34 12 00 00 00 00 00 00 00 00 "
    "00 00 00 00 01 60 34 12 00 00 00 00 01 00 00 00 "
    "00 00 00 00 00 00 00 02 00 00 00 09 66 6f 6c 69 "
    "6f 73 00 73 69 7a 65 00 70 6f 73 00");

}  // namespace worked_examples
