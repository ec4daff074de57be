// The arena: memory for everything mutable in machine/.
//
// A kernel may be hosted in a process of its own. What it changes in the machine (trace, books of the referee, fault
// counters, clock) must be seen by the supervisor after the kernel is gone, even after a segmentation fault. So it all
// is allocated from one mapping, shared between processes and at a fixed address, made before the first fork; a plain
// pointer into it is valid everywhere. Containers of machine/ are std::pmr ones on this resource.
//
//   | header | bump ->                          <- never returned to the host before destroy |
//
// Freed blocks go to a list of their size class (powers of two from 32 bytes). One thread at a time: a kernel runs
// while its supervisor waits. Cost: O(1).
#pragma once

#include <array>
#include <memory_resource>

#include "machine/layout.hpp"
#include "machine/types.hpp"

namespace kexec_sim {

class Arena final : public std::pmr::memory_resource {
public:
    /// Maps the arena and constructs it at its start. One arena a process: a second one is a SimulatorBug. `shared`: a
    /// process that is forked sees, and makes, changes; else it has a copy.
    static Arena* create(bool shared = true);
    /// A small one that is not shared is kept for the next (kept_mapping.hpp).
    static void destroy(Arena* arena);
    u64 bytes_used() const { return next_ - arena_base; }

    template <typename T, typename... Args> T* make(Args&&... args) {
        return new (allocate(sizeof(T), alignof(T))) T(std::forward<Args>(args)...);
    }

private:
    Arena() = default;
    void* do_allocate(std::size_t bytes, std::size_t alignment) override;
    void do_deallocate(void* block, std::size_t bytes, std::size_t alignment) override;
    bool do_is_equal(const std::pmr::memory_resource& other) const noexcept override { return this == &other; }

    static constexpr unsigned classes = 40;
    u64 next_ = 0;
    bool shared_ = true;
    std::array<void*, classes> free_{};
};

/// While one lives, the caller is inside machine/. A kernel process that dies with the flag set is a bug of the
/// simulator, one that dies without it is a panic of that kernel; a test's operator new looks at it too.
class MachineEntry {
public:
    MachineEntry() { ++depth; }
    ~MachineEntry() { --depth; }
    MachineEntry(const MachineEntry&) = delete;
    MachineEntry& operator=(const MachineEntry&) = delete;
    static bool inside() { return depth != 0; }
    /// Points into the arena while a machine exists, so that the supervisor can read a dead child's flag.
    static void bind(u32* shared_depth);
    static void reset() { depth = 0; }

private:
    struct Depth {
        u32 local = 0;
        u32* shared = nullptr;
        Depth& operator++() {
            ++*(shared ? shared : &local);
            return *this;
        }
        Depth& operator--() {
            --*(shared ? shared : &local);
            return *this;
        }
        Depth& operator=(u32 value) {
            *(shared ? shared : &local) = value;
            return *this;
        }
        bool operator!=(u32 value) const { return *(shared ? shared : &local) != value; }
    };
    static Depth depth;
};

}  // namespace kexec_sim
