// Why a process that was asked something gave no answer.
#pragma once

#include <string>
#include <string_view>

namespace kexec_sim::sim {

struct Loss {
    bool late = false;   // it took too long, and was killed; false: it ended by itself
    std::string how;     // "was killed by signal 11 (…)", "ended with exit status 1", "gave no answer in 20.0 s"
    std::string report;  // of a sanitizer (sim/workers/sanitizer_report.hpp), whole; or empty

    /// `sanitizer`, `hang` or `crash`.
    std::string_view id() const { return !report.empty() ? "sanitizer" : late ? "hang" : "crash"; }
    /// "the simulator was killed by signal 11 (…)", or what the sanitizer says.
    std::string message() const;
};

/// `wait_status`: of waitpid.
Loss loss_of_ended(int wait_status, std::string report);
Loss loss_of_late(double seconds, std::string report);

}  // namespace kexec_sim::sim
