#include "machine/arena.hpp"

#include <bit>
#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <sys/mman.h>

#include "machine/kept_mapping.hpp"
#include "machine/layout.hpp"
#include "machine/result.hpp"

namespace kexec_sim {
namespace {

constexpr std::size_t smallest_block = 32;
constexpr u64 kept_bytes_max = 8 * MiB;
constinit KeptMapping kept_arena(arena_base);

/// Size class of a request: blocks of class c hold 2^(c+5) bytes.
unsigned class_of(std::size_t bytes, std::size_t alignment) {
    std::size_t need = bytes < smallest_block ? smallest_block : bytes;
    if (need < alignment) need = alignment;
    return static_cast<unsigned>(std::bit_width(need - 1)) - 5;
}

}  // namespace

MachineEntry::Depth MachineEntry::depth;

void MachineEntry::bind(u32* shared_depth) { depth.shared = shared_depth; }

Arena* Arena::create(bool shared) {
    void* at = nullptr;
    if (shared) {
        kept_arena.drop();
        at = mmap(reinterpret_cast<void*>(arena_base), arena_bytes_max, PROT_READ | PROT_WRITE,
                  MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
    } else {
        at = kept_arena.take(arena_bytes_max);
    }
    if (!at || at == MAP_FAILED) {
        if (errno == EEXIST) throw SimulatorBug("a second machine in one process");
        throw UserError(fmt::format("kexec-sim: error: cannot map the machine's state: {}", std::strerror(errno)));
    }
    Arena* arena = new (at) Arena();
    arena->shared_ = shared;
    arena->next_ = arena_base + align_up(sizeof(Arena), 64);
    return arena;
}

void Arena::destroy(Arena* arena) {
    const u64 used = arena->bytes_used();
    if (arena->shared_ || used > kept_bytes_max) {
        munmap(static_cast<void*>(arena), arena_bytes_max);
        return;
    }
    std::memset(static_cast<void*>(arena), 0, used);
    kept_arena.keep(arena_bytes_max);
}

void* Arena::do_allocate(std::size_t bytes, std::size_t alignment) {
    const unsigned size_class = class_of(bytes, alignment);
    INVARIANT(size_class < classes);
    if (void* block = free_[size_class]) {
        std::memcpy(&free_[size_class], block, sizeof(void*));
        return block;
    }
    const u64 block_bytes = u64{1} << (size_class + 5);
    // As aligned as any block of its class may be asked to be: a freed one serves the next request of the class.
    const u64 at = align_up(next_, std::min<u64>(block_bytes, page_bytes));
    INVARIANT(alignment <= page_bytes);
    if (at + block_bytes > arena_base + arena_bytes_max)
        throw UserError("kexec-sim: error: the machine's state outgrew its arena");
    next_ = at + block_bytes;
    return reinterpret_cast<void*>(at);
}

void Arena::do_deallocate(void* block, std::size_t bytes, std::size_t alignment) {
    const unsigned size_class = class_of(bytes, alignment);
    std::memcpy(block, &free_[size_class], sizeof(void*));
    free_[size_class] = block;
}

}  // namespace kexec_sim
