#include "sim/explore/plain.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <map>
#include <set>

#include "sim/scenario_text.hpp"

namespace kexec_sim::sim {
namespace {

std::string line_of(const Step& step) { return step.text + (step.text == step.name() ? ":" : ""); }

/// What rolling back, updating again and finishing are as steps.
class EpilogueSteps {
public:
    EpilogueSteps(const Scenario& scenario, const RunResult& result, std::vector<PlainStep>& steps)
        : scenario_(scenario),
          result_(result),
          has_luo_(profile_info(scenario.kernel(result.left.generation).profile).has_luo),
          steps_(steps) {}

    void write(bool agent_died) {
        if (!result_.left.alive) return;
        if (agent_died) {
            add("agent.start: {name: epilogue}");
            add("agent.switch: {name: epilogue}");
        }
        if (result_.left.generation == 0) {
            if (result_.left.update_under_way) add(has_luo_ ? "luo.cancel:" : "kho.abort:", "roll back");
            if (has_luo_) add("luo.state: normal", "roll back");
            files_usable();
            add(has_luo_ ? "luo.prepare:" : "kho.finalize:", "prepare again");
            add("kexec:", "kexec again");
        }
        claim();
    }

private:
    void add(std::string text, std::string part = {}) { steps_.push_back({std::move(text), "ok", std::move(part)}); }

    std::vector<const Step*> executed() const {
        std::vector<const Step*> steps;
        for (const u32 index : result_.executed_index)
            if (index < scenario_.steps.size()) steps.push_back(&scenario_.steps[index]);
        return steps;
    }

    void files_usable() {
        std::map<std::string, u64> sizes;
        for (const Step* step : executed()) {
            if (step->id == StepId::memfd_create) sizes[step->get_name("name")] = step->get_u64("size");
            if (step->id == StepId::memfd_truncate && sizes.contains(step->get_name("fd")))
                sizes[step->get_name("fd")] = step->get_u64("size");
            if (step->id == StepId::memfd_close) sizes.erase(step->get_name("fd"));
        }
        for (const auto& [name, size] : sizes)
            add(fmt::format("memfd.truncate: {{fd: {}, size: {}}}", name, size_text(size)), "roll back");
    }

    void claim() {
        std::set<std::string> known;
        for (const Step* step : executed())
            if (step->id == StepId::subsystem_register && known.insert(step->get_name("name")).second)
                add(line_of(*step));
        if (!has_luo_) return;
        std::set<u64> tokens;
        for (const Step& step : scenario_.steps)
            if (step.id == StepId::luo_preserve && tokens.insert(step.get_u64("token")).second)
                add(fmt::format("luo.restore: {{token: {:#x}, as: restored-{:x}}}", step.get_u64("token"),
                                step.get_u64("token")));
        for (const Step& step : scenario_.steps)
            if (step.id == StepId::vm_restore) add(line_of(step));
        add("luo.finish:", "retrieve and finish");
    }

    const Scenario& scenario_;
    const RunResult& result_;
    const bool has_luo_;
    std::vector<PlainStep>& steps_;
};

}  // namespace

std::string PlainScenario::text(const std::string& comment) const {
    Scenario head = base;
    head.steps.clear();
    head.program.clear();
    head.under_faults.reset();
    std::string body;
    for (const PlainStep& step : steps) {
        body += "  - " + step.text + "\n";
        if (step.expected != "ok") body += "    expect: " + step.expected + "\n";
    }
    return scenario_text(head, comment, body);
}

Scenario PlainScenario::parsed() const { return parse_scenario(text(), base.path); }

PlainScenario plain_scenario(const Scenario& scenario, const FaultPlan& plan, const RunResult& result) {
    PlainScenario plain{scenario, {}};
    plain.base.faults.insert(plain.base.faults.end(), plan.begin(), plan.end());
    plain.base.expect = {};
    plain.base.reproduces.reset();
    for (std::size_t i = 0; i < result.executed_index.size(); ++i) {
        const u32 index = result.executed_index[i];
        const auto& own = scenario.under_faults;
        const Step* step = nullptr;
        if (index < scenario.steps.size())
            step = &scenario.steps[index];
        else if (own && index - scenario.steps.size() < own->steps.size())
            step = &own->steps[index - scenario.steps.size()];
        if (step) plain.steps.push_back({line_of(*step), result.executed[i], {}});
    }
    const bool own_epilogue = scenario.under_faults && !scenario.under_faults->steps.empty();
    if (result.left.script && !own_epilogue) {
        const bool agent_died = std::ranges::any_of(
            plan, [](const PlannedFault& fault) { return fault.action.kind == FaultKind::kill_agent; });
        EpilogueSteps(scenario, result, plain.steps).write(agent_died);
    }
    return plain;
}

void take_results(PlainScenario& plain, const RunResult& result) {
    std::vector<PlainStep> ran;
    for (std::size_t i = 0; i < result.executed.size(); ++i) {
        PlainStep step = plain.steps.at(result.executed_index[i]);
        step.expected = result.executed[i];
        ran.push_back(std::move(step));
    }
    plain.steps = std::move(ran);
    std::set<std::string> ids;
    for (const Finding& finding : result.findings)
        ids.emplace(invariants()[static_cast<std::size_t>(finding.invariant)].name);
    plain.base.expect = {};
    if (ids.empty()) return;
    plain.base.expect.findings.kind = FindingsSpec::Kind::exactly;
    plain.base.expect.findings.ids.assign(ids.begin(), ids.end());
}

}  // namespace kexec_sim::sim
