// What all parts of the decoder share: bounded reading, byte order, and the way a failure is worded.
#pragma once

#include <array>
#include <set>
#include <span>

#include "tests/support/decoder.hpp"

namespace decoder {

using Bytes = std::vector<std::uint8_t>;

std::uint64_t load_host64(std::span<const std::uint8_t> bytes, std::size_t offset);
std::uint32_t load_host32(std::span<const std::uint8_t> bytes, std::size_t offset);
std::uint16_t load_host16(std::span<const std::uint8_t> bytes, std::size_t offset);
std::uint32_t load_big32(std::span<const std::uint8_t> bytes, std::size_t offset);
std::uint64_t load_big64(std::span<const std::uint8_t> bytes, std::size_t offset);

std::string hex(std::uint64_t value);

// The byte source behind a budget, so that no chain of lengths, however chosen, reads for ever (U7).
class Reader {
public:
    Reader(const ByteSource& source, const Limits& limits) : source_(source), limits_(limits) {}

    const Limits& limits() const { return limits_; }

    // `what` names the thing in the problem that a refused read becomes.
    std::expected<void, Problem> read_into(std::uint64_t phys, std::span<std::uint8_t> out, std::string_view what);
    std::expected<Bytes, Problem> read(std::uint64_t phys, std::uint64_t bytes, std::string_view what);

    // Costs one byte of the budget; false too where the budget is gone.
    bool in_ram(std::uint64_t phys);

private:
    const ByteSource& source_;
    const Limits& limits_;
    std::uint64_t read_bytes_ = 0;
};

// The root tree has its own bound: what the boot parameter states as its size.
std::expected<Tree, Problem> read_tree(Reader& reader, std::uint64_t phys, std::uint64_t bytes_max);

std::expected<Memfd, Problem> read_memfd(Reader& reader, std::uint64_t phys);
std::expected<Vmalloc, Problem> read_vmalloc(Reader& reader, std::uint64_t phys);

// Leaf values. The problem of a missing property lies at its node, that of a bad length at its value (U4).
std::expected<std::uint64_t, Problem> u64_property(const Node& node, std::string_view name);
std::expected<std::uint32_t, Problem> u32_property(const Node& node, std::string_view name);
std::expected<std::string, Problem> string_property(const Node& node, std::string_view name);
std::expected<void, Problem> require_compatible(const Node& node, std::string_view wanted);

// The walks behind `decode`, each filling its part of the result.
void walk_map(Reader& reader, Result& result, std::uint64_t first_chunk);
void walk_reserve_mem(Result& result, const Tree& tree);
void walk_luo(Reader& reader, Result& result, const Tree& tree);
void walk_test_kho(Reader& reader, Result& result, const Tree& tree);
void cross_check(Reader& reader, Result& result);

}  // namespace decoder
