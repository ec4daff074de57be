#include "tests/system/library.hpp"

#include <algorithm>
#include <cstdlib>
#include <fmt/format.h>
#include <fstream>
#include <stdexcept>

#include "sim/boot_params_file.hpp"

namespace system_test {

namespace fs = std::filesystem;
namespace sim = kexec_sim::sim;

namespace {

const fs::path library_dir = fs::path(KEXEC_SIM_SOURCE_DIR) / "scenarios";

bool is_reproduction(const fs::path& file) {
    std::ifstream in(file);
    for (std::string line; std::getline(in, line);)
        if (line.starts_with("reproduces:")) return true;
    return false;
}

std::string event_text(const kexec_sim::TraceEvent& event) {
    std::string text = fmt::format("[{}] {} {} {}", event.time_ns, layer_name(event.layer),
                                   static_cast<int>(event.phase), event.name);
    for (const auto& field : event.fields)
        text += field.type == kexec_sim::TraceField::Type::text ? fmt::format(" {}={}", field.key, field.text)
                                                                : fmt::format(" {}={:#x}", field.key, field.number);
    return text;
}

}  // namespace

std::vector<fs::path> scenario_files() {
    std::vector<fs::path> files;
    for (const auto& entry : fs::recursive_directory_iterator(library_dir))
        if (entry.path().extension() == ".yaml" && !is_reproduction(entry.path())) files.push_back(entry.path());
    std::ranges::sort(files);
    return files;
}

fs::path scenario_file(const std::string& name) { return library_dir / (name + ".yaml"); }

std::string scenario_name(const fs::path& file) {
    return file.lexically_relative(library_dir).replace_extension().string();
}

Scenario load(const fs::path& file) {
    sim::LoadOptions options;
    options.bench_names = sim::bench_names_of;
    return sim::load_scenario(file, options);
}

RunResult run(const Scenario& scenario, Isolation isolation) {
    RunOptions options;
    options.isolation = isolation;
    return sim::run_scenario(scenario, options);
}

RunResult run_to_the_end(Scenario scenario) {
    for (std::size_t tries = scenario.steps.size();; --tries) {
        RunResult result = run(scenario);
        const auto failed =
            std::ranges::find_if(result.steps, [](const auto& step) { return step.outcome == "fail"; });
        if (tries == 0 || failed == result.steps.end()) return result;
        if (scenario.steps[failed->index].expected == failed->result) return result;  // a loop's rounds differ
        scenario.steps[failed->index].expected = failed->result;
    }
}

RunResult run_recorded(const Scenario& scenario, Isolation isolation, std::vector<Event>& events) {
    RunOptions options;
    options.isolation = isolation;
    options.on_event = [&](const kexec_sim::TraceEvent& event) {
        events.push_back({event.generation, event_text(event)});
    };
    return sim::run_scenario(scenario, options);
}

std::vector<std::string> describe_steps(const RunResult& result) {
    std::vector<std::string> lines;
    for (const auto& step : result.steps)
        lines.push_back(fmt::format("{} line {} {}: {} ({}) in {} ns, generation {}; {}", step.index + 1, step.line,
                                    step.name, step.result, step.outcome, step.virtual_ns, step.generation,
                                    step.detail));
    // A step in a loop has one record and many results.
    for (std::size_t i = 0; i < result.executed.size(); ++i)
        lines.push_back(fmt::format("executed {}: {}", i + 1, result.executed[i]));
    return lines;
}

std::string invariant_of(const kexec_sim::Finding& finding) {
    return std::string(kexec_sim::invariants()[static_cast<std::size_t>(finding.invariant)].name);
}

bool has_finding(const RunResult& result, const std::string& invariant) {
    return std::ranges::any_of(result.findings,
                               [&](const auto& finding) { return invariant_of(finding) == invariant; });
}

std::vector<std::string> describe_findings(const RunResult& result, Generation from) {
    std::vector<std::string> lines;
    for (const auto& finding : result.findings) {
        if (finding.generation < from) continue;
        lines.push_back(fmt::format("{} {} generation {} at {} ns: {} [{} frames:{:x}] {}", invariant_of(finding),
                                    finding.by_fault ? "by-fault" : "violation", finding.generation,
                                    finding.virtual_ns, finding.message, finding.frame_count,
                                    fmt::join(finding.frames, ","), finding.resource));
    }
    return lines;
}

std::vector<std::string> describe_log(const RunResult& result, Generation from) {
    std::vector<std::string> lines;
    for (const auto& [generation, line] : result.log)
        if (generation >= from) lines.push_back(fmt::format("{}: {}", generation, line));
    return lines;
}

std::string first_difference(const std::vector<std::string>& left, const std::vector<std::string>& right) {
    const std::size_t common = std::min(left.size(), right.size());
    for (std::size_t i = 0; i < common; ++i)
        if (left[i] != right[i]) return fmt::format("line {}:\n  {}\n  {}", i + 1, left[i], right[i]);
    if (left.size() == right.size()) return {};
    const auto& longer = left.size() > right.size() ? left : right;
    return fmt::format("line {}, which only the {} has:\n  {}", common + 1,
                       left.size() > right.size() ? "first" : "second", longer[common]);
}

}  // namespace system_test
