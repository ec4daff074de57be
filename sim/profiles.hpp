// The kernels that a scenario can boot. A profile picks the editions of the protocols: data and
// codec of each edition live in kho/ and luo/, here are only the names.
#pragma once

#include <optional>
#include <span>
#include <string_view>

#include "machine/types.hpp"

namespace kexec_sim::sim {

enum class Profile : u8 { linux_6_16, linux_6_18, luo_v2, luo_v3 };

struct ProfileInfo {
    Profile id;
    std::string_view name;             // as in a scenario
    std::string_view default_release;  // where `release` is not given
    bool has_luo;
    std::string_view kho, orchestrator;  // for `list profiles`
    std::string_view description;
};

inline constexpr ProfileInfo profile_table[] = {
    {Profile::linux_6_16, "linux-6.16", "6.16.0", false,
     "v1, 512-byte bitmaps, notifier chain, finalize through debugfs", "none",
     "Linux 6.16: KHO as it was first merged"},
    {Profile::linux_6_18, "linux-6.18", "6.18.0", false, "v1, 4096-byte bitmaps, vmalloc preservation, page magic",
     "none", "Linux 6.18: larger bitmaps, a handover only where KHO was finalized when the image was loaded"},
    {Profile::luo_v2, "luo-v2", "6.16.0", true, "v1 as luo-v3",
     "state machine, callbacks with `void *arg`, one ioctl an event",
     "the second posting of the Live Update Orchestrator, which the LWN article shows"},
    {Profile::luo_v3, "luo-v3", "6.16.0", true,
     "v1, 512-byte bitmaps, 6.16 rules for restore, load and parser; finalize and abort driven by LUO",
     "state machine, callbacks with the subsystem itself, size-prefixed ioctls",
     "the third posting of the Live Update Orchestrator (the default)"},
};

inline constexpr std::span<const ProfileInfo> profiles() { return profile_table; }
inline constexpr const ProfileInfo& profile_info(Profile profile) {
    return profile_table[static_cast<std::size_t>(profile)];
}
inline constexpr std::string_view profile_name(Profile profile) { return profile_info(profile).name; }
inline constexpr std::optional<Profile> profile_by_name(std::string_view name) {
    for (const ProfileInfo& info : profile_table)
        if (info.name == name) return info.id;
    return std::nullopt;
}

static_assert(profile_info(Profile::luo_v3).id == Profile::luo_v3);
static_assert(profile_info(Profile::linux_6_16).id == Profile::linux_6_16);

}  // namespace kexec_sim::sim
