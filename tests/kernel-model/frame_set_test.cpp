// A set of scattered frames, against a vector of flags.
#include "kernel-model/frame_set.hpp"

#include <catch2/catch.hpp>

#include "tests/kernel-model/memory_fixture.hpp"

using namespace kexec_sim;

TEST_CASE("random ranges in a set of frames agree with one flag a frame") {
    constexpr u64 frames = 3 * 32768;
    for (u64 seed = 1; seed <= 5; ++seed) {
        CAPTURE(seed);
        test::Random random(seed);
        FrameSet set;
        std::vector<bool> flags(frames);
        u64 wrong = 0;
        for (unsigned step = 0; step < 3000; ++step) {
            const u64 begin = random.below(frames);
            const u64 end = std::min(frames, begin + 1 + random.below(random.one_in(20) ? frames : 130));
            const PfnRange range{Pfn{begin}, Pfn{end}};
            const u64 choice = random.below(4);
            if (choice < 2) {
                choice ? set.insert(range) : set.erase(range);
                for (u64 pfn = begin; pfn < end; ++pfn) flags[pfn] = choice;
                continue;
            }
            u64 member = begin, gap = begin, last = end;
            while (member < end && !flags[member]) ++member;
            while (gap < end && flags[gap]) ++gap;
            while (last > begin && !flags[last - 1]) --last;
            wrong += set.next_member(range).raw != member;
            wrong += set.next_gap(range).raw != gap;
            const auto found = set.last_member(range);
            wrong += found ? found->raw + 1 != last : last != begin;
        }
        CHECK(wrong == 0);
        set.erase({Pfn{0}, Pfn{frames}});
        CHECK(set.empty());
    }
}
