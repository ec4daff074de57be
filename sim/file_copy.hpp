// What agents made of a file, kept beside the kernel.
//
// The copy knows nothing of pages: it is the list of what the agents' calls wrote, cut off and punched, in order, and
// its bytes are computed from that list whenever somebody compares. So it costs no memory to speak of, and no mistake
// of the file system can creep into it.
//
//   create 8 KiB, fill A        size 8 KiB    A A A A A A A A
//   write 2 KiB of B at 1 KiB   size 8 KiB    A B B A A A A A
//   truncate 3 KiB, then 5 KiB  size 5 KiB    A B B 0 0
#pragma once

#include <span>
#include <vector>

#include "machine/types.hpp"
#include "sim/values.hpp"

namespace kexec_sim::sim {

/// The bytes of a write, or those expected by a read, at `offset` of a file: a text, or part of a fill of the whole
/// file.
struct Content {
    Fill fill;
    u64 offset, length;
    /// Bytes [done, done + into.size()) of it.
    void bytes(u64 done, std::span<std::byte> into) const;
};

class FileCopy {
public:
    /// A call moved the first `bytes` of `content`.
    void written(Content content, u64 bytes);
    void resized(u64 size);
    void punched(u64 offset, u64 length);

    u64 size() const { return size_; }
    /// Bytes [offset, offset + into.size()) of the file; zeros beyond its end.
    void bytes(u64 offset, std::span<std::byte> into) const;

private:
    u64 size_ = 0;
    std::vector<Content> writes_;  // oldest first; a later one covers those before it
};

}  // namespace kexec_sim::sim
