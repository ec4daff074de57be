// Runs the benchmarks and prints them as a table, the reference beside (table.hpp says how they meet).
//
// All options of Google Benchmark are understood; with --benchmark_format=json it prints what that library prints.
#include "tests/bench/table.hpp"

#include <algorithm>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>

namespace {

constexpr std::string_view reference_prefix = "reference:";

struct Line {
    double ns = 0;  // an item, or an iteration if `!per_item`
    bool per_item = false;
    double target_ns = 0;  // 0: none
    std::string counters;
    std::string error;
};

/// "3.21 ns", "45.0 ms": three digits, in the unit that needs no power of ten.
std::string duration(double ns) {
    constexpr std::string_view units[] = {"ns", "us", "ms", "s"};
    std::size_t unit = 0;
    while (ns >= 1000 && unit + 1 < std::size(units)) {
        ns /= 1000;
        ++unit;
    }
    return fmt::format("{:.{}f} {}", ns, ns < 10 ? 2 : ns < 100 ? 1 : 0, units[unit]);
}

Line line_of(const benchmark::BenchmarkReporter::Run& run) {
    Line line;
    if (run.error_occurred) {
        line.error = run.error_message;
        return line;
    }
    line.ns = run.iterations == 0 ? 0 : run.real_accumulated_time / static_cast<double>(run.iterations) * 1e9;
    for (const auto& [name, counter] : run.counters) {
        if (name == "items_per_second") {
            line.ns = 1e9 / counter.value;
            line.per_item = true;
        } else if (name == "target_ns") {
            line.target_ns = counter.value;
        } else {
            line.counters += fmt::format("{}{} {:.4g}", line.counters.empty() ? "" : ", ", name, counter.value);
        }
    }
    return line;
}

/// Collects what was measured; prints when everything has run, since a reference may run later.
class TableReporter : public benchmark::BenchmarkReporter {
public:
    bool ReportContext(const Context&) override { return true; }

    void ReportRuns(const std::vector<Run>& runs) override {
        for (const Run& run : runs) {
            if (run.run_type != Run::RT_Iteration) continue;
            std::string name = run.benchmark_name();
            // The library appends what it was told about time and iterations; that is not part of the name.
            for (std::string_view suffix : {"/real_time", "/process_time", "/manual_time"})
                if (name.ends_with(suffix)) name.erase(name.size() - suffix.size());
            if (const auto at = name.find("/iterations:"); at != std::string::npos) name.erase(at);
            if (name.starts_with(reference_prefix)) {
                keep(references_, name.substr(reference_prefix.size()), line_of(run));
            } else {
                if (!lines_.contains(name)) order_.push_back(name);
                keep(lines_, name, line_of(run));
            }
            fmt::print(stderr, "measured {}\n", name);
        }
    }

    void Finalize() override {
        std::size_t width = 9;
        for (const std::string& name : order_) width = std::max(width, name.size());
        fmt::print("{:<{}}  {:>9}  {:>9}  {:>6}  {:>9}  {}\n", "benchmark", width, "measured", "reference", "ratio",
                   "target", "");
        for (const std::string& name : order_) {
            const Line& line = lines_.at(name);
            if (!line.error.empty()) {
                fmt::print("{:<{}}  failed: {}\n", name, width, line.error);
                continue;
            }
            std::string reference = "-", ratio = "-", target = "-", notes = line.per_item ? "each" : "";
            if (const auto found = references_.find(name); found != references_.end() && found->second.ns > 0) {
                reference = duration(found->second.ns);
                ratio = fmt::format("{:.2f}", line.ns / found->second.ns);
            }
            if (line.target_ns > 0) {
                target = duration(line.target_ns);
                notes += fmt::format("{}{}", notes.empty() ? "" : ", ", line.ns <= line.target_ns ? "met" : "MISSED");
            }
            if (!line.counters.empty()) notes += fmt::format("{}{}", notes.empty() ? "" : "; ", line.counters);
            fmt::print("{:<{}}  {:>9}  {:>9}  {:>6}  {:>9}  {}\n", name, width, duration(line.ns), reference, ratio,
                       target, notes);
        }
        fmt::print(
            "\n\"each\": the time of one item (a folio), else of one iteration. A ratio below 1 is faster than the "
            "reference.\n");
    }

private:
    /// Of several repetitions the fastest counts: it is the one that was disturbed least.
    static void keep(std::map<std::string, Line>& lines, const std::string& name, Line line) {
        const auto [found, inserted] = lines.try_emplace(name, line);
        if (!inserted && line.error.empty() && line.ns < found->second.ns) found->second = std::move(line);
    }

    std::map<std::string, Line> lines_, references_;
    std::vector<std::string> order_;  // as they ran
};

}  // namespace

int main(int argc, char** argv) {
    const bool own_format = std::any_of(argv + 1, argv + argc, [](std::string_view argument) {
        return argument.starts_with("--benchmark_format") || argument.starts_with("--benchmark_list_tests");
    });
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
    TableReporter table;
    const std::size_t measured =
        own_format ? benchmark::RunSpecifiedBenchmarks() : benchmark::RunSpecifiedBenchmarks(&table);
    benchmark::Shutdown();
    if (measured == 0) {
        fmt::print(stderr, "no benchmark matches the filter\n");
        return 2;
    }
    return 0;
}
