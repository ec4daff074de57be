// Memory images in files: offset = physical address, raw or compressed with zstd (`.zst`).
//
//   run --ram FILE      writes one, sparse
//   machine: {image}    starts from one; holes and zeros cost nothing
//
// A compressed image is unpacked as it is read, block by block; nothing is written beside it.
#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <string>

#include "machine/types.hpp"

namespace kexec_sim {

/// Bytes of memory that the image holds: of a compressed one those after unpacking. UserError if it cannot be read.
u64 image_file_bytes(const std::string& path);

/// Calls `block` with parts of the image, ascending by offset, each beginning at a page boundary; holes of a sparse
/// file are left out. UserError if it cannot be read, or is damaged.
void read_image(const std::string& path, const std::function<void(u64 offset, std::span<const std::byte>)>& block);

}  // namespace kexec_sim
