#include "kho/edition.hpp"

#include <array>

#include "kho/abi/kho_v1.hpp"
#include "machine/result.hpp"

namespace kexec_sim::kho {

namespace {

constexpr Edition linux_6_16{
    .name = "linux-6.16",
    .bitmap_bytes = 512,
    .preserve_phys = true,
    .notifier_chain = true,
    .abort_forgets_tracking = true,
};

constexpr Edition linux_6_18{
    .name = "linux-6.18",
    .bitmap_bytes = page_bytes,
    .page_magic = abi::KHO_PAGE_MAGIC,
    .preserve_pages = true,
    .vmalloc = true,
    .notifier_chain = true,
    .abort_forgets_tracking = true,
    .load_requires_finalized = true,
    .scratch_zero_component = true,
    .scratch_trailing_error = true,
    .scratch_failure_warns = true,
    .overlap_check = true,
};

// The orchestrator drives KHO itself; formats, restore, load and the parser are those of 6.16.
constexpr Edition luo{
    .name = "luo",
    .bitmap_bytes = 512,
    .preserve_phys = true,
    .unpreserve = true,
    .exported_control = true,
};

struct ProfileEdition {
    std::string_view profile;
    const Edition* edition;
};
constexpr std::array profiles{
    ProfileEdition{"linux-6.16", &linux_6_16},
    ProfileEdition{"linux-6.18", &linux_6_18},
    ProfileEdition{"luo-v2", &luo},
    ProfileEdition{"luo-v3", &luo},
};

const Edition* find_edition(std::string_view profile) {
    for (const ProfileEdition& entry : profiles)
        if (entry.profile == profile) return entry.edition;
    return nullptr;
}

}  // namespace

const Edition& edition_for_profile(std::string_view profile) {
    const Edition* edition = find_edition(profile);
    INVARIANT(edition != nullptr);
    return *edition;
}

}  // namespace kexec_sim::kho
