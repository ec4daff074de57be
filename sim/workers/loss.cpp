#include "sim/workers/loss.hpp"

#include <cstring>
#include <fmt/format.h>
#include <sys/wait.h>

#include "sim/workers/sanitizer_report.hpp"

namespace kexec_sim::sim {

std::string Loss::message() const {
    return report.empty() ? "the simulator " + how : read_sanitizer_report(report).message();
}

Loss loss_of_ended(int wait_status, std::string report) {
    if (WIFSIGNALED(wait_status))
        return {false,
                fmt::format("was killed by signal {} ({})", WTERMSIG(wait_status), strsignal(WTERMSIG(wait_status))),
                std::move(report)};
    return {false, fmt::format("ended with exit status {}", WEXITSTATUS(wait_status)), std::move(report)};
}

Loss loss_of_late(double seconds, std::string report) {
    return {true, fmt::format("gave no answer in {:.1f} s", seconds), std::move(report)};
}

}  // namespace kexec_sim::sim
