#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include "sim/result_json.hpp"

using namespace kexec_sim;
using namespace kexec_sim::sim;
using Json = nlohmann::ordered_json;

namespace {

ReportedRun some_run() {
    ReportedRun run;
    run.scenario = "small";
    run.file = "scenarios/small.yaml";
    RunResult& result = run.result;
    result.passed = true;
    result.seed = 7;
    result.virtual_ns = 183'000'000;
    result.blackouts_ns = {40'000'000, 41'000'000};
    result.generations = {{0, "luo-v3", "6.16.0", "kexec"}, {1, "luo-v3", "6.17.0", "scenario"}};
    StepRecord done, skipped;
    done.line = 14;
    done.name = "memfd.create";
    done.result = done.expected = "ok";
    done.outcome = "pass";
    done.virtual_ns = 1000;
    skipped.index = 1;
    skipped.name = "luo.finish";
    skipped.expected = "ok";
    result.steps = {done, skipped};
    result.faults = {{"kho.preserve#1=fail(ENOMEM)", 3, true, false}};
    Finding finding{
        InvariantId::frame_intact, true, 1, 5, "changed", {0x1f400, 0x1f401}, 2, "file 0x1", CheckId::none};
    result.findings = {finding};
    result.preserved_folios = 512;
    result.preserved_bytes = 2 * MiB;
    result.overhead_pages = 4;
    result.map_pages = 3;
    result.luo_files = 1;
    result.frames_in_use = 812;
    result.devices = {.completions = 990, .dry_ns = 5, .config_writes = 2};
    result.trace_hash = std::string(32, 'a');
    result.ram_hash = std::string(32, 'b');
    return run;
}

}  // namespace

TEST_CASE("the result has the members of the contract, in its order") {
    const Json list = Json::parse(result_json({some_run()}));
    REQUIRE(list.is_array());
    REQUIRE(list.size() == 1);
    const Json& run = list[0];
    std::vector<std::string> keys;
    for (const auto& [key, value] : run.items()) keys.push_back(key);
    CHECK(keys == std::vector<std::string>{"format", "scenario", "file", "seed", "outcome", "virtual_ns",
                                           "blackouts_ns", "blackout_ns", "generations", "steps", "faults",
                                           "findings", "counters", "trace_hash", "ram_hash"});
    CHECK(run["format"] == "kexec-sim/result-1");
    CHECK(run["outcome"] == "pass");
    CHECK(run["blackout_ns"] == 41'000'000);
    CHECK(run["generations"][0] ==
          Json::parse(R"json({"index":0,"profile":"luo-v3","release":"6.16.0","end":"kexec"})json"));
    CHECK(run["steps"][0] ==
          Json::parse(R"json({"index":0,"line":14,"name":"memfd.create","result":"ok","expected":"ok",
                                             "outcome":"pass","virtual_ns":1000,"generation":0})json"));
    CHECK(run["steps"][1]["outcome"] == "skipped");
    CHECK(run["steps"][1]["result"].is_null());
    CHECK(run["faults"][0] ==
          Json::parse(R"json({"plan":"kho.preserve#1=fail(ENOMEM)","visits":3,"fired":true})json"));
    CHECK(
        run["findings"][0] ==
        Json::parse(
            R"json({"invariant":"frame.intact","severity":"corruption","class":"by-fault","generation":1,"virtual_ns":5,
                          "message":"changed","frames":["0x1f400","0x1f401"],"frame_count":2,"resource":"file 0x1"})json"));
    CHECK(
        run["counters"] ==
        Json::parse(
            R"json({"kho.preserved_folios":512,"kho.preserved_bytes":2097152,"kho.overhead_pages":4,"kho.map_pages":3,
                          "luo.files":1,"dma.completions":990,"dma.gaps":0,"dma.dry_ns":5,"dma.blackout_completions":0,"irq.lost":0,
                          "iommu.faults":0,"guest.steps":0,"pci.config_writes":2,"p2p.writes":0,"mm.frames_in_use":812})json"));
}

TEST_CASE("without a kexec there is no blackout") {
    ReportedRun run = some_run();
    run.result.blackouts_ns.clear();
    const Json json = Json::parse(result_json({run}))[0];
    CHECK(json["blackout_ns"].is_null());
    CHECK(json["blackouts_ns"].empty());
}

TEST_CASE("a run that failed says why, and one that ended in an error is an error") {
    ReportedRun run = some_run();
    run.result.passed = false;
    run.result.failures = {"finding frame.intact: changed"};
    CHECK(Json::parse(result_json({run}))[0]["outcome"] == "fail");
    CHECK(Json::parse(result_json({run}))[0]["failures"][0] == "finding frame.intact: changed");
    ReportedRun broken{"small", "small.yaml", {}, "kexec-sim: error: no room"};
    const Json json = Json::parse(result_json({broken}))[0];
    CHECK(json["outcome"] == "error");
    CHECK(json["error"] == "kexec-sim: error: no room");
    CHECK(json["trace_hash"].is_null());
}

TEST_CASE("no run is an empty array, and bytes that are no UTF-8 do not break the result") {
    CHECK(result_json({}) == "[]\n");
    ReportedRun run = some_run();
    run.result.findings[0].message = "node '\xff' is odd";
    CHECK(Json::parse(result_json({run}))[0]["findings"][0]["message"] == "node '\xef\xbf\xbd' is odd");
}
