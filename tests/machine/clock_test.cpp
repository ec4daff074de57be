// Virtual time and the queue of what falls due in it.
#include <catch2/catch.hpp>

#include <memory_resource>
#include <vector>

#include "machine/clock.hpp"
#include "machine/result.hpp"

using namespace kexec_sim;

namespace {

/// Notes when it was called, and with what; schedules more if it was told to.
struct Notebook final : EventHandler {
    explicit Notebook(VirtualClock& clock_) : clock(clock_) {}
    void event_due(u64 now_ns, u64 argument) override {
        seen.emplace_back(now_ns, argument);
        if (argument == again) clock.schedule(now_ns + 10, this, argument);
    }
    static constexpr u64 again = 99;
    VirtualClock& clock;
    std::vector<std::pair<u64, u64>> seen;
};

using Seen = std::vector<std::pair<u64, u64>>;

}  // namespace

TEST_CASE("events run at their own time, in order of time and then of insertion") {
    VirtualClock clock(std::pmr::get_default_resource());
    Notebook notebook(clock);
    clock.schedule(30, &notebook, 1);
    clock.schedule(10, &notebook, 2);
    clock.schedule(30, &notebook, 3);
    clock.schedule(20, &notebook, 4);
    clock.advance(29);
    CHECK(notebook.seen == Seen{{10, 2}, {20, 4}});
    CHECK(clock.now_ns() == 29);
    CHECK(clock.events_pending() == 2);
    clock.advance(1);
    CHECK(notebook.seen == Seen{{10, 2}, {20, 4}, {30, 1}, {30, 3}});
}

TEST_CASE("an event that schedules another is followed as far as time goes") {
    VirtualClock clock(std::pmr::get_default_resource());
    Notebook notebook(clock);
    clock.schedule(5, &notebook, Notebook::again);
    clock.advance(30);
    CHECK(notebook.seen == Seen{{5, 99}, {15, 99}, {25, 99}});
    CHECK(clock.events_pending() == 1);
}

TEST_CASE("what is due in the past runs now, and a cancelled event never") {
    VirtualClock clock(std::pmr::get_default_resource());
    Notebook notebook(clock);
    clock.advance(100);
    const auto late = clock.schedule(50, &notebook, 1);
    CHECK(late.at_ns == 100);
    const auto cancelled = clock.schedule(120, &notebook, 2);
    CHECK(clock.cancel(cancelled));
    CHECK_FALSE(clock.cancel(cancelled));
    clock.advance(50);
    CHECK(notebook.seen == Seen{{100, 1}});
    CHECK_FALSE(clock.cancel(late));
}

TEST_CASE("a handler runs on by itself only up to the next event, and to where time goes") {
    struct Runner final : EventHandler {
        explicit Runner(VirtualClock& clock_) : clock(clock_) {}
        void event_due(u64 now_ns, u64) override {
            u64 next = now_ns;
            do {
                seen.push_back(clock.now_ns());
                next += 10;
            } while (clock.run_on(next));
            clock.schedule(next, this, 0);
        }
        VirtualClock& clock;
        std::vector<u64> seen;
    };
    VirtualClock clock(std::pmr::get_default_resource());
    Notebook notebook(clock);
    Runner runner(clock);
    CHECK_FALSE(clock.run_on(0 + 1));  // nothing is going on
    clock.schedule(10, &runner, 0);
    clock.schedule(30, &notebook, 1);
    clock.advance(25);
    CHECK(runner.seen == std::vector<u64>{10, 20});
    CHECK(clock.now_ns() == 25);
    // The notebook was there first at 30.
    clock.advance(25);
    CHECK(notebook.seen == Seen{{30, 1}});
    CHECK(runner.seen == std::vector<u64>{10, 20, 30, 40, 50});
    CHECK(clock.now_ns() == 50);
    CHECK(clock.events_pending() == 1);
}

TEST_CASE("time does not wrap around: a run that would outlast it is refused") {
    VirtualClock clock(std::pmr::get_default_resource());
    clock.advance(VirtualClock::time_max_ns - 1);
    CHECK_THROWS_AS(clock.advance(2), UserError);
    CHECK_THROWS_AS(clock.advance(~u64{0}), UserError);
    CHECK(clock.now_ns() == VirtualClock::time_max_ns - 1);
    clock.advance(1);
    CHECK_THROWS_AS(clock.advance(1), UserError);
}
