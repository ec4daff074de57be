// While machine/ is entered, nothing may be allocated from the heap.
//
// A kernel may run in a process of its own, and what it changes in the machine must be seen by the supervisor when that
// process is gone: all of it lives in the shared arena. A std::string among it would work in inline isolation and be
// lost in the other. This program therefore replaces operator new, which looks where it was called from.
#include <catch2/catch.hpp>

#include <cstdio>
#include <cstdlib>
#include <execinfo.h>
#include <new>
#include <unistd.h>

#include "machine/arena.hpp"
#include "tests/system/library.hpp"

namespace {

bool watching = false;
unsigned long seen = 0;
constexpr unsigned long shown_max = 3;

void look() {
    if (!watching || !kexec_sim::MachineEntry::inside()) return;
    watching = false;  // what shows the call may allocate itself
    if (++seen <= shown_max) {
        void* frames[24];
        const int count = backtrace(frames, 24);
        constexpr char text[] = "an allocation inside machine/, called from:\n";
        static_cast<void>(!write(STDERR_FILENO, text, sizeof text - 1));
        backtrace_symbols_fd(frames, count, STDERR_FILENO);
    }
    watching = true;
}

void* allocate(std::size_t bytes, std::size_t alignment) {
    look();
    void* block = alignment <= alignof(std::max_align_t)
                      ? std::malloc(bytes ? bytes : 1)
                      : std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
    if (!block) throw std::bad_alloc();
    return block;
}

}  // namespace

void* operator new(std::size_t bytes) { return allocate(bytes, 1); }
void* operator new[](std::size_t bytes) { return allocate(bytes, 1); }
void* operator new(std::size_t bytes, std::align_val_t alignment) {
    return allocate(bytes, static_cast<std::size_t>(alignment));
}
void* operator new[](std::size_t bytes, std::align_val_t alignment) {
    return allocate(bytes, static_cast<std::size_t>(alignment));
}
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
    look();
    return std::malloc(bytes ? bytes : 1);
}
void* operator new[](std::size_t bytes, const std::nothrow_t&) noexcept {
    look();
    return std::malloc(bytes ? bytes : 1);
}
void operator delete(void* block) noexcept { std::free(block); }
void operator delete[](void* block) noexcept { std::free(block); }
void operator delete(void* block, std::size_t) noexcept { std::free(block); }
void operator delete[](void* block, std::size_t) noexcept { std::free(block); }
void operator delete(void* block, std::align_val_t) noexcept { std::free(block); }
void operator delete[](void* block, std::align_val_t) noexcept { std::free(block); }
void operator delete(void* block, std::size_t, std::align_val_t) noexcept { std::free(block); }
void operator delete[](void* block, std::size_t, std::align_val_t) noexcept { std::free(block); }

TEST_CASE("nothing is allocated from the heap while the machine is entered", "[operator_new]") {
    for (const auto& file : system_test::scenario_files()) {
        if (system_test::scenario_name(file) == "memfd/largest") continue;  // as the others, and slow
        INFO(system_test::scenario_name(file));
        const auto scenario = system_test::load(file);
        seen = 0;
        watching = true;
        system_test::run(scenario);
        watching = false;
        CHECK(seen == 0);
    }
}
