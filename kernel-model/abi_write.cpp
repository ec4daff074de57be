#include "kernel-model/abi_write.hpp"

#include <algorithm>

namespace kexec_sim {

namespace {

std::string dropped_name;
bool recording = false;
std::vector<std::string> recorded;

void update_watch() { detail::abi_write_watched = recording || !dropped_name.empty(); }

}  // namespace

namespace detail {

bool abi_write_watched = false;

bool abi_write_dropped_slow(std::string_view name) {
    if (recording && std::find(recorded.begin(), recorded.end(), name) == recorded.end()) recorded.emplace_back(name);
    return !dropped_name.empty() && name == dropped_name;
}

}  // namespace detail

void set_dropped_abi_write(std::string_view name) {
    dropped_name = name;
    update_watch();
}

void record_abi_writes(bool on) {
    if (on) recorded.clear();
    recording = on;
    update_watch();
}

const std::vector<std::string>& recorded_abi_writes() { return recorded; }

}  // namespace kexec_sim
