#include "sim/file_copy.hpp"

#include <algorithm>

namespace kexec_sim::sim {

void Content::bytes(u64 done, std::span<std::byte> into) const {
    fill.write(fill.kind == Fill::Kind::text ? done : offset + done, into);
}

void FileCopy::written(Content content, u64 bytes) {
    if (bytes == 0) return;
    content.length = bytes;
    size_ = std::max(size_, content.offset + bytes);
    writes_.push_back(std::move(content));
}

void FileCopy::resized(u64 size) {
    if (size < size_) writes_.push_back({Fill{}, size, size_ - size});
    size_ = size;
}

void FileCopy::punched(u64 offset, u64 length) {
    if (offset >= size_) return;
    writes_.push_back({Fill{}, offset, std::min(length, size_ - offset)});
}

void FileCopy::bytes(u64 offset, std::span<std::byte> into) const {
    std::ranges::fill(into, std::byte{0});
    for (const Content& write : writes_) {
        const u64 begin = std::max(offset, write.offset);
        const u64 end = std::min(offset + into.size(), write.offset + write.length);
        if (begin < end) write.bytes(begin - write.offset, into.subspan(begin - offset, end - begin));
    }
}

}  // namespace kexec_sim::sim
