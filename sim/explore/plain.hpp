// Plain scenarios: what exploration did to a scenario, as steps that anybody could have written.
#pragma once

#include "sim/explore/outcome.hpp"
#include "sim/scenario.hpp"

namespace kexec_sim::sim {

/// A step, as text: "luo.prepare:" or "luo.restore: {token: 0x1, as: ram}".
struct PlainStep {
    std::string text;
    std::string expected = "ok";
    std::string part;  // of the epilogue that it stands for; empty: none that must succeed
};

/// A scenario whose steps are text; everything else as it is. What shrinking works on.
struct PlainScenario {
    Scenario base;  // its steps, program, parameters, under_faults are not used
    std::vector<PlainStep> steps;

    /// Text of a scenario file. `comment` as in scenario_text().
    std::string text(const std::string& comment = {}) const;
    /// UserError: it makes no scenario (a step uses a name that none binds any more).
    Scenario parsed() const;
};

/// The steps that ran under the plan, then the epilogue in steps. `result`: of the run with `plan` in `scenario`.
PlainScenario plain_scenario(const Scenario& scenario, const FaultPlan& plan, const RunResult& result);

/// What the steps of a run to the end gave, and what was found, is what is expected from now on. A step that the run did
/// not come to is left out.
void take_results(PlainScenario& plain, const RunResult& result);

}  // namespace kexec_sim::sim
