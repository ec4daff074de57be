// What came of one plan: reached or not, where in the update, and what was violated.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "sim/explore/candidates.hpp"
#include "sim/runner.hpp"
#include "sim/workers/loss.hpp"

namespace kexec_sim::sim {

using FaultPlan = std::vector<PlannedFault>;
/// "A + B", each as on the command line.
std::string plan_text(const FaultPlan& plan);

/// One thing that must not be. `id`: an invariant; or `epilogue` (rolling back, updating again or finishing did not
/// succeed), `sanitizer` (such reported an error of the kernel's code or of the simulator), `crash` (a fatal signal of
/// the host), `hang` (virtual or host time ran out), `simulator` (a bug of ours).
struct Violation {
    std::string id, severity, resource, check, message;
    Generation generation = 0;
};

struct PlanOutcome {
    bool reached = false;      // every fault of the plan fired
    bool two_kernels = false;  // generation 1 was begun
    // Of the first of them: when it did, in which generation and phase of the update, and the call chain.
    u64 fired_ns = 0;
    Generation fired_in = 0;
    std::string phase, where;
    u64 virtual_ns = 0, events = 0;
    std::string trace_hash;  // empty: the run did not come to an end
    std::vector<Violation> violations;
    std::vector<std::string> findings;          // ids of all findings, violations or not
    std::string error;                          // what the host, the simulator or a sanitizer had to say
    std::vector<FaultInjector::Visits> visits;  // where asked for
    std::vector<std::string> event_lines;       // where asked for

    /// The sanitizer's report that was written while the plan ran: `sanitizer` is what is violated then, and not what
    /// came of it (`crash`, `simulator`). Nothing for an empty one.
    void note_report(const std::string& report);

    nlohmann::json json() const;
    static PlanOutcome from_json(const nlohmann::json& json);
};

/// Of a run that came to an end.
PlanOutcome outcome_of(const Scenario& scenario, const RunResult& result);
/// Of one whose process gave none.
PlanOutcome outcome_of_loss(const Loss& loss);
/// Of one that did not.
PlanOutcome outcome_of_failure(std::string_view id, const std::string& message);

}  // namespace kexec_sim::sim
