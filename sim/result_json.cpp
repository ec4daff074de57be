#include "sim/result_json.hpp"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace kexec_sim::sim {
namespace {

using Json = nlohmann::ordered_json;

std::string hex(u64 value) { return fmt::format("{:#x}", value); }

Json or_null(const std::string& text) { return text.empty() ? Json(nullptr) : Json(text); }

Json generations_json(const RunResult& result) {
    Json list = Json::array();
    for (const GenerationRecord& one : result.generations)
        list.push_back({{"index", one.index}, {"profile", one.profile}, {"release", one.release}, {"end", one.end}});
    return list;
}

Json steps_json(const RunResult& result) {
    Json list = Json::array();
    for (const StepRecord& step : result.steps) {
        const bool skipped = step.outcome == "skipped";
        Json one{{"index", step.index},
                 {"line", step.line},
                 {"name", step.name},
                 {"result", skipped ? Json(nullptr) : Json(step.result)},
                 {"expected", step.expected},
                 {"outcome", step.outcome},
                 {"virtual_ns", step.virtual_ns},
                 {"generation", skipped ? Json(nullptr) : Json(step.generation)}};
        if (!step.detail.empty()) one["detail"] = step.detail;
        list.push_back(std::move(one));
    }
    return list;
}

Json faults_json(const RunResult& result) {
    Json list = Json::array();
    for (const FaultInjector::Status& fault : result.faults)
        list.push_back({{"plan", fault.plan}, {"visits", fault.visits}, {"fired", fault.fired}});
    return list;
}

Json findings_json(const RunResult& result) {
    Json list = Json::array();
    for (const Finding& finding : result.findings) {
        const InvariantInfo& info = invariants()[static_cast<std::size_t>(finding.invariant)];
        Json frames = Json::array();
        for (u64 frame : finding.frames) frames.push_back(hex(frame));
        list.push_back({{"invariant", info.name},
                        {"severity", info.severity},
                        {"class", finding.by_fault ? "by-fault" : "violation"},
                        {"generation", finding.generation},
                        {"virtual_ns", finding.virtual_ns},
                        {"message", finding.message},
                        {"frames", std::move(frames)},
                        {"frame_count", finding.frame_count},
                        {"resource", finding.resource}});
        if (finding.check != CheckId::none) list.back()["check"] = check_name(finding.check);
    }
    return list;
}

Json counters_json(const RunResult& result) {
    Json counters{{"kho.preserved_folios", result.preserved_folios},
                  {"kho.preserved_bytes", result.preserved_bytes},
                  {"kho.overhead_pages", result.overhead_pages},
                  {"kho.map_pages", result.map_pages},
                  {"luo.files", result.luo_files}};
    for (const DeviceCounterName& device : device_counter_names)
        counters[std::string(device.name)] = result.devices.*device.value;
    counters["mm.frames_in_use"] = result.frames_in_use;
    return counters;
}

Json run_json(const ReportedRun& run) {
    const RunResult& result = run.result;
    Json json{{"format", "kexec-sim/result-1"},
              {"scenario", run.scenario},
              {"file", run.file},
              {"seed", result.seed},
              {"outcome", run.error       ? "error"
                          : result.passed ? "pass"
                                          : "fail"},
              {"virtual_ns", result.virtual_ns},
              {"blackouts_ns", result.blackouts_ns},
              {"blackout_ns", result.blackouts_ns.empty() ? Json(nullptr) : Json(result.blackouts_ns.back())},
              {"generations", generations_json(result)},
              {"steps", steps_json(result)},
              {"faults", faults_json(result)},
              {"findings", findings_json(result)},
              {"counters", counters_json(result)},
              {"trace_hash", or_null(result.trace_hash)},
              {"ram_hash", or_null(result.ram_hash)}};
    if (!result.failures.empty()) json["failures"] = result.failures;
    if (result.stopped_at_jump) json["stopped_at_jump"] = true;
    if (run.error) json["error"] = *run.error;
    return json;
}

}  // namespace

std::string result_json(const std::vector<ReportedRun>& runs) {
    Json list = Json::array();
    for (const ReportedRun& run : runs) list.push_back(run_json(run));
    // Messages may quote bytes out of handed-over memory: what is no UTF-8 becomes U+FFFD.
    return list.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

RunResult result_of_no_run(const Scenario& scenario) {
    RunResult result;
    result.seed = scenario.seed;
    for (const Step& step : scenario.steps) {
        StepRecord record;
        record.index = step.index;
        record.line = static_cast<int>(step.pos.line);
        record.name = step.name();
        record.expected = step.expected;
        result.steps.push_back(std::move(record));
    }
    return result;
}

}  // namespace kexec_sim::sim
