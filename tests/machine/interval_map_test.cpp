// An interval map against a plain array of frames.
#include <catch2/catch.hpp>

#include <array>
#include <memory_resource>
#include <optional>
#include <random>
#include <vector>

#include "machine/interval_map.hpp"

using namespace kexec_sim;

namespace {

PfnRange frames(u64 begin, u64 end) { return {Pfn{begin}, Pfn{end}}; }

using Model = std::array<std::optional<int>, 64>;

/// Every frame has the value that the model has, and intervals are as few as can be.
void require_equal(const IntervalMap<int>& map, const Model& model) {
    Model seen{};
    u64 last_end = ~u64{0};
    int last_value = 0;
    map.visit_all([&](PfnRange part, int value) {
        const bool mergeable = part.begin.raw == last_end && value == last_value;
        REQUIRE((part.begin < part.end && !mergeable));
        for (u64 pfn = part.begin.raw; pfn < part.end.raw; ++pfn) seen.at(pfn) = value;
        last_end = part.end.raw;
        last_value = value;
    });
    REQUIRE(seen == model);
}

}  // namespace

TEST_CASE("an interval map agrees with an array after any sequence of changes") {
    std::mt19937_64 random(1);
    for (int round = 0; round < 200; ++round) {
        IntervalMap<int> map(std::pmr::get_default_resource());
        Model model{};
        for (int step = 0; step < 60; ++step) {
            const u64 begin = random() % 64, end = begin + random() % (65 - begin);
            if (random() % 3) {
                const int value = static_cast<int>(random() % 3);
                map.assign(frames(begin, end), value);
                for (u64 pfn = begin; pfn < end; ++pfn) model[pfn] = value;
            } else {
                map.erase(frames(begin, end));
                for (u64 pfn = begin; pfn < end; ++pfn) model[pfn].reset();
            }
            require_equal(map, model);
            u64 covered = 0, gaps = 0;
            map.visit(frames(begin, end), [&](PfnRange part, int) { covered += part.pages(); });
            map.visit_gaps(frames(begin, end), [&](PfnRange gap) { gaps += gap.pages(); });
            REQUIRE(covered + gaps == end - begin);
            REQUIRE(map.touches(frames(begin, end)) == (covered != 0));
            Model found{};
            for (u64 pfn = 0; pfn < 64; ++pfn)
                if (const int* value = map.find(Pfn{pfn})) found[pfn] = *value;
            REQUIRE(found == model);
        }
    }
}

TEST_CASE("frames in address order become one interval") {
    IntervalMap<int> map(std::pmr::get_default_resource());
    for (u64 pfn = 100; pfn < 1100; ++pfn) map.assign(frames(pfn, pfn + 1), 7);
    REQUIRE(map.intervals() == 1);
    REQUIRE(map.pages() == 1000);
}

TEST_CASE("the last interval grows into the next one when they meet") {
    IntervalMap<int> map(std::pmr::get_default_resource());
    map.assign(frames(10, 20), 1);
    map.assign(frames(0, 5), 1);
    map.assign(frames(5, 10), 1);
    REQUIRE(map.intervals() == 1);
    REQUIRE(map.pages() == 20);
}
