// What `generate` tells: the summary, JSON (kexec-sim/generate-1), scenario files, and the reference as a page.
#pragma once

#include <string>

#include "sim/generate/generator.hpp"

namespace kexec_sim::sim::generate {

/// How the user described the space, for those who want it again.
struct SpaceDescription {
    std::string profile, alphabet, from;
    unsigned length = 1;
    bool strict = false, symmetry = true;
    u64 seed = 1;
};

std::string summary_text(const GenerateReport& report, const SpaceDescription& description, bool quiet, bool color);
std::string summary_json(const GenerateReport& report, const SpaceDescription& description);

/// A sequence as a scenario file; with a comment that says where it comes from, and what the simulator gave in place of
/// what the reference says.
std::string case_file(const Case& one, const Edition& edition, const SpaceDescription& description,
                      const Disagreement* disagreement);

/// Both postings, as Markdown: what each letter gives in each state, then row by row with the sections.
std::string reference_page();

}  // namespace kexec_sim::sim::generate
